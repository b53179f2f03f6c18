//! One file per measure.

mod abort;
mod cluster;
mod faces;
mod failover;
mod http;
mod import;
mod imported;
mod memory;
mod pair;
mod postgres;
mod recorder;
mod rig;
mod routed;
mod search;
mod soak;
mod start;
mod streams;

use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::args::Options;
use crate::machine::Machine;
use crate::process;
use crate::report::{Report, Section};

/// A measure by its name.
#[derive(Debug)]
pub(crate) struct Measure {
    pub(crate) name: &'static str,
    pub(crate) about: &'static str,
}

/// All measures, in the order they run.
pub(crate) const ALL: [Measure; 14] = [
    Measure { name: "routed", about: "calls from spoke A through the hub to spoke B: latency and calls a second" },
    Measure { name: "streams", about: "items a second of subscriptions through the hub" },
    Measure { name: "http", about: "calls a second over HTTP, items a second over SSE" },
    Measure { name: "faces", about: "the same call over WebSocket, HTTP and MCP" },
    Measure { name: "search", about: "latency of searches among 10,000 operations" },
    Measure { name: "imported", about: "time and memory per 1,000 operations of OpenAPI documents and MCP servers" },
    Measure { name: "abort", about: "time until an abort has reached a whole call tree" },
    Measure { name: "recorder", about: "call records a second, by the store alone and behind the hub" },
    Measure { name: "memory", about: "bytes of the hub per idle spoke" },
    Measure { name: "start", about: "cold start, and restart over many call records" },
    Measure { name: "cluster", about: "calls and streams across two hubs, beside one hub and two NATS servers" },
    Measure { name: "failover", about: "time until a spoke is callable again after its hub was killed" },
    Measure { name: "postgres", about: "events and call records a second on Postgres" },
    Measure { name: "import", about: "rows a second from a SQLite file into Postgres" },
];

/// What a measure works with.
#[derive(Debug)]
pub(crate) struct Bench<'a> {
    pub(crate) options: &'a Options,
    pub(crate) hub: PathBuf,
}

/// Runs what the options ask for.
pub(crate) async fn run(options: &Options) -> Result<Report> {
    let bench = Bench { options, hub: process::hub_binary(options).await? };
    let mut machine = Machine::look();
    let started = Instant::now();
    let mut sections = Vec::new();
    for measure in ALL.iter().filter(|m| options.wants(m.name)) {
        eprintln!("{:>4.0} s  {}: {}", started.elapsed().as_secs_f32(), measure.name, measure.about);
        let section = one(&bench, measure.name).await.with_context(|| format!("measure {:?}", measure.name))?;
        sections.push(section.compared());
    }
    machine.look_again();
    let seconds = started.elapsed().as_secs_f64();
    Ok(Report { machine, quick: options.quick, turns: options.turns, seconds, sections })
}

/// Keeps the hub under load instead, for a profiler.
pub(crate) async fn soak(options: &Options, seconds: u64) -> Result<()> {
    soak::run(&Bench { options, hub: process::hub_binary(options).await? }, seconds).await
}

async fn one(bench: &Bench<'_>, name: &str) -> Result<Section> {
    match name {
        "routed" => routed::run(bench).await,
        "streams" => streams::run(bench).await,
        "http" => http::run(bench).await,
        "faces" => faces::run(bench).await,
        "search" => search::run(bench).await,
        "imported" => imported::run(bench).await,
        "abort" => abort::run(bench).await,
        "recorder" => recorder::run(bench).await,
        "memory" => memory::run(bench).await,
        "start" => start::run(bench).await,
        "cluster" => cluster::run(bench).await,
        "failover" => failover::run(bench).await,
        "postgres" => postgres::run(bench).await,
        "import" => import::run(bench).await,
        other => anyhow::bail!("no measure {other}"),
    }
}
