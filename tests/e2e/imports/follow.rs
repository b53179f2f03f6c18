//! What is imported changes while calls run.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hub_protocol::ops::hub::ListOperations;
use hub_spoke::Client;
use hub_testkit::{TestHub, binary, command, eventually};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::create;
use crate::mcp::offering;
use crate::tools::{Program, python};

/// An MCP server on standard input and output that does as its first argument says.
pub(super) const FAKE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/hub-adapters/tests/fake_mcp.py");

/// An HTTP API whose document the test writes. `/slow` answers when the test lets it.
pub(super) struct Api {
    pub(super) url: String,
    document: Arc<Mutex<String>>,
    /// Requests for `/slow` that have come.
    called: Arc<Semaphore>,
    released: Arc<Semaphore>,
}

impl Api {
    pub(super) async fn start(document: String) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let api = Self {
            url: format!("http://{}", listener.local_addr()?),
            document: Arc::new(Mutex::new(document)),
            called: Arc::new(Semaphore::new(0)),
            released: Arc::new(Semaphore::new(0)),
        };
        let shared = (Arc::clone(&api.document), Arc::clone(&api.called), Arc::clone(&api.released));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (document, called, released) = shared.clone();
                tokio::spawn(async move {
                    // Whoever gave up does not read.
                    let _gone = answer(stream, &document, &called, &released).await;
                });
            }
        });
        Ok(api)
    }

    pub(super) fn publish(&self, document: String) {
        *self.document.lock().unwrap() = document;
    }
}

async fn answer(
    mut stream: TcpStream,
    document: &Mutex<String>,
    called: &Semaphore,
    released: &Semaphore,
) -> Result<()> {
    let (mut head, mut bytes) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let length = stream.read(&mut bytes).await?;
        ensure!(length > 0, "no request");
        head.extend_from_slice(&bytes[..length]);
    }
    let body = if head.starts_with(b"GET /openapi.json") {
        document.lock().unwrap().clone()
    } else {
        if head.starts_with(b"GET /slow") {
            called.add_permits(1);
            released.acquire().await?.forget();
        }
        json!({ "ok": true }).to_string()
    };
    let length = body.len();
    let head =
        format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}");
    stream.write_all(format!("{head}\r\n\r\n{body}").as_bytes()).await?;
    Ok(())
}

/// A document with these operations, each by its name and description.
pub(super) fn document(operations: &[(&str, &str)]) -> String {
    let path = |(id, description): &(&str, &str)| {
        let get =
            json!({ "operationId": id, "description": description, "responses": { "200": { "description": "It." } } });
        (format!("/{id}"), json!({ "get": get }))
    };
    let paths: Map<String, Value> = operations.iter().map(path).collect();
    json!({ "openapi": "3.1.0", "info": { "title": "Api", "version": "1.0.0" }, "paths": paths }).to_string()
}

/// Waits until exactly these are offered below a namespace.
async fn offers(client: &Client, namespace: &str, names: &[&str]) -> Result<()> {
    eventually(&format!("{names:?} are offered"), async || {
        let list = ListOperations { namespace: Some(namespace.to_owned()), ..ListOperations::default() };
        let mut found: Vec<String> = client.call(&list).await?.operations.into_iter().map(|one| one.id).collect();
        found.sort();
        let wanted: Vec<String> = names.iter().map(|name| format!("{namespace}.{name}")).collect();
        Ok((found == wanted).then_some(()))
    })
    .await
}

/// A proxy that nothing must go through: nobody listens there.
const PROXY: &str = "http://127.0.0.1:9";

/// `hub spoke openapi` as a child that serves until it is dropped; what it notes goes to a file.
pub(super) async fn offer_api(hub: &TestHub, notes: &Path, more: &[&str]) -> Result<Program> {
    let url = hub.url();
    let args = [&["spoke", "openapi", "--url", &url, "--name", "far", "--allow-private"], more].concat();
    let mut command = command(binary("hub")?, hub.folder());
    let notes = Stdio::from(std::fs::File::create(notes)?);
    for proxy in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
        command.env(proxy, PROXY);
    }
    let mut program = Program::start(command.env("HUB_KEY", hub.admin_key()).args(args).stderr(notes))?;
    let first = program.line().await?;
    ensure!(first.contains("offering"), "{first}");
    Ok(program)
}

pub(super) async fn noted(notes: &Path, words: &str) -> Result<()> {
    let found = eventually(words, async || {
        Ok(std::fs::read_to_string(notes)?.lines().any(|line| line.contains(words)).then_some(()))
    });
    found.await.with_context(|| std::fs::read_to_string(notes).unwrap_or_default())
}

async fn description(client: &Client, operation: &str) -> Result<Value> {
    let schema = client.call_raw("hub.schema", json!({ "operationIds": [operation] })).await?.parse::<Value>()?;
    Ok(schema["operations"][0]["description"].clone())
}

/// Publishes another document while a call runs: the call ends well, and what is offered becomes what is published.
async fn follows(api: &Api, client: &Client, namespace: &str) -> Result<()> {
    offers(client, namespace, &["gone", "ok", "slow"]).await?;
    let mut slow = client.request(format!("{namespace}.slow")).input(json!({})).start().await?;
    let mut changed = client.request(format!("{namespace}.slow")).input(json!({})).start().await?;
    tokio::time::timeout(Duration::from_secs(10), api.called.acquire_many(2)).await??.forget();
    api.publish(document(&[("extra", "Comes."), ("ok", "Is another."), ("slow", "Takes its time.")]));
    offers(client, namespace, &["extra", "ok", "slow"]).await?;
    ensure!(description(client, &format!("{namespace}.ok")).await? == "Is another.");
    ensure!(client.call_raw(&format!("{namespace}.ok"), json!({})).await?.as_str().contains("true"));
    // Also the operation of a running call may change.
    api.publish(document(&[("slow", "Takes even longer.")]));
    offers(client, namespace, &["slow"]).await?;
    eventually("it changes", async || {
        Ok((description(client, &format!("{namespace}.slow")).await? == "Takes even longer.").then_some(()))
    })
    .await?;
    api.released.add_permits(2);
    for call in [&mut slow, &mut changed] {
        let answer = call.next().await.context("an answer")??;
        ensure!(answer.as_str().contains("true"), "{}", answer.as_str());
    }
    api.publish(first_document());
    offers(client, namespace, &["gone", "ok", "slow"]).await
}

fn first_document() -> String {
    document(&[("gone", "Goes."), ("ok", "Is."), ("slow", "Takes its time.")])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_follows_its_document_while_calls_run() -> Result<()> {
    let (hub, api) = (TestHub::start().await?, Api::start(first_document()).await?);
    let client = hub.client().await?;
    let url = format!("{}/openapi.json", api.url);
    let config = json!({ "url": url, "baseUrl": api.url, "allowPrivate": true, "refreshMs": 1_000 });
    create(&client, json!({ "name": "api", "type": "openapi", "config": config })).await?;
    let watched = client.call_raw("clients.get", json!({ "name": "api" })).await?.parse::<Value>()?;
    follows(&api, &client, "api").await?;
    // Nothing is taken from a document that is none.
    api.publish("<html>Be right back</html>".to_owned());
    let state = async || {
        Ok::<_, anyhow::Error>(client.call_raw("clients.get", json!({ "name": "api" })).await?.parse::<Value>()?)
    };
    let degraded = eventually("it is told that the document can't be used", async || {
        Ok(Some(state().await?).filter(|client| client["state"] == "degraded"))
    })
    .await?;
    ensure!(degraded["reason"].as_str().is_some_and(|why| why.contains("HTML page")), "{degraded}");
    ensure!(degraded["operations"] == 3 && degraded["updatedAt"] == watched["updatedAt"], "{degraded}");
    ensure!(client.call_raw("api.ok", json!({})).await?.as_str().contains("true"));
    api.publish(first_document());
    eventually("it is well again", async || Ok((state().await?["state"] == "ready").then_some(()))).await?;
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_follows_its_document_while_calls_run() -> Result<()> {
    let (hub, api) = (TestHub::start().await?, Api::start(first_document()).await?);
    let client = hub.client().await?;
    let (url, notes) = (format!("{}/openapi.json", api.url), hub.folder().join("notes"));
    let _spoke = offer_api(&hub, &notes, &[&url, "--base-url", &api.url, "--refresh", "100ms"]).await?;
    follows(&api, &client, "client.far.api").await?;
    noted(&notes, "the operations changed: offering 1").await?;
    // Nothing is taken from a document that is none.
    api.publish("<html>Be right back</html>".to_owned());
    noted(&notes, "HTML page").await?;
    ensure!(client.call_raw("client.far.api.ok", json!({})).await?.as_str().contains("true"));
    // It is as it was before, so there is nothing else to tell.
    api.publish(first_document());
    noted(&notes, "the document can be read and used again").await
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_larger_than_a_message_are_offered_and_followed() -> Result<()> {
    let hub = TestHub::start().await?;
    let large = |word: &str| {
        let description = format!("{word} {}", "and so on ".repeat(190));
        let names: Vec<String> = (0..900).map(|n| format!("n{n:03}")).collect();
        document(&names.iter().map(|name| (name.as_str(), description.as_str())).collect::<Vec<_>>())
    };
    let (api, client) = (Api::start(large("First")).await?, hub.client().await?);
    ensure!(large("First").len() > 1_800_000);
    let config = json!({ "url": format!("{}/openapi.json", api.url), "baseUrl": api.url, "allowPrivate": true, "refreshMs": 1_000 });
    create(&client, json!({ "name": "api", "type": "openapi", "config": config })).await?;
    let (file, notes) = (hub.folder().join("large.json"), hub.folder().join("notes"));
    std::fs::write(&file, large("First"))?;
    let path = file.to_str().context("a path")?;
    let _spoke = offer_api(&hub, &notes, &[path, "--base-url", &api.url, "--refresh", "200ms"]).await?;
    // Lists of them come in pages that fit a message.
    let list = ListOperations { namespace: Some("api".to_owned()), limit: Some(1_000), ..ListOperations::default() };
    let page = client.call(&list).await?;
    ensure!(page.operations.len() < 900 && page.next_cursor == page.operations.last().map(|one| one.id.clone()));
    api.publish(large("Second"));
    std::fs::write(&file, large("Second"))?;
    for operation in ["api.n000", "api.n899", "client.far.api.n000", "client.far.api.n899"] {
        ensure!(client.call_raw(operation, json!({})).await?.as_str().contains("true"), "{operation}");
        eventually(&format!("{operation} changes"), async || {
            let now = description(&client, operation).await?;
            let now = now.as_str().context("a description")?;
            // Whole, too.
            Ok((now.starts_with("Second") && now.len() > 1_800).then_some(()))
        })
        .await?;
    }
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_list_of_tools_ends_no_call() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let (python, hub) = (python.program(), TestHub::start_with(&["--allow-child-processes"]).await?);
    let client = hub.client().await?;
    let config = json!({ "command": python, "args": [FAKE, "good"] });
    create(&client, json!({ "name": "child", "type": "mcp-server", "config": config })).await?;
    let _far = offering(&hub, "far", &["--", &python, FAKE, "good"]).await?;
    for namespace in ["child", "client.far.mcp"] {
        let id = |tool: &str| format!("{namespace}.{tool}");
        let mut held = client.request(id("hold")).input(json!({})).start().await?;
        client.call_raw(&id("grow"), json!({})).await?;
        eventually("the new tool can be called", async || {
            let found = client.call_raw("hub.schema", json!({ "operationIds": [id("grown")] })).await;
            Ok(found.is_ok().then_some(()))
        })
        .await?;
        client.call_raw(&id("let_go"), json!({})).await?;
        let answer = held.next().await.context("an answer")??;
        ensure!(answer.as_str().contains("held to the end"), "{}", answer.as_str());
    }
    hub.settled().await
}
