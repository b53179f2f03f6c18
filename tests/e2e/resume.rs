//! Promise 3: a subscriber misses nothing and sees nothing twice, across reconnects.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use hub_protocol::CallError;
use hub_protocol::ops::calls::{CallEventKind, ObserveCalls};
use hub_testkit::TestHub;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;

const CALLS: usize = 10_000;
const RECONNECTS: usize = 5;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Number {
    n: usize,
}

#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_reconnects_five_times_during_10_000_calls_has_every_event_once_and_in_order() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = hub
        .spoke("counter")
        .spoke_type("compute")
        .query("demo.same", "The same number.", |_, n: Number| async move { Ok::<usize, CallError>(n.n) })
        .build()?
        .start()
        .await?;
    let from = hub.client().await?.call(&hub_protocol::ops::hub::GetStatus {}).await?.last_event;
    let mut load = JoinSet::new();
    for worker in 0..20 {
        let client = hub.client().await?;
        load.spawn(async move {
            for n in 0..CALLS / 20 {
                client.call_raw("demo.same", serde_json::json!({ "n": worker * CALLS + n })).await?;
            }
            Ok::<(), CallError>(())
        });
    }
    let mut seen = Vec::with_capacity(2 * CALLS);
    let mut after = from;
    for round in 0..=RECONNECTS {
        // Each round is a new connection; all but the last are dropped in the middle of the stream.
        let observer = hub.client().await?;
        let filter =
            ObserveCalls { operation_id: Some("demo.same".into()), after: Some(after), ..ObserveCalls::default() };
        let mut events = observer.subscribe(&filter).await?;
        let enough = if round == RECONNECTS { 2 * CALLS } else { (round + 1) * 2 * CALLS / (RECONNECTS + 1) };
        while seen.len() < enough {
            let next = tokio::time::timeout(Duration::from_secs(30), events.next()).await;
            let event = next.context("an event in time")?.context("the stream goes on")??;
            after = event.seq;
            seen.push((event.seq, event.call_id, event.kind));
        }
        drop(events);
        observer.close().await;
    }
    while let Some(done) = load.join_next().await {
        done??;
    }
    ensure!(seen.windows(2).all(|pair| pair[0].0 < pair[1].0), "events are in order and none comes twice");
    let mut calls: HashMap<_, Vec<CallEventKind>> = HashMap::new();
    for (_, call, kind) in seen {
        calls.entry(call).or_default().push(kind);
    }
    assert_eq!(calls.len(), CALLS);
    let whole = [CallEventKind::Requested, CallEventKind::Completed];
    ensure!(calls.values().all(|kinds| *kinds == whole), "each call has its beginning and its end");
    spoke.stop().await?;
    Ok(())
}
