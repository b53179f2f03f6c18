//! Hub, relay and NATS, each with one callee, ready to be called.

use anyhow::Result;
use hub_protocol::OperationType;
use hub_protocol::ops::keys::CreateKey;
use hub_spoke::{Client, RunningSpoke};
use tokio::task::JoinSet;

use super::Bench;
use crate::client::{callee, nats, sdk, socket};
use crate::machine::family_seconds;
use crate::process::{self, Hub, Server};
use crate::stats::{Tally, Window};

/// Everything that is called.
pub(crate) struct Rig {
    pub(crate) hub: Hub,
    pub(crate) relay: Server,
    pub(crate) nats: Option<Server>,
    /// A caller's key: it holds the one scope that the operations ask for.
    pub(crate) key: String,
    _sdk: RunningSpoke,
    callees: JoinSet<Result<()>>,
}

impl Rig {
    pub(crate) async fn build(bench: &Bench<'_>) -> Result<Self> {
        let hub = Hub::start(&bench.hub).await?;
        let relay = process::start_relay().await?;
        let nats = process::start_nats().await?;
        let key = caller_key(&hub).await?;
        let mut callees = JoinSet::new();
        serve(&hub, &mut callees).await?;
        callees.spawn(callee::serve(socket::connect(relay.address, "").await?, &["bench.count"]));
        if let Some(nats) = &nats {
            callees.spawn(nats::serve(nats.address));
        }
        let sdk = sdk::spoke(&hub.url(), &hub.admin_key).await?;
        Ok(Self { hub, relay, nats, key, _sdk: sdk, callees })
    }

    /// Fails if a callee has ended, since every figure after that would be of nothing.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.callees.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and_then(|()| anyhow::bail!("a callee ended")),
        }
    }

    pub(crate) async fn down(mut self) -> Result<()> {
        self.check()?;
        self.callees.abort_all();
        self.relay.kill().await?;
        if let Some(nats) = self.nats {
            nats.kill().await?;
        }
        self.hub.kill().await.map(drop)
    }
}

/// Connects the thin callee to a hub.
pub(crate) async fn serve(hub: &Hub, callees: &mut JoinSet<Result<()>>) -> Result<()> {
    let mut spoke = socket::connect(hub.server.address, &hub.admin_key).await?;
    let operations = vec![
        callee::spec("bench.look", OperationType::Query),
        callee::spec("bench.change", OperationType::Mutation),
        callee::spec("bench.count", OperationType::Subscription),
    ];
    callee::register(&mut spoke, "raw", operations).await?;
    callees.spawn(callee::serve(spoke, &["bench.count"]));
    Ok(())
}

/// A new key with the scope that the operations ask for.
pub(crate) async fn caller_key(hub: &Hub) -> Result<String> {
    let admin = Client::connect(&hub.url(), &hub.admin_key).await?;
    let scopes = vec![callee::SCOPE.to_owned()];
    let params = CreateKey { name: "bench".into(), scopes, ..CreateKey::default() };
    Ok(admin.call(&params).await?.secret)
}

/// What a turn came to.
pub(crate) struct Turn {
    pub(crate) tally: Tally,
    /// Processor seconds that each of the servers used within the window.
    pub(crate) cpu: Vec<f64>,
}

impl Turn {
    /// Microseconds of all servers per call or item.
    pub(crate) fn cpu_micros(&self) -> f64 {
        (0..self.cpu.len()).map(|server| self.cpu_micros_of(server)).sum()
    }

    /// Microseconds of one server per call or item.
    #[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
    pub(crate) fn cpu_micros_of(&self, server: usize) -> f64 {
        if self.tally.count == 0 { 0.0 } else { self.cpu[server] * 1e6 / self.tally.count as f64 }
    }
}

/// Runs the lanes of one turn together, and watches the servers' processor time meanwhile.
pub(crate) async fn turn(mut lanes: JoinSet<Result<Tally>>, window: Window, servers: &[u32]) -> Result<Turn> {
    let watch = async {
        tokio::time::sleep_until(window.from().into()).await;
        let before: Vec<f64> = servers.iter().map(|pid| family_seconds(*pid)).collect();
        tokio::time::sleep_until(window.to().into()).await;
        servers.iter().zip(before).map(|(pid, before)| family_seconds(*pid) - before).collect()
    };
    let gather = async {
        let mut total = Tally::new(window);
        while let Some(tally) = lanes.join_next().await {
            total.add(tally??);
        }
        Ok::<_, anyhow::Error>(total)
    };
    let (cpu, tally) = tokio::join!(watch, gather);
    Ok(Turn { tally: tally?, cpu })
}

/// Splits `total` over `lanes` as evenly as it goes.
pub(crate) fn share(total: usize, lanes: usize, lane: usize) -> usize {
    total / lanes + usize::from(lane < total % lanes)
}
