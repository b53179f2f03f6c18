//! Prints how many rows a second [`Calls::record`](hub_storage::Calls::record) writes, for both durabilities.
//!
//! `cargo run --release -p hub-storage --example rows [seconds] [postgres://..]`; the address is that of an empty
//! database, which is measured instead of a file. A batch is 256 calls that start and end in it,
//! each with a payload of 300 bytes and two events: 768 rows.

#![expect(clippy::print_stdout, reason = "a tool for people")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use hub_protocol::{CallId, HubId, Json};
use hub_storage::{
    BatchMark, CallBatch, CallRow, CallUpdate, NewEvent, PostgresOptions, SqliteOptions, Stamp, Store, StoreError,
};

const CALLS: usize = 256;
const ROWS: usize = CALLS * 3;
const TASKS: usize = 4;

/// Where to write: a new file, or one Postgres database for all.
#[derive(Clone)]
enum Place {
    File { sync_full: bool },
    Postgres(String),
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let seconds = std::env::args().nth(1).map_or(Ok(3), |text| text.parse())?;
    let time = Duration::from_secs(seconds);
    let places = match std::env::args().nth(2) {
        None => {
            vec![("FULL", Place::File { sync_full: true }), ("NORMAL", Place::File { sync_full: false })]
        }
        Some(url) => vec![("postgres", Place::Postgres(url))],
    };
    println!("{:<12} {:>8} {:>12} {:>12} {:>10}", "store", "writers", "calls/s", "rows/s", "MiB/s");
    for (name, place) in &places {
        for tasks in [1, TASKS] {
            measure(name, place, tasks, time).await?;
        }
    }
    for (name, place) in &places {
        for tasks in [1, 32, 256] {
            singles(name, place, tasks, time).await?;
        }
    }
    Ok(())
}

async fn open(place: &Place, path: &Path) -> Result<Store, StoreError> {
    match place {
        Place::File { sync_full } => {
            Store::open_sqlite(path, SqliteOptions { sync_full: *sync_full, ..SqliteOptions::default() }).await
        }
        Place::Postgres(url) => Store::open_postgres(url, PostgresOptions::default()).await,
    }
}

async fn measure(name: &str, place: &Place, tasks: usize, time: Duration) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(".")?;
    let path = folder.path().join("rows.db");
    let store = open(place, &path).await?;
    let payload = Json::from(serde_json::json!({ "text": "x".repeat(288) }));
    let since = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (store, payload) = (store.clone(), payload.clone());
        writers.spawn(async move {
            let mut batches = 0;
            let writer = uuid::Uuid::now_v7();
            while since.elapsed() < time {
                batches += 1;
                let mark = Some(BatchMark { writer, number: batches });
                store.calls().record(CallBatch { mark, ..batch(CALLS, &payload) }).await?;
            }
            Ok::<i64, StoreError>(batches)
        });
    }
    let mut batches = 0.0;
    while let Some(done) = writers.join_next().await {
        batches += done?? as f64;
    }
    let seconds = since.elapsed().as_secs_f64();
    store.close().await;
    let bytes = std::fs::metadata(&path).map_or(0, |file| file.len()) as f64;
    let rate = |rows: usize| batches * rows as f64 / seconds;
    let mib = bytes / seconds / f64::from(1 << 20);
    println!("{name:<12} {tasks:>8} {:>12.0} {:>12.0} {mib:>10.1}", rate(CALLS), rate(ROWS));
    Ok(())
}

/// Group commit: many tasks that each write one small thing and wait for it.
async fn singles(name: &str, place: &Place, tasks: usize, time: Duration) -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir_in(".")?;
    let store = open(place, &folder.path().join("singles.db")).await?;
    let payload = Json::from(serde_json::json!({ "text": "x".repeat(288) }));
    let since = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..tasks {
        let (store, payload) = (store.clone(), payload.clone());
        writers.spawn(async move {
            let mut rows = 0;
            while since.elapsed() < time {
                store.events().append(vec![event(&payload, CallId::new(), "single")]).await?;
                rows += 1;
            }
            Ok::<usize, StoreError>(rows)
        });
    }
    let mut rows = 0;
    while let Some(done) = writers.join_next().await {
        rows += done??;
    }
    let label = format!("{tasks} x 1");
    println!("{name:<12} {label:>8} {:>12} {:>12.0}", "-", rows as f64 / since.elapsed().as_secs_f64());
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
