//! The recorded tree: who sees it, and how it plays back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::StreamExt;
use hub_protocol::ops::calls::{
    AbortCall, AbortMode, CallEventKind, CallRecord, ExportCalls, GetCall, GetCallStats, GetTree, ListCalls,
    ReplayCall, ReplayItem, ReplayMode,
};
use hub_protocol::ops::hub::{GetStatus, WhoAmI};
use hub_protocol::{CallError, CallId, OnDisconnect};
use hub_spoke::{Client, Context, RunningSpoke};
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};

use super::{call_id, ended, newest, raw_spoke, relay};

#[tokio::test(flavor = "multi_thread")]
async fn who_lacks_calls_read_sees_only_its_own_calls() -> Result<()> {
    let hub = TestHub::start().await?;
    let leaf = |_: Context, input: Value| async move { Ok::<Value, CallError>(input) };
    let _leaf = hub.spoke("leaf").spoke_type("compute").query("leaf.run", "Echoes.", leaf).build()?.start().await?;
    let _root = relay(&hub, "root", "root.run", "leaf.run").await?;
    let mut silent = raw_spoke(&hub, "silent", &[("silent.run", "query")]).await?;
    let (alice, bob) = (hub.client_with(&[]).await?, hub.client_with(&["events:publish"]).await?);
    let auditor = hub.client_with(&["calls:read"]).await?;
    let (alice_id, bob_id) = (alice.call(&WhoAmI {}).await?.identity.id, bob.call(&WhoAmI {}).await?.identity.id);
    for client in [&alice, &bob] {
        client.call_raw("root.run", json!({ "n": 1 })).await?;
    }
    let running = bob.request("silent.run").input(json!({})).start().await?;
    let running_id = call_id(&silent.requested().await?)?;
    let all = eventually("all calls are recorded", || async {
        let calls = auditor.call(&ListCalls::default()).await?.calls;
        let own = |c: &&CallRecord| c.operation_id.ends_with(".run");
        let calls: Vec<CallRecord> = calls.iter().filter(own).cloned().collect();
        Ok((calls.len() == 5 && calls.iter().filter(|c| c.status.is_final()).count() == 4).then_some(calls))
    })
    .await?;
    let of = |who: &str, operation: &str| {
        all.iter().find(|c| c.principal == who && c.operation_id == operation).map(|c| c.call_id).context("recorded")
    };
    let (hers, his) = (of(&alice_id, "root.run")?, of(&bob_id, "root.run")?);

    let list = alice.call(&ListCalls::default()).await?.calls;
    assert_eq!(list.iter().map(|c| c.call_id).collect::<Vec<_>>(), [hers]);
    let other = ListCalls { principal: Some(bob_id.clone()), ..ListCalls::default() };
    assert_eq!(alice.call(&other).await.unwrap_err().code, "ACCESS_DENIED");
    assert_eq!(alice.call(&GetCall { call_id: hers }).await?.call_id, hers);
    assert_eq!(alice.call(&GetCall { call_id: his }).await.unwrap_err().code, "NOT_FOUND");
    // She may see what was called on her behalf, in her own tree only.
    let tree = alice.call(&GetTree { call_id: hers, below: None }).await?;
    assert_eq!(tree.calls.iter().map(|c| c.operation_id.as_str()).collect::<Vec<_>>(), ["root.run", "leaf.run"]);
    assert_eq!((tree.edges.len(), tree.edges[0].source, tree.edges[0].target), (1, hers, tree.calls[1].call_id));
    assert_eq!(alice.call(&GetTree { call_id: his, below: None }).await.unwrap_err().code, "NOT_FOUND");
    let his_tree = auditor.call(&GetTree { call_id: his, below: Some(true) }).await?;
    let leaf_of_his = his_tree.calls[1].call_id;
    assert_eq!(alice.call(&GetCall { call_id: leaf_of_his }).await.unwrap_err().code, "NOT_FOUND");
    // Statistics are about everybody's calls, so the operation is not even there for her.
    assert_eq!(alice.call(&GetCallStats::default()).await.unwrap_err().code, "OPERATION_NOT_FOUND");
    let stats = auditor.call(&GetCallStats::default()).await?.operations;
    let root = stats.iter().find(|s| s.operation_id == "root.run").context("counted")?;
    assert_eq!((root.calls, root.completed, root.failed, root.live), (2, 2, 0, 0));
    let silent_stats = stats.iter().find(|s| s.operation_id == "silent.run").context("counted")?;
    assert_eq!((silent_stats.calls, silent_stats.live), (1, 1));
    let export = async |client: &Client| -> Result<Vec<CallId>> {
        let records: Vec<_> = client.subscribe(&ExportCalls::default()).await?.collect().await;
        let records = records.into_iter().filter(|r| r.as_ref().map_or(true, |r| r.operation_id.ends_with(".run")));
        records.map(|r| Ok(r?.call_id)).collect()
    };
    assert_eq!(export(&alice).await?, [hers]);
    let mut oldest_first: Vec<CallId> = all.iter().map(|c| c.call_id).collect();
    oldest_first.reverse();
    assert_eq!(export(&auditor).await?, oldest_first);
    // Nor may she end or replay what is not hers, and reading is not the right to abort.
    let abort = AbortCall { call_id: running_id, mode: AbortMode::Kill, reason: None, grace_ms: Some(100) };
    for client in [&alice, &auditor] {
        assert_eq!(client.call(&abort).await.unwrap_err().code, "NOT_FOUND");
    }
    let replay = ReplayCall { call_id: his, mode: ReplayMode::Rerun, speed: None };
    let first = alice.subscribe(&replay).await?.next().await.context("an item")?;
    assert_eq!(first.unwrap_err().code, "NOT_FOUND");
    assert_eq!(hub.client_with(&["calls:abort"]).await?.call(&abort).await?.receipts.len(), 1);
    drop(running);
    hub.settled().await
}

/// `root.run` asks the hub who it is and adds up three `leaf.run`, whose second input can be changed.
async fn replayed(
    hub: &TestHub,
    second: &Arc<AtomicI64>,
    runs: &Arc<AtomicU64>,
    more: &Arc<AtomicBool>,
) -> Result<RunningSpoke> {
    let (second, more) = (Arc::clone(second), Arc::clone(more));
    let root = move |ctx: Context, _: Value| {
        let (second, more) = (second.load(Ordering::Relaxed), more.load(Ordering::Relaxed));
        async move {
            ctx.call(&WhoAmI {}).await?;
            let mut sum = 0;
            for n in [1, second, 3].into_iter().chain(more.then_some(4)) {
                sum += ctx.call_raw("leaf.run", json!(n)).await?.parse::<i64>().unwrap_or_default();
            }
            Ok::<i64, CallError>(sum)
        }
    };
    let runs = Arc::clone(runs);
    let leaf = move |_: Context, n: i64| {
        runs.fetch_add(1, Ordering::Relaxed);
        async move {
            tokio::time::sleep(Duration::from_millis(60)).await;
            Ok::<i64, CallError>(10 * n)
        }
    };
    let spoke = hub.spoke("replayed").spoke_type("compute").query("root.run", "Adds.", root);
    Ok(spoke.query("leaf.run", "Ten times.", leaf).build()?.start().await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_tree_plays_back_in_order_and_in_time() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = replayed(&hub, &Arc::new(AtomicI64::new(2)), &Arc::default(), &Arc::default()).await?;
    let client = hub.client().await?;
    assert_eq!(client.call_raw("root.run", json!({})).await?.as_str(), "60");
    let root = newest(&client, "root.run").await?.call_id;
    ended(&client, root).await?;
    let play = async |speed: Option<f64>| -> Result<(Duration, Vec<_>)> {
        let at = Instant::now();
        let items = client.subscribe(&ReplayCall { call_id: root, mode: ReplayMode::Recorded, speed }).await?;
        let events = items.map(|item| match item? {
            ReplayItem::Event { event } => Ok(event),
            ReplayItem::Rerun { .. } => anyhow::bail!("not a rerun"),
        });
        let events: Vec<Result<_>> = events.collect().await;
        Ok((at.elapsed(), events.into_iter().collect::<Result<_>>()?))
    };
    let (_, events) = play(None).await?;
    use CallEventKind::{Completed, Requested};
    let order: Vec<_> = events.iter().map(|e| (e.operation_id.as_str(), e.kind)).collect();
    let leaf = [("leaf.run", Requested), ("leaf.run", Completed)];
    let expected = [vec![("root.run", Requested)], [leaf, leaf, leaf].concat(), vec![("root.run", Completed)]].concat();
    assert_eq!(order, expected);
    assert!(events.windows(2).all(|w| w[0].seq < w[1].seq && w[0].at <= w[1].at));
    let span = Duration::from_millis(events[7].at - events[0].at);
    let (original, same) = play(Some(1.0)).await?;
    assert_eq!(same, events);
    assert!(original >= span, "{original:?} for {span:?}");
    let (slower, _) = play(Some(0.5)).await?;
    assert!(slower >= 2 * span, "{slower:?} for {span:?}");
    for speed in [0.0, -1.0, f64::MAX] {
        let mut refused =
            client.subscribe(&ReplayCall { call_id: root, mode: ReplayMode::Recorded, speed: Some(speed) }).await?;
        assert_eq!(refused.next().await.context("an item")?.unwrap_err().code, "VALIDATION_ERROR");
    }
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rerun_answers_nested_calls_from_the_record_and_finds_the_first_divergence() -> Result<()> {
    let hub = TestHub::start().await?;
    let (second, runs, more) = (Arc::new(AtomicI64::new(2)), Arc::default(), Arc::default());
    let _spoke = replayed(&hub, &second, &runs, &more).await?;
    let client = hub.client().await?;
    client.call_raw("root.run", json!({})).await?;
    let root = newest(&client, "root.run").await?.call_id;
    ended(&client, root).await?;
    let rerun = async || -> Result<_> {
        let mut items = client.subscribe(&ReplayCall { call_id: root, mode: ReplayMode::Rerun, speed: None }).await?;
        match items.next().await.context("an item")?? {
            ReplayItem::Rerun { same, divergence, output, .. } => Ok((same, divergence, output)),
            ReplayItem::Event { .. } => anyhow::bail!("not an event"),
        }
    };
    let (same, divergence, output) = rerun().await?;
    assert_eq!((same, divergence, output), (true, None, Some(json!(60).into())));
    assert_eq!(runs.load(Ordering::Relaxed), 3, "nested calls ran again");
    // Another input of the second nested call.
    second.store(20, Ordering::Relaxed);
    let (same, divergence, _) = rerun().await?;
    let divergence = divergence.context("a divergence")?;
    assert!(!same);
    assert_eq!((divergence.position, divergence.actual.as_deref()), (2, Some("leaf.run")), "{divergence:?}");
    // One more nested call than recorded.
    second.store(2, Ordering::Relaxed);
    more.store(true, Ordering::Relaxed);
    let divergence = rerun().await?.1.context("a divergence")?;
    assert_eq!((divergence.position, divergence.recorded), (4, None));
    assert_eq!(runs.load(Ordering::Relaxed), 3, "nested calls ran again");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_hub_tells_of_no_calls_in_flight_when_only_the_question_runs() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut silent = raw_spoke(&hub, "silent", &[("silent.run", "query")]).await?;
    let client = hub.client().await?;
    assert_eq!(client.call(&GetStatus {}).await?.calls_in_flight, 0);
    let _call = client.request("silent.run").input(json!({})).on_disconnect(OnDisconnect::Abort).start().await?;
    silent.requested().await?;
    assert_eq!(client.call(&GetStatus {}).await?.calls_in_flight, 1);
    Ok(())
}
