//! Many hubs over one store and one bus (architecture §4).
//!
//! Each hub holds a lease in the store, tells the others a few times a second that it lives, and has a [`Link`] to each
//! of them. A spoke belongs to the hub that it is connected to; the others know it as a spoke whose peer is the link to
//! that hub. A call's tree lives in the hub that took its root: the spoke's hub only passes messages on.
//!
//! **Fencing.** A hub serves its spokes only while its lease is fresh ([`Cluster::is_fenced`]), and a hub that takes a
//! spoke's name over from another waits until that one has let it go or its lease has run out. So a call for a spoke can
//! never reach an old connection once a newer one is served.

mod answer;
mod ask;
mod bus;
mod lease;
mod link;
mod members;
mod relay;
mod sync;
#[cfg(test)]
mod tests;
mod wire;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hub_protocol::ops::hub::HubItem;
use hub_protocol::{CallId, ConnectionId, HubId};
use hub_pubsub::{Bus, BusDelivery, Inbox};
use hub_storage::{HubRow, Outage, Store};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::error::{CoreError, put_off};
use crate::hub::Hub;
use link::Link;
use members::Members;
use wire::{Beat, Hint, Kind, Message};

pub(crate) use ask::{FromSpoke, to_serve};
pub use bus::BusState;
pub(crate) use lease::{fenced, recover};
pub(crate) use relay::NOT_HERE;

/// How often a hub says that it lives, and renews what needs renewing.
const BEAT: Duration = Duration::from_millis(400);

/// A hub that was silent for so long is taken for lost. With the beat's own interval this stays below 2 s.
const SILENCE: Duration = Duration::from_millis(1_500);

/// Most that is left of the lease of a hub when its silence has been noticed: it has renewed none since its last beat.
const LEASE_OF_LOST: Duration = lease::TTL.saturating_sub(SILENCE.saturating_sub(BEAT));

/// How long a hub that goes down gives the bus to take its last answers.
const ANSWERING: Duration = Duration::from_secs(1);

/// How a hub takes part in a cluster.
#[derive(Debug, Clone)]
pub struct ClusterOptions {
    /// Carries what hubs say to each other.
    pub bus: Bus,
    /// Where people and spokes reach this hub, for lists.
    pub address: String,
}

/// This hub's part in the cluster. Clones share it.
#[derive(Clone)]
pub(crate) struct Cluster {
    inner: Arc<Inner>,
}

struct Inner {
    me: HubId,
    options: ClusterOptions,
    members: Mutex<Members>,
    links: Mutex<HashMap<HubId, Arc<Link>>>,
    /// Calls of other hubs that run on this hub's spokes.
    relays: papaya::HashMap<CallId, Relayed>,
    lease: lease::Lease,
    /// The lease must not run out because all connections of the hub to its store are busy.
    store: Store,
    /// The directory may be out of date.
    stale: Notify,
    /// Of the bus.
    outage: Outage,
    /// Whether the bus has ever worked.
    reached: AtomicBool,
}

/// A call of another hub that a spoke of this one serves.
#[derive(Debug, Clone)]
pub(crate) struct Relayed {
    connection: ConnectionId,
    home: HubId,
    /// Ends it, if it is a stream: those have no end to wait for.
    stop: Option<CancellationToken>,
}

impl Cluster {
    /// Listens to the bus, then takes the lease.
    ///
    /// # Errors
    /// When the store fails.
    pub(crate) async fn join(me: HubId, options: ClusterOptions, hub: &Hub) -> Result<(Self, Inbox), crate::CoreError> {
        let inbox = options.bus.listen(&me.to_string()).await?;
        let inner = Inner {
            me,
            options,
            members: Mutex::default(),
            links: Mutex::default(),
            relays: papaya::HashMap::new(),
            lease: lease::Lease::default(),
            store: hub.store().apart().await?,
            stale: Notify::new(),
            outage: Outage::of("redis").telling(),
            reached: AtomicBool::new(false),
        };
        let cluster = Self { inner: Arc::new(inner) };
        cluster.renew(hub).await?;
        Ok((cluster, inbox))
    }

    /// Starts the tasks of the cluster.
    pub(crate) fn run(&self, hub: &Hub, inbox: Inbox) {
        hub.tasks().spawn("cluster inbox", self.clone().read(hub.clone(), inbox));
        hub.tasks().spawn("cluster beat", self.clone().beat(hub.clone()));
        hub.tasks().spawn("cluster lease", self.clone().keep_lease(hub.clone()));
        hub.tasks().spawn("cluster recovery", self.clone().keep_recovering(hub.clone()));
        hub.tasks().spawn("cluster directory", self.clone().keep_directory(hub.clone()));
    }

    /// The link to a hub, if it is up.
    pub(crate) fn link(&self, hub: HubId) -> Option<Arc<Link>> {
        self.links().get(&hub).filter(|link| link.is_up()).cloned()
    }

    /// Calls of other hubs that run here.
    pub(crate) fn relaying(&self) -> usize {
        self.inner.relays.pin().len()
    }

    /// Ends the streams of other hubs that run here: this hub goes down.
    pub(crate) fn stop_streams(&self) {
        self.inner.relays.pin().values().filter_map(|r| r.stop.as_ref()).for_each(CancellationToken::cancel);
    }

    /// The hubs that live, this one first.
    pub(crate) fn hubs(&self, hub: &Hub) -> Vec<HubItem> {
        let beat = self.own_beat(hub, false);
        let mine = members::item(self.inner.me, &beat, None, true);
        let members = self.members();
        let others = members.living().map(|(id, member)| {
            members::item(id, &member.beat, Some(member.heard_at.elapsed()), self.link(id).is_some())
        });
        std::iter::once(mine).chain(others).collect()
    }

    /// As [`Cluster::hubs`], and those that are not heard, as the bus is away here or there, but renew their lease.
    pub(crate) async fn hubs_to_show(&self, hub: &Hub) -> Result<Vec<HubItem>, CoreError> {
        let mut hubs = self.hubs(hub);
        // While nobody is heard, silence says nothing against anybody.
        let least = if self.bus() == BusState::Up { LEASE_OF_LOST } else { Duration::ZERO };
        let lives = |row: &HubRow| Duration::from_millis(row.remaining_ms) > least;
        let leases = hub.store().hubs().list().await?.into_iter();
        let unheard = leases.filter(|row| lives(row) && hubs.iter().all(|h| h.hub_id != row.id));
        let unheard: Vec<HubItem> = unheard.map(members::unheard).collect();
        hubs.extend(unheard);
        Ok(hubs)
    }

    /// Tells the others that a spoke came, went or changed. `moves`: it is expected at another hub.
    pub(crate) async fn spoke_changed(&self, name: &str, moves: bool) {
        self.hint(&Hint::Spoke { name: name.to_owned(), moves }).await;
    }

    /// Tells the others that a key changed.
    pub(crate) async fn key_changed(&self, public_id: &str) {
        self.hint(&Hint::Key { public_id: public_id.to_owned() }).await;
    }

    async fn hint(&self, hint: &Hint) {
        self.broadcast(Kind::Hint, hint).await;
    }

    /// A hint that is lost is made up for by looking at the store now and then.
    async fn broadcast(&self, kind: Kind, body: &impl serde::Serialize) {
        let Ok(body) = serde_json::to_vec(body) else { return };
        let message = Message::encode(kind, self.inner.me, Uuid::nil(), &body);
        if let Err(error) = self.inner.options.bus.broadcast(message).await {
            tracing::debug!(%error, "the other hubs were not told");
        }
    }

    /// Waits a little until the answers to other hubs have been sent: with the links they would be lost. Answers whether
    /// they have.
    async fn answered(&self) -> bool {
        let until = Instant::now() + ANSWERING;
        let on_its_way = |link: &Arc<Link>| link.peer.serving() > 0 || link.peer.outbox().queued() > 0;
        while self.links().values().any(on_its_way) {
            if Instant::now() > until {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        true
    }

    /// Leaves: the others need not wait for the lease to run out.
    pub(crate) async fn leave(&self, hub: &Hub) {
        let answered = self.answered().await;
        if let Err(error) = hub.store().hubs().leave(self.inner.me).await {
            tracing::warn!(error = %crate::error::chain(&error), "the hub's lease was not given back");
        }
        // It says that nothing else was begun. Without it the others find out by themselves.
        if answered {
            self.broadcast(Kind::Beat, &self.own_beat(hub, true)).await;
        }
        let links: Vec<_> = self.links().drain().map(|(_, link)| link).collect();
        for link in links {
            link.peer.close();
        }
    }

    async fn beat(self, hub: Hub) {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look_at_bus(&hub);
            self.broadcast(Kind::Beat, &self.own_beat(&hub, false)).await;
            let lost = self.members().silent(SILENCE);
            for id in lost {
                tracing::warn!(hub.peer = %id, "another hub is silent");
                self.lose(&hub, id);
            }
            self.drop_closed(&hub);
            self.open_missing(&hub).await;
        }
    }

    fn own_beat(&self, hub: &Hub, gone: bool) -> Beat {
        let spokes = hub.directory().spokes();
        let busy = spokes.iter().filter(|s| s.is_local() && s.in_flight() > 0);
        let load = hub.load();
        Beat {
            address: self.inner.options.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: hub.started_at(),
            draining: hub.is_draining(),
            gone,
            connections: load.connections,
            spokes: load.spokes,
            calls: load.calls,
            backlog: load.backlog,
            busy: busy.map(|s| (s.connection, s.in_flight())).take(MAX_BUSY).collect(),
        }
    }

    /// Reads the bus. The only place that changes links because of what others say.
    async fn read(self, hub: Hub, mut inbox: Inbox) {
        while let Some(delivery) = inbox.recv().await {
            match delivery {
                BusDelivery::Frame(frame) => self.take(&hub, frame).await,
                BusDelivery::Interrupted | BusDelivery::Lagged(_) => {
                    // Whatever was under way may be lost: every link starts anew, and so does what is known of spokes.
                    tracing::warn!("messages of other hubs may be lost: their links start anew");
                    let links: Vec<HubId> = self.links().keys().copied().collect();
                    links.into_iter().for_each(|id| self.drop_link(&hub, id));
                    self.inner.stale.notify_one();
                }
            }
        }
    }

    async fn take(&self, hub: &Hub, frame: Bytes) {
        let Some(message) = Message::decode(frame) else { return };
        let from = message.from;
        if from == self.inner.me {
            return;
        }
        match message.kind {
            Kind::Beat => {
                let Some(beat) = message.parse::<Beat>() else { return };
                self.heard(hub, from, beat).await;
            }
            Kind::Hint => match message.parse::<Hint>() {
                Some(hint) => self.hinted(hub, hint).await,
                None => self.inner.stale.notify_one(),
            },
            Kind::Open => {
                // Asked for again before our answer came: calls may be under way over it.
                let agreed = self.links().get(&from).filter(|l| l.epoch == message.epoch && !l.is_closed()).cloned();
                let link = agreed.unwrap_or_else(|| {
                    self.drop_link(hub, from);
                    self.add_link(hub, from, message.epoch)
                });
                self.reply(Kind::Opened, &link).await;
                self.is_up(hub, &link);
            }
            Kind::Opened => {
                let link = self.links().get(&from).filter(|l| l.epoch == message.epoch).cloned();
                if let Some(link) = link {
                    self.is_up(hub, &link);
                }
            }
            Kind::Reset => self.drop_epoch(hub, from, message.epoch),
            Kind::Data => self.data(hub, message).await,
            Kind::Window => {
                let link = self.links().get(&from).filter(|l| l.epoch == message.epoch).cloned();
                if let (Some(link), Ok(bytes)) = (link, message.body.as_ref().try_into()) {
                    link.has_arrived(u64::from_be_bytes(bytes));
                }
            }
        }
    }

    async fn data(&self, hub: &Hub, message: Message) {
        let (from, epoch) = (message.from, message.epoch);
        let link = self.links().get(&from).filter(|l| l.epoch == epoch && !l.is_closed()).cloned();
        let Some(link) = link else {
            let reset = Message::encode(Kind::Reset, self.inner.me, epoch, &[]);
            let _lost = self.inner.options.bus.send(&from.to_string(), reset).await;
            return;
        };
        if !link.receive(message) {
            tracing::warn!(hub.peer = %from, "a message of another hub was lost: the link starts anew");
            self.drop_epoch(hub, from, epoch);
            return;
        }
        if let Some(received) = link.window() {
            let told = Message::encode(Kind::Window, self.inner.me, epoch, &received.to_be_bytes());
            let bus = self.inner.options.bus.clone();
            // Not waited for: the bus is read here, and its answers come to somebody else.
            hub.tasks().spawn("cluster window", async move {
                let _lost = bus.send(&from.to_string(), told).await;
            });
        }
    }

    async fn heard(&self, hub: &Hub, from: HubId, beat: Beat) {
        if beat.gone {
            self.members().forget(from);
            // It has answered all that it began: what it has not may be given to others.
            if let Some(link) = self.links().get(&from) {
                link.peer.close_refused(&relay::not_here());
            }
            self.lose(hub, from);
            return;
        }
        hub.directory().busy(from, &beat.busy);
        let new = self.members().heard(from, beat);
        if new {
            self.open_missing(hub).await;
        }
    }

    async fn hinted(&self, hub: &Hub, hint: Hint) {
        match hint {
            Hint::Spoke { name, moves } => {
                if moves {
                    hub.directory().expect_back(&name);
                }
                let (cluster, hub) = (self.clone(), hub.clone());
                hub.clone().tasks().spawn("cluster spoke", async move { cluster.refresh(&hub, &name).await });
            }
            Hint::Key { public_id } => {
                let hub = hub.clone();
                hub.clone().tasks().spawn("cluster key", async move {
                    if let Err(error) = hub.doorman().look_at(hub.store(), &public_id).await {
                        // The look at all keys makes up for it.
                        put_off(&error, "a changed key was not looked at");
                    }
                });
            }
        }
    }

    /// Of two hubs, the one with the lower id asks for their link.
    async fn open_missing(&self, hub: &Hub) {
        let living: Vec<HubId> = self.members().living().map(|(id, _)| id).collect();
        for id in living.into_iter().filter(|id| self.inner.me < *id) {
            if self.links().get(&id).is_some_and(|link| !link.is_closed() && link.is_up()) {
                continue;
            }
            let asked = self.links().get(&id).filter(|link| !link.is_closed()).cloned();
            // The same epoch is asked for again until it is agreed to: an answer may just be under way.
            let link = asked.unwrap_or_else(|| self.add_link(hub, id, Uuid::new_v4()));
            self.reply(Kind::Open, &link).await;
        }
    }

    async fn reply(&self, kind: Kind, link: &Link) {
        let message = Message::encode(kind, self.inner.me, link.epoch, &[]);
        if let Err(error) = self.inner.options.bus.send(&link.hub.to_string(), message).await {
            tracing::debug!(hub.peer = %link.hub, %error, "no link could be asked for");
        }
    }

    fn add_link(&self, hub: &Hub, other: HubId, epoch: Uuid) -> Arc<Link> {
        let responder = Arc::new(answer::ForLink::new(hub, other));
        let (link, queue) = Link::new(other, epoch, responder, hub.tasks().serving.clone());
        self.links().insert(other, Arc::clone(&link));
        let sending = Arc::clone(&link).send(self.inner.options.bus.clone(), self.inner.me, queue);
        hub.tasks().spawn("cluster link", sending);
        link
    }

    fn is_up(&self, hub: &Hub, link: &Link) {
        if link.is_up() || link.is_closed() {
            return;
        }
        link.set_up();
        tracing::info!(hub.peer = %link.hub, hub.id = %hub.id(), "linked to another hub");
        self.inner.stale.notify_one();
    }

    /// A hub is lost: what runs over its link ends, and its spokes are not there until they come back elsewhere.
    fn lose(&self, hub: &Hub, id: HubId) {
        self.drop_link(hub, id);
        hub.directory().lose_hub(id);
        self.inner.stale.notify_one();
    }

    fn drop_epoch(&self, hub: &Hub, id: HubId, epoch: Uuid) {
        let current = self.links().get(&id).is_some_and(|link| link.epoch == epoch);
        if current {
            self.drop_link(hub, id);
        }
    }

    fn drop_link(&self, hub: &Hub, id: HubId) {
        let link = self.links().remove(&id);
        if let Some(link) = link {
            link.peer.close();
            hub.directory().lose_hub(id);
        }
    }

    /// Links whose sender has given up.
    fn drop_closed(&self, hub: &Hub) {
        let closed: Vec<HubId> = self.links().values().filter(|l| l.is_closed()).map(|l| l.hub).collect();
        closed.into_iter().for_each(|id| self.drop_link(hub, id));
    }

    fn members(&self) -> MutexGuard<'_, Members> {
        self.inner.members.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn links(&self) -> MutexGuard<'_, HashMap<HubId, Arc<Link>>> {
        self.inner.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Most spokes whose load one beat tells.
const MAX_BUSY: usize = 1_000;
