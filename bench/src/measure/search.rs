//! How long a search takes among ten thousand operations.

use std::time::Instant;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use hub_protocol::ops::Operation;
use hub_protocol::ops::hub::{SearchOperations, WhoAmI};
use hub_protocol::ops::keys::CreateKey;
use hub_spoke::Client;
use hub_testkit::corpus::{OPERATIONS, QUERIES, SCOPE, operations};
use tokio::task::JoinSet;
use tokio_tungstenite::tungstenite::Message;

use super::Bench;
use super::rig::{Turn, turn};
use crate::client::{callee, frame, socket};
use crate::process::Hub;
use crate::report::{Aim, Better, Figure, Section};
use crate::stats::{Tally, Window, median};

/// Operations of one spoke.
const AT_ONCE: usize = 1_000;

/// Most microseconds at the 99th percentile.
const AIM: f64 = 2_000.0;

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let hub = Hub::start(&bench.hub).await?;
    let mut spokes = Vec::new();
    for (number, operations) in operations().chunks(AT_ONCE).enumerate() {
        let mut socket = socket::connect(hub.server.address, &hub.admin_key).await?;
        callee::register(&mut socket, &format!("corpus-{number}"), operations.to_vec()).await?;
        spokes.push(socket);
    }
    let admin = Client::connect(&hub.url(), &hub.admin_key).await?;
    let key = async |name: &str, scopes: Vec<String>| -> Result<String> {
        let params = CreateKey { name: name.into(), scopes, ..CreateKey::default() };
        Ok(admin.call(&params).await?.secret)
    };
    let (all, none) = (key("all", vec![SCOPE.to_owned()]).await?, key("none", Vec::new()).await?);
    let inputs = |query: &str| {
        serde_json::to_string(&SearchOperations { query: query.into(), namespace: None, limit: None })
            .map_err(Into::into)
    };
    let searches = QUERIES.iter().map(|(query, _)| inputs(query)).collect::<Result<Vec<_>>>()?;
    let systems = [
        ("hub.search", &all, SearchOperations::ID, searches.clone()),
        ("hub.search, caller sees none of them", &none, SearchOperations::ID, searches),
        ("hub.whoami: the way there and back", &all, WhoAmI::ID, vec!["{}".to_owned()]),
    ];
    let mut turns = systems.each_ref().map(|_| Vec::<Turn>::new());
    for _ in 0..bench.options.turns {
        for ((_, key, operation, inputs), done) in systems.iter().zip(&mut turns) {
            let socket = socket::connect(hub.server.address, key).await?;
            let window = Window::open(bench.options.window());
            let mut set = JoinSet::new();
            set.spawn(ask(socket, operation, inputs.clone(), window));
            done.push(turn(set, window, &[hub.server.pid]).await?);
        }
    }
    drop(spokes);
    hub.kill().await?;
    let figures = systems.iter().zip(turns).flat_map(|((name, ..), turns)| of(name, turns)).collect();
    Ok(Section {
        name: "search",
        title: "Search",
        how: "The fixed set of 50 queries over WebSocket, one after the other, among 10,000 operations that ten spokes \
              offer; ten results each. A test holds what they must find.",
        bound: "Processor time: going through all places of the query's words and of those that begin with them or \
                mean the same, and writing ten results.",
        figures,
        missing: Vec::new(),
    })
}

/// Calls one after the other, with the inputs in turns.
async fn ask(
    mut socket: socket::Socket,
    operation: &'static str,
    inputs: Vec<String>,
    window: Window,
) -> Result<Tally> {
    let mut tally = Tally::new(window);
    for (round, input) in (0..).zip(inputs.iter().cycle()) {
        let sent = Instant::now();
        if window.is_over(sent) {
            break;
        }
        socket.send(Message::text(frame::request_with(0, 0, round, operation, input))).await?;
        let answer = loop {
            let message =
                tokio::time::timeout(crate::client::STUCK, socket.next()).await.context("no answer in time")?;
            let message = message.context("the connection was closed")??;
            if socket::text_of(&message)?.is_some() {
                break message;
            }
        };
        tally.note(sent, Instant::now());
        frame::slot_of_response(answer.to_text()?)?;
    }
    Ok(tally)
}

fn of(system: &'static str, mut turns: Vec<Turn>) -> Vec<Figure> {
    let cpu = Some(median(&turns.iter().map(Turn::cpu_micros).collect::<Vec<_>>()));
    let searches = system.starts_with(SearchOperations::ID);
    let mut at = |part: f64, name: &str, most: Option<f64>| {
        let runs = turns.iter_mut().map(|turn| turn.tally.micros(part)).collect();
        let aim = Aim { most, ..Aim::default() };
        Figure {
            runs, cpu, aim, ..Figure::new(format!("{OPERATIONS} operations, {name}"), system, "µs", Better::Less)
        }
    };
    vec![at(0.5, "p50", None), at(0.99, "p99", searches.then_some(AIM))]
}
