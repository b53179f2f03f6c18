//! A scripted MCP server over HTTP that restarts, goes away, and answers what is no answer.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hub_adapters::mcp::{Health, McpClient, McpOptions, McpTarget};
use hub_adapters::net::NetPolicy;
use hub_operations::Reply;
use hub_protocol::{CallError, ErrorCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a server says to a request, status line and headers included; `None` is silence.
type Said = Option<String>;

/// What it says to a request with this id.
type Says = fn(&Value) -> Said;

fn said(status: &str, kind: &str, body: &str) -> Said {
    let (kind, length) =
        (if kind.is_empty() { String::new() } else { format!("content-type: {kind}\r\n") }, body.len());
    Some(format!("HTTP/1.1 {status}\r\n{kind}connection: close\r\ncontent-length: {length}\r\n\r\n{body}"))
}

fn as_json(status: &str, body: &Value) -> Said {
    said(status, "application/json", &body.to_string())
}

fn refusal(id: &Value, message: &str) -> Value {
    json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32000, "message": message } })
}

/// How a server treats requests.
#[derive(Default)]
struct Script {
    /// Names its sessions, of which it knows one.
    life: AtomicUsize,
    /// Says what it says to a request with a session that it does not know; its id is given.
    unknown: Mutex<Option<Says>>,
    /// Says what it says to a beginning; its id is given.
    begun: Mutex<Option<Says>>,
    /// Says what it says to calls of tools; their id is given.
    called: Mutex<Option<Says>>,
    /// Whether it has the revision without sessions, and only that.
    newest: bool,
    /// Whether it keeps a stream open for messages of its own.
    streams: bool,
    /// Says nothing at all.
    busy: Mutex<bool>,
    calls: AtomicUsize,
}

impl Script {
    fn answer(&self, method: &str, session: Option<&str>, message: &Value) -> Said {
        if *self.busy.lock().unwrap() {
            return None;
        }
        let (life, id) = (self.life.load(Ordering::SeqCst), &message["id"]);
        let result = |result: Value| as_json("200 OK", &json!({ "jsonrpc": "2.0", "id": id, "result": result }));
        let (known, info) = (format!("life-{life}"), json!({ "name": "scripted", "version": "1.0.0" }));
        let asked = message["method"].as_str().unwrap_or_default();
        let begins = matches!(asked, "initialize" | "server/discover");
        match self.unknown.lock().unwrap().as_ref() {
            Some(unknown) if !begins && !self.newest && session != Some(known.as_str()) => return unknown(id),
            _ => {}
        }
        if let Some(begun) = self.begun.lock().unwrap().as_ref().filter(|_| begins) {
            return begun(id);
        }
        match asked {
            _ if method == "GET" && self.streams => {
                Some("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: hello\n\n".to_owned())
            }
            _ if method != "POST" => said("405 Method Not Allowed", "", ""),
            "initialize" if self.newest => as_json(
                "400 Bad Request",
                &json!({ "jsonrpc": "2.0", "id": id, "error": { "code": -32601, "message": "no initialize" } }),
            ),
            "initialize" => {
                let version = &message["params"]["protocolVersion"];
                let answer =
                    result(json!({ "protocolVersion": version, "capabilities": { "tools": {} }, "serverInfo": info }));
                answer.map(|answer| answer.replacen("\r\n", &format!("\r\nmcp-session-id: {known}\r\n"), 1))
            }
            "server/discover" => result(json!({
                "resultType": "complete", "supportedVersions": ["2026-07-28"], "capabilities": { "tools": {} },
                "ttlMs": 0, "cacheScope": "private",
            })),
            "tools/list" => result(json!({ "tools": [{ "name": "echo", "inputSchema": { "type": "object" } }] })),
            "tools/call" => {
                let called = *self.called.lock().unwrap();
                self.calls.fetch_add(1, Ordering::SeqCst);
                match called {
                    Some(called) => called(id),
                    None => result(json!({ "content": [{ "type": "text", "text": known }] })),
                }
            }
            "ping" => result(json!({})),
            _ => said("202 Accepted", "", ""),
        }
    }
}

/// A server that runs until it is dropped; all its connections end with it.
struct Server {
    url: String,
    port: u16,
    _connections: JoinSet<()>,
}

impl Server {
    async fn start(port: u16, script: &Arc<Script>) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port)).await?;
        let port = listener.local_addr()?.port();
        let (mut connections, script) = (JoinSet::new(), Arc::clone(script));
        connections.spawn(async move {
            let mut all = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&script);
                all.spawn(async move { drop(serve(stream, &script).await) });
            }
        });
        Ok(Self { url: format!("http://127.0.0.1:{port}/mcp"), port, _connections: connections })
    }
}

async fn serve(mut stream: TcpStream, script: &Script) -> Result<()> {
    let (mut text, mut bytes) = (String::new(), [0; 4096]);
    let head = loop {
        if let Some(end) = text.find("\r\n\r\n") {
            break end;
        }
        let read = stream.read(&mut bytes).await?;
        ensure!(read > 0, "no request");
        text.push_str(std::str::from_utf8(&bytes[..read])?);
    };
    let headers = text[..head].lines().filter_map(|line| line.split_once(": "));
    let headers: HashMap<String, String> =
        headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    let length: usize = headers.get("content-length").map_or(Ok(0), |length| length.parse())?;
    while text.len() < head + 4 + length {
        let read = stream.read(&mut bytes).await?;
        ensure!(read > 0, "no body");
        text.push_str(std::str::from_utf8(&bytes[..read])?);
    }
    let message = serde_json::from_str(&text[head + 4..]).unwrap_or_default();
    let method = text.split(' ').next().unwrap_or_default();
    let answer = script.answer(method, headers.get("mcp-session-id").map(String::as_str), &message);
    let open = answer.as_ref().is_none_or(|answer| answer.contains("event-stream"));
    if let Some(answer) = answer {
        stream.write_all(answer.as_bytes()).await?;
    }
    if open {
        std::future::pending::<()>().await;
    }
    Ok(())
}

async fn connect(server: &Server) -> Result<McpClient> {
    looking(server, Duration::from_millis(200)).await
}

async fn looking(server: &Server, look_every: Duration) -> Result<McpClient> {
    let target = McpTarget::Http { url: server.url.clone(), bearer: None, policy: NetPolicy::private() };
    let options = McpOptions { look_every, ..McpOptions::new("far") };
    Ok(McpClient::connect(target, options).await?)
}

async fn call(client: &McpClient) -> Result<String, CallError> {
    let answer =
        tokio::time::timeout(Duration::from_secs(15), client.call("echo", json!({}).into(), std::future::pending()));
    match answer.await.expect("an answer in time")? {
        Reply::Envelope(envelope) => {
            let envelope: Value = envelope.parse().expect("an envelope");
            Ok(envelope["data"][0]["text"].as_str().unwrap_or_default().to_owned())
        }
        _ => panic!("a tool answers an envelope"),
    }
}

async fn until(client: &McpClient, wanted: impl FnMut(&Health) -> bool) -> Result<Health> {
    let mut health = client.health();
    let found = tokio::time::timeout(Duration::from_secs(15), health.wait_for(wanted)).await;
    Ok(found.context("in time")??.clone())
}

/// The ways of servers to say that they do not know a session.
const UNKNOWN: &[Says] = &[
    |_| as_json("404 Not Found", &refusal(&Value::Null, "Session not found")),
    |_| as_json("404 Not Found", &refusal(&json!("server-error"), "Session not found")),
    |_| said("404 Not Found", "text/plain", "no such session"),
    |_| as_json("400 Bad Request", &refusal(&Value::Null, "Bad Request: No valid session ID provided")),
    |_| {
        let mut nobodys = refusal(&Value::Null, "Bad Request: No valid session ID provided");
        nobodys.as_object_mut().expect("an object").remove("id");
        as_json("400 Bad Request", &nobodys)
    },
    |id| as_json("400 Bad Request", &refusal(id, "Bad Request: No valid session ID provided")),
    |_| said("400 Bad Request", "text/plain", "Bad Request: No valid session ID provided"),
];

#[tokio::test]
async fn a_server_that_has_forgotten_the_session_gets_a_new_one_and_the_call_once() -> Result<()> {
    for unknown in UNKNOWN {
        let script = Arc::new(Script::default());
        *script.unknown.lock().unwrap() = Some(*unknown);
        let server = Server::start(0, &script).await?;
        let client = connect(&server).await?;
        ensure!(call(&client).await? == "life-0");
        script.life.fetch_add(1, Ordering::SeqCst);
        let answer = call(&client).await;
        ensure!(answer.as_deref() == Ok("life-1"), "{answer:?} after {:?}", unknown(&json!(1)));
        ensure!(script.calls.load(Ordering::SeqCst) == 2);
        client.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn a_request_that_is_taken_and_not_answered_fails_at_once() -> Result<()> {
    for (unknown, words) in [
        ((|_| said("202 Accepted", "", "")) as Says, "does not answer"),
        (|_| said("200 OK", "", ""), "answers nothing"),
        (|_| said("200 OK", "application/json", ""), "empty"),
        (|_| said("200 OK", "text/html", "<p>Welcome</p>"), "text/html"),
    ] {
        let script = Arc::new(Script::default());
        *script.unknown.lock().unwrap() = Some(unknown);
        let server = Server::start(0, &script).await?;
        let client = connect(&server).await?;
        script.life.fetch_add(1, Ordering::SeqCst);
        let began = Instant::now();
        let error = call(&client).await.err().context("no answer")?;
        ensure!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        ensure!(error.is(ErrorCode::ExecutionError) && error.message.contains(words), "{error}");
        // That it answers no other request either is found out, and a new session begun.
        let answer = loop {
            match call(&client).await {
                Err(error) if error.is(ErrorCode::ExecutionError) && began.elapsed() < Duration::from_secs(15) => {}
                answer => break answer,
            }
        };
        ensure!(answer.as_deref() == Ok("life-1"), "{answer:?}");
        client.close().await;
    }
    Ok(())
}

#[tokio::test]
async fn answers_that_are_none_cost_their_calls_only() -> Result<()> {
    let script = Arc::new(Script::default());
    let server = Server::start(0, &script).await?;
    let client = looking(&server, Duration::from_secs(10)).await?;
    for (called, code, words) in [
        (
            (|id| as_json("200 OK", &refusal(id, "no session with the browser"))) as Says,
            ErrorCode::ExecutionError,
            "the browser",
        ),
        (|_| as_json("400 Bad Request", &refusal(&Value::Null, "too deep")), ErrorCode::ExecutionError, "too deep"),
        (|_| as_json("200 OK", &refusal(&json!(99), "of another")), ErrorCode::ExecutionError, "of another"),
        (
            |_| as_json("200 OK", &json!({ "jsonrpc": "2.0", "id": 99, "result": { "content": [] } })),
            ErrorCode::ExecutionError,
            "another request",
        ),
        (
            |_| as_json("200 OK", &json!({ "jsonrpc": "2.0", "method": "notifications/x" })),
            ErrorCode::ExecutionError,
            "something else",
        ),
        (|_| said("500 Oops", "text/html", "<h1>Oops</h1>"), ErrorCode::SpokeDisconnected, "HTTP 500"),
        (|_| said("413 Too Large", "text/plain", "too large"), ErrorCode::ExecutionError, "too large"),
        (
            |_| {
                Some("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 99\r\nconnection: close\r\n\r\n{".to_owned())
            },
            ErrorCode::SpokeDisconnected,
            "",
        ),
        (|_| Some("garbage\r\n\r\n".to_owned()), ErrorCode::SpokeDisconnected, ""),
    ] {
        *script.called.lock().unwrap() = Some(called);
        let error = call(&client).await.err().context("no answer")?;
        ensure!(error.is(code) && error.message.contains(words), "{error:?}");
        *script.called.lock().unwrap() = None;
        ensure!(call(&client).await? == "life-0");
        ensure!(*client.health().borrow() == Health::default());
    }
    Ok(())
}

fn events(body: &str) -> Said {
    said("200 OK", "text/event-stream", body)
}

#[tokio::test]
async fn streams_that_end_without_an_answer_cost_their_calls_only() -> Result<()> {
    const CALLS: &[(Says, ErrorCode, &str)] = &[
        (|_| events(": nothing\n\n"), ErrorCode::SpokeDisconnected, ""),
        (|_| events("data: nonsense\n\n"), ErrorCode::SpokeDisconnected, ""),
        (
            |id| events(&format!("data: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":NaN}}\n\n")),
            ErrorCode::ExecutionError,
            "not readable",
        ),
        (|_| events(&format!("data: {}\n\n", refusal(&Value::Null, "x"))), ErrorCode::SpokeDisconnected, ""),
        (|_| events("data: {\"jsonrpc\":\"2.0\",\"id\":99,\"result\":{}}\n\n"), ErrorCode::SpokeDisconnected, ""),
        (
            |_| events(&format!("data: {}\n\n", "x".repeat(17 << 20))),
            ErrorCode::PayloadTooLarge,
            "above 16777216 bytes",
        ),
        (
            |_| said("200 OK", "application/json", &"x".repeat(17 << 20)),
            ErrorCode::PayloadTooLarge,
            "above 16777216 bytes",
        ),
        (|id| events(&format!("data: {}\n\n", refusal(id, "its own"))), ErrorCode::ExecutionError, "its own"),
    ];
    let script = Arc::new(Script::default());
    let server = Server::start(0, &script).await?;
    // A look that has to wait for long is told of, and it waits behind large answers.
    let client = looking(&server, Duration::from_secs(10)).await?;
    for (called, code, words) in CALLS {
        *script.called.lock().unwrap() = Some(*called);
        let error = call(&client).await.err().context("no answer")?;
        ensure!(error.is(*code) && error.message.contains(words), "{error:?}");
        *script.called.lock().unwrap() = None;
        ensure!(call(&client).await? == "life-0");
        ensure!(*client.health().borrow() == Health::default());
    }
    Ok(())
}

#[tokio::test]
async fn a_stream_without_an_end_is_given_up() -> Result<()> {
    let script = Arc::new(Script::default());
    let server = Server::start(0, &script).await?;
    let target = McpTarget::Http { url: server.url.clone(), bearer: None, policy: NetPolicy::private() };
    let options = McpOptions { call_timeout: Duration::from_millis(300), ..McpOptions::new("far") };
    let client = McpClient::connect(target, options).await?;
    *script.called.lock().unwrap() =
        Some(|_| Some("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n: on and on\n\n".to_owned()));
    let error = call(&client).await.err().context("late")?;
    ensure!(error.is(ErrorCode::Timeout), "{error:?}");
    *script.called.lock().unwrap() = None;
    ensure!(call(&client).await? == "life-0");
    Ok(())
}

#[tokio::test]
async fn a_beginning_that_is_none_is_told() -> Result<()> {
    const BEGINNINGS: &[(Says, &str)] = &[
        (|_| said("200 OK", "text/html", "<p>Welcome</p>"), "it answers text/html, which is not MCP"),
        (|_| said("200 OK", "application/json", "{}"), "could not parse"),
        (|_| said("202 Accepted", "", ""), "does not answer"),
        (|_| said("401 Unauthorized\r\nwww-authenticate: Bearer", "", ""), "another bearer token (HTTP 401)"),
        (|_| said("503 Busy", "text/plain", "later"), "HTTP 503"),
        (|_| said("404 Not Found", "text/plain", "no page"), "HTTP 404"),
        (|_| events("data: {}\n\n"), ""),
    ];
    let nothing = Server::start(0, &Arc::default()).await?;
    let (url, port) = (nothing.url.clone(), nothing.port);
    drop(nothing);
    let told = async |url: &str| {
        let target = McpTarget::Http { url: url.to_owned(), bearer: None, policy: NetPolicy::private() };
        let begun = tokio::time::timeout(Duration::from_secs(10), McpClient::connect(target, McpOptions::new("far")));
        Ok::<_, anyhow::Error>(begun.await?.err().context("no beginning")?.to_string())
    };
    let error = told(&url).await?;
    ensure!(error.contains(&format!("connection refused by 127.0.0.1:{port}: ")), "{error}");
    for (begun, words) in BEGINNINGS {
        let script = Arc::new(Script::default());
        *script.begun.lock().unwrap() = Some(*begun);
        let server = Server::start(0, &script).await?;
        let error = told(&server.url).await?;
        ensure!(error.contains(words), "{error}, not {words}");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_goes_away_is_noticed_without_a_call() -> Result<()> {
    for (newest, streams) in [(false, false), (false, true), (true, false)] {
        let script = Arc::new(Script { newest, streams, ..Script::default() });
        let server = Server::start(0, &script).await?;
        let (client, port) = (connect(&server).await?, server.port);
        ensure!(call(&client).await? == "life-0");
        drop(server);
        let trouble = until(&client, |health| health.trouble.is_some()).await?.trouble.unwrap_or_default();
        ensure!(trouble.contains(&format!("connection refused by 127.0.0.1:{port}: ")), "{trouble}");
        let error = call(&client).await.err().context("nobody there")?;
        ensure!(error.is(ErrorCode::OperationUnavailable) && error.message.contains("refused by"), "{error}");
        let _server = Server::start(port, &script).await?;
        until(&client, |health| health.trouble.is_none()).await?;
        ensure!(call(&client).await? == "life-0");
    }
    Ok(())
}

#[tokio::test]
async fn a_server_that_is_busy_is_told_of_and_kept() -> Result<()> {
    let script = Arc::new(Script::default());
    let server = Server::start(0, &script).await?;
    let client = connect(&server).await?;
    *script.busy.lock().unwrap() = true;
    let trouble = until(&client, |health| health.trouble.is_some()).await?.trouble.unwrap_or_default();
    ensure!(trouble == "it has not answered for 200ms", "{trouble}");
    *script.busy.lock().unwrap() = false;
    until(&client, |health| health.trouble.is_none()).await?;
    ensure!(call(&client).await? == "life-0");
    Ok(())
}
