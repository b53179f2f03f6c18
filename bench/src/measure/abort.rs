//! How long an abort takes to reach a whole call tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use hub_protocol::OperationType;
use hub_spoke::{AbortMode, Client, Context, Json, Reply, RunningSpoke, Spoke};

use super::Bench;
use crate::client::callee::spec;
use crate::process::Hub;
use crate::report::{Better, Figure, Section};

/// Longest wait for a tree to stand, and for its abort.
const PATIENCE: Duration = Duration::from_secs(20);

/// A tree: each call makes `width` calls below it, down to `depth`.
const TREES: [(u64, u32); 4] = [(10, 1), (100, 1), (1_000, 1), (1, 30)];

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let hub = Hub::start(&bench.hub).await?;
    let running = Arc::new(AtomicUsize::new(0));
    let spoke = grower(&hub, &running).await?;
    let client = Client::connect(&hub.url(), &hub.admin_key).await?;
    let mut figures = Vec::new();
    for (width, depth) in TREES {
        let case =
            if depth == 1 { format!("{width} calls below one") } else { format!("a chain of {depth} calls below one") };
        let mut told = Figure::new(case.clone(), "until all are told", "ms", Better::Less);
        let mut confirmed = Figure::new(case, "until all have confirmed", "ms", Better::Less);
        for _ in 0..bench.options.turns {
            told.runs.push(abort(&client, &running, width, depth, AbortMode::KillNowait).await?);
            confirmed.runs.push(abort(&client, &running, width, depth, AbortMode::Kill).await?);
        }
        figures.extend([told, confirmed]);
    }
    drop(client);
    spoke.stop().await?;
    hub.kill().await?;
    Ok(Section {
        name: "abort",
        title: "Abort of a call tree",
        how: "Every call of the tree runs in a handler on a spoke that waits to be aborted. From the caller's abort to \
              the answer with one receipt per call: `kill_nowait` answers when all callees are told, `kill` when all \
              have confirmed.",
        bound: "Processor time: a message to the callee and one back per call, and a record of its end.",
        figures,
        missing: Vec::new(),
    })
}

/// A spoke whose calls make calls, and wait at the leaves.
async fn grower(hub: &Hub, running: &Arc<AtomicUsize>) -> Result<RunningSpoke> {
    let running = Arc::clone(running);
    let spoke = Spoke::builder(&hub.url(), &hub.admin_key, "grower")
        .spoke_type("compute")
        .raw(spec("tree.grow", OperationType::Query), move |context, input| grow(context, input, Arc::clone(&running)))
        .build()?;
    Ok(spoke.start().await?)
}

async fn grow(context: Context, input: Json, running: Arc<AtomicUsize>) -> Result<Reply, hub_spoke::CallError> {
    running.fetch_add(1, Ordering::SeqCst);
    let _gone = Gone(running);
    // `n` holds both: width times 100 and the depth that is left.
    let n = input.parse::<serde_json::Value>().ok().and_then(|v| v["n"].as_u64()).unwrap_or(0);
    let (width, depth) = (n / 100, n % 100);
    if depth == 0 {
        context.aborted().cancelled().await;
    } else {
        let input = serde_json::json!({ "n": n - 1 });
        join_all((0..width).map(|_| context.request("tree.grow").input(input.clone()).call())).await;
    }
    Ok(Reply::Value(serde_json::json!({ "n": 0 }).into()))
}

/// Counts a handler out, however it ends.
struct Gone(Arc<AtomicUsize>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Milliseconds from the abort to its receipts.
async fn abort(client: &Client, running: &AtomicUsize, width: u64, depth: u32, mode: AbortMode) -> Result<f64> {
    let calls = usize::try_from(width)? * usize::try_from(depth)? + 1;
    let input = serde_json::json!({ "n": width * 100 + u64::from(depth) });
    let call = client.request("tree.grow").input(input).start().await?;
    until(running, calls).await.context("the tree did not stand in time")?;
    let started = Instant::now();
    let receipts = call.abort(Some("measured".to_owned()), mode, PATIENCE).await;
    let took = started.elapsed().as_secs_f64() * 1000.0;
    anyhow::ensure!(receipts.len() >= calls - 1, "{} receipts of {calls} calls", receipts.len());
    until(running, 0).await.context("a handler outlived its abort")?;
    Ok(took)
}

async fn until(running: &AtomicUsize, wanted: usize) -> Result<()> {
    let wait = async {
        while running.load(Ordering::SeqCst) != wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    Ok(tokio::time::timeout(PATIENCE, wait).await?)
}
