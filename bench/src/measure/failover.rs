//! How long a spoke can't be called when its hub dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hub_spoke::Client;
use tokio::task::JoinSet;

use super::Bench;
use crate::balancer::Balancer;
use crate::client::{frame, sdk};
use crate::report::{Better, Figure, Section};
use crate::shared::Shared;

/// Between two calls that look whether the spoke answers.
const EVERY: Duration = Duration::from_millis(20);

/// Longest wait for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long both hubs run undisturbed before one dies.
const REST: Duration = Duration::from_secs(2);

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let shared = match Shared::start().await {
        Ok(shared) => shared,
        Err(error) => return Ok(section(Vec::new(), vec![format!("{error:#}")])),
    };
    let mut home = shared.hub(&bench.hub, None).await?;
    let key = home.admin_key.clone();
    let mut other = shared.hub(&bench.hub, Some(&key)).await?;
    // At first there is one place to go to, so that it is known where the spoke is.
    let balancer = Balancer::start(&[home.server.address]).await?;
    let spoke = sdk::spoke(&balancer.url(), &key).await?;
    let mut back = Figure::new("hub killed", "until the spoke answers again", "ms", Better::Less);
    for _ in 0..bench.options.size(3, 5) {
        balancer.set(&[home.server.address, other.server.address]);
        let client = Client::connect(&other.url(), &key).await?;
        first_answer(&client).await.context("before the hub's death")?;
        tokio::time::sleep(REST).await;
        let died = Instant::now();
        home.kill().await?;
        first_answer(&client).await.context("after the hub's death")?;
        back.runs.push(died.elapsed().as_secs_f64() * 1000.0);
        // The spoke is where the caller is; a new hub takes the other's place.
        home = other;
        other = shared.hub(&bench.hub, Some(&key)).await?;
    }
    spoke.stop().await?;
    home.kill().await?;
    other.kill().await?;
    shared.down().await?;
    Ok(section(vec![back], Vec::new()))
}

fn section(figures: Vec<Figure>, missing: Vec<String>) -> Section {
    Section {
        name: "failover",
        title: "Death of a hub",
        how: "Two hubs as above. A spoke, built on the SDK, is connected to one of them through a proxy that hands its \
              connections round; the caller is connected to the other. The spoke's hub is killed (SIGKILL). Time from \
              then to the first answer that the caller gets from the spoke, with a new call every 20 ms. The worst is \
              the right end of *min-max*.",
        bound: BOUND,
        figures,
        missing,
    }
}

const BOUND: &str = "The lease: a hub renews its 2 s in the store every 400 ms, so 1.6 to 2.0 s of it are left when \
    the hub dies, and whoever takes over a spoke's name waits for its end, since nobody can tell a dead hub from one \
    that is cut off. The spoke itself is connected again within its first backoff of at most 100 ms.";

/// Starts calls until one is answered.
async fn first_answer(client: &Client) -> Result<()> {
    let input: hub_spoke::Json = serde_json::from_str::<serde_json::Value>(frame::INPUT)?.into();
    let mut calls = JoinSet::new();
    let mut ticks = tokio::time::interval(EVERY);
    let until = Instant::now() + PATIENCE;
    loop {
        tokio::select! {
            _ = ticks.tick() => {
                let request = client.request("sdk.look").input(input.clone()).deadline(PATIENCE);
                calls.spawn(request.call());
            }
            Some(answer) = calls.join_next() => match answer? {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > until => return Err(error.into()),
                Err(_) => {}
            },
        }
    }
}
