//! The call tree: what a child inherits and how far it grows; below: aborts, lost peers, the record (protocol §4).

mod abort;
mod loss;
mod record;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hub_protocol::ops::calls::{AbortMode, AbortOutcome, CallRecord, CallStatus, GetCall, ListCalls, Receipt};
use hub_protocol::ops::hub::WhoAmI;
use hub_protocol::{CallError, CallId, Json};
use hub_spoke::{Client, Context, RunningSpoke};
use hub_testkit::{RawPeer, TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::watch;

/// Longest wait for anything here.
const WAIT: Duration = Duration::from_secs(15);

/// Counts handlers that have begun and that are gone, and when the last one went.
#[derive(Clone)]
struct Probe(watch::Sender<(u64, u64, Option<Instant>)>, Arc<AtomicU64>);

struct Guard(Probe);

impl Probe {
    fn new() -> Self {
        Self(watch::Sender::new((0, 0, None)), Arc::default())
    }

    fn enter(&self) -> Guard {
        self.0.send_modify(|state| state.0 += 1);
        Guard(self.clone())
    }

    async fn begun(&self, count: u64) -> Result<()> {
        let mut state = self.0.subscribe();
        tokio::time::timeout(WAIT, state.wait_for(|s| s.0 >= count)).await.context("handlers have not begun")??;
        Ok(())
    }

    /// Waits until so many handlers are gone; answers when the last one went.
    async fn gone(&self, count: u64) -> Result<Instant> {
        let mut state = self.0.subscribe();
        let state =
            tokio::time::timeout(WAIT, state.wait_for(|s| s.1 >= count)).await.context("handlers still run")??;
        state.2.context("none has gone")
    }

    fn running(&self) -> u64 {
        let state = self.0.borrow();
        state.0 - state.1
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.send_modify(|state| {
            state.1 += 1;
            state.2 = Some(Instant::now());
        });
    }
}

/// A spoke whose one query calls `next`.
async fn relay(hub: &TestHub, name: &str, operation: &str, next: &'static str) -> Result<RunningSpoke> {
    let pass = move |ctx: Context, input: Value| async move { ctx.call_raw(next, input).await };
    Ok(hub.spoke(name).spoke_type("compute").query(operation, "Passes on.", pass).build()?.start().await?)
}

/// A spoke whose one query never ends by itself.
async fn sleeper(hub: &TestHub, name: &str, operation: &str, probe: &Probe) -> Result<RunningSpoke> {
    let probe = probe.clone();
    let sleep = move |_: Context, _: Value| {
        let guard = probe.enter();
        async move {
            let _guard = guard;
            std::future::pending::<Result<Value, CallError>>().await
        }
    };
    Ok(hub.spoke(name).spoke_type("compute").query(operation, "Sleeps.", sleep).build()?.start().await?)
}

async fn raw_spoke(hub: &TestHub, name: &str, operations: &[(&str, &str)]) -> Result<RawPeer> {
    let mut raw = hub.raw().await?;
    let registered = raw.register(name, operations, json!({})).await?;
    ensure!(registered["type"] == "call.responded", "{registered}");
    Ok(raw)
}

/// The newest call of an operation, once it is recorded.
async fn newest(client: &Client, operation: &str) -> Result<CallRecord> {
    eventually("the call is recorded", || async {
        let filter = ListCalls { operation_id: Some(operation.into()), limit: Some(1), ..ListCalls::default() };
        Ok(client.call(&filter).await?.calls.into_iter().next())
    })
    .await
}

/// The running call of an operation, once it is recorded.
async fn running(client: &Client, operation: &str) -> Result<CallRecord> {
    eventually("the running call is recorded", || async {
        let status = Some(CallStatus::Running);
        let filter = ListCalls { operation_id: Some(operation.into()), status, ..ListCalls::default() };
        Ok(client.call(&filter).await?.calls.into_iter().next())
    })
    .await
}

/// The record of a call, once it has ended.
async fn ended(client: &Client, call_id: CallId) -> Result<CallRecord> {
    eventually("the call has ended in the record", || async {
        let record = client.call(&GetCall { call_id }).await.ok();
        Ok(record.filter(|r| r.status.is_final()))
    })
    .await
}

fn call_id(requested: &Value) -> Result<CallId> {
    Ok(requested["requestId"].as_str().context("a request id")?.parse()?)
}

fn reached(receipts: &[Receipt]) -> Vec<(&str, Option<&str>, AbortOutcome)> {
    receipts.iter().map(|r| (r.operation_id.as_str(), r.spoke.as_deref(), r.outcome)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_ends_everything_below_and_answers_timeout() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let _parent = relay(&hub, "a", "one.run", "two.run").await?;
    let _child = relay(&hub, "b", "two.run", "three.run").await?;
    let _grandchild = sleeper(&hub, "c", "three.run", &probe).await?;
    // A raw peer, since the SDK would time out by itself.
    let mut caller = hub.raw().await?;
    let deadline = hub_operations::now_ms() + 500;
    let request = json!({ "requestId": "r1", "operationId": "one.run", "input": {}, "deadline": deadline });
    caller.event("call.requested", request).await?;
    probe.begun(1).await?;
    let error = caller.next_of("call.error").await?;
    assert_eq!((&error["code"], &error["retryable"]), (&json!("TIMEOUT"), &json!(true)));
    assert!(hub_operations::now_ms() >= deadline, "too early");
    probe.gone(1).await?;
    // A silent callee can't hold it either: the hub enforces the deadline by itself.
    let mut silent = raw_spoke(&hub, "silent", &[("silent.run", "query")]).await?;
    let deadline = hub_operations::now_ms() + 200;
    let request = json!({ "requestId": "r2", "operationId": "silent.run", "input": {}, "deadline": deadline });
    caller.event("call.requested", request).await?;
    assert_eq!(silent.requested().await?["deadline"], deadline);
    silent.next_of("call.aborted").await?;
    assert_eq!(caller.next_of("call.error").await?["code"], "TIMEOUT");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_child_never_has_more_time_or_money_than_its_parent_and_none_of_its_metadata() -> Result<()> {
    let hub = TestHub::start().await?;
    let show = |ctx: Context, _: Value| async move {
        Ok::<Value, CallError>(json!({ "deadline": ctx.deadline_ms(), "budget": ctx.budget(),
            "metadata": ctx.metadata(), "chain": ctx.caller().chain, "scopes": ctx.caller().scopes }))
    };
    let _below = hub.spoke("below").spoke_type("compute").query("below.show", "Shows.", show).build()?.start().await?;
    let caller_key = hub.new_key(&["fs:read"]).await?;
    let client = Client::connect(&hub.url(), &caller_key).await?;
    let me = client.call(&WhoAmI {}).await?.identity.id;
    let spoke_key = hub.new_key(&["spoke", "gpu:use"]).await?;
    let spoke_client = Client::connect(&hub.url(), &spoke_key).await?;
    let spoke_id = spoke_client.call(&WhoAmI {}).await?.identity.id;
    let mut raw = RawPeer::connect(hub.url().trim_start_matches("http://").parse()?, &spoke_key).await?;
    raw.register("middle", &[("middle.run", "query")], json!({})).await?;

    let deadline = hub_operations::now_ms() + 20_000;
    let request = client.request("middle.run").input(json!({})).deadline_at_ms(deadline).budget(1_000);
    let call = request.metadata(json!({ "secret": "hunter2" })).start().await?;
    let got = raw.requested().await?;
    assert_eq!((&got["deadline"], &got["budget"]), (&json!(deadline), &json!(1_000)));
    assert_eq!(got["identity"]["chain"], json!([me]));
    let mut nested = async |id: &str, more: Value| -> Result<Value> {
        let mut request = json!({ "requestId": id, "operationId": "below.show", "input": {},
            "parentRequestId": got["requestId"] });
        for (member, value) in more.as_object().into_iter().flatten() {
            request[member] = value.clone();
        }
        raw.event("call.requested", request).await?;
        Ok(raw.next().await?["payload"].take())
    };
    // Asking for more gives what is left; asking for nothing inherits; asking for less gives less.
    for (id, asked, time, money) in [
        ("more", json!({ "deadline": deadline + 3_600_000, "budget": 5_000 }), deadline, 1_000),
        ("none", json!({}), deadline, 1_000),
        ("less", json!({ "deadline": deadline - 5_000, "budget": 10 }), deadline - 5_000, 10),
    ] {
        let shown = nested(id, asked).await?["output"]["data"].take();
        assert_eq!((&shown["deadline"], &shown["budget"]), (&json!(time), &json!(money)), "{id}");
        assert_eq!(shown["metadata"], Value::Null, "metadata leaked down");
        assert_eq!(shown["chain"], json!([me, spoke_id]));
        // The child is called with the composing spoke's rights, not with the caller's.
        assert_eq!(shown["scopes"], json!(["spoke", "gpu:use"]));
    }
    assert_eq!(nested("no money", json!({ "budget": 0 })).await?["code"], "BUDGET_EXCEEDED");
    assert_eq!(nested("debt", json!({ "budget": -5 })).await?["code"], "BUDGET_EXCEEDED");
    // A claimed identity is nothing without the scope for it.
    let claim = json!({ "identity": { "id": "root", "scopes": ["*"] } });
    assert_eq!(nested("claim", claim).await?["output"]["data"]["scopes"], json!(["spoke", "gpu:use"]));
    drop(call);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_grows_no_deeper_than_32_and_no_larger_than_4096() -> Result<()> {
    let hub = TestHub::start_with(&["--max-in-flight", "5000"]).await?;
    let dig = |ctx: Context, left: i64| async move {
        match left {
            0 => Ok::<Json, CallError>(json!("bottom").into()),
            left => ctx.call_raw("deep.run", json!(left - 1)).await,
        }
    };
    let _deep = hub.spoke("deep").spoke_type("compute").query("deep.run", "Digs.", dig).build()?.start().await?;
    let client = hub.client().await?;
    assert_eq!(client.call_raw("deep.run", json!(32)).await?.as_str(), "\"bottom\"");
    let error = client.call_raw("deep.run", json!(33)).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), ("OVERLOADED", false));
    assert!(error.details.is_some_and(|d| d.as_str().contains("depth")));

    let mut parent = raw_spoke(&hub, "wide", &[("wide.run", "query")]).await?;
    let mut callee = raw_spoke(&hub, "silent", &[("silent.run", "query")]).await?;
    let call = client.request("wide.run").input(json!({})).start().await?;
    let root = parent.requested().await?["requestId"].take();
    let send = async {
        for n in 0..=4096 {
            let nested = json!({ "requestId": n.to_string(), "operationId": "silent.run", "input": {},
                "parentRequestId": root });
            parent.event("call.requested", nested).await?;
        }
        parent.next_of("call.error").await
    };
    let take = async {
        for _ in 0..4096 {
            callee.requested().await?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let (refused, taken) = tokio::join!(send, take);
    taken?;
    let refused = refused?;
    assert_eq!((&refused["code"], &refused["details"]["of"]), (&json!("OVERLOADED"), &json!("liveDescendants")));
    assert_eq!(call.abort(None, AbortMode::KillNowait, WAIT).await.len(), 4097);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forged_parent_is_refused() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let mut mine = raw_spoke(&hub, "mine", &[("mine.run", "query")]).await?;
    let mut other = raw_spoke(&hub, "other", &[("other.run", "query")]).await?;
    let _below = sleeper(&hub, "below", "below.run", &probe).await?;
    let client = hub.client().await?;
    let mut done = client.request("mine.run").input(json!({})).start().await?;
    let ended = mine.requested().await?["requestId"].take();
    mine.respond(&ended, json!(1)).await?;
    done.next().await.context("an answer")??;
    let _other = client.request("other.run").input(json!({})).start().await?;
    let foreign = other.requested().await?["requestId"].take();
    // A caller that waits for a call does not execute it.
    let mut caller = hub.raw().await?;
    caller.request("waiting", "other.run", json!({})).await?;
    let waited_for = other.requested().await?["requestId"].take();
    let forged = [ended, foreign, json!("garbage"), json!(CallId::new()), json!("waiting"), json!(""), waited_for];
    for (n, parent) in forged.into_iter().enumerate() {
        for peer in [&mut mine, &mut caller] {
            let request = json!({ "requestId": format!("f{n}"), "operationId": "below.run", "input": {},
                "parentRequestId": parent });
            peer.event("call.requested", request).await?;
            assert_eq!(peer.next_of("call.error").await?["code"], "ACCESS_DENIED", "{parent}");
        }
    }
    assert_eq!(probe.0.borrow().0, 0, "a forged call ran");
    Ok(())
}
