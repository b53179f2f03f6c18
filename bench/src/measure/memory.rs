//! What an idle spoke costs the hub.

use std::time::{Duration, Instant};

use anyhow::Result;
use futures_util::StreamExt;
use hub_protocol::OperationType;
use tokio::task::JoinSet;

use super::Bench;
use crate::client::{callee, socket};
use crate::machine::resident_bytes;
use crate::process::Hub;
use crate::report::{Better, Figure, Section};

/// Spokes that connect at the same time.
const AT_ONCE: usize = 64;

/// How long memory is given to come to rest.
const REST: Duration = Duration::from_secs(1);

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let mut figures = Vec::new();
    for spokes in bench.options.size(&[1_000usize][..], &[1_000, 10_000]) {
        figures.extend(measure(bench, *spokes).await?);
    }
    Ok(Section {
        name: "memory",
        title: "Idle spokes",
        how: "Each spoke has a connection and a name of its own and registers one operation with schemas. Memory is the \
              growth of the hub's resident memory over that of the hub without spokes.",
        bound: "Buffers of the connection (8 KiB to read, and what the WebSocket library keeps), its tasks, the compiled \
                schemas of its operations. Registering is bound by commits: one per spoke.",
        figures,
        missing: Vec::new(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
async fn measure(bench: &Bench<'_>, spokes: usize) -> Result<Vec<Figure>> {
    let hub = Hub::start(&bench.hub).await?;
    let before = resident_bytes(hub.server.pid);
    let started = Instant::now();
    let mut idle = JoinSet::new();
    let mut next = 0;
    while next < spokes {
        let mut joining = JoinSet::new();
        for number in next..spokes.min(next + AT_ONCE) {
            joining.spawn(join(hub.server.address, hub.admin_key.clone(), number));
        }
        next += AT_ONCE;
        while let Some(joined) = joining.join_next().await {
            let mut socket = joined??;
            // Reading answers the hub's pings.
            idle.spawn(async move { while let Some(Ok(_)) = socket.next().await {} });
        }
    }
    let took = started.elapsed().as_secs_f64();
    hub.settled().await?;
    tokio::time::sleep(REST).await;
    let grown = resident_bytes(hub.server.pid) - before;
    anyhow::ensure!(idle.try_join_next().is_none(), "a spoke was disconnected");
    let case = format!("{spokes} spokes");
    let figure = |system, unit, better, value| Figure::once(case.clone(), system, unit, better, value);
    let figures = vec![
        figure("per spoke", "bytes", Better::Less, grown / spokes as f64),
        figure("hub without spokes", "MiB", Better::Less, before / 1024.0 / 1024.0),
        figure("registering", "spokes/s", Better::More, spokes as f64 / took),
    ];
    idle.abort_all();
    hub.kill().await?;
    Ok(figures)
}

async fn join(address: std::net::SocketAddr, key: String, number: usize) -> Result<socket::Socket> {
    let mut socket = socket::connect(address, &key).await?;
    let operation = callee::spec(&format!("idle{number}.look"), OperationType::Query);
    callee::register(&mut socket, &format!("idle-{number}"), vec![operation]).await?;
    Ok(socket)
}
