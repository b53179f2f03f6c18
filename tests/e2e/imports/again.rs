//! What is imported is connected anew: because it went away, because its client changed, because the hub was restarted.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use hub_protocol::CallError;
use hub_spoke::Client;
use hub_testkit::{TestHub, eventually, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Child;

use super::create;
use super::follow::FAKE;
use super::told::becomes;
use crate::mcp::offering;
use crate::tools::{Tool, node, python};

/// The official server "everything" over HTTP, once it listens.
async fn everything(node: &Tool, folder: &std::path::Path, port: u16) -> Result<Child> {
    let mut server = node.command(folder);
    server.arg(node.file("@modelcontextprotocol/server-everything/dist/index.js")).arg("streamableHttp");
    server.env("PORT", port.to_string()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let server = server.kill_on_drop(true).spawn()?;
    eventually("it listens", async || Ok(TcpStream::connect(("127.0.0.1", port)).await.ok())).await?;
    Ok(server)
}

async fn sum(client: &Client, tools: &str) -> Result<bool, CallError> {
    let answer = client.call_raw(&format!("{tools}.get-sum"), json!({ "a": 2, "b": 3 })).await?;
    Ok(answer.as_str().contains("The sum of 2 and 3 is 5."))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_http_that_was_restarted_answers_the_next_call() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let (hub, port) = (TestHub::start().await?, free_port()?);
    let mut server = everything(&node, hub.folder(), port).await?;
    let (client, url) = (hub.client().await?, format!("http://127.0.0.1:{port}/mcp"));
    let config = json!({ "url": url, "allowPrivate": true });
    create(&client, json!({ "name": "all", "type": "mcp-server", "config": config })).await?;
    let _far = offering(&hub, "far", &["--server", &url]).await?;
    for tools in ["all", "client.far.mcp"] {
        ensure!(sum(&client, tools).await?);
        server.kill().await?;
        server = everything(&node, hub.folder(), port).await?;
        // It knows none of the sessions.
        ensure!(sum(&client, tools).await?, "{tools}");
    }
    // Nobody calls, and it is noticed.
    server.kill().await?;
    eventually("it is told of", async || {
        let away = becomes(&client, "all", "degraded").await?;
        let reason = away["reason"].as_str().context("a reason")?;
        Ok(reason.contains(&format!("connection refused by 127.0.0.1:{port}")).then_some(()))
    })
    .await?;
    let _server = everything(&node, hub.folder(), port).await?;
    ensure!(becomes(&client, "all", "ready").await?["reason"].is_null());
    ensure!(sum(&client, "all").await?);
    hub.settled().await
}

/// Begins a call that ends when the file is there; answers once it runs.
async fn until(client: &Client, file: &std::path::Path) -> Result<tokio::task::JoinHandle<Result<String, CallError>>> {
    let mut call = client.request("child.until").input(json!({ "path": file })).start().await?;
    let running = tokio::spawn(async move {
        match call.next().await {
            Some(answer) => answer.map(|answer| answer.as_str().to_owned()),
            None => Ok(String::new()),
        }
    });
    eventually("it runs", async || {
        let running =
            client.call_raw("calls.list", json!({ "operationId": "child.until", "status": "running" })).await?;
        Ok(running.parse::<Value>()?["calls"].as_array().is_some_and(|calls| !calls.is_empty()).then_some(()))
    })
    .await?;
    Ok(running)
}

async fn pid(client: &Client) -> Result<String, CallError> {
    let answer = client.call_raw("child.pid", json!({})).await?;
    Ok(answer.as_str().chars().filter(char::is_ascii_digit).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_outlast_a_change_of_their_client_and_not_its_end() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let (hub, folder) = (TestHub::start_with(&["--allow-child-processes"]).await?, TempDir::new()?);
    let client = hub.client().await?;
    let config = json!({ "command": python.program(), "args": [FAKE, "good"] });
    create(&client, json!({ "name": "child", "type": "mcp-server", "config": config })).await?;
    let file = folder.path().join("go");
    let (first, running) = (pid(&client).await?, until(&client, &file).await?);
    client.call_raw("clients.refresh", json!({ "name": "child" })).await?;
    // Others are served all the time, at last by the new one.
    eventually("another program serves", async || Ok((pid(&client).await? != first).then_some(()))).await?;
    std::fs::write(&file, "")?;
    let answer = running.await??;
    ensure!(answer.contains(&first), "{answer}, not {first}");

    // A configuration with which it can't be connected.
    std::fs::remove_file(&file)?;
    let running = until(&client, &file).await?;
    let broken = json!({ "command": "/no/such/program" });
    client.call_raw("clients.update", json!({ "name": "child", "config": broken })).await?;
    becomes(&client, "child", "degraded").await?;
    let error = pid(&client).await.err().context("a refusal")?;
    ensure!(error.code == "OPERATION_UNAVAILABLE" && error.retryable, "{error:?}");
    ensure!(error.message.starts_with("client \"child\" is not connected: the MCP server \"/no/such"), "{error}");
    std::fs::write(&file, "")?;
    running.await??;
    client.call_raw("clients.update", json!({ "name": "child", "config": config })).await?;
    becomes(&client, "child", "ready").await?;

    std::fs::remove_file(&file)?;
    for (operation, input, words) in [
        ("clients.enable", json!({ "name": "child", "enabled": false }), "client \"child\" was disabled"),
        ("clients.delete", json!({ "name": "child" }), "client \"child\" was deleted"),
    ] {
        let running = until(&client, &file).await?;
        client.call_raw(operation, input).await?;
        let error = running.await?.err().context("it ended")?;
        ensure!(error.code == "SPOKE_DISCONNECTED" && error.message == words && !error.retryable, "{error:?}");
        if operation == "clients.enable" {
            client.call_raw("clients.enable", json!({ "name": "child" })).await?;
            becomes(&client, "child", "ready").await?;
        }
    }
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_of_a_client_is_not_said_while_it_is_connected_anew() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let (hub, folder) = (TestHub::start_with(&["--allow-child-processes"]).await?, TempDir::new()?);
    let (client, script) = (hub.client().await?, folder.path().join("server.py"));
    std::fs::copy(FAKE, &script)?;
    let config = |mode: &str| json!({ "command": python.program(), "args": [script, mode] });
    let child = json!({ "name": "child", "type": "mcp-server", "config": config("gone") });
    client.call_raw("clients.create", child).await?;
    becomes(&client, "child", "degraded").await?;
    let mute = client.call_raw("clients.update", json!({ "name": "child", "config": config("mute") })).await?;
    ensure!(mute.parse::<Value>()?["state"] == "pending", "{}", mute.as_str());
    let anew = becomes(&client, "child", "pending").await?;
    ensure!(anew["reason"].is_null() && anew["operations"] == 0, "{anew}");
    client.call_raw("clients.update", json!({ "name": "child", "config": config("good") })).await?;
    becomes(&client, "child", "ready").await?;
    let (_, data) = hub.stop().await;
    // In the hub's next life it begins, and says nothing.
    std::fs::write(&script, "import time\ntime.sleep(60)\n")?;
    let hub = TestHub::start_in(data, &["--allow-child-processes"]).await?;
    let client = hub.client().await?;
    let anew = becomes(&client, "child", "pending").await?;
    ensure!(anew["reason"].is_null(), "{anew}");
    Ok(())
}
