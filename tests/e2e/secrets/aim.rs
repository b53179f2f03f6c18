//! Where secrets go: only where they were set for.

use anyhow::Result;
use hub_testkit::{TestHub, http};
use serde_json::{Value, json};

use super::document;

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_not_sent_elsewhere_than_where_they_were_set_for() -> Result<()> {
    let hub = TestHub::start().await?;
    let call = async |operation: &str, input: Value| {
        http(hub.address(), "POST", &format!("/api/operations/{operation}"), hub.admin_key(), &input).await?.json()
    };
    let api = json!({ "document": document(), "baseUrl": "https://forge.invalid", "auth": { "kind": "bearer" } });
    let with = |config: &Value, member: &str, value: Value| {
        let mut config = config.clone();
        config[member] = value;
        config
    };
    let program = json!({ "command": "server", "args": ["a"], "env": { "TOKEN": "token" } });
    let model = json!({ "baseUrl": "https://models.invalid", "api": "openai" });
    let custom = json!({ "server": "https://a.invalid" });
    let cases = [
        (
            "openapi",
            &api,
            vec![
                with(&api, "baseUrl", json!("https://evil.invalid")),
                json!({ "document": document(), "auth": { "kind": "bearer" } }),
                with(&api, "auth", json!({ "kind": "apiKey", "in": "query", "name": "q" })),
                with(&api, "allowPrivate", json!(true)),
            ],
            vec![with(&api, "only", json!(["ok"])), with(&api, "document", json!(document().replace("Forge", "F")))],
        ),
        (
            "mcp-server",
            &program,
            vec![
                with(&program, "command", json!("sh")),
                with(&program, "args", json!(["-c", "env"])),
                with(&program, "env", json!({ "LD_PRELOAD": "token" })),
                json!({ "url": "https://evil.invalid" }),
            ],
            vec![with(&program, "stream", json!(["slow"]))],
        ),
        (
            "llm-provider",
            &model,
            vec![with(&model, "baseUrl", json!("https://evil.invalid")), with(&model, "secret", json!("other"))],
            vec![with(&model, "models", json!(["small"]))],
        ),
        ("custom", &custom, vec![with(&custom, "server", json!("https://evil.invalid"))], vec![custom.clone()]),
    ];
    for (kind, config, elsewhere, same) in cases {
        let name = format!("{kind}-c");
        call("clients.create", json!({ "name": name, "type": kind, "config": config })).await?;
        let set = call("secrets.set", json!({ "client": name, "name": "token", "value": "letmein" })).await?;
        assert_eq!(set["data"]["name"], "token", "{set}");
        for config in &elsewhere {
            let refused = call("clients.update", json!({ "name": name, "config": config })).await?;
            let told = refused["message"].as_str().unwrap_or_default();
            assert!(refused["code"] == "CONFLICT" && told.contains("secrets.delete"), "{config}: {refused}");
        }
        for config in same {
            let changed = call("clients.update", json!({ "name": name, "config": config })).await?;
            assert_eq!(changed["data"]["config"], config, "{changed}");
        }
        let scoped = call("clients.update", json!({ "name": name, "scopes": ["x:y"] })).await?;
        assert_eq!(scoped["data"]["scopes"], json!(["x:y"]), "{scoped}");
        // Without them it may go anywhere.
        call("secrets.delete", json!({ "client": name, "name": "token" })).await?;
        let changed = call("clients.update", json!({ "name": name, "config": elsewhere[0] })).await?;
        assert_eq!(changed["data"]["config"], elsewhere[0], "{changed}");
    }
    Ok(())
}
