//! Operations of other worlds: an abort reaches them, a program sees little of the hub, and nobody takes their names.
//! What changes out there changes here, and what goes wrong is told.

mod again;
mod follow;
mod promises;
mod told;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hub_protocol::CallError;
use hub_protocol::ops::hub::Exposure;
use hub_spoke::{AbortMode, Client};
use hub_testkit::{RawPeer, TestHub, eventually};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::timeout;

use crate::mcp::{FIXTURES, client, offering, tool};
use crate::tools::{node, python};

/// Longest way of an abort from whoever gives up to the service outside.
const BOUND: Duration = Duration::from_millis(100);

/// What a service outside met, and when.
type Met = (String, Instant);

/// A port that hears what a program outside has met.
async fn hear(told: UnboundedSender<Met>) -> Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").await?;
    let port = socket.local_addr()?.port().to_string();
    tokio::spawn(async move {
        let mut bytes = [0; 64];
        while let Ok(length) = socket.recv(&mut bytes).await {
            let _test_is_over = told.send((String::from_utf8_lossy(&bytes[..length]).into_owned(), Instant::now()));
        }
    });
    Ok(port)
}

/// An HTTP API that never answers.
async fn silent(told: UnboundedSender<Met>) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (told, mut bytes) = (told.clone(), [0; 4096]);
            tokio::spawn(async move {
                while stream.read(&mut bytes).await.is_ok_and(|length| length > 0) {
                    let _test_is_over = told.send(("called".to_owned(), Instant::now()));
                }
                let _test_is_over = told.send(("cancelled".to_owned(), Instant::now()));
            });
        }
    });
    Ok(url)
}

async fn next(met: &mut UnboundedReceiver<Met>, what: &str) -> Result<Instant> {
    let (said, at) = timeout(Duration::from_secs(10), met.recv()).await.context(what.to_owned())?.context("an end")?;
    ensure!(said == what, "{said} instead of {what}");
    Ok(at)
}

async fn create(client: &Client, input: Value) -> Result<()> {
    let name = input["name"].clone();
    client.call_raw("clients.create", input).await?;
    eventually("the client is ready", async || {
        let found: Value = client.call_raw("clients.get", json!({ "name": name })).await?.parse()?;
        Ok((found["state"] == "ready").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_through_every_face_reaches_the_service_outside_within_100_ms() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let hub = TestHub::start_with(&["--allow-child-processes"]).await?;
    let (told, mut met) = unbounded_channel();
    let (port, url) = (hear(told.clone()).await?, silent(told).await?);
    let admin = hub.client().await?;
    let program = python.program();
    let config = json!({ "command": program, "args": [FIXTURES, port] });
    create(&admin, json!({ "name": "child", "type": "mcp-server", "config": config })).await?;
    let get = json!({ "operationId": "wait", "responses": { "200": { "description": "Never." } } });
    let document = json!({ "openapi": "3.1.0", "info": { "title": "Silent", "version": "1.0.0" }, "paths": { "/": { "get": get } } });
    let config = json!({ "document": document.to_string(), "baseUrl": url, "allowPrivate": true });
    create(&admin, json!({ "name": "api", "type": "openapi", "config": config })).await?;
    let _far = offering(&hub, "far", &["--", &program, FIXTURES, &port]).await?;
    let host = client(&hub, hub.admin_key()).await?;
    for operation in ["child.wait", "api.wait", "client.far.mcp.wait"] {
        for face in ["WebSocket", "HTTP", "MCP"] {
            let gave_up = match face {
                "WebSocket" => {
                    let call = admin.request(operation).input(json!({})).start().await?;
                    next(&mut met, "called").await?;
                    let gave_up = Instant::now();
                    call.abort(None, AbortMode::Kill, Duration::from_secs(5)).await;
                    gave_up
                }
                "HTTP" => {
                    let mut stream = TcpStream::connect(hub.address()).await?;
                    let request = format!(
                        "POST /api/operations/{operation} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {}\r\n\
                         x-hub-on-disconnect: abort\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{{}}",
                        hub.admin_key()
                    );
                    stream.write_all(request.as_bytes()).await?;
                    next(&mut met, "called").await?;
                    drop(stream);
                    Instant::now()
                }
                _ => {
                    let asked = tool(&host, "call", json!({ "operationId": operation }));
                    tokio::select! {
                        answer = asked => anyhow::bail!("answered: {answer:?}"),
                        called = next(&mut met, "called") => called?,
                    };
                    Instant::now()
                }
            };
            let took = next(&mut met, "cancelled").await?.saturating_duration_since(gave_up);
            println!("{operation} through {face}: {took:?}");
            ensure!(took < BOUND, "{operation} through {face}: {took:?}");
        }
    }
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_of_a_client_sees_little_of_the_hub_s_environment() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let hub = TestHub::start_with(&["--allow-child-processes"]).await?;
    let client = hub.client().await?;
    let everything = node.file("@modelcontextprotocol/server-everything/dist/index.js");
    let config = json!({ "command": node.program(), "args": [everything], "env": { "FORGE_TOKEN": "token" } });
    let off = json!({ "name": "all", "type": "mcp-server", "config": config, "enabled": false });
    client.call_raw("clients.create", off).await?;
    client.call_raw("secrets.set", json!({ "client": "all", "name": "token", "value": "letmein" })).await?;
    client.call_raw("clients.enable", json!({ "name": "all" })).await?;
    let answer =
        eventually("the program answers", async || Ok(client.call_raw("all.get-env", json!({})).await.ok())).await?;
    let answer: Value = answer.parse()?;
    let seen: Value = serde_json::from_str(answer[0]["text"].as_str().context("a text")?)?;
    let names: BTreeSet<&str> = seen.as_object().context("variables")?.keys().map(String::as_str).collect();
    let expected = ["FORGE_TOKEN", "HOME", "LANG", "PATH", "TMPDIR", "TZ"];
    ensure!(names.iter().all(|name| expected.contains(name)), "{names:?}");
    // What it hands back of its secret is blotted out.
    ensure!(names.contains("FORGE_TOKEN") && names.contains("PATH") && !seen.to_string().contains("letmein"), "{seen}");
    ensure!(std::env::vars_os().count() > expected.len(), "there was nothing to hide");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_offers_operations_below_the_name_of_an_imported_client() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let offer = |spoke: &str, operation: &str| {
        let spoke = hub.spoke(spoke).spoke_type("compute");
        spoke.query(operation, "Adds.", |_, n: Vec<i64>| async move { Ok::<_, CallError>(n.iter().sum::<i64>()) })
    };
    let config = json!({ "url": "http://127.0.0.1:9/mcp", "allowPrivate": true });
    let forge = json!({ "name": "forge", "type": "mcp-server", "config": config });
    // Who comes first keeps the name.
    let first = offer("early", "forge.merge").build()?.start().await?;
    let refused = client.call_raw("clients.create", forge.clone()).await.err().context("a refusal")?;
    ensure!(refused.code == "CONFLICT" && refused.message.contains("\"early\""), "{refused}");
    first.stop().await?;
    client.call_raw("clients.create", forge).await?;
    let refused = offer("late", "forge.merge").build()?.start().await.err().context("a refusal")?.to_string();
    ensure!(refused.contains("spoke \"late\"") && refused.contains("client \"forge\""), "{refused}");
    // Nor later, beside an operation that it may offer.
    let mut late = hub.raw().await?;
    late.register("late", &[("late.merge", "query")], json!({ "spokeType": "compute" })).await?;
    let merge = json!({ "operations": [RawPeer::spec("forge.merge", "query")] });
    ensure!(late.call("u", "hub.update", merge).await?["payload"]["code"] == "CONFLICT");
    // Below its own name a spoke may.
    let own = offer("own", "forge.merge").exposure(Exposure::Qualified).build()?.start().await?;
    ensure!(client.call_raw("compute.own.forge.merge", json!([1, 2])).await?.as_str() == "3");
    drop(own);
    // A client that imports nothing reserves nothing.
    client.call_raw("clients.create", json!({ "name": "notes", "type": "custom", "config": {} })).await?;
    let _free = offer("free", "notes.add").build()?.start().await?;
    Ok(())
}
