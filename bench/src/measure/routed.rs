//! Calls from spoke A through the hub to spoke B and back.

use anyhow::{Context, Result};
use hub_spoke::Client;
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{Rig, Turn, share, turn};
use crate::client::{nats, sdk, socket};
use crate::report::{Aim, Better, Figure, NATS, RELAY, Section};
use crate::stats::{Window, median};

/// How many calls are in flight, over how many connections.
#[derive(Debug, Clone, Copy)]
struct Shape {
    in_flight: usize,
    lanes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    Relay,
    Query,
    Mutation,
    Sdk,
    Nats,
}

const SYSTEMS: [System; 5] = [System::Relay, System::Query, System::Mutation, System::Sdk, System::Nats];

impl System {
    const fn name(self) -> &'static str {
        match self {
            Self::Relay => RELAY,
            Self::Query => "hub, query",
            Self::Mutation => "hub, mutation",
            Self::Sdk => "hub, query by SDK",
            Self::Nats => NATS,
        }
    }
}

/// Most times slower than the relay, and than NATS at 64 in flight.
const AIM: (f64, f64) = (2.0, 1.0);

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let mut rig = Rig::build(bench).await?;
    let mut figures = Vec::new();
    for shape in shapes(bench) {
        figures.extend(measure(bench, &mut rig, shape).await?);
    }
    let missing =
        if rig.nats.is_none() { vec!["nats-server is not installed: no comparison with it".into()] } else { vec![] };
    rig.down().await?;
    Ok(Section {
        name: "routed",
        title: "Routed calls: spoke A → hub → spoke B → hub → spoke A",
        how: "Calls in flight are spread over the callers' connections; there is one callee. The callers' key holds one \
              scope that the operation asks for, input and output are checked against a schema, every call is recorded.",
        bound: BOUND,
        figures,
        missing,
    })
}

const BOUND: &str = "Processor time, of which clients and server share what the machine has; the column `server` shows \
    the server's part. The relay's part is socket reads and writes, and wake-ups. Where the hub's part goes was \
    sampled at 64 queries in flight over 8 connections: about a third is the store's writer thread (one row and two \
    events a call), a fifth the memory allocator (records are made on one thread and freed on another, so that threads \
    wait for each other), a tenth socket writes, and the rest is the call itself, spread thin: parsing and writing four \
    messages, schema checks, the call's node in the tree, its timers and signals. With 1,024 in flight the recorder's \
    queue fills, and calls wait for it, by design. One call at a time is bound by wake-ups from task to task and \
    process to process. A mutation's answer waits until its record is on disk, by design: one call at a time takes what `fsync` \
    takes, many share a commit.";

fn shapes(bench: &Bench<'_>) -> Vec<Shape> {
    let all = [(1, 1), (64, 1), (64, 8), (64, 50), (1024, 1), (1024, 8), (1024, 50)];
    let quick = [(1, 1), (64, 1), (64, 50), (1024, 8)];
    let chosen = bench.options.size(&quick[..], &all[..]);
    chosen.iter().map(|&(in_flight, lanes)| Shape { in_flight, lanes }).collect()
}

async fn measure(bench: &Bench<'_>, rig: &mut Rig, shape: Shape) -> Result<Vec<Figure>> {
    let mut turns: Vec<(System, Vec<Turn>)> = SYSTEMS.map(|system| (system, Vec::new())).into();
    turns.retain(|(system, _)| *system != System::Nats || rig.nats.is_some());
    for _ in 0..bench.options.turns {
        for (system, done) in &mut turns {
            let turn =
                one(bench, rig, *system, shape).await.with_context(|| format!("{} at {shape:?}", system.name()))?;
            done.push(turn);
            rig.check()?;
            rig.hub.settled().await?;
        }
    }
    Ok(turns.into_iter().flat_map(|(system, turns)| figures(system, shape, turns)).collect())
}

async fn one(bench: &Bench<'_>, rig: &Rig, system: System, shape: Shape) -> Result<Turn> {
    let mut ready = Vec::new();
    for lane in 0..shape.lanes {
        ready.push(Lane::connect(rig, system, u16::try_from(lane)?).await?);
    }
    let window = Window::open(bench.options.window());
    let mut lanes = JoinSet::new();
    for (number, lane) in ready.into_iter().enumerate() {
        let in_flight = share(shape.in_flight, shape.lanes, number);
        let number = u16::try_from(number)?;
        match lane {
            Lane::Socket(socket, operation) => {
                lanes.spawn(socket::call(*socket, number, in_flight, operation.to_owned(), window))
            }
            Lane::Sdk(client) => lanes.spawn(sdk::call(client, in_flight, window)),
            Lane::Nats(connection) => lanes.spawn(nats::call(connection, number, in_flight, window)),
        };
    }
    turn(lanes, window, &[pid_of(rig, system)]).await
}

enum Lane {
    Socket(Box<socket::Socket>, &'static str),
    Sdk(Client),
    Nats(nats::Connection),
}

impl Lane {
    async fn connect(rig: &Rig, system: System, number: u16) -> Result<Self> {
        let hub = rig.hub.server.address;
        Ok(match system {
            System::Relay => Self::Socket(Box::new(socket::connect(rig.relay.address, "").await?), "bench.look"),
            System::Query => Self::Socket(Box::new(socket::connect(hub, &rig.key).await?), "bench.look"),
            System::Mutation => Self::Socket(Box::new(socket::connect(hub, &rig.key).await?), "bench.change"),
            System::Sdk => Self::Sdk(Client::connect(&rig.hub.url(), &rig.key).await?),
            System::Nats => {
                let server = rig.nats.as_ref().context("no nats-server")?;
                Self::Nats(nats::Connection::open(server.address, &nats::inbox_of(number)).await?)
            }
        })
    }
}

fn pid_of(rig: &Rig, system: System) -> u32 {
    match system {
        System::Relay => rig.relay.pid,
        System::Nats => rig.nats.as_ref().map_or(0, |n| n.pid),
        System::Query | System::Mutation | System::Sdk => rig.hub.server.pid,
    }
}

fn figures(system: System, shape: Shape, mut turns: Vec<Turn>) -> Vec<Figure> {
    let Shape { in_flight, lanes } = shape;
    let cpu = median(&turns.iter().map(Turn::cpu_micros).collect::<Vec<_>>());
    // Only what the issue aims at: a query through clients that cost the same on both sides.
    let aimed = system == System::Query;
    let nats = (aimed && in_flight == 64).then_some(AIM.1);
    let aim = Aim { relay: aimed.then_some(AIM.0), nats, ..Aim::default() };
    if in_flight > 1 {
        let case =
            format!("{in_flight} in flight over {lanes} {}", if lanes == 1 { "connection" } else { "connections" });
        let runs = turns.iter().map(|t| t.tally.per_second()).collect();
        return vec![Figure { runs, cpu: Some(cpu), aim, ..Figure::new(case, system.name(), "calls/s", Better::More) }];
    }
    let mut at = |part: f64, name: &str| {
        let runs = turns.iter_mut().map(|t| t.tally.micros(part)).collect();
        Figure {
            runs,
            cpu: Some(cpu),
            ..Figure::new(format!("one at a time, {name}"), system.name(), "µs", Better::Less)
        }
    };
    let (p50, p99) = (at(0.5, "p50"), at(0.99, "p99"));
    vec![Figure { aim, ..p50 }, p99]
}
