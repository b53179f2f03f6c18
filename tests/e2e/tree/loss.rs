//! What becomes of calls when their caller or callee is lost, or the hub goes down.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::{StreamExt, stream};
use hub_protocol::ops::calls::{AbortMode, AttachCall, AttachItem, CallStatus};
use hub_protocol::ops::hub::GetStatus;
use hub_protocol::{CallError, CallId};
use hub_spoke::{Client, Context, RunningSpoke};
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Probe, WAIT, call_id, ended, raw_spoke, running};

/// A spoke with a query, a mutation and a stream that wait for the gate.
async fn gated(hub: &TestHub, probe: &Probe, gate: &Arc<Semaphore>) -> Result<RunningSpoke> {
    let wait = {
        let (probe, gate) = (probe.clone(), Arc::clone(gate));
        move |_: Context, _: Value| {
            let (guard, gate) = (probe.enter(), Arc::clone(&gate));
            async move {
                let _guard = guard;
                gate.acquire().await.map_err(|e| CallError::domain("CLOSED", e.to_string()))?.forget();
                Ok::<Value, CallError>(json!("done"))
            }
        }
    };
    let ticks = {
        let (probe, gate) = (probe.clone(), Arc::clone(gate));
        move |_: Context, _: Value| {
            let state = (probe.enter(), Arc::clone(&gate), 0u64);
            async move {
                Ok::<_, CallError>(stream::unfold(state, |(guard, gate, n)| async move {
                    gate.acquire().await.ok()?.forget();
                    guard.0.1.fetch_add(1, Ordering::Relaxed);
                    Some((Ok::<Value, CallError>(json!(n + 1)), (guard, gate, n + 1)))
                }))
            }
        }
    };
    let spoke = hub.spoke("gated").spoke_type("compute");
    let spoke = spoke.query("gated.query", "Waits.", wait.clone()).mutation("gated.mutation", "Waits.", wait);
    Ok(spoke.stream("gated.ticks", "Ticks.", ticks).build()?.start().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_becomes_of_a_call_whose_caller_is_lost_is_up_to_on_disconnect() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let cases = [
        ("gated.query", None, CallStatus::Aborted),
        ("gated.mutation", None, CallStatus::Completed),
        ("gated.ticks", None, CallStatus::Aborted),
        ("gated.query", Some("finish"), CallStatus::Completed),
        ("gated.query", Some("detach"), CallStatus::Completed),
        ("gated.mutation", Some("abort"), CallStatus::Aborted),
        ("gated.ticks", Some("finish"), CallStatus::Completed),
    ];
    for (operation, rule, expected) in cases {
        let (probe, gate) = (Probe::new(), Arc::new(Semaphore::new(0)));
        let spoke = gated(&hub, &probe, &gate).await?;
        let mut caller = hub.raw().await?;
        let mut request = json!({ "requestId": "r1", "operationId": operation, "input": {} });
        if let Some(rule) = rule {
            request["onDisconnect"] = json!(rule);
        }
        caller.event("call.requested", request).await?;
        probe.begun(1).await?;
        let connections = client.call(&GetStatus {}).await?.connections;
        let record = running(&client, operation).await?;
        drop(caller);
        eventually("the hub knows of the loss", || async {
            Ok((client.call(&GetStatus {}).await?.connections < connections).then_some(()))
        })
        .await?;
        if expected == CallStatus::Aborted {
            probe.gone(1).await?;
        } else {
            assert_eq!(probe.running(), 1, "{operation} {rule:?} was stopped");
            gate.add_permits(1);
            if operation == "gated.ticks" {
                eventually("the item is out", || async { Ok((probe.1.load(Ordering::Relaxed) == 1).then_some(())) })
                    .await?;
                gate.close();
            }
        }
        let record = ended(&client, record.call_id).await?;
        assert_eq!(record.status, expected, "{operation} {rule:?}");
        if expected == CallStatus::Completed {
            let output = if operation == "gated.ticks" { json!(1) } else { json!("done") };
            assert_eq!(record.output, Some(output.into()), "the result is kept in the record");
        }
        spoke.stop().await?;
    }
    hub.settled().await
}

async fn attached(client: &Client, call_id: CallId, after: Option<u64>, count: usize) -> Result<Vec<(u64, u64)>> {
    let items = client.subscribe(&AttachCall { call_id, after }).await?.take(count).map(|item| match item? {
        AttachItem::Item { item, data } => Ok((item, data.parse()?)),
        AttachItem::Gap { from, to } => Ok((from, to)),
    });
    let items: Vec<Result<(u64, u64)>> = tokio::time::timeout(WAIT, items.collect()).await?;
    items.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_stream_stays_readable_with_numbers_and_a_gap_where_history_is_gone() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let (probe, gate) = (Probe::new(), Arc::new(Semaphore::new(3)));
    let _spoke = gated(&hub, &probe, &gate).await?;
    let mut caller = hub.raw().await?;
    let request = json!({ "requestId": "r1", "operationId": "gated.ticks", "input": {}, "onDisconnect": "detach" });
    caller.event("call.requested", request).await?;
    for _ in 0..3 {
        caller.next_of("call.responded").await?;
    }
    let id = running(&client, "gated.ticks").await?.call_id;
    drop(caller);
    gate.add_permits(2);
    let numbered = |range: std::ops::RangeInclusive<u64>| range.map(|n| (n, n)).collect::<Vec<_>>();
    assert_eq!(attached(&client, id, None, 5).await?, numbered(1..=5));
    assert_eq!(attached(&client, id, Some(3), 2).await?, numbered(4..=5));
    // A second reader hears live what comes, and somebody else hears nothing.
    let stranger = hub.client_with(&[]).await?;
    let refused = attached(&stranger, id, None, 1).await.unwrap_err();
    assert_eq!(refused.downcast::<CallError>()?.code, "NOT_FOUND");
    let live = attached(&client, id, Some(5), 1);
    let (live, ()) = tokio::join!(live, async { gate.add_permits(1) });
    assert_eq!(live?, numbered(6..=6));
    // More than is held: the reader is told what it has missed.
    gate.add_permits(1_500);
    eventually("all items are out", || async { Ok((gate.available_permits() == 0).then_some(())) }).await?;
    let all = attached(&client, id, Some(1_505), 1).await?;
    assert_eq!(all, numbered(1_506..=1_506));
    let all = attached(&client, id, None, 1_025).await?;
    let ((from, to), rest) = all.split_first().context("items")?;
    assert_eq!((*from, *to), (1, 482), "1,024 items are held");
    assert_eq!(rest, numbered(483..=1_506));
    // Ended without anybody on it: still readable, and it ends.
    gate.close();
    ended(&client, id).await?;
    assert_eq!(attached(&client, id, Some(1_504), usize::MAX).await?, numbered(1_505..=1_506));
    assert_eq!(attached(&client, id, Some(u64::MAX), usize::MAX).await?, []);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_stream_that_ends_at_the_loss_of_its_caller_stays_readable() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let (probe, gate) = (Probe::new(), Arc::new(Semaphore::new(2)));
    let _spoke = gated(&hub, &probe, &gate).await?;
    let mut caller = hub.raw().await?;
    let request = json!({ "requestId": "r1", "operationId": "gated.ticks", "input": {}, "onDisconnect": "detach" });
    caller.event("call.requested", request).await?;
    for _ in 0..2 {
        caller.next_of("call.responded").await?;
    }
    let id = running(&client, "gated.ticks").await?.call_id;
    let connections = client.call(&GetStatus {}).await?.connections;
    drop(caller);
    eventually("the hub knows of the loss", || async {
        Ok((client.call(&GetStatus {}).await?.connections < connections).then_some(()))
    })
    .await?;
    // Not one more item comes before the end.
    gate.close();
    ended(&client, id).await?;
    assert_eq!(attached(&client, id, None, usize::MAX).await?, [(1, 1), (2, 2)]);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_the_callee_ends_its_calls_at_once() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    for (kind, retryable) in [("query", true), ("mutation", false), ("subscription", false)] {
        let mut callee = raw_spoke(&hub, "frail", &[(&format!("frail.{kind}"), kind)]).await?;
        let mut call = client.request(format!("frail.{kind}")).input(json!({})).start().await?;
        callee.requested().await?;
        let at = Instant::now();
        drop(callee);
        let error = call.next().await.context("an end")?.unwrap_err();
        assert!(at.elapsed() < Duration::from_secs(1), "{:?}", at.elapsed());
        assert_eq!((error.code.as_str(), error.retryable), ("SPOKE_DISCONNECTED", retryable), "{kind}");
        assert!(error.details.is_some_and(|d| d.as_str().contains("frail")));
    }
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_lost_its_provider_goes_once_to_another_if_that_can_do_no_harm() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    for (kind, key, reroutes) in [
        ("query", None, true),
        ("mutation", Some("k1"), true),
        ("mutation", None, false),
        ("subscription", None, false),
    ] {
        let operation = format!("pool.{kind}");
        let mut providers = Vec::new();
        for name in ["p1", "p2", "p3"] {
            let mut raw = hub.raw().await?;
            raw.register(name, &[(&operation, kind)], json!({ "policy": "first" })).await?;
            providers.push(raw);
        }
        let mut providers = providers.into_iter();
        let (mut first, mut second) = (providers.next().context("p1")?, providers.next().context("p2")?);
        let mut request = client.request(&operation).input(json!({ "first": true }));
        if let Some(key) = key {
            request = request.idempotency_key(key);
        }
        let mut call = request.start().await?;
        let id = call_id(&first.requested().await?)?;
        drop(first);
        if reroutes {
            let again = second.requested().await?;
            assert_eq!(call_id(&again)?, id, "the same call");
            second.respond(&again["requestId"], json!("from p2")).await?;
            assert_eq!(call.next().await.context("an answer")??.as_str(), "\"from p2\"");
            assert_eq!(ended(&client, id).await?.attempts, 2);
        } else {
            let error = call.next().await.context("an end")?.unwrap_err();
            assert_eq!(error.code, "SPOKE_DISCONNECTED", "{operation}");
            assert_eq!(ended(&client, id).await?.attempts, 1);
        }
        // Once means once: the loss of the second ends the call, and the third never hears of it.
        let mut request = client.request(&operation).input(json!({ "first": false }));
        if let Some(key) = key {
            request = request.idempotency_key(format!("{key} again"));
        }
        let mut call = request.start().await?;
        let got = second.requested().await?;
        assert_eq!(got["input"]["first"], false, "an earlier call was rerouted");
        drop(second);
        let mut third = providers.next().context("p3")?;
        if reroutes {
            assert_eq!(third.requested().await?["requestId"], got["requestId"]);
            drop(third);
        } else {
            // The first thing it hears is this one.
            call.next().await.context("an end")?.unwrap_err();
            let mut probe = client.request(&operation).input(json!({ "probe": true })).start().await?;
            let seen = third.requested().await?;
            assert_eq!(seen["input"]["probe"], true);
            third.respond(&seen["requestId"], json!(1)).await?;
            probe.next().await.context("an answer")??;
            continue;
        }
        let error = call.next().await.context("an end")?.unwrap_err();
        assert_eq!((error.code.as_str(), error.retryable), ("SPOKE_DISCONNECTED", true));
    }
    hub.settled().await
}

#[test]
fn a_runtime_that_ends_with_calls_in_flight_does_not_take_the_process_along() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let (hub, mut caller, spoke) = runtime.block_on(async {
        let hub = TestHub::start().await?;
        let (probe, gate) = (Probe::new(), Arc::new(Semaphore::new(0)));
        let spoke = gated(&hub, &probe, &gate).await?;
        let mut caller = hub.raw().await?;
        for (n, operation) in ["gated.query", "gated.mutation", "gated.ticks"].into_iter().enumerate() {
            caller.request(&n.to_string(), operation, json!({})).await?;
        }
        probe.begun(3).await?;
        Ok::<_, anyhow::Error>((hub, caller, spoke))
    })?;
    runtime.block_on(async { caller.event("call.aborted", json!({ "requestId": "none" })).await })?;
    drop(runtime);
    drop((hub, caller, spoke));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_on_without_its_caller_does_not_keep_the_hub_from_going_down() -> Result<()> {
    let hub = TestHub::start_with(&["--shutdown-grace-ms", "200"]).await?;
    let mut silent = raw_spoke(&hub, "silent", &[("silent.run", "mutation")]).await?;
    let mut caller = hub.raw().await?;
    caller.request("r1", "silent.run", json!({})).await?;
    silent.requested().await?;
    let client = hub.client().await?;
    let call = client.request("silent.run").input(json!({})).start().await?;
    silent.requested().await?;
    call.abort(None, AbortMode::Skip, WAIT).await;
    drop(caller);
    drop(client);
    let at = Instant::now();
    hub.stop().await;
    assert!(at.elapsed() < Duration::from_secs(8), "{:?}", at.elapsed());
    Ok(())
}
