//! Two hubs over one Postgres and one Redis, one hub over a file, and two NATS servers, each with one callee.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;

use super::Bench;
use super::rig::{caller_key, serve};
use crate::client::{nats, socket};
use crate::process::{self, Hub, Server};
use crate::shared::Shared;
use crate::stats::Window;

/// How long a hub may take to know what is called at another.
const KNOWN: Duration = Duration::from_secs(20);

/// Everything that is called.
pub(crate) struct Pair {
    pub(crate) shared: Shared,
    /// Has callers alone.
    pub(crate) near: Hub,
    /// Has the callee, and callers.
    pub(crate) far: Hub,
    /// A hub by itself, on SQLite.
    pub(crate) file: Hub,
    /// The callee is at the second.
    pub(crate) nats: Option<[Server; 2]>,
    /// A caller's key at `near` and `far`.
    pub(crate) key: String,
    /// A caller's key at `file`.
    pub(crate) file_key: String,
    callees: JoinSet<Result<()>>,
}

impl Pair {
    pub(crate) async fn build(bench: &Bench<'_>, shared: Shared) -> Result<Self> {
        let far = shared.hub(&bench.hub, None).await?;
        let near = shared.hub(&bench.hub, Some(&far.admin_key)).await?;
        let file = Hub::start(&bench.hub).await?;
        let nats = process::start_nats_pair().await?;
        let (key, file_key) = (caller_key(&far).await?, caller_key(&file).await?);
        let mut callees = JoinSet::new();
        serve(&far, &mut callees).await?;
        serve(&file, &mut callees).await?;
        until_reached(near.server.address, &key).await?;
        if let Some([first, second]) = &nats {
            callees.spawn(nats::serve(second.address));
            nats::until_reached(first.address).await?;
        }
        Ok(Self { shared, near, far, file, nats, key, file_key, callees })
    }

    /// Fails if a callee has ended, since every figure after that would be of nothing.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.callees.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and_then(|()| anyhow::bail!("a callee ended")),
        }
    }

    /// Waits until every record is written.
    pub(crate) async fn settled(&self) -> Result<()> {
        for hub in [&self.near, &self.far, &self.file] {
            hub.settled().await?;
        }
        Ok(())
    }

    pub(crate) async fn down(mut self) -> Result<()> {
        self.check()?;
        self.callees.abort_all();
        for hub in [self.near, self.far, self.file] {
            hub.kill().await?;
        }
        for server in self.nats.into_iter().flatten() {
            server.kill().await?;
        }
        self.shared.down().await
    }
}

/// Waits until a call at this hub is answered.
async fn until_reached(address: SocketAddr, key: &str) -> Result<()> {
    let until = Instant::now() + KNOWN;
    loop {
        let once = async {
            let socket = socket::connect(address, key).await?;
            socket::call(socket, 0, 1, "bench.look".to_owned(), Window::open((Duration::ZERO, Duration::ZERO))).await
        };
        match once.await {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > until => return Err(error).context("the other hub's callee is not reached"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
