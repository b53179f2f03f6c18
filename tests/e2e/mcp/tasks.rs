//! Tasks: those that a client of 2025-11-25 asks for, and those that calls become for a client of 2026-07-28.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_protocol::ops::calls::{CallStatus, GetCall};
use hub_protocol::ops::keys::{CreateKey, RevokeKey};
use hub_protocol::{CallError, CallId};
use hub_spoke::RunningSpoke;
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::wire::{Session, runs};
use super::{ended_aborted, modern, raw, spoke};
use crate::tools::{Program, node};

pub(crate) const REVISION: &str = "2025-11-25";
const RELATED: &str = "io.modelcontextprotocol/related-task";

/// Offers `slow.work`, which ends when it is let through, and `slow.feed`, which never does.
pub(super) async fn slow(hub: &TestHub) -> Result<(RunningSpoke, Arc<Semaphore>)> {
    let gate = Arc::new(Semaphore::new(0));
    let through = Arc::clone(&gate);
    let spoke = hub.spoke("slow").spoke_type("compute").query("slow.work", "Works.", move |_, _: Value| {
        let gate = Arc::clone(&through);
        async move {
            gate.acquire().await.expect("nobody closes it").forget();
            Ok::<_, CallError>("done")
        }
    });
    let spoke = spoke.stream("slow.feed", "Says nothing.", |_, _: Value| async move {
        Ok::<_, CallError>(stream::pending::<Result<u8, CallError>>())
    });
    Ok((spoke.build()?.start().await?, gate))
}

fn as_task(operation: &str) -> Value {
    json!({ "name": "call", "arguments": { "operationId": operation }, "task": { "ttl": 60_000 } })
}

pub(crate) async fn created(session: &Session, operation: &str) -> Result<String> {
    let answer = session.ask(1, "tools/call", as_task(operation)).await?;
    let task = &answer["result"]["task"];
    ensure!(task["ttl"].is_u64() && task["pollInterval"].is_u64() && task["createdAt"].is_string(), "{answer}");
    Ok(task["taskId"].as_str().with_context(|| answer.to_string())?.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_task_outlives_request_and_session_and_is_its_owners_alone() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let key = hub.new_key(&[]).await?;
    let session = Session::begin(&hub, &key, REVISION).await?;
    let capability = json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } });
    let declared = &session.begun["capabilities"];
    ensure!(declared["tasks"] == capability && declared.get("extensions").is_none(), "{declared}");
    let tools = session.ask(2, "tools/list", json!({})).await?["result"]["tools"].clone();
    let support = |name: &str| {
        let tool = tools.as_array().and_then(|tools| tools.iter().find(|tool| tool["name"] == name));
        tool.map(|tool| tool["execution"]["taskSupport"].clone()).unwrap_or_default()
    };
    ensure!(support("call") == "optional" && support("search") == "forbidden", "{tools}");
    let id = created(&session, "demo.parent").await?;
    runs(&hub, "demo.wait").await?;
    session.end().await?;

    // The admin may see all calls, and still not the tasks of others.
    let other = Session::begin(&hub, hub.admin_key(), REVISION).await?;
    for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
        let answer = other.ask(1, method, json!({ "taskId": id })).await?;
        ensure!(answer["error"]["code"] == -32602, "{method} {answer}");
    }
    ensure!(other.ask(1, "tasks/list", json!({})).await?["result"] == json!({ "tasks": [] }));

    let session = Session::begin(&hub, &key, REVISION).await?;
    let got = session.ask(1, "tasks/get", json!({ "taskId": id })).await?["result"].clone();
    ensure!(got["status"] == "working" && got["taskId"] == *id, "{got}");
    ensure!(session.ask(2, "tasks/list", json!({})).await?["result"]["tasks"] == json!([got]));
    let ended = session.ask(3, "tasks/cancel", json!({ "taskId": id })).await?["result"].clone();
    ensure!(ended["status"] == "cancelled", "{ended}");
    ended_aborted(&hub, "demo.parent").await?;
    ended_aborted(&hub, "demo.wait").await?;
    ensure!(session.ask(4, "tasks/get", json!({ "taskId": id })).await?["result"] == ended);
    let again = session.ask(5, "tasks/cancel", json!({ "taskId": id })).await?;
    ensure!(again["error"]["code"] == -32602, "{again}");
    let result = session.ask(6, "tasks/result", json!({ "taskId": id })).await?["result"].clone();
    ensure!(result["structuredContent"]["code"] == "ABORTED" && result["_meta"][RELATED]["taskId"] == *id, "{result}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_result_of_a_task_is_waited_for() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_spoke, gate) = slow(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), REVISION).await?;
    let id = created(&session, "slow.work").await?;
    let waiting = session.ask(1, "tasks/result", json!({ "taskId": id }));
    let answer = async {
        runs(&hub, "slow.work").await?;
        gate.add_permits(1);
        Ok(())
    };
    let (result, ()) = tokio::try_join!(waiting, answer)?;
    ensure!(result["result"]["structuredContent"] == json!({ "data": "done", "callId": id }), "{result}");
    // The task is the call.
    let call_id: CallId = id.parse()?;
    let admin = hub.client().await?;
    let record = eventually("it is recorded", async || {
        let record = admin.call(&GetCall { call_id }).await?;
        Ok((record.status == CallStatus::Completed).then_some(record))
    })
    .await?;
    ensure!(record.operation_id == "slow.work", "{record:?}");
    let got = session.ask(2, "tasks/get", json!({ "taskId": id })).await?["result"].clone();
    ensure!(got["status"] == "completed", "{got}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_no_task_says_so() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_spoke, gate) = slow(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), REVISION).await?;
    // A call that fails is a task that has failed.
    let id = created(&session, "no.such").await?;
    let result = session.ask(1, "tasks/result", json!({ "taskId": id })).await?["result"].clone();
    ensure!(result["structuredContent"]["code"] == "OPERATION_NOT_FOUND" && result["isError"] == true, "{result}");
    let got = session.ask(2, "tasks/get", json!({ "taskId": id })).await?["result"].clone();
    ensure!(got["status"] == "failed" && got["statusMessage"].to_string().contains("OPERATION_NOT_FOUND"), "{got}");
    let wrong = json!({ "name": "call", "arguments": {}, "task": {} });
    let wrong = session.ask(3, "tools/call", wrong).await?["result"]["task"].clone();
    ensure!(wrong["status"] == "failed", "{wrong}");
    for (params, code) in [
        (json!({ "name": "list", "arguments": {}, "task": {} }), -32601),
        (json!({ "name": "no_such", "arguments": {}, "task": {} }), -32602),
        (json!({ "name": "call", "arguments": [], "task": {} }), -32602),
        (json!({ "name": "call", "arguments": { "operationId": "slow.work" }, "task": true }), -32602),
        (json!({ "name": "call", "arguments": { "operationId": "slow.work" }, "task": [] }), -32602),
    ] {
        let answer = session.ask(4, "tools/call", params).await?;
        ensure!(answer["error"]["code"] == code, "{answer}");
    }
    // It came later.
    let update = session.ask(4, "tasks/update", json!({ "taskId": id, "inputResponses": {} })).await?;
    ensure!(update["error"]["code"] == -32601, "{update}");
    // A call that is no task is not found as one.
    gate.add_permits(1);
    let params = json!({ "name": "call", "arguments": { "operationId": "slow.work" } });
    let plain = session.ask(5, "tools/call", params).await?["result"]["structuredContent"].clone();
    let answer = session.ask(6, "tasks/get", json!({ "taskId": plain["callId"] })).await?;
    ensure!(plain["data"] == "done" && answer["error"]["code"] == -32602, "{plain} {answer}");
    // Too many at once are refused; what has ended gives way.
    for _ in 0..64 {
        created(&session, "slow.work").await?;
    }
    let full = session.ask(7, "tools/call", as_task("slow.work")).await?;
    ensure!(full["error"]["message"].to_string().contains("64 tasks run"), "{full}");
    gate.add_permits(1);
    eventually("a task has ended", async || {
        let tasks = session.ask(8, "tasks/list", json!({})).await?["result"]["tasks"].clone();
        let tasks = tasks.as_array().cloned().unwrap_or_default();
        Ok(tasks.iter().any(|task| task["status"] == "completed").then_some(()))
    })
    .await?;
    created(&session, "slow.work").await?;
    gate.add_permits(64);
    Ok(())
}

/// Nor does a task outlive the right to run it.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_ends_with_its_key() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let (_slow, _gate) = slow(&hub).await?;
    let admin = hub.client().await?;
    let key = CreateKey { name: "ends".into(), scopes: vec![], ..CreateKey::default() };
    let key = admin.call(&key).await?;
    let session = Session::begin(&hub, &key.secret, REVISION).await?;
    created(&session, "demo.parent").await?;
    created(&session, "slow.feed").await?;
    runs(&hub, "demo.wait").await?;
    runs(&hub, "slow.feed").await?;
    admin.call(&RevokeKey { id: key.key.id }).await?;
    ended_aborted(&hub, "demo.parent").await?;
    ended_aborted(&hub, "demo.wait").await?;
    ended_aborted(&hub, "slow.feed").await
}

/// The official client of the first generation drives its tasks itself.
#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_follows_a_task() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let hub = TestHub::start().await?;
    let (_slow, gate) = slow(&hub).await?;
    let _spoke = spoke(&hub).await?;
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/mcp/tasks.mjs"));
    let mut command = node.command(hub.folder());
    command.env("HUB_KEY", hub.new_key(&[]).await?).arg(script).arg(format!("{}/mcp", hub.url()));
    let mut host = Program::start(&mut command)?;
    ensure!(host.line().await? == "taskCreated");
    gate.add_permits(1);
    for expected in ["done", "completed", "progress 1,2,3", "items 0,1,2", "cancelled", "2 completed, 1 cancelled"] {
        let line = host.line().await?;
        ensure!(line == expected, "{line}");
    }
    ended_aborted(&hub, "demo.wait").await?;
    ensure!(host.child.wait().await?.success());
    Ok(())
}

/// A task that this process does not know is read from its call's record.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_outlives_the_hub_process() -> Result<()> {
    let hub = TestHub::start().await?;
    let (slow, gate) = slow(&hub).await?;
    let _spoke = spoke(&hub).await?;
    let key = hub.new_key(&[]).await?;
    let session = Session::begin(&hub, &key, REVISION).await?;
    gate.add_permits(1);
    let done = created(&session, "slow.work").await?;
    session.ask(1, "tasks/result", json!({ "taskId": done })).await?;
    let cut = created(&session, "demo.wait").await?;
    runs(&hub, "demo.wait").await?;
    drop(slow);
    let hub = TestHub::start_in(hub.stop().await.1, &[]).await?;
    let session = Session::begin(&hub, &key, REVISION).await?;
    let result = session.ask(1, "tasks/result", json!({ "taskId": done })).await?["result"].clone();
    ensure!(result["structuredContent"] == json!({ "data": "done", "callId": done }), "{result}");
    let got = session.ask(2, "tasks/get", json!({ "taskId": cut })).await?["result"].clone();
    ensure!(got["status"] == "failed" || got["status"] == "cancelled", "{got}");
    let listed = session.ask(3, "tasks/list", json!({})).await?["result"]["tasks"].clone();
    ensure!(listed[0] == got && listed[1]["taskId"] == *done && listed[1]["status"] == "completed", "{listed}");
    let other = Session::begin(&hub, hub.admin_key(), REVISION).await?;
    ensure!(other.ask(1, "tasks/list", json!({})).await?["result"]["tasks"] == json!([]));
    let answer = other.ask(1, "tasks/get", json!({ "taskId": done })).await?;
    ensure!(answer["error"]["code"] == -32602, "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_listed_in_pages() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_spoke, gate) = slow(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), REVISION).await?;
    gate.add_permits(103);
    let mut made = Vec::new();
    for _ in 0..103 {
        made.insert(0, created(&session, "slow.work").await?);
        session.ask(2, "tasks/result", json!({ "taskId": made[0] })).await?;
    }
    let page = async |params: Value| {
        let page = session.ask(3, "tasks/list", params).await?["result"].clone();
        let ids = page["tasks"].as_array().into_iter().flatten().filter_map(|task| task["taskId"].as_str());
        Ok::<_, anyhow::Error>((ids.map(str::to_owned).collect::<Vec<_>>(), page["nextCursor"].clone()))
    };
    // Those that are not in memory any more come from their records.
    let (first, cursor) = page(json!({})).await?;
    let (second, end) = page(json!({ "cursor": cursor })).await?;
    ensure!(first.len() >= 100 && end.is_null() && [first, second].concat() == made);
    let wrong = session.ask(4, "tasks/list", json!({ "cursor": "x" })).await?;
    ensure!(wrong["error"]["code"] == -32602, "{wrong}");
    Ok(())
}

/// The answer to a request of 2026-07-28 from a client that takes tasks, or not.
async fn ask(hub: &TestHub, takes: bool, method: &str, mut params: Value) -> Result<Value> {
    let task = params["taskId"].as_str().map(|id| format!("mcp-name: {id}\r\n")).unwrap_or_default();
    let (headers, body) = modern(method, params.take());
    let mut body: Value = serde_json::from_str(&body)?;
    if takes {
        let extension = json!({ "extensions": { "io.modelcontextprotocol/tasks": {} } });
        body["params"]["_meta"]["io.modelcontextprotocol/clientCapabilities"] = extension;
    }
    let headers = format!("authorization: Bearer {}\r\n{headers}{task}", hub.admin_key());
    Ok(serde_json::from_str(&raw(hub, "POST", "/mcp", &headers, &body.to_string()).await?.2)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_lasts_becomes_a_task_for_who_takes_them() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_slow, gate) = slow(&hub).await?;
    let _spoke = spoke(&hub).await?;
    let found = ask(&hub, true, "server/discover", json!({})).await?["result"].clone();
    ensure!(found["capabilities"]["extensions"] == json!({ "io.modelcontextprotocol/tasks": {} }), "{found}");
    let call = |operation: &str| json!({ "name": "call", "arguments": { "operationId": operation } });
    let at_once = ask(&hub, true, "tools/call", call("hub.whoami")).await?["result"].clone();
    ensure!(at_once["resultType"] == "complete" && at_once["structuredContent"]["data"].is_object(), "{at_once}");
    let task = ask(&hub, true, "tools/call", call("slow.work")).await?["result"].clone();
    ensure!(task["resultType"] == "task" && task["status"] == "working" && task["ttlMs"].is_u64(), "{task}");
    let named = json!({ "taskId": task["taskId"] });
    let refused = ask(&hub, false, "tasks/get", named.clone()).await?;
    ensure!(refused["error"]["code"] == -32021, "{refused}");
    let got = ask(&hub, true, "tasks/get", named.clone()).await?["result"].clone();
    ensure!(got["status"] == "working" && got.get("result").is_none(), "{got}");
    gate.add_permits(1);
    let done = eventually("the task ends", async || {
        let got = ask(&hub, true, "tasks/get", named.clone()).await?["result"].clone();
        Ok((got["status"] == "completed").then_some(got))
    })
    .await?;
    ensure!(done["result"]["structuredContent"] == json!({ "data": "done", "callId": task["taskId"] }), "{done}");
    // The ending of a task does not end by being asked to.
    ensure!(ask(&hub, true, "tasks/cancel", named.clone()).await?["result"] == json!({ "resultType": "complete" }));
    ensure!(ask(&hub, true, "tasks/get", named.clone()).await?["result"] == done);

    let task = ask(&hub, true, "tools/call", call("demo.parent")).await?["result"].clone();
    let named = json!({ "taskId": task["taskId"] });
    runs(&hub, "demo.wait").await?;
    ask(&hub, true, "tasks/cancel", named.clone()).await?;
    ended_aborted(&hub, "demo.parent").await?;
    ended_aborted(&hub, "demo.wait").await?;
    let got = ask(&hub, true, "tasks/get", named).await?["result"].clone();
    ensure!(got["status"] == "cancelled", "{got}");
    for method in ["tasks/get", "tasks/cancel", "tasks/update"] {
        let params = json!({ "taskId": CallId::new(), "inputResponses": {} });
        let answer = ask(&hub, true, method, params).await?;
        ensure!(answer["error"]["code"] == -32602, "{method} {answer}");
    }
    // Who does not take tasks waits.
    let waiting = ask(&hub, false, "tools/call", call("slow.work"));
    let answer = async {
        runs(&hub, "slow.work").await?;
        tokio::time::sleep(std::time::Duration::from_millis(1_500)).await;
        gate.add_permits(1);
        Ok(())
    };
    let (answered, ()) = tokio::try_join!(waiting, answer)?;
    ensure!(answered["result"]["structuredContent"]["data"] == "done", "{answered}");
    Ok(())
}
