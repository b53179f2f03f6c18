//! What the store writes on Postgres, beside SQLite.

use std::io::{Seek, SeekFrom, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hub_protocol::{CallId, HubId, Json};
use hub_storage::{BatchMark, CallBatch, NewEvent, PostgresOptions, SqliteOptions, Stamp, Store};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::Bench;
use super::recorder::batch;
use super::rig::{Turn, turn};
use crate::report::{Aim, Better, Figure, Section};
use crate::shared::{DATABASE, start_postgres, stop_postgres};
use crate::stats::{Tally, Window, median};

/// Calls in one batch of records; three rows each.
const CALLS: usize = 256;

/// Publishes a second that are aimed at.
const AIM: f64 = 30_000.0;

#[derive(Debug, Clone, Copy)]
enum Load {
    /// Tasks that each publish an event and wait for it.
    Publish(usize),
    /// Writers of call records.
    Record(usize),
}

impl Load {
    fn case(self) -> String {
        match self {
            Self::Publish(1) => "events published, one at a time".to_owned(),
            Self::Publish(tasks) => format!("events published from {tasks} tasks"),
            Self::Record(1) => "call records, 1 writer".to_owned(),
            Self::Record(writers) => format!("call records, {writers} writers"),
        }
    }

    const fn unit(self) -> &'static str {
        if matches!(self, Self::Publish(_)) { "events/s" } else { "rows/s" }
    }
}

const LOADS: [Load; 4] = [Load::Publish(1), Load::Publish(256), Load::Record(1), Load::Record(4)];

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let server = match start_postgres().await {
        Ok(server) => server,
        Err(error) => return Ok(section(Vec::new(), vec![format!("{error:#}")])),
    };
    let pid = server.pid().context("Postgres has ended")?;
    let folder = TempDir::new()?;
    let file = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await?;
    let postgres = Store::open_postgres(&server.url(DATABASE), PostgresOptions::default()).await?;
    let mut figures = vec![disk(bench).await?];
    for load in LOADS {
        let (mut on_file, mut on_postgres) = (Vec::new(), Vec::new());
        for _ in 0..bench.options.turns {
            on_file.push(one(bench, &file, load, &[]).await.context("SQLite")?);
            on_postgres.push(one(bench, &postgres, load, &[pid]).await.context("Postgres")?);
        }
        let cpu = Some(median(&on_postgres.iter().map(Turn::cpu_micros).collect::<Vec<_>>()));
        let least = matches!(load, Load::Publish(2..)).then_some(AIM);
        figures.push(figure(load, "store on SQLite", &on_file));
        let aim = Aim { least, ..Aim::default() };
        figures.push(Figure { cpu, aim, ..figure(load, "store on Postgres", &on_postgres) });
    }
    file.close().await;
    postgres.close().await;
    stop_postgres(server).await?;
    Ok(section(figures, Vec::new()))
}

fn section(figures: Vec<Figure>, missing: Vec<String>) -> Section {
    Section {
        name: "postgres",
        title: "The store on Postgres",
        how: "The store's own verbs, in the process of the benchmark, against a Postgres with the settings that it has \
              by itself (each commit waits for the disk) and against SQLite (`synchronous=FULL`). A published event \
              is answered when its transaction is on disk and has its place in the log; publishes that wait at the \
              same time share a transaction. A batch of records is 256 calls, 768 rows: one row with input and output \
              and two events a call. *server µs* is of all processes of Postgres, per event or row. The target of \
              publishes is 17,000 a second, the aim 30,000.",
        bound: BOUND,
        figures,
        missing,
    }
}

const BOUND: &str = "One event at a time waits for the disk: its figure is that of one wait, which the disk of this \
    machine lets vary from 0.1 to 4 ms. From many tasks, one transaction after the other: the one row that gives \
    positions is held until the commit, so while the disk is written nobody else appends; Postgres is busy for a \
    third of one processor, and the rest is the wait and the store's own work on processors that are shared. \
    Records: processor time of Postgres (half of a processor for one writer, which also waits for each of its \
    commits) and of the writers, who share two processors with it; several writers overlap their waits.";

fn figure(load: Load, system: &'static str, turns: &[Turn]) -> Figure {
    let runs = turns.iter().map(|turn| turn.tally.per_second()).collect();
    Figure { runs, ..Figure::new(load.case(), system, load.unit(), Better::More) }
}

async fn one(bench: &Bench<'_>, store: &Store, load: Load, servers: &[u32]) -> Result<Turn> {
    let window = Window::open(bench.options.window());
    let mut lanes = JoinSet::new();
    match load {
        Load::Publish(tasks) => (0..tasks).for_each(|_| drop(lanes.spawn(publish(store.clone(), window)))),
        Load::Record(writers) => (0..writers).for_each(|_| drop(lanes.spawn(record(store.clone(), window)))),
    }
    turn(lanes, window, servers).await
}

async fn publish(store: Store, window: Window) -> Result<Tally> {
    let payload = Json::from(serde_json::json!({ "text": "x".repeat(288) }));
    let root = CallId::new();
    let mut tally = Tally::new(window);
    loop {
        let topic = format!("call:{root}");
        let event =
            NewEvent { topic, kind: "single".into(), at: Stamp::now(), payload: payload.clone(), root: Some(root) };
        let sent = Instant::now();
        store.events().append(vec![event]).await?;
        let now = Instant::now();
        tally.note(sent, now);
        if window.is_over(now) {
            return Ok(tally);
        }
    }
}

async fn record(store: Store, window: Window) -> Result<Tally> {
    let (writer, hub) = (uuid::Uuid::now_v7(), HubId::new());
    let mut tally = Tally::new(window);
    for number in 1.. {
        let mark = Some(BatchMark { writer, number });
        store.calls().record(CallBatch { mark, ..batch(CALLS, hub) }).await?;
        let now = Instant::now();
        tally.items(now, 3 * CALLS as u64);
        if window.is_over(now) {
            break;
        }
    }
    Ok(tally)
}

/// What one wait for the disk takes, whoever waits: 8 KiB written over what is there, as a log does it.
async fn disk(bench: &Bench<'_>) -> Result<Figure> {
    let turns = bench.options.turns;
    let work = move || {
        let mut file = tempfile::tempfile()?;
        let page = [7u8; 8 * 1024];
        for _ in 0..128 {
            file.write_all(&page)?;
        }
        file.sync_all()?;
        let mut runs = Vec::new();
        for _ in 0..turns {
            file.seek(SeekFrom::Start(0))?;
            let mut waits = Vec::new();
            let until = Instant::now() + Duration::from_millis(500);
            while waits.len() < 128 && Instant::now() < until {
                let started = Instant::now();
                file.write_all(&page)?;
                file.sync_data()?;
                waits.push(started.elapsed().as_secs_f64() * 1e6);
            }
            runs.push(median(&waits));
        }
        Ok::<_, anyhow::Error>(runs)
    };
    let runs = tokio::task::spawn_blocking(work).await??;
    Ok(Figure { runs, ..Figure::new("one wait for the disk (8 KiB, fdatasync)", "the disk", "µs", Better::Less) })
}
