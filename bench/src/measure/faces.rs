//! The same call over WebSocket, HTTP and MCP.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{Rig, Turn, turn};
use crate::client::{http, socket};
use crate::report::{Better, Figure, SOCKET, Section};
use crate::stats::{Window, median};

/// What is called: a query that a spoke answers.
const OPERATION: &str = "bench.look";

const SYSTEMS: [&str; 3] = [SOCKET, "HTTP", "MCP"];

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let mut rig = Rig::build(bench).await?;
    let mut figures = Vec::new();
    for lanes in [1, 8] {
        let mut turns: Vec<(&'static str, Vec<Turn>)> = SYSTEMS.map(|system| (system, Vec::new())).into();
        for _ in 0..bench.options.turns {
            for (system, done) in &mut turns {
                done.push(one(bench, &rig, system, lanes).await.with_context(|| format!("{system} over {lanes}"))?);
                rig.check()?;
                rig.hub.settled().await?;
            }
        }
        figures.extend(turns.into_iter().flat_map(|(system, turns)| of(system, lanes, turns)));
    }
    rig.down().await?;
    Ok(Section {
        name: "faces",
        title: "The same call over WebSocket, HTTP and MCP",
        how: "A query of the same spoke, one call at a time on each connection, which stays open. Over HTTP \
              `POST /api/operations/{id}`; over MCP the tool `call` of revision 2026-07-28, `POST /mcp` without a \
              session.",
        bound: "Wake-ups where there is one connection, else processor time. HTTP adds the parsing of heads and a look \
                at the key for each call; MCP adds JSON-RPC, its own checks, and an answer that holds the data twice, as \
                structure and as text.",
        figures,
        missing: Vec::new(),
    })
}

async fn one(bench: &Bench<'_>, rig: &Rig, system: &str, lanes: u16) -> Result<Turn> {
    let (address, key) = (rig.hub.server.address, rig.key.as_str());
    let mut sockets = Vec::new();
    for _ in 0..if system == SOCKET { lanes } else { 0 } {
        sockets.push(socket::connect(address, key).await?);
    }
    let window = Window::open(bench.options.window());
    let mut set = JoinSet::new();
    for (lane, socket) in (0..).zip(sockets) {
        set.spawn(socket::call(socket, lane, 1, OPERATION.to_owned(), window));
    }
    let request = match system {
        "HTTP" => Some(http::operation(OPERATION, key)),
        "MCP" => Some(http::tool(OPERATION, key)),
        _ => None,
    };
    for request in request.into_iter().cycle().take(lanes.into()) {
        set.spawn(http::call(address, request, window));
    }
    turn(set, window, &[rig.hub.server.pid]).await
}

fn of(system: &'static str, lanes: u16, mut turns: Vec<Turn>) -> Vec<Figure> {
    let cpu = Some(median(&turns.iter().map(Turn::cpu_micros).collect::<Vec<_>>()));
    if lanes > 1 {
        let runs = turns.iter().map(|turn| turn.tally.per_second()).collect();
        return vec![Figure {
            runs,
            cpu,
            ..Figure::new(format!("{lanes} connections"), system, "calls/s", Better::More)
        }];
    }
    let mut at = |part: f64, case: &str| {
        let runs = turns.iter_mut().map(|turn| turn.tally.micros(part)).collect();
        Figure { runs, cpu, ..Figure::new(case, system, "µs", Better::Less) }
    };
    vec![at(0.5, "one at a time, p50"), at(0.99, "one at a time, p99")]
}
