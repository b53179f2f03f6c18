//! What people are told of what they import.

use anyhow::{Context, Result, ensure};
use hub_protocol::CallError;
use hub_spoke::Client;
use hub_testkit::{TestHub, binary, command, eventually, run};
use serde_json::{Value, json};

use super::follow::{Api, FAKE, document};
use crate::tools::python;

pub(super) async fn becomes(client: &Client, name: &str, state: &str) -> Result<Value> {
    eventually(&format!("{name} is {state}"), async || {
        let now: Value = client.call_raw("clients.get", json!({ "name": name })).await?.parse()?;
        Ok(Some(now).filter(|now| now["state"] == state))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn why_a_program_ended_is_in_the_state_of_its_client() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let hub = TestHub::start_with(&["--allow-child-processes"]).await?;
    let client = hub.client().await?;
    let config = json!({ "command": python.program(), "args": [FAKE, "gone"], "env": { "TOKEN": "token" } });
    let off = json!({ "name": "child", "type": "mcp-server", "config": config, "enabled": false });
    client.call_raw("clients.create", off).await?;
    client.call_raw("secrets.set", json!({ "client": "child", "name": "token", "value": "letmein-please" })).await?;
    client.call_raw("clients.enable", json!({ "name": "child" })).await?;
    let reason = becomes(&client, "child", "degraded").await?["reason"].to_string();
    ensure!(reason.contains("exit status: 1") && reason.contains("no config: TOKEN=["), "{reason}");
    ensure!(!reason.contains("letmein"), "{reason}");
    // The call during which it crashes tells more.
    let config = json!({ "command": python.program(), "args": [FAKE, "crash"] });
    client.call_raw("clients.create", json!({ "name": "frail", "type": "mcp-server", "config": config })).await?;
    becomes(&client, "frail", "ready").await?;
    let crashed = client.call_raw("frail.echo", json!({})).await.err().context("a crash")?;
    ensure!(crashed.code == "SPOKE_DISCONNECTED" && crashed.message.contains("out of luck"), "{crashed}");
    let details: Value = crashed.details.context("details")?.parse()?;
    ensure!(details["exit"] == "exit status: 3" && details["stderr"][9] == "out of luck", "{details}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_in_the_state_of_the_client() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let hub = TestHub::start_with(&["--allow-child-processes"]).await?;
    let client = hub.client().await?;
    let config = json!({ "command": python.program(), "args": [FAKE, "many"] });
    client.call_raw("clients.create", json!({ "name": "child", "type": "mcp-server", "config": config })).await?;
    let ready = becomes(&client, "child", "ready").await?;
    ensure!(ready["operations"] == 1_000 && ready["reason"] == "left out: all tools after the first 1000", "{ready}");
    let remote = json!({ "/a": { "get": { "parameters": [{ "$ref": "b.yaml#/p" }], "responses": {} } }, "/b": { "get": { "responses": {} } } });
    let api = Api::start(String::new()).await?;
    let document = json!({ "openapi": "3.1.0", "servers": [{ "url": api.url }], "paths": remote });
    let config = json!({ "document": document.to_string(), "allowPrivate": true });
    client.call_raw("clients.create", json!({ "name": "api", "type": "openapi", "config": config })).await?;
    let reason = becomes(&client, "api", "ready").await?["reason"].to_string();
    ensure!(reason.contains("left out: GET /a: ") && reason.contains("bundle"), "{reason}");
    let tested: Value = client.call_raw("clients.test", json!({ "name": "api" })).await?.parse()?;
    ensure!(tested["ok"] == true && tested["reason"].to_string().contains("GET /a"), "{tested}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_brings_no_operations_is_ready_when_it_is_complete() -> Result<()> {
    let (hub, api) = (TestHub::start().await?, Api::start(String::new()).await?);
    let client = hub.client().await?;
    let with = |more: Value| {
        let mut config = json!({ "baseUrl": api.url, "allowPrivate": true });
        for (member, value) in more.as_object().into_iter().flatten() {
            config[member] = value.clone();
        }
        config
    };
    for (name, kind, config) in [
        ("notes", "custom", json!({ "anything": 1, "secret": "of its own" })),
        ("models", "llm-provider", with(json!({ "api": "ollama" }))),
        ("forge", "vcs", with(json!({ "flavour": "forgejo" }))),
        ("cloud", "compute", with(json!({ "flavour": "vast" }))),
    ] {
        client.call_raw("clients.create", json!({ "name": name, "type": kind, "config": config })).await?;
        ensure!(becomes(&client, name, "ready").await?["reason"].is_null(), "{name}");
        let tested: Value = client.call_raw("clients.test", json!({ "name": name })).await?.parse()?;
        ensure!(tested["ok"] == true, "{tested}");
    }
    let config = with(json!({ "api": "openai", "secret": "key" }));
    client.call_raw("clients.create", json!({ "name": "gpt", "type": "llm-provider", "config": config })).await?;
    let lacking = becomes(&client, "gpt", "degraded").await?;
    ensure!(lacking["reason"] == "the secret \"key\" is not set", "{lacking}");
    client.call_raw("secrets.set", json!({ "client": "gpt", "name": "key", "value": "sk-something" })).await?;
    becomes(&client, "gpt", "ready").await?;
    client.call_raw("secrets.delete", json!({ "client": "gpt", "name": "key" })).await?;
    becomes(&client, "gpt", "degraded").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_says_why() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let notes = json!({ "name": "notes", "type": "custom", "config": {} });
    client.call_raw("clients.create", notes.clone()).await?;
    let taken = client.call_raw("clients.create", notes).await.err().context("a refusal")?;
    ensure!(taken.code == "CONFLICT" && taken.message == "there is a client \"notes\" already", "{taken}");
    for value in ["letmein\n", "letmein\r\n"] {
        let set = client.call_raw("secrets.set", json!({ "client": "notes", "name": "token", "value": value })).await;
        let refused = set.err().context("a refusal")?;
        ensure!(refused.code == "VALIDATION_ERROR" && refused.message.contains("ends with a line break"), "{refused}");
    }
    // A key in several lines ends with one.
    let value = "-----BEGIN KEY-----\nabc\n-----END KEY-----\n";
    client.call_raw("secrets.set", json!({ "client": "notes", "name": "token", "value": value })).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_never_both_a_client_s_and_a_spoke_s() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let document = document(&[("merge", "Merges.")]);
    for n in 0..40 {
        let (name, config) = (format!("forge{n}"), json!({ "document": document, "baseUrl": "https://forge.example" }));
        let create = client.call_raw("clients.create", json!({ "name": name, "type": "openapi", "config": config }));
        let spoke = hub.spoke(&format!("s{n}")).spoke_type("compute");
        let spoke =
            spoke.query(&format!("{name}.add"), "Adds.", |_, _: Value| async { Ok::<_, CallError>(1) }).build()?;
        let (created, started) = tokio::join!(create, spoke.start());
        ensure!(created.is_err() || started.is_err(), "{name} is both");
        for error in created.err().map(|e| e.to_string()).into_iter().chain(started.err().map(|e| e.to_string())) {
            ensure!(error.contains("CONFLICT"), "{error}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_can_take_the_spoke_name_of_a_clients_import() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = hub.spoke("import-mail").query("mail.add", "Adds.", |_, _: Value| async { Ok::<_, CallError>(1) });
    let error = spoke.build()?.start().await.err().context("it was registered")?.to_string();
    ensure!(error.contains("a name for a client's import"), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_that_is_none_is_told_with_what_helps() -> Result<()> {
    let (hub, api) = (TestHub::start().await?, Api::start("<!doctype html><p>Docs</p>".to_owned()).await?);
    let said = async |document: &str, more: &[&str]| {
        let mut command = command(binary("hub")?, hub.folder());
        let (url, key) = (hub.url(), hub.admin_key());
        let args = [&["spoke", "openapi", document, "--name", "far", "--url", &url], more].concat();
        let ran = run(command.env("HUB_KEY", key).args(args)).await?;
        ensure!(ran.code != Some(0), "{}", ran.out);
        Ok::<_, anyhow::Error>(ran.err)
    };
    let page = format!("{}/openapi.json", api.url);
    let error = said(&page, &["--allow-private"]).await?;
    ensure!(error.contains("HTML page") && !error.contains("needs a key"), "{error}");
    let error = said(&page, &[]).await?;
    ensure!(error.contains("is this machine") && error.contains("--allow-private"), "{error}");
    let error = said("http://no-such-host.invalid/a.json", &[]).await?;
    ensure!(error.contains("can't be resolved") && !error.contains("--allow-private"), "{error}");
    let error = said("ftp://a.example/a.json", &[]).await?;
    ensure!(error.contains("\"ftp\" is not http or https") && !error.contains("--allow-private"), "{error}");
    let error = said("no-such-file.json", &[]).await?;
    ensure!(error.contains("no-such-file.json can't be read: entity not found"), "{error}");
    api.publish(document(&[]));
    let error = said(&page, &["--allow-private"]).await?;
    ensure!(error.contains("the document has no operations"), "{error}");
    api.publish(document(&[("ok", "Is.")]));
    let error = said(&page, &["--allow-private", "--only", "none*"]).await?;
    ensure!(error.contains("leaves none"), "{error}");
    Ok(())
}
