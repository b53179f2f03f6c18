use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hub_operations::Peer;
use hub_protocol::ops::hub::Policy;
use hub_protocol::{ConnectionId, HubId, SpokeId};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// A connected spoke, here or at another hub.
pub(crate) struct SpokeConnection {
    pub(crate) id: SpokeId,
    pub(crate) name: Arc<str>,
    /// Principal that the name belongs to.
    pub(crate) owner: Arc<str>,
    pub(crate) connection: ConnectionId,
    pub(crate) instance: Uuid,
    pub(crate) started_at: u64,
    /// Its connection, or the link to the hub that has it.
    pub(crate) peer: Peer,
    /// The hub that it is connected to, if that is another one.
    pub(crate) hub: Option<HubId>,
    pub(crate) policy: Policy,
    /// Age among registrations, for the policies `first` and `last`.
    pub(crate) order: u64,
    /// `maxInFlight`, when the spoke has one.
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) in_flight: AtomicU64,
    /// Calls running on it by the word of its hub.
    reported: AtomicU64,
    draining: AtomicBool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Local name to hub-wide id.
    offered: BTreeMap<String, String>,
    load: Option<f64>,
    heartbeat_at: Option<u64>,
}

/// What distinguishes a new connection.
pub(crate) struct SpokeFacts {
    pub(crate) id: SpokeId,
    pub(crate) name: String,
    /// Principal that the name belongs to.
    pub(crate) owner: String,
    pub(crate) connection: ConnectionId,
    pub(crate) instance: Uuid,
    pub(crate) started_at: u64,
    pub(crate) policy: Policy,
    pub(crate) max_in_flight: Option<u32>,
    pub(crate) order: u64,
}

impl SpokeConnection {
    /// A spoke on a connection of this hub.
    pub(crate) fn new(facts: SpokeFacts, peer: Peer) -> Arc<Self> {
        Self::make(None, facts, peer)
    }

    /// A spoke that is connected to another hub, by the link to it.
    pub(crate) fn at_hub(hub: HubId, facts: SpokeFacts, link: Peer) -> Arc<Self> {
        Self::make(Some(hub), facts, link)
    }

    fn make(hub: Option<HubId>, facts: SpokeFacts, peer: Peer) -> Arc<Self> {
        Arc::new(Self {
            hub,
            reported: AtomicU64::new(0),
            id: facts.id,
            name: facts.name.into(),
            owner: facts.owner.into(),
            connection: facts.connection,
            instance: facts.instance,
            started_at: facts.started_at,
            peer,
            policy: facts.policy,
            order: facts.order,
            permits: facts.max_in_flight.map(|n| Arc::new(Semaphore::new(n.max(1) as usize))),
            in_flight: AtomicU64::new(0),
            draining: AtomicBool::new(false),
            state: Mutex::default(),
        })
    }

    /// Whether it is connected to this hub.
    pub(crate) fn is_local(&self) -> bool {
        self.hub.is_none()
    }

    /// Calls running on it now, as far as this hub knows.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed).max(self.reported.load(Ordering::Relaxed))
    }

    /// Takes what its hub says of its load.
    pub(super) fn report(&self, calls: u64) {
        self.reported.store(calls, Ordering::Relaxed);
    }

    /// Whether it takes no new calls.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// Whether a call may be given to it now.
    pub(super) fn takes_calls(&self) -> bool {
        !self.is_draining() && !self.peer.gone().is_cancelled()
    }

    pub(crate) fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// Hub-wide ids of what it offers.
    pub(crate) fn offered(&self) -> Vec<String> {
        self.lock().offered.values().cloned().collect()
    }

    /// Local names and hub-wide ids of what it offers.
    pub(crate) fn names(&self) -> BTreeMap<String, String> {
        self.lock().offered.clone()
    }

    pub(super) fn offer(&self, names: impl Iterator<Item = (String, String)>) {
        self.lock().offered.extend(names);
    }

    pub(super) fn withdraw(&self, ids: &HashSet<&str>) {
        self.lock().offered.retain(|_, id| !ids.contains(id.as_str()));
    }

    /// Takes what a heartbeat says.
    pub(crate) fn heard(&self, load: Option<f64>, at: u64) {
        let mut state = self.lock();
        state.heartbeat_at = Some(at);
        if load.is_some() {
            state.load = load;
        }
    }

    /// Takes what the store has of its load.
    pub(crate) fn heard_row(&self, load: Option<f64>) {
        self.lock().load = load;
    }

    /// Load and time of the last heartbeat.
    pub(crate) fn last_heard(&self) -> (Option<f64>, Option<u64>) {
        let state = self.lock();
        (state.load, state.heartbeat_at)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
