//! The same calls on one hub and across two, beside NATS on one node and across two.

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::Bench;
use super::pair::Pair;
use super::rig::{Turn, share, turn};
use crate::client::{nats, socket};
use crate::report::{Better, Figure, NATS_PAIR, ONE_HUB, Section};
use crate::shared::Shared;
use crate::stats::{Window, median};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum System {
    File,
    One,
    Two,
    NatsOne,
    NatsTwo,
}

const SYSTEMS: [System; 5] = [System::File, System::One, System::Two, System::NatsOne, System::NatsTwo];

/// Those that have streams.
const HUBS: [System; 3] = [System::File, System::One, System::Two];

const TWO_HUBS: &str = "two hubs";

impl System {
    const fn name(self) -> &'static str {
        match self {
            Self::File => "one hub on SQLite",
            Self::One => ONE_HUB,
            Self::Two => TWO_HUBS,
            Self::NatsOne => "nats-server, one node",
            Self::NatsTwo => NATS_PAIR,
        }
    }

    const fn is_nats(self) -> bool {
        matches!(self, Self::NatsOne | Self::NatsTwo)
    }

    /// Its processes in the order of [`pids`](Self::pids), for the rows that tell where the time goes.
    const fn parts(self) -> &'static [&'static str] {
        match self {
            Self::One => &["one hub: the hub", "one hub: Redis", "one hub: Postgres"],
            Self::Two => &["two hubs: the caller's", "two hubs: the callee's", "two hubs: Redis", "two hubs: Postgres"],
            Self::File | Self::NatsOne | Self::NatsTwo => &[],
        }
    }

    fn pids(self, pair: &Pair) -> Result<Vec<u32>> {
        let nats = || pair.nats.as_ref().context("no nats-server");
        let shared = pair.shared.pids()?;
        Ok(match self {
            Self::File => vec![pair.file.server.pid],
            Self::One => [&[pair.far.server.pid][..], &shared].concat(),
            Self::Two => [&[pair.near.server.pid, pair.far.server.pid][..], &shared].concat(),
            Self::NatsOne => vec![nats()?[1].pid],
            Self::NatsTwo => nats()?.iter().map(|server| server.pid).collect(),
        })
    }
}

/// What runs in a turn.
#[derive(Debug, Clone, Copy)]
enum Load {
    /// So many in flight over so many connections.
    Calls(usize, usize),
    Streams(usize),
}

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let shared = match Shared::start().await {
        Ok(shared) => shared,
        Err(error) => return Ok(section(Vec::new(), vec![format!("{error:#}")])),
    };
    let mut pair = Pair::build(bench, shared).await?;
    let mut systems = SYSTEMS.to_vec();
    let mut missing = Vec::new();
    if pair.nats.is_none() {
        systems.retain(|system| !system.is_nats());
        missing.push("nats-server is not installed: no comparison with it".into());
    }
    let mut figures = latencies(&mut turns(bench, &mut pair, &systems, Load::Calls(1, 1)).await?);
    for lanes in [1, 8] {
        let turns = turns(bench, &mut pair, &systems, Load::Calls(64, lanes)).await?;
        let case = format!("64 in flight over {lanes} connection{}", if lanes == 1 { "" } else { "s" });
        figures.extend(turns.iter().map(|(system, turns)| rate(*system, &case, "calls/s", turns)));
        if lanes > 1 {
            figures.extend(parts(&format!("{case}, whose time"), &turns));
        }
    }
    for streams in bench.options.size(&[8usize][..], &[1, 8]) {
        let turns = turns(bench, &mut pair, &HUBS, Load::Streams(*streams)).await?;
        let case = if *streams == 1 { "1 stream".to_owned() } else { format!("{streams} streams, a connection each") };
        figures.extend(turns.iter().map(|(system, turns)| rate(*system, &case, "items/s", turns)));
    }
    pair.down().await?;
    Ok(section(figures, missing))
}

fn section(figures: Vec<Figure>, missing: Vec<String>) -> Section {
    Section {
        name: "cluster",
        title: "Calls across hubs: spoke A → hub 1 → hub 2 → spoke B and back",
        how: "Two hubs share a Postgres that waits for its disk (all settings its own) and a Redis. The callee is \
              connected to hub 2. *one hub*: so is the caller. *two hubs*: the caller is connected to hub 1. *one hub \
              on SQLite*: another hub, by itself. nats-server likewise: the responder at node 2, the requester at \
              node 2 (*one node*) or at node 1 (*two nodes*). *x one hub* is what crossing costs, *x NATS* compares \
              with two nodes. *server µs* is of all servers together, Redis and Postgres with all its processes \
              included; *whose time* splits it. *added by crossing* is the difference of each turn.",
        bound: BOUND,
        figures,
        missing,
    }
}

const BOUND: &str = "One call at a time: wake-ups. A message goes from hub to Redis to hub, where a NATS node writes \
    to the other one; the processor time of all servers is 3.5 times that of one hub. What makes the p99 of two hubs \
    was not looked into; other work on the machine has a part. 64 in flight: processor time. Crossing adds the \
    callee's hub, an eighth in the caller's, and a few µs of Redis, which is far from its limit; recording on \
    Postgres takes as much as a hub does. How much Postgres takes per call varies (16 to 63 µs were seen with one \
    hub), so read *x one hub* at 64 in flight together with *whose time*: the hubs' own part is 1.8 times that of \
    one hub, and a short run in which Postgres took the same in both had half of the calls a second. Streams lose a \
    sixth.";

type Turns = Vec<(System, Vec<Turn>)>;

async fn turns(bench: &Bench<'_>, pair: &mut Pair, systems: &[System], load: Load) -> Result<Turns> {
    let mut turns: Turns = systems.iter().map(|system| (*system, Vec::new())).collect();
    for _ in 0..bench.options.turns {
        for (system, done) in &mut turns {
            done.push(one(bench, pair, *system, load).await.with_context(|| format!("{} at {load:?}", system.name()))?);
            pair.check()?;
            pair.settled().await?;
        }
    }
    Ok(turns)
}

async fn one(bench: &Bench<'_>, pair: &Pair, system: System, load: Load) -> Result<Turn> {
    let (in_flight, lanes) = match load {
        Load::Calls(in_flight, lanes) => (in_flight, lanes),
        Load::Streams(lanes) => (0, lanes),
    };
    let mut ready = Vec::new();
    for lane in 0..lanes {
        ready.push(Lane::connect(pair, system, u16::try_from(lane)?).await?);
    }
    let window = Window::open(bench.options.window());
    let mut set = JoinSet::new();
    for (number, lane) in ready.into_iter().enumerate() {
        let in_flight = share(in_flight, lanes, number);
        let number = u16::try_from(number)?;
        match (lane, load) {
            (Lane::Socket(socket), Load::Calls(..)) => {
                set.spawn(socket::call(*socket, number, in_flight, "bench.look".to_owned(), window))
            }
            (Lane::Socket(socket), Load::Streams(_)) => {
                set.spawn(socket::subscribe(*socket, number, "bench.count".to_owned(), window))
            }
            (Lane::Nats(connection), _) => set.spawn(nats::call(connection, number, in_flight, window)),
        };
    }
    turn(set, window, &system.pids(pair)?).await
}

enum Lane {
    Socket(Box<socket::Socket>),
    Nats(nats::Connection),
}

impl Lane {
    async fn connect(pair: &Pair, system: System, number: u16) -> Result<Self> {
        let (hub, key) = match system {
            System::File => (&pair.file, &pair.file_key),
            System::One => (&pair.far, &pair.key),
            System::Two => (&pair.near, &pair.key),
            System::NatsOne | System::NatsTwo => {
                let [first, second] = pair.nats.as_ref().context("no nats-server")?;
                let server = if system == System::NatsTwo { first } else { second };
                return Ok(Self::Nats(nats::Connection::open(server.address, &nats::inbox_of(number)).await?));
            }
        };
        Ok(Self::Socket(Box::new(socket::connect(hub.server.address, key).await?)))
    }
}

fn cpu(turns: &[Turn]) -> Option<f64> {
    Some(median(&turns.iter().map(Turn::cpu_micros).collect::<Vec<_>>()))
}

fn rate(system: System, case: &str, unit: &'static str, turns: &[Turn]) -> Figure {
    let runs = turns.iter().map(|turn| turn.tally.per_second()).collect();
    Figure { runs, cpu: cpu(turns), ..Figure::new(case, system.name(), unit, Better::More) }
}

/// One at a time, and what crossing adds to it.
fn latencies(turns: &mut Turns) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (part, name) in [(0.5, "p50"), (0.99, "p99")] {
        let of = |(system, turns): &mut (System, Vec<Turn>)| {
            let runs = turns.iter_mut().map(|turn| turn.tally.micros(part)).collect();
            let case = format!("one at a time, {name}");
            Figure { runs, cpu: cpu(turns), ..Figure::new(case, system.name(), "µs", Better::Less) }
        };
        let here: Vec<Figure> = turns.iter_mut().map(of).collect();
        let added = |one: System, two: System| {
            let find = |system: System| here.iter().find(|figure| figure.system == system.name());
            let runs = find(two)?.runs.iter().zip(&find(one)?.runs).map(|(two, one)| two - one).collect();
            let case = format!("added by crossing, {name}");
            Some(Figure { runs, ..Figure::new(case, two.name(), "µs", Better::Less) })
        };
        let added = [added(System::One, System::Two), added(System::NatsOne, System::NatsTwo)];
        figures.extend(here);
        figures.extend(added.into_iter().flatten());
    }
    figures
}

/// Processor time of each process.
fn parts(case: &str, turns: &Turns) -> Vec<Figure> {
    let of = |(system, turns): &(System, Vec<Turn>)| {
        let part = |(at, name): (usize, &&'static str)| {
            let runs = turns.iter().map(|turn| turn.cpu_micros_of(at)).collect();
            Figure { runs, ..Figure::new(case, name, "µs a call", Better::Less) }
        };
        system.parts().iter().enumerate().map(part).collect::<Vec<_>>()
    };
    turns.iter().flat_map(of).collect()
}
