use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Duration;

use hub_operations::{CallTable, Limits, Outbox, PeerConfig, Registry, RegistryBuilder, now_ms};
use hub_protocol::ops::hub::{HubItem, HubStatus};
use hub_protocol::{AccountId, CallError, CallId, ErrorCode, HubId, Json, OnDisconnect, close};
use hub_pubsub::EventTarget;
use hub_storage::{AccountRow, Retention, Stamp, Store};
use rand::Rng;
use tokio::time::Instant;

use crate::clients::{Connector, Desk};
use crate::cluster::{BusState, Cluster, ClusterOptions};
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
use crate::{CoreError, KeyringSource, Principal, Session, ops};

/// How long the stream of an ended detached call stays readable.
const DETACHED_FOR: Duration = Duration::from_secs(300);

/// Most ended detached calls whose streams are held.
const DETACHED_CALLS: usize = 256;

/// How long calls that were cut off at shutdown may take to tell their callers.
const CUT_OFF: Duration = Duration::from_secs(1);

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
    /// Ended detached calls whose streams can still be read.
    detached: Mutex<VecDeque<(Instant, Arc<LiveCall>)>>,
}

#[derive(Default)]
struct Doors {
    doorman: Doorman,
    sessions: Sessions,
    desk: Desk,
    verdicts: Verdicts,
    cluster: OnceLock<Cluster>,
}

/// Puts a hub together.
pub struct HubBuilder {
    store: Store,
    target: EventTarget,
    cluster: Option<ClusterOptions>,
    keyring: Option<KeyringSource>,
    connector: Option<Arc<dyn Connector>>,
    settings: Settings,
    registry: RegistryBuilder<Ctx>,
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

impl HubBuilder {
    /// Replaces the in-memory event target.
    #[must_use]
    pub fn event_target(mut self, target: EventTarget) -> Self {
        self.target = target;
        self
    }

    /// Shares the store with other hubs, which are found and reached over a bus.
    #[must_use]
    pub fn cluster(mut self, options: ClusterOptions) -> Self {
        self.cluster = Some(options);
        self
    }

    /// Lets the hub keep secrets; without a keyring `secrets.*` are refused.
    #[must_use]
    pub fn keyring(mut self, source: KeyringSource) -> Self {
        self.keyring = Some(source);
        self
    }

    /// Who tries out clients for `clients.test`.
    #[must_use]
    pub fn connector(mut self, connector: Arc<dyn Connector>) -> Self {
        self.connector = Some(connector);
        self
    }

    /// Changes settings.
    #[must_use]
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds operations of the embedder's own beside the hub's.
    #[must_use]
    pub fn operations(mut self, add: impl FnOnce(RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx>) -> Self {
        self.registry = add(self.registry);
        self
    }

    /// Starts the hub: closes what a crash left open and begins to record.
    ///
    /// # Errors
    /// When an operation is declared twice or the store can't be read.
    pub async fn build(self) -> Result<Hub, CoreError> {
        let Self { store, target, cluster, keyring, connector, settings, registry } = self;
        let registry = registry.build()?;
        if cluster.is_none() {
            recover(&store).await?;
        }
        let directory = Directory::default();
        registry.iter().for_each(|own| directory.words().put(own.definition().spec(), true));
        directory.load(store.spokes().registrations().await?);
        let tasks = Tasks::default();
        let log = EventLog::new(store.clone(), target);
        let recorder = Recorder::start(store.clone(), log.clone(), &tasks);
        let about = About { id: HubId::new(), started_at: now_ms(), draining: AtomicBool::new(false), settings };
        let live = Live { calls: CallTable::new(about.settings.limits), detached: Mutex::default() };
        let doors = Doors { desk: Desk::new(keyring, connector), ..Doors::default() };
        let hub =
            Hub { inner: Arc::new(Inner { about, store, log, registry, directory, live, doors, recorder, tasks }) };
        if let Some(options) = cluster {
            let (cluster, inbox) = Cluster::join(hub.id(), options, &hub).await?;
            crate::cluster::recover(hub.store(), &hub.store().hubs().dead().await?).await;
            cluster.run(&hub, inbox);
            hub.inner.doors.cluster.get_or_init(|| cluster);
            hub.tasks().spawn("keys", watch_keys(hub.clone()));
        }
        hub.tasks().spawn("sweeper", sweep(hub.clone()));
        hub.store().tell_outages();
        Ok(hub)
    }
}

/// After a crash: nothing is connected, and calls that were running have failed.
async fn recover(store: &Store) -> Result<(), CoreError> {
    let now = Stamp::now();
    let error = CallError::new(ErrorCode::SpokeDisconnected, "hub restarted")
        .with_details(&serde_json::json!({ "reason": "hub restarted" }));
    let closed = store.calls().close_interrupted(None, now, Json::from_serialize(&error).unwrap_or_default()).await?;
    let spokes = store.spokes().disconnect_all(None, now).await?;
    if closed > 0 || spokes > 0 {
        tracing::warn!(calls = closed, spokes, "closed what an unclean end left open");
    }
    Ok(())
}

impl Hub {
    /// A builder over an open store.
    #[must_use]
    pub fn builder(store: Store) -> HubBuilder {
        let registry = ops::register(Registry::builder());
        HubBuilder {
            store,
            target: EventTarget::memory(),
            cluster: None,
            keyring: None,
            connector: None,
            settings: Settings::default(),
            registry,
        }
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

    /// The hubs of the cluster that live, this one first; only this one where there is no cluster.
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

    /// Goes down in the documented order; answers whether everything ended within `grace`.
    ///
    /// The faces must have stopped accepting before.
    pub async fn shut_down(&self, grace: Duration) -> bool {
        let until = Instant::now() + grace;
        // 1. Refuse new calls and send peers away that nothing runs for or on.
        self.inner.about.draining.store(true, Ordering::Relaxed);
        self.send_idle_away();
        // 2. Let running mutations finish; reads and streams are cut off. A peer is sent away once it has its answers.
        let finished = tokio::time::timeout_at(until, self.wound_down()).await.is_ok();
        if !finished {
            tracing::warn!(calls = self.calls().len(), "calls were cut off: the grace is over");
            self.cut_off().await;
        }
        // 3. Send the others away, too.
        self.send_away(|_| true);
        let closed = tokio::time::timeout_at(until.max(Instant::now() + Duration::from_secs(1)), self.sessions_ended());
        let closed = closed.await.is_ok();
        // 4. End what still serves.
        if let Some(cluster) = self.cluster() {
            cluster.leave(self).await;
        }
        self.tasks().stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.tasks().served()).await.is_ok();
        // 5. Write what is left, then close the store.
        self.recorder().close();
        let written = tokio::time::timeout(Duration::from_secs(10), self.tasks().written()).await.is_ok();
        self.store().close().await;
        tracing::info!(calls = finished, connections = closed, tasks = ended, records = written, "the hub is down");
        finished && closed && ended && written
    }

    /// Closes connections with 1001 and a jitter, so that peers don't come back all at once.
    fn send_away(&self, which: impl Fn(&Session) -> bool) {
        for session in self.sessions().all().iter().filter(|s| which(s)) {
            let wait = rand::rng().random_range(0..1_000);
            session.close(close::GOING_AWAY, format!("retry-after-ms={wait}"), true);
        }
    }

    /// Spokes stay while calls run, since those may yet call them.
    fn send_idle_away(&self) {
        // In a cluster they are as well called at the next hub, if there is one that stays.
        let leaves = |hub: &HubItem| hub.hub_id == self.id() || hub.draining;
        let alone = self.cluster().is_none_or(|cluster| cluster.hubs(self).iter().all(leaves));
        let running = !self.calls().is_empty() && alone;
        self.send_away(|session| session.is_idle() && !(running && session.spoke().is_some()));
    }

    /// Waits until nothing runs and every answer is on its way.
    async fn wound_down(&self) {
        loop {
            // Each time anew: a read may have been admitted while the hub began to drain.
            self.cancel_reads().await;
            if let Some(cluster) = self.cluster() {
                cluster.stop_streams();
            }
            self.send_idle_away();
            let relaying = self.cluster().map_or(0, Cluster::relaying);
            let idle = self.sessions().all().iter().all(|session| session.is_idle());
            if self.calls().is_empty() && relaying == 0 && idle {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Aborts queries and subscriptions; mutations go on.
    async fn cancel_reads(&self) {
        for live in self.calls().all() {
            let reads = live.definition.spec().kind != hub_protocol::OperationType::Mutation;
            if reads && live.parent.is_none() && !live.stop.is_fired() {
                crate::abort::tree(self.calls(), live.id, crate::abort::Abort::now("the hub is draining")).await;
            }
        }
    }

    /// Aborts all that still runs, so that its callers are told and its record says how it ended.
    async fn cut_off(&self) {
        for live in self.calls().all().iter().filter(|live| live.parent.is_none()) {
            crate::abort::tree(self.calls(), live.id, crate::abort::Abort::now("the hub went down")).await;
        }
        // A peer that does not read, or a store that does not write, must not hold up the end.
        if tokio::time::timeout(CUT_OFF, self.wound_down()).await.is_err() {
            tracing::warn!(calls = self.calls().len(), "calls did not end when they were cut off");
        }
    }

    async fn sessions_ended(&self) {
        while self.sessions().len() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Keeps the stream of an orphaned call readable, if its caller asked for that.
    pub(crate) fn keep_detached(&self, live: &Arc<LiveCall>, policy: OnDisconnect) {
        if policy != OnDisconnect::Detach {
            return;
        }
        let mut detached = self.inner.live.detached.lock().unwrap_or_else(PoisonError::into_inner);
        detached.retain(|(since, _)| since.elapsed() < DETACHED_FOR);
        if detached.len() >= DETACHED_CALLS {
            detached.pop_front();
        }
        detached.push_back((Instant::now(), Arc::clone(live)));
    }

    /// A live call, or an ended one whose stream is still held.
    pub(crate) fn attachable(&self, id: CallId) -> Option<Arc<LiveCall>> {
        self.calls().get(id).or_else(|| {
            let detached = self.inner.live.detached.lock().unwrap_or_else(PoisonError::into_inner);
            detached.iter().find(|(_, live)| live.id == id).map(|(_, live)| Arc::clone(live))
        })
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
