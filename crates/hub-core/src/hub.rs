mod build;
mod detached;
mod down;

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

pub use build::HubBuilder;
use detached::Detached;
use hub_operations::{CallTable, Limits, Outbox, PeerConfig, Registry};
use hub_protocol::ops::hub::{HubItem, HubStatus};
use hub_protocol::{AccountId, CallId, HubId, OnDisconnect};
use hub_storage::{AccountRow, Retention, Stamp, Store};

use crate::clients::Desk;
use crate::cluster::{BusState, Cluster};
use crate::ctx::Ctx;
use crate::directory::Directory;
use crate::error::put_off;
use crate::key::Doorman;
use crate::live::LiveCall;
use crate::log::EventLog;
use crate::ops::graph::Verdicts;
use crate::recorder::Recorder;
use crate::sessions::Sessions;
use crate::tasks::Tasks;
use crate::{CoreError, Principal, Session, ops};

/// Time for the answer to a call to be queued before its connection is closed.
const AFTER_ANSWER: Duration = Duration::from_millis(10);

/// How often retention is looked at.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const KEYS_EVERY: Duration = Duration::from_secs(5);

/// What may be set when a hub is built.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Depth and size of call trees.
    pub limits: Limits,
    /// Bounds of each connection.
    pub peer: PeerConfig,
    /// How long records are kept.
    pub retention: Retention,
    /// How often spokes should call `hub.heartbeat`, in milliseconds.
    pub heartbeat_ms: u64,
}

impl Default for Settings {
    /// Calls and events are kept for 30 days, the audit log for a year.
    fn default() -> Self {
        let days = |n: u64| Some(Duration::from_secs(n * 24 * 3600));
        Self {
            limits: Limits::default(),
            peer: PeerConfig::default(),
            retention: Retention { calls: days(30), events: days(30), audit: days(365) },
            heartbeat_ms: 15_000,
        }
    }
}

/// A hub: cheap to clone, all clones are the same hub.
#[derive(Clone)]
pub struct Hub {
    inner: Arc<Inner>,
}

struct Inner {
    about: About,
    store: Store,
    log: EventLog,
    registry: Registry<Ctx>,
    directory: Directory,
    live: Live,
    doors: Doors,
    recorder: Recorder,
    tasks: Tasks,
}

/// A hub that does not live for this.
#[derive(Clone)]
pub(crate) struct WeakHub(Weak<Inner>);

impl WeakHub {
    pub(crate) fn upgrade(&self) -> Option<Hub> {
        self.0.upgrade().map(|inner| Hub { inner })
    }
}

struct About {
    id: HubId,
    started_at: u64,
    settings: Settings,
    draining: AtomicBool,
}

struct Live {
    calls: CallTable<Arc<LiveCall>>,
    detached: Detached<Arc<LiveCall>>,
}

#[derive(Default)]
struct Doors {
    doorman: Doorman,
    sessions: Sessions,
    desk: Desk,
    verdicts: Verdicts,
    cluster: OnceLock<Cluster>,
}

/// What one hub carries, whatever the others of its cluster do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Open connections.
    pub connections: u64,
    /// Spokes that are connected to it.
    pub spokes: u64,
    /// Calls whose tree it has.
    pub calls: u64,
    /// Record changes that wait to be written.
    pub backlog: u64,
}

/// The key that a hub makes when it has none.
pub struct FirstKey {
    /// Its text; shown once.
    pub text: String,
    /// Public part.
    pub public_id: String,
}

impl Hub {
    /// A builder over an open store.
    #[must_use]
    pub fn builder(store: Store) -> HubBuilder {
        HubBuilder::new(store)
    }

    /// This hub process.
    #[must_use]
    pub fn id(&self) -> HubId {
        self.inner.about.id
    }

    /// Who holds the key; `None` for every key that does not open the door, whatever is wrong with it.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn authenticate(&self, key: &str) -> Result<Option<Principal>, CoreError> {
        self.inner.doors.doorman.check(self.store(), key).await
    }

    /// Makes an admin key if the hub has no key at all; answers whether it did.
    ///
    /// `keep` writes it down before it counts: a crash in between leaves a text that opens nothing and is replaced at
    /// the next start, while the other way round nobody could ever enter.
    ///
    /// # Errors
    /// When the store or `keep` fails.
    pub async fn first_key<E: From<CoreError>>(
        &self,
        keep: impl FnOnce(&FirstKey) -> Result<(), E>,
    ) -> Result<bool, E> {
        if !self.store().keys().list(true, Stamp::now()).await.map_err(CoreError::from)?.is_empty() {
            return Ok(false);
        }
        Self::make_admin_key(self.store(), keep).await?;
        Ok(true)
    }

    /// Makes another admin key, for whoever owns the store and has lost the first; `keep` as for the first. No hub need
    /// be running on the store, and any number may.
    ///
    /// # Errors
    /// When the store or `keep` fails.
    pub async fn make_admin_key<E: From<CoreError>>(
        store: &Store,
        keep: impl FnOnce(&FirstKey) -> Result<(), E>,
    ) -> Result<(), E> {
        let now = Stamp::now();
        let row = AccountRow { id: AccountId::new(), name: "admin".into(), kind: "admin".into(), created_at: now };
        let account = store.accounts().ensure(row).await.map_err(CoreError::from)?;
        ops::keys::make_first(store, &account, keep).await
    }

    /// Opens a session for a connected peer; the caller writes what the outbox's reader yields, feeds
    /// [`Session::receive`], closes it at [`Session::key_over`], and calls [`Session::end`] when the connection is lost.
    #[must_use]
    pub fn connect(&self, principal: Principal, outbox: Outbox) -> Arc<Session> {
        let session = Session::open(self, principal, outbox, self.inner.about.settings.peer.clone());
        self.sessions().add(Arc::clone(&session));
        session
    }

    /// How the hub fares.
    ///
    /// # Errors
    /// When the store can't be read.
    pub async fn status(&self) -> Result<HubStatus, CoreError> {
        let load = self.load();
        Ok(HubStatus {
            hub_id: self.id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: self.inner.about.started_at,
            draining: self.is_draining(),
            connections: load.connections,
            spokes: self.directory().spokes().len() as u64,
            operations: (self.directory().active() + self.registry().iter().count()) as u64,
            calls_in_flight: load.calls,
            recorder_backlog: load.backlog,
            last_event: self.log().last().await?,
            hubs: match self.cluster() {
                Some(cluster) => cluster.hubs_to_show(self).await?,
                None => Vec::new(),
            },
        })
    }

    /// The other hubs that live, whether they are reached or not.
    pub(crate) async fn other_hubs(&self) -> Result<HashSet<HubId>, CoreError> {
        let Some(cluster) = self.cluster() else { return Ok(HashSet::new()) };
        Ok(cluster.hubs_to_show(self).await?.into_iter().filter(|hub| !hub.own).map(|hub| hub.hub_id).collect())
    }

    /// What this hub carries now.
    #[must_use]
    pub fn load(&self) -> Load {
        Load {
            connections: self.sessions().len() as u64,
            spokes: self.directory().spokes().iter().filter(|s| s.is_local()).count() as u64,
            calls: self.calls().len() as u64,
            backlog: self.recorder().backlog(),
        }
    }

    /// The hubs of the cluster that are heard, this one first; none where there is no cluster.
    #[must_use]
    pub fn hubs(&self) -> Vec<HubItem> {
        self.cluster().map(|cluster| cluster.hubs(self)).unwrap_or_default()
    }

    /// How the bus to the other hubs is; `None` where there is no cluster.
    #[must_use]
    pub fn bus(&self) -> Option<BusState> {
        self.cluster().map(Cluster::bus)
    }

    /// Whether the store answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_store(&self) -> Result<(), CoreError> {
        Ok(self.store().ping().await?)
    }

    /// The store, for the server's own needs (backup, close).
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Whether the hub is going down.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.inner.about.draining.load(Ordering::Relaxed)
    }

    /// Runs work of a face in a task that shutdown waits for.
    pub fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.tasks().spawn(name, work);
    }

    /// Does something once the answer to the present call has had time to be queued: a connection that is to be closed
    /// should hear why first.
    pub(crate) fn after_answer(&self, name: &'static str, act: impl FnOnce() + Send + 'static) {
        self.tasks().spawn(name, async move {
            tokio::time::sleep(AFTER_ANSWER).await;
            act();
        });
    }

    /// Keeps the stream of a call that ends without a reader, if its caller asked for that.
    pub(crate) fn keep_detached(&self, live: &Arc<LiveCall>, policy: OnDisconnect) {
        if policy == OnDisconnect::Detach {
            self.inner.live.detached.keep(live.id, Arc::clone(live));
        }
    }

    /// A live call, or an ended one whose stream is still held.
    pub(crate) fn attachable(&self, id: CallId) -> Option<Arc<LiveCall>> {
        self.calls().get(id).or_else(|| self.inner.live.detached.get(id))
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.inner.about.settings
    }

    pub(crate) fn log(&self) -> &EventLog {
        &self.inner.log
    }

    pub(crate) fn registry(&self) -> &Registry<Ctx> {
        &self.inner.registry
    }

    pub(crate) fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    pub(crate) fn calls(&self) -> &CallTable<Arc<LiveCall>> {
        &self.inner.live.calls
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.inner.doors.sessions
    }

    pub(crate) fn verdicts(&self) -> &Verdicts {
        &self.inner.doors.verdicts
    }

    pub(crate) fn desk(&self) -> &Desk {
        &self.inner.doors.desk
    }

    pub(crate) fn doorman(&self) -> &Doorman {
        &self.inner.doors.doorman
    }

    pub(crate) fn cluster(&self) -> Option<&Cluster> {
        self.inner.doors.cluster.get()
    }

    pub(crate) fn started_at(&self) -> u64 {
        self.inner.about.started_at
    }

    pub(crate) fn downgrade(&self) -> WeakHub {
        WeakHub(Arc::downgrade(&self.inner))
    }

    pub(crate) fn recorder(&self) -> &Recorder {
        &self.inner.recorder
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.inner.tasks
    }
}

/// Removes what is past retention.
async fn sweep(hub: Hub) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        hub.inner.live.detached.forget();
        // One hub at a time; the store refuses the others as long as this one goes on.
        match hub.store().leases().hold("retention", hub.id(), 2 * SWEEP_EVERY).await {
            Ok(true) => {}
            Ok(false) => continue,
            Err(error) => {
                put_off(&error.into(), "retention failed");
                continue;
            }
        }
        match hub.store().sweep(&hub.settings().retention, Stamp::now()).await {
            Ok(swept) => tracing::debug!(calls = swept.calls, events = swept.events, "retention"),
            Err(error) => put_off(&error.into(), "retention failed"),
        }
    }
}

/// Looks at the keys in use: another hub may have ended one while it could not tell.
async fn watch_keys(hub: Hub) {
    loop {
        tokio::time::sleep(KEYS_EVERY).await;
        if let Err(error) = hub.doorman().look_at_all(hub.store()).await {
            put_off(&error, "ended keys were not looked for");
        }
    }
}
