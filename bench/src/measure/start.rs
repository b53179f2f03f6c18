//! Cold start, and restart over many call records.

use anyhow::Result;
use hub_protocol::HubId;
use hub_storage::{SqliteOptions, Store};

use super::Bench;
use super::recorder::fill;
use crate::process::Hub;
use crate::report::{Better, Figure, Section};

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let records = bench.options.size(50_000, 1_000_000);
    let mut cold = Figure::new("cold start", "empty folder", "ms", Better::Less);
    for _ in 0..bench.options.turns {
        let hub = Hub::start(&bench.hub).await?;
        cold.runs.push(millis(&hub));
        hub.kill().await?;
    }
    let case = format!("restart, {records} call records");
    let mut after_stop = Figure::new(case.clone(), "after it was stopped", "ms", Better::Less);
    let mut after_kill = Figure::new(case, "after it was killed", "ms", Better::Less);
    let mut folder = Hub::start(&bench.hub).await?.stop().await?;
    let store = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await?;
    fill(&store, records, HubId::new()).await?;
    store.close().await;
    for _ in 0..bench.options.turns {
        let hub = Hub::start_in(&bench.hub, folder).await?;
        after_stop.runs.push(millis(&hub));
        let hub = Hub::start_in(&bench.hub, hub.kill().await?).await?;
        after_kill.runs.push(millis(&hub));
        folder = hub.stop().await?;
    }
    Ok(Section {
        name: "start",
        title: "Start",
        how: "From the start of the process to its first answer that it is ready (`GET /readyz`). The records are ended \
              calls with two events each.",
        bound: "A cold start is bound by the migrations and the first key's commit; a restart reads the definitions and, \
                by an index, the calls that were left open, so the number of records hardly counts.",
        figures: vec![cold, after_stop, after_kill],
        missing: Vec::new(),
    })
}

fn millis(hub: &Hub) -> f64 {
    hub.ready_after.as_secs_f64() * 1000.0
}
