use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_operations::{Peer, Registry, Responder};
use hub_protocol::CallError;
use hub_protocol::ops::hub::{DrainSpoke, RegisterSpoke, RegisteredSpoke, SpokeHeartbeat};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use crate::builder::SpokeBuilder;
use crate::client::{Client, ClientBuilder};
use crate::reconnect::{Link, Role};
use crate::serve::{Server, Service};
use crate::{ClosedReason, Context, SpokeError};

/// A declared spoke that is not connected yet.
#[must_use = "a spoke serves nothing until it is run or started"]
pub struct Spoke {
    client: ClientBuilder,
    role: Arc<SpokeRole>,
    drain_timeout: Duration,
}

impl Spoke {
    /// Declares a spoke that connects to `url` with `key` and registers as `name`.
    pub fn builder(url: &str, key: &str, name: &str) -> SpokeBuilder {
        SpokeBuilder::new(url, key, name)
    }

    /// Serves until `stop`, then drains and closes. A hub that can't be reached is tried again and again, also at
    /// the start.
    ///
    /// # Errors
    /// When the hub ends the connection for good: key not accepted or revoked, registration refused, or another
    /// instance holding the name.
    pub async fn run(self, stop: CancellationToken) -> Result<(), SpokeError> {
        let mut running = self.launch(None)?;
        tokio::select! {
            ended = running.ended() => ended,
            () = stop.cancelled() => running.stop().await,
        }
    }

    /// Connects and registers once, then serves in the background.
    ///
    /// # Errors
    /// When the first connection or registration fails.
    pub async fn start(self) -> Result<RunningSpoke, SpokeError> {
        let (ready, first) = oneshot::channel();
        let running = self.launch(Some(ready))?;
        match first.await {
            Ok(started) => started.map(|()| running),
            Err(_) => Err(SpokeError::Closed(ClosedReason::Requested)),
        }
    }

    pub(crate) fn new(
        client: ClientBuilder,
        registration: RegisterSpoke,
        service: Arc<Service>,
        heartbeat: bool,
        drain_timeout: Duration,
    ) -> Self {
        let registered = watch::Sender::new(None);
        let role = SpokeRole { service, registration, registered, heartbeat, draining: AtomicBool::new(false) };
        Self { client, role: Arc::new(role), drain_timeout }
    }

    fn launch(self, ready: Option<oneshot::Sender<Result<(), SpokeError>>>) -> Result<RunningSpoke, SpokeError> {
        let role = self.role;
        let over = role.service.over.clone().drop_guard();
        let client = self.client.launch(Arc::new(Arc::clone(&role)), ready)?;
        Ok(RunningSpoke { client, role, drain_timeout: self.drain_timeout, _over: over })
    }
}

/// A spoke that serves in the background. Dropping it closes the connection without draining.
#[must_use = "dropping a running spoke closes its connection"]
pub struct RunningSpoke {
    client: Client,
    role: Arc<SpokeRole>,
    drain_timeout: Duration,
    /// Stops what runs apart from the connection.
    _over: DropGuard,
}

impl RunningSpoke {
    /// For calls of the spoke's own, on the same connection.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// What the hub answered to the latest registration.
    #[must_use]
    pub fn registered(&self) -> RegisteredSpoke {
        // `start` returns after the first registration; `run` does not hand this type out.
        self.role.registered.borrow().clone().unwrap_or_else(|| RegisteredSpoke {
            spoke_id: hub_protocol::SpokeId(Uuid::nil()),
            connection_id: hub_protocol::ConnectionId(Uuid::nil()),
            hub_id: hub_protocol::HubId(Uuid::nil()),
            heartbeat_ms: 0,
            operations: Vec::new(),
            superseded: false,
        })
    }

    /// Offers other operations from now on. What stays the same is not touched, and calls that run go on, also those of
    /// operations that change or go. While there is no connection, the next one registers them. Answers whether anything
    /// is declared in another way than before.
    ///
    /// # Errors
    /// What the hub answers: a changed operation needs another version. Then all is as it was.
    pub async fn offer(&self, registry: Registry<Context>) -> Result<bool, CallError> {
        let peer = || match &*self.client.shared.link.borrow() {
            Link::Up(peer) => Some(peer.clone()),
            Link::Down | Link::Closed(_) => None,
        };
        self.role.service.offering.change(peer, registry).await
    }

    /// Takes no more calls, waits for those that run up to the drain timeout, and closes.
    ///
    /// # Errors
    /// When the hub has ended the connection for good before.
    pub async fn stop(self) -> Result<(), SpokeError> {
        self.role.draining.store(true, Ordering::Release);
        let mut link = self.client.shared.link.subscribe();
        let up = match &*link.borrow_and_update() {
            Link::Up(peer) => Some(peer.clone()),
            Link::Down | Link::Closed(_) => None,
        };
        if let Some(peer) = up {
            tokio::select! {
                drained = tokio::time::timeout(self.drain_timeout, self.drain(&peer)) => if drained.is_err() {
                    tracing::warn!(running = peer.serving(), "calls still run after the drain timeout");
                },
                // Answers could no longer be delivered.
                () = peer.gone().cancelled() => {}
            }
        }
        self.client.close().await;
        outcome(self.client.closed().await)
    }

    /// Waits until the spoke is closed.
    ///
    /// # Errors
    /// When the hub ended the connection for good.
    pub async fn ended(&mut self) -> Result<(), SpokeError> {
        outcome(self.client.closed().await)
    }

    async fn drain(&self, peer: &Peer) {
        if let Err(error) = peer.ask(&DrainSpoke::default()).await {
            tracing::warn!(%error, "the hub was not told that this spoke drains");
        }
        for tasks in [&self.client.shared.served, &self.role.service.executions] {
            tasks.close();
            tasks.wait().await;
        }
    }
}

fn outcome(reason: ClosedReason) -> Result<(), SpokeError> {
    match reason {
        ClosedReason::Requested => Ok(()),
        reason => Err(SpokeError::of_closed(reason)),
    }
}

/// What a spoke does on each connection.
struct SpokeRole {
    service: Arc<Service>,
    registration: RegisterSpoke,
    registered: watch::Sender<Option<RegisteredSpoke>>,
    heartbeat: bool,
    draining: AtomicBool,
}

impl Role for Arc<SpokeRole> {
    fn responder(&self, client: Client) -> Arc<dyn Responder> {
        Arc::new(Server { service: Arc::clone(&self.service), client })
    }

    fn enter(&self, peer: Peer) -> BoxFuture<'static, Result<(), CallError>> {
        let role = Arc::clone(self);
        async move {
            let registered = role.service.offering.register(&peer, &role.registration).await?;
            tracing::info!(spoke = %role.registration.name, connection.id = %registered.connection_id, "registered");
            role.registered.send_replace(Some(registered));
            Ok(())
        }
        .boxed()
    }

    fn attend(&self, peer: Peer) -> BoxFuture<'static, ()> {
        let role = Arc::clone(self);
        async move {
            if let Err(error) = role.service.offering.settle(&peer).await {
                tracing::warn!(%error, "the hub did not take the newest operations");
            }
            let asked = role.registered.borrow().as_ref().map_or(0, |registered| registered.heartbeat_ms);
            if !role.heartbeat || asked == 0 {
                return;
            }
            // A hub that asks for more than ten a second has a fault that must not become ours.
            let pause = Duration::from_millis(asked.max(100));
            loop {
                tokio::time::sleep(pause).await;
                role.beat(&peer).await;
            }
        }
        .boxed()
    }
}

impl SpokeRole {
    async fn beat(&self, peer: &Peer) {
        #[expect(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
        let load = Some(peer.serving() as f64);
        let draining = self.draining.load(Ordering::Acquire).then_some(true);
        let beat = SpokeHeartbeat { load, agents: None, draining };
        if let Err(error) = peer.ask(&beat).await {
            tracing::debug!(%error, "the hub did not take a heartbeat");
        }
    }
}
