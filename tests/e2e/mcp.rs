//! MCP, both ways, over real sockets: the endpoint, its doors, cancelling; `hub mcp` and `hub spoke mcp` as programs;
//! the official conformance suite, clients and servers.

mod clients;
mod conformance;
mod own;
mod resume;
mod servers;
pub(crate) mod tasks;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_adapters::mcp::{Inherit, McpClient, McpOptions, McpTarget};
use hub_adapters::net::NetPolicy;
use hub_operations::Reply;
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_protocol::{CallError, OperationSpec};
use hub_spoke::RunningSpoke;
use hub_testkit::{HubProcess, TestHub, binary, command, eventually, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::tools::{Program, python};

pub(crate) const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/mcp/fixtures.py");

async fn spoke(hub: &TestHub) -> Result<RunningSpoke> {
    let mut secret = serde_json::from_value::<OperationSpec>(json!({
        "namespace": "demo", "name": "secret", "version": "1.0.0", "type": "query", "description": "Hidden treasure.",
        "inputSchema": true, "outputSchema": true, "accessControl": { "requiredScopes": ["treasure"] },
    }))?;
    secret.title = Some("Treasure".to_owned());
    let spoke = hub.spoke("tools").spoke_type("compute");
    let spoke = spoke
        .query("demo.add", "Adds.", |_, n: Vec<i64>| async move { Ok::<_, CallError>(n.iter().sum::<i64>()) })
        .query("demo.wait", "Waits for ever.", |_, _: Value| std::future::pending::<Result<u8, CallError>>())
        .query("demo.parent", "Waits for a child.", |call: hub_spoke::Context, _: Value| async move {
            call.call_raw("demo.wait", json!({})).await.map(|_| 0_u8)
        })
        .stream("demo.count", "Counts to a number.", |_, to: u64| async move {
            Ok::<_, CallError>(stream::iter((0..to).map(Ok::<_, CallError>)))
        })
        .raw(secret, |_, _| async { Ok(Reply::Value(json!("gold").into())) })
        .build()?;
    Ok(spoke.start().await?)
}

pub(crate) async fn client(hub: &TestHub, key: &str) -> Result<Arc<McpClient>> {
    let url = format!("http://{}/mcp", hub.address());
    let target = McpTarget::Http { url, bearer: Some(key.to_owned().into()), policy: NetPolicy::private() };
    Ok(Arc::new(McpClient::connect(target, McpOptions::new("hub")).await?))
}

pub(crate) async fn tool(client: &McpClient, name: &str, input: Value) -> Result<Value, CallError> {
    match client.call(name, input.into(), std::future::pending()).await? {
        Reply::Envelope(envelope) => Ok(envelope.parse::<Value>().expect("an envelope")["data"].clone()),
        _ => panic!("a tool answers an envelope"),
    }
}

/// Status and head, and the body of an answer that is not a stream.
async fn raw(hub: &TestHub, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String, String)> {
    raw_at(hub.address(), method, path, headers, body).await
}

async fn raw_at(hub: SocketAddr, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String, String)> {
    let mut stream = TcpStream::connect(hub).await?;
    let length = body.len();
    let json = if headers.contains("content-type:") { "" } else { "content-type: application/json\r\n" };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {hub}\r\n{json}connection: close\r\n\
         accept: application/json, text/event-stream\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await??;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    Ok((head.split(' ').nth(1).context("no status")?.parse()?, head.to_ascii_lowercase(), body.to_owned()))
}

fn modern(method: &str, params: Value) -> (String, String) {
    let mut params = params;
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": { "name": "test", "version": "1" },
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let name = params["name"].as_str().map(|name| format!("mcp-name: {name}\r\n")).unwrap_or_default();
    let headers = format!("mcp-protocol-version: 2026-07-28\r\nmcp-method: {method}\r\n{name}");
    (headers, json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string())
}

fn initialize() -> String {
    let params = json!({
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "1" },
    });
    json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn four_tools_serve_what_the_caller_may_call() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let client = client(&hub, &hub.new_key(&["calls:read"]).await?).await?;
    let mut names: Vec<String> = client.operations().into_iter().map(|s| s.name).collect();
    names.sort();
    ensure!(names == ["call", "list", "schema", "search"], "{names:?}");
    let found = tool(&client, "search", json!({ "query": "adds" })).await?;
    ensure!(found["operations"][0]["id"] == "demo.add", "{found}");
    let schema = tool(&client, "schema", json!({ "operationIds": ["demo.add"] })).await?;
    ensure!(schema["operations"][0]["inputSchema"]["type"] == "array", "{schema}");
    let sum = tool(&client, "call", json!({ "operationId": "demo.add", "input": [1, 2] })).await?;
    ensure!(sum["data"] == 3 && sum["callId"].is_string(), "{sum}");
    let items = tool(&client, "call", json!({ "operationId": "demo.count", "input": 500, "maxItems": 3 })).await?;
    ensure!(items["items"] == json!([0, 1, 2]) && items["truncated"] == true, "{items}");
    // What it may not call does not exist for it.
    let listed = tool(&client, "list", json!({ "namespace": "demo" })).await?.to_string();
    ensure!(!listed.contains("demo.secret"), "{listed}");
    let error = tool(&client, "call", json!({ "operationId": "demo.secret" })).await.err().context("hidden")?;
    let details: Value = error.details.context("details")?.parse()?;
    ensure!(details["structuredContent"]["code"] == "OPERATION_NOT_FOUND", "{details}");
    let error =
        tool(&client, "call", json!({ "operationId": "demo.add", "input": "x" })).await.err().context("wrong")?;
    let details: Value = error.details.context("details")?.parse()?;
    ensure!(details["structuredContent"]["code"] == "VALIDATION_ERROR", "{details}");
    let quoted = tool(&client, "call", json!({ "operationId": "demo.add", "input": "[1, 2]" }));
    let quoted = quoted.await.err().context("wrong")?;
    ensure!(quoted.message.contains("holds JSON") || quoted.details.is_some_and(|d| d.as_str().contains("holds JSON")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_says_how_to_open_it_and_keeps_others_out() -> Result<()> {
    let hub = TestHub::start().await?;
    let (status, head, _) = raw(&hub, "POST", "/mcp", "", &initialize()).await?;
    let metadata = format!("http://{}/.well-known/oauth-protected-resource", hub.address());
    ensure!(status == 401 && head.contains(&format!("resource_metadata=\"{metadata}\"")), "{head}");
    let (status, head, _) = raw(&hub, "POST", "/mcp", "authorization: Bearer hub_x\r\n", &initialize()).await?;
    ensure!(status == 401 && head.contains("error=\"invalid_token\""), "{head}");
    let (status, _, body) = raw(&hub, "GET", "/.well-known/oauth-protected-resource/mcp", "", "").await?;
    ensure!(status == 200 && body.contains(&format!("\"http://{}/mcp\"", hub.address())), "{body}");
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    for origin in ["https://evil.example", "null"] {
        let (status, ..) = raw(&hub, "POST", "/mcp", &format!("{auth}origin: {origin}\r\n"), &initialize()).await?;
        ensure!(status == 403, "{origin} {status}");
    }
    let own = format!("{auth}origin: http://{}\r\n", hub.address());
    ensure!(raw(&hub, "POST", "/mcp", &own, &initialize()).await?.0 == 200);
    let (headers, body) = modern("tools/list", json!({}));
    let (status, head, _) = raw(&hub, "POST", "/mcp?key=x", &format!("{auth}{headers}"), &body).await?;
    ensure!(status == 400, "{head}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_who_began_it() -> Result<()> {
    let hub = TestHub::start().await?;
    let auth = |key: &str| format!("authorization: Bearer {key}\r\n");
    let begun = raw_head(hub.address(), &auth(hub.admin_key()), &initialize()).await?;
    let session =
        begun.lines().find_map(|l| l.strip_prefix("mcp-session-id: ")).context("a session")?.trim().to_owned();
    let list = json!({ "jsonrpc": "2.0", "id": 2, "method": "tools/list" }).to_string();
    let with = |key: &str| format!("{}mcp-session-id: {session}\r\n", auth(key));
    let other = hub.new_key(&[]).await?;
    ensure!(raw(&hub, "POST", "/mcp", &with(&other), &list).await?.0 == 404);
    ensure!(raw(&hub, "DELETE", "/mcp", &with(&other), "").await?.0 == 404);
    ensure!(raw(&hub, "DELETE", "/mcp", &with(hub.admin_key()), "").await?.0 == 204);
    ensure!(raw(&hub, "POST", "/mcp", &with(hub.admin_key()), &list).await?.0 == 404);
    Ok(())
}

/// The head of an answer that may be a stream.
async fn raw_head(hub: SocketAddr, headers: &str, body: &str) -> Result<String> {
    raw_until(hub, headers, body, |line| line == "\r\n").await
}

/// An answer up to a line, after which nobody reads on.
async fn raw_until(hub: SocketAddr, headers: &str, body: &str, last: impl FnMut(&str) -> bool) -> Result<String> {
    Ok(raw_open(hub, "POST", headers, body, last).await?.1)
}

/// The same, with the connection to read on.
async fn raw_open(
    hub: SocketAddr,
    method: &str,
    headers: &str,
    body: &str,
    mut last: impl FnMut(&str) -> bool,
) -> Result<(BufReader<TcpStream>, String)> {
    let mut stream = BufReader::new(TcpStream::connect(hub).await?);
    let length = body.len();
    let request = format!(
        "{method} /mcp HTTP/1.1\r\nhost: {hub}\r\ncontent-type: application/json\r\naccept: application/json, \
         text/event-stream\r\n{headers}content-length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    let mut at = 0;
    while at == 0 || !last(&answer[at..]) {
        at = answer.len();
        ensure!(stream.read_line(&mut answer).await? > 0, "it ends before: {answer}");
    }
    Ok((stream, answer))
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_without_sessions_are_served_too() -> Result<()> {
    let hub = TestHub::start().await?;
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    let (headers, body) = modern("tools/list", json!({}));
    let (status, head, answer) = raw(&hub, "POST", "/mcp", &format!("{auth}{headers}"), &body).await?;
    ensure!(status == 200 && !head.contains("mcp-session-id") && answer.contains("\"search\""), "{head} {answer}");
    let (headers, body) = modern("tools/call", json!({ "name": "call", "arguments": { "operationId": "hub.whoami" } }));
    let (status, _, answer) = raw(&hub, "POST", "/mcp", &format!("{auth}{headers}"), &body).await?;
    ensure!(status == 200 && answer.contains("callId"), "{answer}");
    Ok(())
}

async fn ended_aborted(hub: &TestHub, operation: &str) -> Result<()> {
    let client = hub.client().await?;
    eventually(&format!("{operation} is aborted"), async || {
        let asked = ListCalls { operation_id: Some(operation.to_owned()), ..ListCalls::default() };
        let calls = client.call(&asked).await?.calls;
        Ok(calls.iter().any(|call| call.status == CallStatus::Aborted).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_reaches_the_leaves_in_both_kinds_of_revisions() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    // With a session: notifications/cancelled, which the client sends when its call is dropped.
    let client = client(&hub, hub.admin_key()).await?;
    let call = tool(&client, "call", json!({ "operationId": "demo.parent" }));
    ensure!(tokio::time::timeout(Duration::from_millis(500), call).await.is_err());
    ended_aborted(&hub, "demo.parent").await?;
    ended_aborted(&hub, "demo.wait").await?;
    drop(hub);
    // Without: the connection is closed.
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    let (headers, body) =
        modern("tools/call", json!({ "name": "call", "arguments": { "operationId": "demo.parent" } }));
    let headers = format!("{auth}{headers}");
    let asked = raw(&hub, "POST", "/mcp", &headers, &body);
    ensure!(tokio::time::timeout(Duration::from_millis(500), asked).await.is_err());
    ended_aborted(&hub, "demo.parent").await?;
    ended_aborted(&hub, "demo.wait").await
}

/// The command line as a child that serves until it is dropped.
pub(crate) async fn offering(hub: &TestHub, name: &str, more: &[&str]) -> Result<Program> {
    let url = hub.url();
    let args = [&["spoke", "mcp", "--url", &url, "--name", name], more].concat();
    let mut command = command(binary("hub")?, hub.folder());
    let mut offering = Program::start(command.env("HUB_KEY", hub.admin_key()).args(args).stderr(Stdio::null()))?;
    let first = offering.line().await?;
    ensure!(first.contains("offering"), "{first}");
    Ok(offering)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_mcp_server_behind_nat_is_a_spoke() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let python = python.program();
    let hub = TestHub::start().await?;
    let _child = offering(&hub, "far", &["--", &python, FIXTURES]).await?;
    let admin = hub.client().await?;
    let answer = admin.call_raw("client.far.mcp.test_simple_text", json!({})).await?;
    ensure!(answer.as_str().contains("simple text response"), "{}", answer.as_str());
    let failed = admin.call_raw("client.far.mcp.test_error_handling", json!({})).await.err().context("a failure")?;
    ensure!(failed.message.contains("intentionally"), "{failed}");
    // Nobody without its scope.
    let other = hub.client_with(&["calls:read"]).await?;
    ensure!(other.call_raw("client.far.mcp.test_simple_text", json!({})).await.is_err());
    let friend = hub.client_with(&["imported:far"]).await?;
    ensure!(friend.call_raw("client.far.mcp.test_simple_text", json!({})).await.is_ok());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tools_of_their_own_come_and_go() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let python = python.program();
    let hub = TestHub::start().await?;
    let client = client(&hub, hub.admin_key()).await?;
    let mut watched = client.watch();
    let child = offering(&hub, "far", &["--as-tools", "--", &python, FIXTURES]).await?;
    let has = |all: &Arc<Vec<OperationSpec>>| all.iter().any(|spec| spec.name == "test_simple_text");
    tokio::time::timeout(Duration::from_secs(10), watched.wait_for(has)).await??;
    let answer = tool(&client, "test_simple_text", json!({})).await?;
    ensure!(answer.to_string().contains("simple text response"), "{answer}");
    drop(child);
    tokio::time::timeout(Duration::from_secs(20), watched.wait_for(|all| !has(all))).await??;
    Ok(())
}

/// A client of `hub mcp`.
async fn local(hub: &TestHub, key: &str) -> Result<Arc<McpClient>> {
    local_of(&hub.url(), key).await
}

async fn local_of(url: &str, key: &str) -> Result<Arc<McpClient>> {
    let program: PathBuf = binary("hub")?;
    let target = McpTarget::Child {
        program: program.display().to_string(),
        args: ["mcp", "--url", url].map(str::to_owned).to_vec(),
        env: vec![("HUB_KEY".to_owned(), key.to_owned())],
        inherit: Inherit::Basics,
        cwd: None,
    };
    Ok(Arc::new(McpClient::connect(target, McpOptions::new("hub")).await?))
}

/// A spoke with `demo.greet` and, for keys with its scope, `demo.secret`, both of which ask to be tools.
async fn greeter(hub: &TestHub, version: &str) -> Result<RunningSpoke> {
    let spec = |name: &str, scopes: &[&str]| {
        serde_json::from_value::<OperationSpec>(json!({
            "namespace": "demo", "name": name, "version": version, "type": "query", "description": "Greets.",
            "inputSchema": { "type": "object", "properties": { "name": { "type": "string" } } }, "outputSchema": true,
            "accessControl": { "requiredScopes": scopes }, "_meta": { "mcp": { "tool": true } },
        }))
    };
    let spoke = hub.spoke("greeter").spoke_type("compute");
    let spoke = spoke
        .raw(spec("greet", &[])?, |_, _| async { Ok(Reply::Value(json!("hello").into())) })
        .raw(spec("secret", &["treasure"])?, |_, _| async { Ok(Reply::Value(json!("gold").into())) });
    Ok(spoke.build()?.start().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_stdio_tools_of_their_own_come_and_go_too() -> Result<()> {
    let hub = TestHub::start().await?;
    let key = hub.new_key(&["dev:*"]).await?;
    let first = greeter(&hub, "1.0.0").await?;
    // Those that are there are in the first list.
    let client = local(&hub, &key).await?;
    let names = |all: &[OperationSpec]| all.iter().map(|spec| spec.name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&client.operations()), ["list", "search", "schema", "call", "demo_greet"]);
    let greeting = tool(&client, "demo_greet", json!({})).await?;
    ensure!(greeting.to_string().contains("hello"), "{greeting}");
    let mut watched = client.watch();
    let has = |all: &[OperationSpec]| all.iter().any(|spec| spec.name == "demo_greet");
    drop(first);
    tokio::time::timeout(Duration::from_secs(20), watched.wait_for(|all| !has(all))).await??;
    let _second = greeter(&hub, "2.0.0").await?;
    tokio::time::timeout(Duration::from_secs(20), watched.wait_for(|all| has(all))).await??;
    client.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_host_reaches_the_hub_over_stdio() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let client = local(&hub, hub.admin_key()).await?;
    ensure!(client.operations().len() == 4);
    let sum = tool(&client, "call", json!({ "operationId": "demo.add", "input": [1, 2] })).await?;
    ensure!(sum["data"] == 3, "{sum}");
    let items = tool(&client, "call", json!({ "operationId": "demo.count", "input": 4 })).await?;
    ensure!(items["count"] == 4, "{items}");
    let call = tool(&client, "call", json!({ "operationId": "demo.parent" }));
    ensure!(tokio::time::timeout(Duration::from_millis(500), call).await.is_err());
    ended_aborted(&hub, "demo.wait").await?;
    client.close().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_stdio_a_hub_that_hangs_takes_no_more_than_the_time_of_the_call() -> Result<()> {
    let home = TempDir::new()?;
    let hub = HubProcess::start(home.path(), free_port()?, &[]).await?;
    let client = local_of(&hub.url(), &hub.admin_key()?).await?;
    // What is asked for first is what the operation is: nothing of it is known yet.
    hub.signal("STOP").await?;
    let call = tool(&client, "call", json!({ "operationId": "calls.list", "timeoutMs": 300 }));
    let answer = tokio::time::timeout(Duration::from_secs(10), call).await?;
    hub.signal("CONT").await?;
    let details: Value = answer.err().context("an answer of a hub that hangs")?.details.context("details")?.parse()?;
    let error = &details["structuredContent"];
    ensure!(error["code"] == "TIMEOUT" && error.to_string().contains("was not reached"), "{details}");
    client.close().await;
    Ok(())
}
