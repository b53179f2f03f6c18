use std::sync::{Arc, atomic::AtomicBool};

use hub_operations::{CallTable, Registry, RegistryBuilder, now_ms};
use hub_protocol::{CallError, ErrorCode, HubId, Json};
use hub_pubsub::EventTarget;
use hub_storage::{Stamp, Store};

use super::detached::Detached;
use super::{About, Doors, Hub, Inner, Live, Settings, sweep, watch_keys};
use crate::clients::{Connector, Desk};
use crate::cluster::{Cluster, ClusterOptions};
use crate::ctx::Ctx;
use crate::directory::Directory;
use crate::log::EventLog;
use crate::recorder::Recorder;
use crate::tasks::Tasks;
use crate::{CoreError, KeyringSource, ops};

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

impl HubBuilder {
    pub(super) fn new(store: Store) -> Self {
        Self {
            store,
            target: EventTarget::memory(),
            cluster: None,
            keyring: None,
            connector: None,
            settings: Settings::default(),
            registry: ops::register(Registry::builder()),
        }
    }

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
        let live = Live { calls: CallTable::new(about.settings.limits), detached: Detached::default() };
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
