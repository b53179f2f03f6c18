//! Calls over HTTP, items over SSE.

use anyhow::Result;
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{Rig, Turn, turn};
use crate::client::http;
use crate::report::{Better, Figure, Section};
use crate::stats::{Window, median};

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let mut rig = Rig::build(bench).await?;
    let mut figures = Vec::new();
    for (operation, system) in [("bench.look", "hub, query"), ("bench.change", "hub, mutation")] {
        for lanes in [1usize, 8, 50] {
            let case = format!("HTTP, {lanes} connection{}", if lanes == 1 { "" } else { "s" });
            let turns = turns(bench, &mut rig, operation, lanes, false).await?;
            figures.push(figure(case, system, "calls/s", &turns));
        }
    }
    for lanes in [1usize, 8] {
        let case = format!("SSE, {lanes} stream{}", if lanes == 1 { "" } else { "s" });
        let turns = turns(bench, &mut rig, "bench.count", lanes, true).await?;
        figures.push(figure(case, "hub", "items/s", &turns));
    }
    rig.down().await?;
    Ok(Section {
        name: "http",
        title: "HTTP and SSE",
        how: "`POST /api/operations/{id}` over connections that stay open, one call at a time on each (HTTP/1.1), \
              answered by a spoke; with `Accept: text/event-stream` for SSE.",
        bound: "One call at a time per connection: few connections are bound by wake-ups, many by processor time. A \
                mutation waits for its commit.",
        figures,
        missing: Vec::new(),
    })
}

fn figure(case: String, system: &'static str, unit: &'static str, turns: &[Turn]) -> Figure {
    let runs = turns.iter().map(|t| t.tally.per_second()).collect();
    let cpu = Some(median(&turns.iter().map(Turn::cpu_micros).collect::<Vec<_>>()));
    Figure { runs, cpu, ..Figure::new(case, system, unit, Better::More) }
}

async fn turns(
    bench: &Bench<'_>,
    rig: &mut Rig,
    operation: &'static str,
    lanes: usize,
    sse: bool,
) -> Result<Vec<Turn>> {
    let mut turns = Vec::new();
    for _ in 0..bench.options.turns {
        let window = Window::open(bench.options.window());
        let mut set = JoinSet::new();
        for _ in 0..lanes {
            let (address, key) = (rig.hub.server.address, rig.key.clone());
            set.spawn(async move {
                if sse {
                    http::subscribe(address, &key, operation, window).await
                } else {
                    http::call(address, http::operation(operation, &key), window).await
                }
            });
        }
        turns.push(turn(set, window, &[rig.hub.server.pid]).await?);
        rig.check()?;
        rig.hub.settled().await?;
    }
    Ok(turns)
}
