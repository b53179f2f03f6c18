//! Items of subscriptions through the hub.

use anyhow::{Context, Result};
use hub_spoke::Client;
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{Rig, Turn, turn};
use crate::client::{sdk, socket};
use crate::report::{Better, Figure, RELAY, Section};
use crate::stats::{Window, median};

const SYSTEMS: [&str; 3] = [RELAY, "hub", "hub by SDK"];

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let mut rig = Rig::build(bench).await?;
    let mut figures = Vec::new();
    for streams in [1usize, 8] {
        let mut turns: Vec<(&'static str, Vec<Turn>)> = SYSTEMS.map(|system| (system, Vec::new())).into();
        for _ in 0..bench.options.turns {
            for (system, done) in &mut turns {
                let turn = one(bench, &rig, system, streams).await.with_context(|| format!("{system}, {streams}"))?;
                done.push(turn);
                rig.check()?;
                rig.hub.settled().await?;
            }
        }
        let case = if streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams, a connection each") };
        figures.extend(turns.into_iter().map(|(system, turns)| {
            let runs = turns.iter().map(|t| t.tally.per_second()).collect();
            let cpu = Some(median(&turns.iter().map(Turn::cpu_micros).collect::<Vec<_>>()));
            Figure { runs, cpu, ..Figure::new(case.clone(), system, "items/s", Better::More) }
        }));
    }
    rig.down().await?;
    Ok(Section {
        name: "streams",
        title: "Subscriptions: spoke B → hub → spoke A",
        how: "The callee writes items as fast as they are taken. Of each stream the first 1,000 items are recorded, the \
              later ones are counted.",
        bound: "Processor time: the hub parses each item's envelope, checks the item against the output schema, keeps \
                it for `calls.attach` and writes a message of its own; the relay passes it on.",
        figures,
        missing: Vec::new(),
    })
}

async fn one(bench: &Bench<'_>, rig: &Rig, system: &str, streams: usize) -> Result<Turn> {
    let (hub, relay) = (rig.hub.server.address, rig.relay.address);
    let mut lanes = JoinSet::new();
    let window = Window::open(bench.options.window());
    for lane in 0..streams {
        let number = u16::try_from(lane)?;
        if system == SYSTEMS[2] {
            let client = Client::connect(&rig.hub.url(), &rig.key).await?;
            lanes.spawn(sdk::subscribe(client, window));
        } else {
            let (address, key) = if system == RELAY { (relay, "") } else { (hub, rig.key.as_str()) };
            let socket = socket::connect(address, key).await?;
            lanes.spawn(socket::subscribe(socket, number, "bench.count".to_owned(), window));
        }
    }
    let pid = if system == RELAY { rig.relay.pid } else { rig.hub.server.pid };
    turn(lanes, window, &[pid]).await
}
