//! Through the SDK's own client, over pipes in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use hub_operations::{AbortSignal, Answer, Items};
use hub_protocol::{CallError, ErrorCode, Json, OperationSpec, ResponseEnvelope};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CallToolResult, ProgressNotificationParam, ReadResourceRequestParams,
};
use rmcp::service::{NotificationContext, PeerRequestOptions, RunningService};
use rmcp::{ClientHandler, RoleClient, ServiceExt};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::sync::{Notify, watch};

use super::*;
use crate::mcp::host::{HostAnswer, HostTool};
use crate::mcp::stdio::serve;

/// A hub of a few operations.
#[derive(Clone, Default)]
struct Fake {
    aborts: Arc<Mutex<Vec<AbortSignal>>>,
    tools: Arc<Mutex<Vec<HostTool>>>,
    changes: Arc<watch::Sender<u64>>,
}

fn envelope(data: &Value) -> Json {
    ResponseEnvelope::local("fake", 1, Json::from(data.clone())).to_json()
}

fn numbers(to: u64) -> Items {
    Items::from(stream::iter((0..to).map(|n| Ok(envelope(&json!(n))))).boxed())
}

impl Host for Fake {
    fn call(&self, call: HostCall) -> BoxFuture<'static, HostAnswer> {
        self.aborts.lock().unwrap().push(call.abort.clone());
        async move {
            let one = |value: Value| Ok(Answer::One(envelope(&value)));
            let result =
                match call.operation_id.as_str() {
                    "hub.list" | "hub.search" | "hub.schema" => {
                        one(json!({ "asked": call.operation_id, "input": call.input }))
                    }
                    "calls.get" => one(json!({ "callId": "c1" })),
                    "a.echo" => one(json!({ "input": call.input, "key": call.idempotency_key })),
                    "a.text" => one(json!("plain")),
                    "a.count" => Ok(Answer::Many(numbers(3))),
                    "a.much" => Ok(Answer::Many(numbers(1_000_000))),
                    "a.silent" => Ok(Answer::Many(Items::from(stream::pending().boxed()))),
                    "a.wait" => {
                        call.abort.fired().await;
                        Err(CallError::new(ErrorCode::Aborted, "aborted"))
                    }
                    "a.picture" => Ok(Answer::One(Json::from(json!({
                        "data": [], "meta": { "source": "mcp", "isError": false,
                            "content": [{ "type": "image", "data": "AAAA", "mimeType": "image/png" }] },
                    })))),
                    _ => Err(CallError::new(ErrorCode::OperationNotFound, "no such operation")
                        .with_details(&json!({"a": 1}))),
                };
            HostAnswer { call_id: Some("c1".into()), result }
        }
        .boxed()
    }

    fn tools(&self) -> BoxFuture<'static, Vec<HostTool>> {
        std::future::ready(self.tools.lock().unwrap().clone()).boxed()
    }

    fn tools_changed(&self) -> Option<watch::Receiver<u64>> {
        Some(self.changes.subscribe())
    }
}

#[derive(Clone, Default)]
struct Watcher {
    progress: Arc<Mutex<Vec<ProgressNotificationParam>>>,
    changed: Arc<Notify>,
}

impl ClientHandler for Watcher {
    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress.lock().unwrap().push(progress);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.changed.notify_one();
    }
}

async fn connected(host: Fake) -> RunningService<RoleClient, Watcher> {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(theirs);
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(async move { serve(Face::of(host), (read, write)).await });
    Watcher::default().serve(tokio::io::split(ours)).await.unwrap()
}

async fn call(client: &RunningService<RoleClient, Watcher>, tool: &'static str, arguments: Value) -> CallToolResult {
    let Value::Object(arguments) = arguments else { panic!("an object") };
    client.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments)).await.unwrap()
}

fn own_tool(id: &str, output: &Value) -> HostTool {
    let spec = json!({
        "namespace": "", "name": "", "version": "1.0.0", "type": "query", "description": "d",
        "inputSchema": { "type": "object" }, "outputSchema": output,
        "accessControl": { "requiredScopes": [] }, "_meta": { "mcp": { "tool": true } },
    });
    let spec = serde_json::from_value::<OperationSpec>(spec).unwrap().with_id(id);
    HostTool { name: id.replace('.', "_"), spec }
}

#[tokio::test]
async fn four_tools_reach_the_operations_behind_them() {
    let client = connected(Fake::default()).await;
    let names: Vec<String> = client.list_all_tools().await.unwrap().into_iter().map(|t| t.name.into_owned()).collect();
    assert_eq!(names, ["list", "search", "schema", "call"]);
    let listed = call(&client, "list", json!({ "namespace": "dev" })).await.structured_content.unwrap();
    assert_eq!(listed, json!({ "asked": "hub.list", "input": { "limit": 50, "namespace": "dev" } }));
    let found = call(&client, "search", json!({ "query": "x" })).await.structured_content.unwrap();
    assert_eq!(found["asked"], "hub.search");
}

#[tokio::test]
async fn a_result_is_structured_and_text() {
    let client = connected(Fake::default()).await;
    let result =
        call(&client, "call", json!({ "operationId": "a.echo", "input": { "x": 1 }, "idempotencyKey": "k" })).await;
    let structured = result.structured_content.unwrap();
    assert_eq!(structured, json!({ "data": { "input": { "x": 1 }, "key": "k" }, "callId": "c1" }));
    assert_eq!(result.content[0].as_text().unwrap().text, structured["data"].to_string());
    assert_eq!(result.is_error, Some(false));
    let text = call(&client, "call", json!({ "operationId": "a.text" })).await;
    assert_eq!(text.content[0].as_text().unwrap().text, "plain");
    let picture = call(&client, "call", json!({ "operationId": "a.picture" })).await;
    assert_eq!(picture.content[0].as_image().unwrap().mime_type, "image/png");
}

#[tokio::test]
async fn a_failure_is_a_result_that_a_model_can_read() {
    let client = connected(Fake::default()).await;
    let failed = call(&client, "call", json!({ "operationId": "no.such" })).await;
    assert_eq!(failed.is_error, Some(true));
    let expected = json!({
        "code": "OPERATION_NOT_FOUND", "message": "no such operation", "details": { "a": 1 }, "retryable": false,
        "callId": "c1",
    });
    assert_eq!(failed.structured_content.unwrap(), expected);
    let wrong = call(&client, "call", json!({ "operation": "a.echo" })).await;
    assert_eq!(wrong.structured_content.unwrap()["code"], "VALIDATION_ERROR");
    assert!(client.call_tool(CallToolRequestParams::new("no_such_tool")).await.is_err());
}

#[tokio::test]
async fn a_stream_is_collected_within_bounds_and_told_as_progress() {
    let client = connected(Fake::default()).await;
    let all = call(&client, "call", json!({ "operationId": "a.count" })).await.structured_content.unwrap();
    assert_eq!(all, json!({ "count": 3, "truncated": false, "items": [0, 1, 2], "callId": "c1" }));
    let some =
        call(&client, "call", json!({ "operationId": "a.much", "maxItems": 2 })).await.structured_content.unwrap();
    assert_eq!((&some["items"], &some["truncated"]), (&json!([0, 1]), &json!(true)));
    let silent = json!({ "operationId": "a.silent", "timeoutMs": 50 });
    let none = call(&client, "call", silent).await.structured_content.unwrap();
    assert!(none["note"].as_str().unwrap().contains("50 ms"), "{none}");
    // The SDK's client always sends a token.
    let progress = client.service().progress.lock().unwrap().clone();
    assert!(progress.len() >= 3 && progress[0].message.as_deref() == Some("0"), "{progress:?}");
}

#[tokio::test]
async fn cancelling_aborts_the_call() {
    let host = Fake::default();
    let client = connected(host.clone()).await;
    for operation in ["a.wait", "a.silent"] {
        host.aborts.lock().unwrap().clear();
        let arguments = json!({ "operationId": operation }).as_object().cloned().unwrap();
        let request = CallToolRequest::new(CallToolRequestParams::new("call").with_arguments(arguments));
        let handle = client.send_cancellable_request(request.into(), PeerRequestOptions::no_options()).await.unwrap();
        while host.aborts.lock().unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        handle.cancel(None).await.unwrap();
        let abort = host.aborts.lock().unwrap()[0].clone();
        tokio::time::timeout(Duration::from_secs(2), abort.fired()).await.unwrap();
    }
}

#[tokio::test]
async fn an_operation_can_be_a_tool_of_its_own() {
    let host = Fake::default();
    let client = connected(host.clone()).await;
    // Until the session watches for changes.
    while host.changes.receiver_count() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    host.tools.lock().unwrap().push(own_tool("a.echo", &json!({ "type": "object" })));
    host.changes.send_modify(|n| *n += 1);
    tokio::time::timeout(Duration::from_secs(5), client.service().changed.notified()).await.unwrap();
    let tools = client.list_all_tools().await.unwrap();
    assert_eq!(tools.last().unwrap().name, "a_echo");
    let result = call(&client, "a_echo", json!({ "x": 1 })).await;
    assert_eq!(result.structured_content.unwrap(), json!({ "input": { "x": 1 }, "key": null }));
}

/// Its structured content would be held against the tool's own `outputSchema`, or be of another shape than a success's.
#[tokio::test]
async fn arguments_that_do_not_fit_are_named() {
    let client = connected(Fake::default()).await;
    for (arguments, said) in [
        (json!({}), "`operationId` is missing"),
        (json!({ "operationId": 5 }), "`operationId` does not fit"),
        (json!({ "operationId": "a.echo", "timeoutMs": 0 }), "`timeoutMs` is at least 1"),
        (json!({ "operationId": "a.echo", "timeoutMs": "5" }), "`timeoutMs` does not fit"),
        (json!({ "operationId": "a.echo", "maxItems": -1 }), "`maxItems` does not fit"),
        (json!({ "operation": "a.echo" }), "it has idempotencyKey, input, maxItems, operationId, timeoutMs"),
    ] {
        let error = call(&client, "call", arguments).await.structured_content.unwrap();
        assert!(error["message"].as_str().unwrap().contains(said), "{error}");
    }
    // Numbers of hosts that know no whole ones, and times that nobody lives to see.
    for ms in [json!(5_000.0), json!(u64::MAX), json!(1e300)] {
        let result = call(&client, "call", json!({ "operationId": "a.count", "timeoutMs": ms })).await;
        assert_eq!(result.is_error, Some(false), "{result:?}");
    }
    let result = call(&client, "call", json!({ "operationId": "a.count", "maxItems": 2.0 })).await;
    assert_eq!(result.is_error, Some(false), "{result:?}");
}

#[tokio::test]
async fn what_is_no_tool_is_told_which_there_are() {
    let host = Fake::default();
    host.tools.lock().unwrap().push(own_tool("a.echo", &json!(true)));
    let client = connected(host).await;
    let error = client.call_tool(CallToolRequestParams::new("a.text")).await.unwrap_err().to_string();
    assert!(error.contains("list, search, schema, call, a_echo; operations are run by `call`"), "{error}");
}

#[tokio::test]
async fn lines_that_are_no_messages_are_answered() {
    let (ours, theirs) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(theirs);
    let tasks = tokio_util::task::TaskTracker::new();
    tasks.spawn(async move { serve(Face::of(Fake::default()), (read, write)).await });
    let (read, mut write) = tokio::io::split(ours);
    let mut answers = BufReader::new(read).lines();
    let mut ask = async |line: &str| {
        write.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        serde_json::from_str::<Value>(&answers.next_line().await.unwrap().unwrap()).unwrap()
    };
    let client = json!({ "name": "t", "version": "1" });
    let params = json!({ "protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": client });
    let initialize = json!({ "jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params }).to_string();
    let noise = ask("hello").await;
    assert!(noise["error"]["code"] == -32700 && noise.get("id") == Some(&Value::Null), "{noise}");
    // One that is none begins no session.
    let begun = ask(&initialize.replace("\"2.0\"", "\"1.0\"")).await;
    assert_eq!(begun["error"]["code"], -32600, "{begun}");
    assert_eq!(ask(&initialize).await["result"]["protocolVersion"], "2025-03-26");
    for (line, code, id) in [
        ("\n \n{", -32700, Value::Null),
        ("7", -32600, Value::Null),
        ("{\"jsonrpc\":\"2.0\",\"id\":2,\"method\":2}", -32600, json!(2)),
        ("{\"jsonrpc\":\"1.0\",\"id\":3,\"method\":\"ping\"}", -32600, json!(3)),
        (&initialize, -32600, json!(1)),
        (&format!("[{initialize}]"), -32600, json!(1)),
        (&"x".repeat(17 << 20), -32600, Value::Null),
    ] {
        let answer = ask(line).await;
        assert!(answer["error"]["code"] == code && answer.get("id") == Some(&id), "{answer}");
    }
    // A batch is answered message by message.
    assert_eq!(ask("[{\"jsonrpc\":\"2.0\",\"id\":8,\"method\":\"ping\"}]").await["id"], 8);
    assert_eq!(ask("[9]").await["error"]["code"], -32600);
}

#[tokio::test]
async fn a_tool_of_its_own_that_fails_says_so_in_words_alone() {
    let host = Fake::default();
    host.tools.lock().unwrap().push(own_tool("a.none", &json!({ "type": "object" })));
    host.tools.lock().unwrap().push(own_tool("b.none", &json!(true)));
    let client = connected(host).await;
    for tool in ["a_none", "b_none"] {
        let result = call(&client, tool, json!({})).await;
        assert_eq!((result.is_error, result.structured_content), (Some(true), None));
        assert!(serde_json::to_string(&result.content).unwrap().contains("OPERATION_NOT_FOUND"));
    }
}

/// Clients raise on a structured result that breaks the tool's `outputSchema`, and on one that is missing.
#[tokio::test]
async fn an_answer_that_breaks_its_tool_s_promise_is_given_in_words() {
    let host = Fake::default();
    let input = |of: &str| json!({ "type": "object", "properties": { "input": { "type": of } } });
    host.tools.lock().unwrap().push(own_tool("a.echo", &input("string")));
    host.tools.lock().unwrap().push(own_tool("a.text", &json!({ "type": "object" })));
    let client = connected(host).await;
    for (tool, place, answer) in [("a_echo", "/input", r#""input":{"x":1}"#), ("a_text", "its root", "plain")] {
        let result = call(&client, tool, json!({ "x": 1 })).await;
        assert_eq!((result.is_error, result.structured_content), (Some(true), None));
        let texts: Vec<&str> = result.content.iter().map(|block| block.as_text().unwrap().text.as_str()).collect();
        assert!(texts[0].starts_with("The call succeeded") && texts[0].contains(place), "{texts:?}");
        assert!(texts[1].contains(answer), "{texts:?}");
    }
}

#[tokio::test]
async fn call_records_are_resources() {
    let client = connected(Fake::default()).await;
    assert_eq!(client.list_all_resource_templates().await.unwrap()[0].uri_template, "hub://calls/{callId}");
    let read = client.read_resource(ReadResourceRequestParams::new("hub://calls/c1")).await.unwrap();
    assert!(serde_json::to_string(&read).unwrap().contains("c1"));
    assert!(client.read_resource(ReadResourceRequestParams::new("file:///etc/passwd")).await.is_err());
}
