//! Prints how many rows a second [`Calls::record`](hub_storage::Calls::record) writes, for both durabilities.
//!
//! `cargo run --release -p hub-storage --example rows [seconds]`. A batch is 256 calls that start and end in it,
//! each with a payload of 300 bytes and two events: 768 rows.

#![expect(clippy::print_stdout, reason = "a tool for people")]

use std::error::Error;
use std::time::{Duration, Instant};

use hub_protocol::{CallId, HubId, Json};
use hub_storage::{CallBatch, CallRow, CallUpdate, NewEvent, SqliteOptions, Stamp, Store};

const CALLS: usize = 256;
const ROWS: usize = CALLS * 3;
const TASKS: usize = 4;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    println!("{:<12} {:>8} {:>12} {:>12} {:>10}", "synchronous", "writers", "calls/s", "rows/s", "MiB/s");
    for (name, sync_full) in [("FULL", true), ("NORMAL", false)] {
        for tasks in [1, TASKS] {
            measure(name, sync_full, tasks, Duration::from_secs(seconds)).await?;
        }
    }
    for (name, sync_full) in [("FULL", true), ("NORMAL", false)] {
        singles(name, sync_full, Duration::from_secs(seconds)).await?;
    }
    Ok(())
}

async fn measure(name: &str, sync_full: bool, tasks: usize, time: Duration) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("rows.db");
    let store = Store::open_sqlite(&path, SqliteOptions { sync_full, ..SqliteOptions::default() }).await?;
    let payload = Json::from(serde_json::json!({ "text": "x".repeat(288) }));
    let since = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (store, payload) = (store.clone(), payload.clone());
        writers.spawn(async move {
            let mut batches = 0;
            while since.elapsed() < time {
                store.calls().record(batch(CALLS, &payload)).await?;
                batches += 1;
            }
            Ok::<usize, hub_storage::StoreError>(batches)
        });
    }
    let mut batches = 0;
    while let Some(done) = writers.join_next().await {
        batches += done??;
    }
    let seconds = since.elapsed().as_secs_f64();
    store.close().await;
    let bytes = std::fs::metadata(&path)?.len() as f64;
    let rate = |rows: usize| (batches * rows) as f64 / seconds;
    let mib = bytes / seconds / f64::from(1 << 20);
    println!("{name:<12} {tasks:>8} {:>12.0} {:>12.0} {mib:>10.1}", rate(CALLS), rate(ROWS));
    Ok(())
}

/// Group commit: many tasks that each write one small thing and wait for it.
async fn singles(name: &str, sync_full: bool, time: Duration) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("singles.db");
    let store = Store::open_sqlite(&path, SqliteOptions { sync_full, ..SqliteOptions::default() }).await?;
    let payload = Json::from(serde_json::json!({ "text": "x".repeat(288) }));
    let since = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..256 {
        let (store, payload) = (store.clone(), payload.clone());
        writers.spawn(async move {
            let mut rows = 0;
            while since.elapsed() < time {
                store.events().append(vec![event(&payload, CallId::new(), "single")]).await?;
                rows += 1;
            }
            Ok::<usize, hub_storage::StoreError>(rows)
        });
    }
    let mut rows = 0;
    while let Some(done) = writers.join_next().await {
        rows += done??;
    }
    println!("{name:<12} {:>8} {:>12} {:>12.0}", "256 x 1", "-", rows as f64 / since.elapsed().as_secs_f64());
    store.close().await;
    Ok(())
}

fn batch(calls: usize, payload: &Json) -> CallBatch {
    let mut batch = CallBatch::default();
    for _ in 0..calls {
        let row = call(payload);
        batch.events.push(event(payload, row.call_id, "requested"));
        batch.events.push(event(payload, row.call_id, "completed"));
        batch.updates.push(ended(&row, payload));
        batch.started.push(row);
    }
    batch
}

fn event(payload: &Json, root: CallId, kind: &str) -> NewEvent {
    NewEvent {
        topic: format!("call:{root}"),
        kind: kind.to_owned(),
        at: Stamp::now(),
        payload: payload.clone(),
        root: Some(root),
    }
}

fn call(payload: &Json) -> CallRow {
    let call_id = CallId::new();
    CallRow {
        call_id,
        request_id: "r1".to_owned(),
        operation_id: format!("files.op{}", call_id.0.as_u128() % 20),
        version: "1.0.0".to_owned(),
        kind: "query".to_owned(),
        parent: None,
        root: call_id,
        depth: 0,
        principal: "ada".to_owned(),
        spoke: Some("files-1".to_owned()),
        hub_id: HubId(uuid::Uuid::nil()),
        status: "running".to_owned(),
        input: Some(payload.clone()),
        input_size: 300,
        input_hash: None,
        output: None,
        output_size: 0,
        output_hash: None,
        error: None,
        idempotency_key: None,
        started_at: Stamp::now(),
        completed_at: None,
        attempts: 1,
        items: 0,
        cost: 0,
    }
}

fn ended(row: &CallRow, payload: &Json) -> CallUpdate {
    CallUpdate {
        call_id: row.call_id,
        status: "completed".to_owned(),
        spoke: row.spoke.clone(),
        attempts: 1,
        output: Some(payload.clone()),
        output_size: 300,
        output_hash: None,
        error: None,
        completed_at: Some(row.started_at.plus_millis(3)),
        items: 1,
        cost: 0,
    }
}
