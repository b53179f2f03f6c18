//! A caller without rights can't tell an operation that it may not see from one that does not exist, on any face.

use anyhow::{Context, Result};
use hub_protocol::{AccessControl, CallError, Json, OperationSpec, OperationType};
use hub_spoke::Reply;
use hub_testkit::TestHub;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Both ids have the same length, so that masking one leaves the same text.
const HIDDEN: &str = "secret.thing";
const ABSENT: &str = "absent.thing";

fn spec() -> OperationSpec {
    OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".into(),
        kind: OperationType::Query,
        title: None,
        description: "Not for everybody.".into(),
        tags: vec![],
        input_schema: json!({ "type": "object", "required": ["x"] }),
        output_schema: json!(true),
        error_schemas: vec![],
        access_control: AccessControl::scopes(&["very:special"]),
        meta: None,
    }
    .with_id(HIDDEN)
}

/// One request; the whole answer without its date, ids of calls and the operation's name.
async fn http(hub: &TestHub, key: &str, method: &str, path: &str, body: &str) -> Result<String> {
    let address = hub.url().replace("http://", "");
    let mut stream = TcpStream::connect(&address).await?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    let lines = answer.lines().filter(|line| !line.to_ascii_lowercase().starts_with("date:"));
    Ok(lines.collect::<Vec<_>>().join("\n"))
}

/// Without what differs between any two calls: the operation's name and the calls' own ids.
fn masked(text: &str) -> String {
    let text = text.replace(HIDDEN, "THE-OPERATION").replace(ABSENT, "THE-OPERATION");
    let part = |part: &str| if uuid::Uuid::parse_str(part).is_ok() { "ID".to_owned() } else { part.to_owned() };
    text.split('"').map(part).collect::<Vec<_>>().join("\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn hidden_and_absent_operations_look_the_same_everywhere() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = hub
        .spoke("keeper")
        .spoke_type("compute")
        .raw(spec(), |_, _: Json| async { Ok(Reply::Value(Json::null())) })
        .build()?
        .start()
        .await?;
    let key = hub.new_key(&["something:else"]).await?;
    let admin = http(&hub, hub.admin_key(), "GET", &format!("/api/operations/{HIDDEN}"), "").await?;
    assert!(admin.starts_with("HTTP/1.1 200"), "the operation is there for others: {admin}");

    for (method, path, body) in [
        ("POST", "/api/operations/{}", r#"{"x":1}"#),
        ("POST", "/api/operations/{}", "{}"),
        ("POST", "/api/operations/{}@keeper", r#"{"x":1}"#),
        ("GET", "/api/operations/{}", ""),
        ("GET", "/api/operations?q={}", ""),
        ("GET", "/api/operations?namespace=secret", ""),
        ("POST", "/api/call", r#"{"operationId":"{}","input":{}}"#),
        ("POST", "/api/call", r#"{"operationId":"{}","input":{"x":1},"version":"^1"}"#),
        ("POST", "/api/batch", r#"[{"operationId":"{}"}]"#),
        ("GET", "/openapi.json", ""),
    ] {
        let ask = async |id: &str| http(&hub, &key, method, &path.replace("{}", id), &body.replace("{}", id)).await;
        let (hidden, absent) = (ask(HIDDEN).await?, ask(ABSENT).await?);
        assert_eq!(masked(&hidden), masked(&absent), "{method} {path} {body}");
        assert!(!hidden.contains("Not for everybody"), "{method} {path}");
    }
    let operations = http(&hub, &key, "GET", "/api/operations?namespace=secret&includeInactive=true", "").await?;
    assert!(operations.ends_with(r#"{"operations":[]}"#), "{operations}");

    let client = hub_spoke::Client::connect(&hub.url(), &key).await?;
    for input in [json!({}), json!({ "x": 1 }), Value::Null] {
        for (operation, as_input) in [
            ("{}", input.clone()),
            ("hub.call", json!({ "operationId": "{}", "input": input })),
            ("hub.schema", json!({ "operationIds": ["{}"] })),
        ] {
            let ask = async |id: &str| {
                let input: Value = serde_json::from_str(&as_input.to_string().replace("{}", id)).unwrap_or(Value::Null);
                client.call_raw(&operation.replace("{}", id), input).await
            };
            let hidden: CallError = ask(HIDDEN).await.err().context("refused")?;
            let absent: CallError = ask(ABSENT).await.err().context("refused")?;
            assert_eq!(
                masked(&serde_json::to_string(&hidden)?),
                masked(&serde_json::to_string(&absent)?),
                "{operation}"
            );
        }
    }
    let metrics = http(&hub, &key, "GET", "/metrics", "").await?;
    assert!(!metrics.contains("secret"), "metrics name no operation");
    spoke.stop().await?;
    Ok(())
}
