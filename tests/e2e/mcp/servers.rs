//! The official servers as spokes, over standard input and output and over HTTP.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use hub_testkit::{TestHub, eventually, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;

use super::offering;
use crate::tools::{Tool, node};

const STREAM: [&str; 2] = ["--stream", "trigger-long-running-operation"];

fn everything(node: &Tool) -> String {
    node.file("@modelcontextprotocol/server-everything/dist/index.js")
}

/// Calls the tools of a server "everything" that is offered as `all`.
async fn does_everything(hub: &TestHub) -> Result<()> {
    let client = hub.client_with(&["imported:all"]).await?;
    let call = async |tool: &str, input: Value| client.call_raw(&format!("client.all.mcp.{tool}"), input).await;
    let sum = call("get-sum", json!({ "a": 2, "b": 3 })).await?;
    ensure!(sum.as_str().contains("The sum of 2 and 3 is 5."), "{}", sum.as_str());
    let weather: Value = call("get-structured-content", json!({ "location": "Chicago" })).await?.parse()?;
    ensure!(weather["temperature"] == 36, "{weather}");
    let image: Value = call("get-tiny-image", json!({})).await?.parse()?;
    let is_image = |block: &Value| block["type"] == "image" && block["mimeType"] == "image/png";
    ensure!(image.as_array().is_some_and(|blocks| blocks.iter().any(is_image)), "{image}");
    let refused = call("get-sum", json!({ "a": "two", "b": 3 })).await.err().context("a refusal")?;
    ensure!(refused.code == "VALIDATION_ERROR", "{refused}");
    let long = client.request("client.all.mcp.trigger-long-running-operation");
    let items = long.input(json!({ "duration": 0.4, "steps": 4 })).subscribe().await?;
    let items: Vec<Value> = items
        .map(|item| Ok::<_, anyhow::Error>(item?.parse()?))
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<_>>()?;
    let (end, progress) = items.split_last().context("items")?;
    let steps: Vec<f64> = progress.iter().filter_map(|item| item["progress"].as_f64()).collect();
    ensure!(steps == [1.0, 2.0, 3.0, 4.0] && progress[0]["total"].as_f64() == Some(4.0), "{items:?}");
    ensure!(end["result"].to_string().contains("Long running operation completed"), "{end}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_over_stdio() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let hub = TestHub::start().await?;
    let program = ["--", &node.program(), &everything(&node), "stdio"];
    let _offering = offering(&hub, "all", &[&STREAM[..], &program].concat()).await?;
    does_everything(&hub).await
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_over_http() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let (hub, port) = (TestHub::start().await?, free_port()?);
    let mut server = node.command(hub.folder());
    server.arg(everything(&node)).arg("streamableHttp").env("PORT", port.to_string());
    let _server = server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    eventually("it listens", async || Ok(TcpStream::connect(("127.0.0.1", port)).await.ok())).await?;
    let server = ["--server", &format!("http://127.0.0.1:{port}/mcp")];
    let _offering = offering(&hub, "all", &[&STREAM[..], &server].concat()).await?;
    does_everything(&hub).await
}

/// Calls the tools of a server "filesystem" over `folder`.
async fn reads_and_writes(hub: &TestHub, tools: &str, folder: &TempDir) -> Result<()> {
    let client = hub.client().await?;
    let call = async |tool: &str, input: Value| client.call_raw(&format!("{tools}.{tool}"), input).await;
    let (note, outside) = (folder.path().join("note.txt"), folder.path().with_file_name("outside.txt"));
    call("write_file", json!({ "path": note, "content": "by the hub" })).await?;
    ensure!(std::fs::read_to_string(&note)? == "by the hub");
    let read = call("read_text_file", json!({ "path": note })).await?;
    ensure!(read.as_str().contains("by the hub"), "{}", read.as_str());
    let listed = call("list_directory", json!({ "path": folder.path() })).await?;
    ensure!(listed.as_str().contains("[FILE] note.txt"), "{}", listed.as_str());
    let refused = call("write_file", json!({ "path": outside, "content": "x" })).await.err().context("a refusal")?;
    ensure!(refused.code == "EXECUTION_ERROR" && !outside.exists(), "{refused}");
    Ok(())
}

/// It speaks HTTP only through somebody else: here another hub, whose hosts see its tools.
#[tokio::test(flavor = "multi_thread")]
async fn filesystem_over_stdio_and_over_http() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let (near, far, folder) = (TestHub::start().await?, TestHub::start().await?, TempDir::new()?);
    let path = folder.path().canonicalize()?.display().to_string();
    let index = node.file("@modelcontextprotocol/server-filesystem/dist/index.js");
    let _stdio = offering(&far, "files", &["--as-tools", "--", &node.program(), &index, &path]).await?;
    reads_and_writes(&far, "client.files.mcp", &folder).await?;
    std::fs::remove_file(folder.path().join("note.txt"))?;
    let (url, key) = (format!("{}/mcp", far.url()), far.folder().join("admin.key").display().to_string());
    let _http = offering(&near, "far", &["--server", &url, "--bearer-file", &key]).await?;
    reads_and_writes(&near, "client.far.mcp", &folder).await
}
