//! What the endpoint says to messages, well made or not: errors of JSON-RPC, batches, ids used twice.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_protocol::ops::keys::{CreateKey, RevokeKey};
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use super::{ended_aborted, modern, raw, raw_at, raw_head, raw_open, raw_until, spoke};

/// A session that says exactly what it is told to.
pub(crate) struct Session {
    hub: SocketAddr,
    headers: String,
    /// What `initialize` was answered.
    pub(crate) begun: Value,
}

/// An event of a stream: its id, and its message unless it has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) message: Value,
}

fn events(body: &str) -> Vec<Event> {
    let field = |event: &str, name: &str| {
        let value = event.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        value.map(|value| value.trim().to_owned())
    };
    let event = |text: &str| {
        let message = field(text, "data").and_then(|data| serde_json::from_str(&data).ok()).unwrap_or_default();
        Some(Event { id: field(text, "id")?, message })
    };
    body.split("\n\n").filter_map(event).collect()
}

/// The messages of an answer: the events of a stream, or the one that is the body.
fn messages(body: &str) -> Vec<Value> {
    let events = body.lines().filter_map(|line| serde_json::from_str(line.strip_prefix("data:")?).ok());
    let events: Vec<Value> = events.collect();
    if events.is_empty() { serde_json::from_str(body).into_iter().collect() } else { events }
}

impl Session {
    pub(crate) async fn begin(hub: &TestHub, key: &str, revision: &str) -> Result<Self> {
        Self::begin_at(hub.address(), key, revision).await
    }

    pub(crate) async fn begin_at(hub: SocketAddr, key: &str, revision: &str) -> Result<Self> {
        let auth = format!("authorization: Bearer {key}\r\n");
        let client = json!({ "name": "test", "version": "1" });
        let params = json!({ "protocolVersion": revision, "capabilities": {}, "clientInfo": client });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string();
        let (status, head, body) = raw_at(hub, "POST", "/mcp", &auth, &body).await?;
        let id = head.lines().find_map(|line| line.strip_prefix("mcp-session-id: "));
        let headers = format!("{auth}mcp-session-id: {}\r\n", id.with_context(|| format!("{status} {body}"))?);
        let begun = messages(&body).pop().context("an answer")?["result"].clone();
        ensure!(begun["protocolVersion"] == revision, "{begun}");
        Ok(Self { hub, headers, begun })
    }

    /// Status, and the messages of the answer.
    pub(crate) async fn post(&self, body: &str) -> Result<(u16, Vec<Value>)> {
        let (status, _, body) = raw_at(self.hub, "POST", "/mcp", &self.headers, body).await?;
        Ok((status, messages(&body)))
    }

    /// The first events of an answer, after which nobody reads on.
    pub(crate) async fn begin_reading(&self, body: &Value, count: usize) -> Result<Vec<Event>> {
        let mut left = count;
        let ends = |line: &str| {
            left -= usize::from(line == "\n");
            left == 0
        };
        Ok(events(&raw_until(self.hub, &self.headers, &body.to_string(), ends).await?))
    }

    /// What is left of a stream after an event.
    pub(crate) async fn rest(&self, event: &str) -> Result<(u16, Vec<Event>)> {
        let headers = format!("{}last-event-id: {event}\r\n", self.headers);
        let (status, _, body) = raw_at(self.hub, "GET", "/mcp", &headers, "").await?;
        Ok((status, events(&body)))
    }

    /// The response to a request.
    pub(crate) async fn ask(&self, id: u64, method: &str, params: Value) -> Result<Value> {
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params });
        let (status, messages) = self.post(&request.to_string()).await?;
        let answer = messages.into_iter().find(|message| message["id"] == id);
        answer.with_context(|| format!("{method} has no answer: {status}"))
    }

    /// Calls an operation and leaves before the answer.
    pub(crate) async fn begin_call(&self, id: u64, operation: &str) -> Result<()> {
        let params = json!({ "name": "call", "arguments": { "operationId": operation } });
        let request = json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
        let head = raw_head(self.hub, &self.headers, &request.to_string()).await?;
        ensure!(head.contains(" 200 "), "{head}");
        Ok(())
    }

    pub(crate) async fn end(self) -> Result<()> {
        let (status, ..) = raw_at(self.hub, "DELETE", "/mcp", &self.headers, "").await?;
        ensure!(status == 204, "{status}");
        Ok(())
    }
}

pub(crate) async fn completed(hub: &TestHub, operation: &str) -> Result<()> {
    let client = hub.client().await?;
    let asked = ListCalls {
        operation_id: Some(operation.to_owned()),
        status: Some(CallStatus::Completed),
        ..ListCalls::default()
    };
    eventually(&format!("{operation} has completed"), async || {
        Ok((!client.call(&asked).await?.calls.is_empty()).then_some(()))
    })
    .await
}

pub(crate) async fn runs(hub: &TestHub, operation: &str) -> Result<()> {
    let client = hub.client().await?;
    let asked = ListCalls { operation_id: Some(operation.to_owned()), ..ListCalls::default() };
    eventually(&format!("{operation} runs"), async || Ok((!client.call(&asked).await?.calls.is_empty()).then_some(())))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_message_is_refused_by_json_rpc() -> Result<()> {
    let hub = TestHub::start().await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-06-18").await?;
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    let cases = [
        ("", -32700, Value::Null),
        ("{\"jsonrpc\":", -32700, Value::Null),
        ("7", -32600, Value::Null),
        ("{}", -32600, Value::Null),
        ("{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":2}", -32600, json!(1)),
        ("{\"jsonrpc\":\"2.0\",\"id\":\"a\",\"method\":\"ping\",\"params\":[1]}", -32600, json!("a")),
        ("{\"jsonrpc\":\"1.0\",\"id\":1,\"method\":\"ping\"}", -32600, json!(1)),
        ("[{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"ping\"}]", -32600, Value::Null),
    ];
    for (body, code, id) in cases {
        let (status, messages) = session.post(body).await?;
        ensure!(status == 400 && messages[0]["error"]["code"] == code, "{body}: {status} {messages:?}");
        ensure!(messages[0].get("id") == Some(&id), "{body}: {messages:?}");
        let (status, head, answer) = raw(&hub, "POST", "/mcp", &auth, body).await?;
        ensure!(status == 400 && head.contains("application/json") && answer.contains(&code.to_string()), "{answer}");
    }
    let (status, ..) = raw(&hub, "POST", "/mcp", &format!("{auth}content-type: text/plain\r\n"), "").await?;
    ensure!(status == 415, "{status}");
    let unfit = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": { "capabilities": {} } });
    let (status, _, answer) = raw(&hub, "POST", "/mcp", &auth, &unfit.to_string()).await?;
    ensure!(status == 400 && answer.contains("-32602") && answer.contains("protocolVersion"), "{answer}");
    ensure!(answer.contains("\"id\":1"), "{answer}");
    // A session has one beginning.
    let again =
        json!({ "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "x", "version": "1" } });
    let again = session.ask(3, "initialize", again).await?;
    ensure!(again["error"]["code"] == -32600, "{again}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_do_not_fit_are_told_from_unknown_methods() -> Result<()> {
    let hub = TestHub::start().await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-06-18").await?;
    let answer = session.ask(1, "tools/call", json!({ "name": "call", "arguments": [] })).await?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    ensure!(answer["error"]["code"] == -32602 && message.contains("sequence"), "{answer}");
    for (method, params, code) in [
        ("tools/call", json!({ "arguments": {} }), -32602),
        ("resources/read", json!({}), -32602),
        ("prompts/get", json!({ "name": "x" }), -32601),
        ("no/such", json!({}), -32601),
        ("tasks/get", json!({}), -32601),
        ("tasks/list", json!({}), -32601),
    ] {
        let answer = session.ask(2, method, params).await?;
        ensure!(answer["error"]["code"] == code, "{method} {answer}");
    }
    let (headers, body) = modern("tools/call", json!({ "name": "call", "arguments": [] }));
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    let (_, _, answer) = raw(&hub, "POST", "/mcp", &format!("{auth}{headers}"), &body).await?;
    ensure!(answer.contains("-32602"), "{answer}");
    for (tool, arguments) in [
        ("list", json!({ "query": "x" })),
        ("search", json!({ "query": "x", "tags": [] })),
        ("schema", json!({ "operationIds": ["hub.status"], "limit": 1 })),
        ("call", json!({ "operationId": "hub.status", "limit": 1 })),
    ] {
        let answer = session.ask(3, "tools/call", json!({ "name": tool, "arguments": arguments })).await?;
        let error = &answer["result"]["structuredContent"];
        ensure!(
            error["code"] == "VALIDATION_ERROR" && error["message"].to_string().contains("it has "),
            "{tool} {answer}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_as_one_stream() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-03-26").await?;
    let call = |id: u64, params: Value| json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params });
    let count = json!({ "name": "call", "arguments": { "operationId": "demo.count", "input": 2 },
        "_meta": { "progressToken": "p" } });
    let batch = json!([
        call(1, json!({ "name": "call", "arguments": { "operationId": "demo.add", "input": [1, 2] } })),
        call(2, count),
        { "jsonrpc": "2.0", "id": 3, "method": "no/such" },
        { "jsonrpc": "2.0", "method": "notifications/initialized" },
        7,
        { "jsonrpc": "2.0", "id": 4, "method": "initialize", "params": {} },
        { "jsonrpc": "2.0", "id": 5, "method": 5 },
    ]);
    let (status, messages) = session.post(&batch.to_string()).await?;
    ensure!(status == 200, "{status}");
    let of = |id: u64| messages.iter().find(|message| message["id"] == id).cloned().unwrap_or_default();
    ensure!(of(1)["result"]["structuredContent"]["data"] == 3, "{messages:?}");
    ensure!(of(2)["result"]["structuredContent"]["items"] == json!([0, 1]), "{messages:?}");
    ensure!(of(3)["error"]["code"] == -32601, "{messages:?}");
    ensure!(messages.iter().any(|m| m.get("id") == Some(&Value::Null) && m["error"]["code"] == -32600), "{messages:?}");
    ensure!(of(4)["error"]["code"] == -32600 && of(5)["error"]["code"] == -32600, "{messages:?}");
    let progress = messages.iter().filter(|message| message["method"] == "notifications/progress").count();
    ensure!(progress == 2, "{messages:?}");
    let silent = json!([{ "jsonrpc": "2.0", "method": "notifications/initialized" }]);
    ensure!(session.post(&silent.to_string()).await?.0 == 202);
    let (status, messages) = session.post("[7, []]").await?;
    ensure!(status == 400 && messages[0].as_array().is_some_and(|faults| faults.len() == 2), "{status} {messages:?}");
    let many = vec![json!({ "jsonrpc": "2.0", "id": 1, "method": "ping" }); 65];
    for bad in [json!([]), json!(many)] {
        let (status, messages) = session.post(&bad.to_string()).await?;
        ensure!(status == 400 && messages[0]["error"]["code"] == -32600, "{status} {messages:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_revision_is_agreed_on() -> Result<()> {
    let hub = TestHub::start().await?;
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    for (asked, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let params =
            json!({ "protocolVersion": asked, "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } });
        let body = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params }).to_string();
        let answer = messages(&raw(&hub, "POST", "/mcp", &auth, &body).await?.2).pop().context("an answer")?;
        ensure!(answer["result"]["protocolVersion"] == agreed, "{asked}: {answer}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_session_aborts_what_runs_in_it() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-06-18").await?;
    session.begin_call(5, "demo.parent").await?;
    runs(&hub, "demo.wait").await?;
    session.end().await?;
    // The SDK alone would let it run for five seconds.
    tokio::time::timeout(Duration::from_secs(4), ended_aborted(&hub, "demo.wait")).await??;
    ended_aborted(&hub, "demo.parent").await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_key_ends_its_streams() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let key = CreateKey {
        name: "ends".into(),
        scopes: vec![],
        resources: None,
        expires_at: None,
        account: None,
        tools: vec![],
    };
    let key = admin.call(&key).await?;
    let session = Session::begin(&hub, &key.secret, "2025-06-18").await?;
    let is_event = |line: &str| line == "\n";
    let (mut changes, _) = raw_open(hub.address(), "GET", &session.headers, "", is_event).await?;
    let (headers, body) = modern("subscriptions/listen", json!({ "notifications": { "toolsListChanged": true } }));
    let headers = format!("authorization: Bearer {}\r\n{headers}", key.secret);
    let (mut listening, _) = raw_open(hub.address(), "POST", &headers, &body, is_event).await?;
    admin.call(&RevokeKey { id: key.key.id }).await?;
    let mut rest = Vec::new();
    for stream in [&mut changes, &mut listening] {
        // The last chunk is empty.
        let ended = async {
            while !rest.ends_with(b"0\r\n\r\n") {
                ensure!(stream.read_buf(&mut rest).await? > 0, "it was cut");
            }
            rest.clear();
            Ok(())
        };
        tokio::time::timeout(Duration::from_secs(10), ended).await??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_is_not_used_twice_at_once() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-06-18").await?;
    session.begin_call(5, "demo.parent").await?;
    runs(&hub, "demo.wait").await?;
    let again = json!({ "jsonrpc": "2.0", "id": 5, "method": "ping" });
    let (status, messages) = session.post(&again.to_string()).await?;
    ensure!(status == 400 && messages[0]["error"]["code"] == -32600, "{status} {messages:?}");
    // The one with the id can still be cancelled.
    let cancel = json!({ "jsonrpc": "2.0", "method": "notifications/cancelled", "params": { "requestId": 5 } });
    ensure!(session.post(&cancel.to_string()).await?.0 == 202);
    ended_aborted(&hub, "demo.parent").await?;
    ended_aborted(&hub, "demo.wait").await?;
    // Then the id is free.
    eventually("the id is free", async || Ok((session.post(&again.to_string()).await?.0 == 200).then_some(()))).await
}
