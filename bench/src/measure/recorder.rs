//! How fast calls are recorded.

use std::time::{Duration, Instant};

use anyhow::Result;
use hub_protocol::{CallId, HubId, Json};
use hub_storage::{CallBatch, CallRow, NewEvent, SqliteOptions, Stamp, Store};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{Rig, share, turn};
use crate::client::{frame, socket};
use crate::report::{Better, Figure, Section};
use crate::stats::Window;

/// Calls in one batch, about as the recorder gathers them under load.
const BATCH: usize = 512;

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let mut alone = Figure::new("calls recorded", "store alone", "calls/s", Better::More);
    let mut behind = Figure::new("calls recorded", "behind the hub, 1024 in flight", "calls/s", Better::More);
    for _ in 0..bench.options.turns {
        alone.runs.push(store_alone(bench.options.size(10_000, 60_000)).await?);
        behind.runs.push(behind_hub(bench).await?);
    }
    Ok(Section {
        name: "recorder",
        title: "Call records",
        how: "A recorded call is one row with input and output, and two events in the log; commits are on disk \
              (`synchronous=FULL`). Behind the hub: from the first call until the last record is committed.",
        bound: "One writer thread: SQLite's inserts with their indexes, three rows a call. Behind the hub the processors \
                are shared with the calls themselves and their clients.",
        figures: vec![alone, behind],
        missing: Vec::new(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
async fn store_alone(calls: usize) -> Result<f64> {
    let folder = TempDir::new()?;
    let store = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await?;
    let started = Instant::now();
    fill(&store, calls, HubId::new()).await?;
    let rate = calls as f64 / started.elapsed().as_secs_f64();
    store.close().await;
    Ok(rate)
}

/// Records so many ended calls, as the hub records them.
pub(crate) async fn fill(store: &Store, calls: usize, hub: HubId) -> Result<()> {
    for first in (0..calls).step_by(BATCH) {
        store.calls().record(batch(calls.min(first + BATCH) - first, hub)).await?;
    }
    Ok(())
}

/// So many ended calls with two events each.
pub(crate) fn batch(calls: usize, hub: HubId) -> CallBatch {
    let mut batch = CallBatch::default();
    for _ in 0..calls {
        let row = row(hub);
        batch.events.extend([event(&row, "requested"), event(&row, "completed")]);
        batch.started.push(row);
    }
    batch
}

fn row(hub: HubId) -> CallRow {
    let id = CallId::new();
    let doc = |text: &str| Json::from_text(text.to_owned()).ok();
    CallRow {
        call_id: id,
        request_id: "0003-0017-00000042".into(),
        operation_id: "bench.look".into(),
        version: "1.0.0".into(),
        kind: "query".into(),
        parent: None,
        root: id,
        depth: 0,
        principal: "key:bench".into(),
        spoke: Some("raw".into()),
        hub_id: hub,
        status: "completed".into(),
        input: doc(frame::INPUT),
        input_size: 50,
        input_hash: None,
        output: doc(frame::INPUT),
        output_size: 50,
        output_hash: None,
        error: None,
        idempotency_key: None,
        started_at: Stamp::now(),
        completed_at: Some(Stamp::now()),
        attempts: 1,
        items: 1,
        cost: 0,
    }
}

fn event(row: &CallRow, kind: &str) -> NewEvent {
    let payload = serde_json::json!({ "callId": row.call_id, "root": row.root, "operationId": row.operation_id,
        "principal": row.principal, "spoke": row.spoke });
    let topic = format!("call:{}", row.call_id);
    NewEvent { topic, kind: kind.into(), at: Stamp::now(), payload: payload.into(), root: Some(row.root) }
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
async fn behind_hub(bench: &Bench<'_>) -> Result<f64> {
    let rig = Rig::build(bench).await?;
    let (_, measured) = bench.options.window();
    // Not warmed up: every record counts.
    let window = Window::open((Duration::ZERO, 3 * measured));
    let mut lanes = JoinSet::new();
    for lane in 0..8usize {
        let socket = socket::connect(rig.hub.server.address, &rig.key).await?;
        let number = u16::try_from(lane)?;
        lanes.spawn(socket::call(socket, number, share(1024, 8, lane), "bench.look".into(), window));
    }
    let before = rig.hub.metric("hub_recorder_events_total").await?;
    let done = turn(lanes, window, &[rig.hub.server.pid]).await?;
    rig.hub.settled().await?;
    let took = window.from().elapsed().as_secs_f64();
    // Two events a call.
    let recorded = (rig.hub.metric("hub_recorder_events_total").await? - before) / 2.0;
    anyhow::ensure!(recorded + 0.5 >= done.tally.count as f64, "{recorded} records of {} calls", done.tally.count);
    rig.down().await?;
    Ok(recorded / took)
}
