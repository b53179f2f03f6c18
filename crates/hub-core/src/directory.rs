//! Which spoke offers which operation now (protocol §5).
//!
//! Reads take no lock: an entry is an immutable snapshot that registration swaps.

mod away;
mod choose;
mod search;
mod spoke;
mod turns;

use std::collections::HashSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};

use hub_operations::Definition;
use hub_protocol::ops::hub::{OperationItem, Policy};
use hub_protocol::{CallError, ErrorCode, Identity, OperationSpec};
use hub_storage::{RegistrationRow, Stamp};
use semver::VersionReq;
use tokio::sync::watch;

pub(crate) use away::Away;
pub(crate) use choose::Lease;
pub(crate) use search::{SearchIndex, is_below};
pub(crate) use spoke::{SpokeConnection, SpokeFacts};
use turns::Turns;

/// One operation with all its versions, newest first.
#[derive(Clone)]
pub(crate) struct Offered {
    pub(crate) id: Arc<str>,
    pub(crate) versions: Vec<Version>,
    /// Whether any provider may serve it under its plain name.
    pub(crate) pooled: bool,
}

/// One version with who provides it now.
#[derive(Clone)]
pub(crate) struct Version {
    pub(crate) definition: Arc<Definition>,
    pub(crate) providers: Vec<Provider>,
    pub(crate) policy: Policy,
    turn: Arc<AtomicUsize>,
}

/// A spoke under its own name for the operation.
#[derive(Clone)]
pub(crate) struct Provider {
    pub(crate) spoke: Arc<SpokeConnection>,
    pub(crate) local: Arc<str>,
}

/// What is to be offered by a spoke: the hub-wide spec and the local name.
#[derive(Clone)]
pub(crate) struct Offer {
    pub(crate) definition: Arc<Definition>,
    pub(crate) local: Arc<str>,
}

/// Operations and spokes. Writers take turns; readers never wait.
#[derive(Default)]
pub(crate) struct Directory {
    operations: papaya::HashMap<String, Arc<Offered>>,
    /// Words of all of them, and of the hub's own.
    words: SearchIndex,
    spokes: papaya::HashMap<String, Arc<SpokeConnection>>,
    writing: Mutex<()>,
    /// Operations whose providers are expected to come back.
    away: Away,
    turns: Turns,
    /// Calls that wait for a provider with room, over all operations.
    waiting: Arc<AtomicUsize>,
    /// Counts changes, for who shows operations to others.
    changes: watch::Sender<u64>,
}

/// An operation found for a call.
pub(crate) struct Found {
    pub(crate) definition: Arc<Definition>,
    pub(crate) providers: Vec<Provider>,
    pub(crate) policy: Policy,
    pub(crate) pooled: bool,
    turn: Arc<AtomicUsize>,
    waiting: Arc<AtomicUsize>,
}

impl Directory {
    /// Knows what was offered before, with nobody providing it yet.
    pub(crate) fn load(&self, rows: Vec<RegistrationRow>) {
        for row in rows {
            let definition = row.spec.parse::<OperationSpec>().ok().and_then(|spec| Definition::new(spec).ok());
            match definition {
                Some(definition) => self.change(definition.id().to_owned(), |offered| {
                    offered.pooled = row.exposure == "pooled";
                    offered.version(&Arc::new(definition));
                }),
                None => tracing::warn!(operation.id = %row.operation_id, "a stored definition is not readable"),
            }
        }
    }

    /// The connected spoke with this name.
    pub(crate) fn spoke(&self, name: &str) -> Option<Arc<SpokeConnection>> {
        self.spokes.pin().get(name).cloned()
    }

    /// All connected spokes.
    pub(crate) fn spokes(&self) -> Vec<Arc<SpokeConnection>> {
        self.spokes.pin().values().cloned().collect()
    }

    /// The stored definition with this id and version.
    pub(crate) fn definition(&self, id: &str, version: &semver::Version) -> Option<Arc<Definition>> {
        let operations = self.operations.pin();
        let offered = operations.get(id)?;
        offered.versions.iter().find(|v| v.definition.version() == version).map(|v| Arc::clone(&v.definition))
    }

    /// Whether the id is taken by the other way of exposing.
    pub(crate) fn exposed_otherwise(&self, id: &str, pooled: bool) -> bool {
        self.operations.pin().get(id).is_some_and(|o| o.pooled != pooled && !o.versions.is_empty())
    }

    /// A spoke, other than the one of this name, that provides a pooled operation below this first segment.
    pub(crate) fn pooled_below(&self, first: &str, except: &str) -> Option<Arc<str>> {
        let operations = self.operations.pin();
        let below = |o: &&Arc<Offered>| o.pooled && o.id.split('.').next() == Some(first);
        let mut names = operations.values().filter(below).flat_map(|o| &o.versions).flat_map(|v| &v.providers);
        names.find(|p| *p.spoke.name != *except).map(|p| Arc::clone(&p.spoke.name))
    }

    /// Puts a spoke in place of an older connection of the same name, with what it offers, in one step per operation:
    /// an operation that both offer is never without a provider. Answers the older connection.
    pub(crate) fn connect(
        &self,
        spoke: &Arc<SpokeConnection>,
        offers: &[Offer],
        pooled: bool,
    ) -> Option<Arc<SpokeConnection>> {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let older = self.spokes.pin().get(&*spoke.name).cloned();
        self.spokes.pin().insert(spoke.name.to_string(), Arc::clone(spoke));
        if let Some(older) = &older {
            let kept: HashSet<&str> = offers.iter().map(|o| o.definition.id()).collect();
            let left: Vec<String> = older.offered().into_iter().filter(|id| !kept.contains(id.as_str())).collect();
            self.remove_provider(older, &left, |_| true);
        }
        self.offer(spoke, offers, pooled);
        older
    }

    /// Shows a spoke of another hub with what it offers, and nothing else of that name.
    pub(crate) fn mirror(&self, spoke: &Arc<SpokeConnection>, offers: &[Offer], pooled: bool) {
        self.connect(spoke, offers, pooled);
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.withdraw(spoke, &spoke.offered(), offers);
    }

    /// Adds operations of a connected spoke, and takes those with the ids of `withdrawn` back, but for the versions just
    /// added: an operation that changes is never without a provider.
    pub(crate) fn update(&self, spoke: &Arc<SpokeConnection>, offers: &[Offer], withdrawn: &[String], pooled: bool) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        self.offer(spoke, offers, pooled);
        self.withdraw(spoke, withdrawn, offers);
    }

    fn withdraw(&self, spoke: &SpokeConnection, ids: &[String], but: &[Offer]) {
        let kept: HashSet<(&str, &semver::Version)> =
            but.iter().map(|o| (o.definition.id(), o.definition.version())).collect();
        self.remove_provider(spoke, ids, |definition| !kept.contains(&(definition.id(), definition.version())));
        let kept: HashSet<&str> = kept.into_iter().map(|(id, _)| id).collect();
        spoke.withdraw(&ids.iter().map(String::as_str).filter(|id| !kept.contains(id)).collect());
    }

    /// Forgets a lost connection, unless a newer one has its name.
    pub(crate) fn disconnect(&self, spoke: &Arc<SpokeConnection>) {
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let spokes = self.spokes.pin();
        if spokes.get(&*spoke.name).is_some_and(|s| s.connection == spoke.connection) {
            spokes.remove(&*spoke.name);
        }
        drop(spokes);
        self.remove_provider(spoke, &spoke.offered(), |_| true);
    }

    fn offer(&self, spoke: &Arc<SpokeConnection>, offers: &[Offer], pooled: bool) {
        for offer in offers {
            self.change(offer.definition.id().to_owned(), |offered| {
                offered.pooled = pooled;
                // Older connections of this name, and other versions by the same spoke, give way.
                for version in &mut offered.versions {
                    version.providers.retain(|p| p.spoke.name != spoke.name || p.spoke.connection == spoke.connection);
                }
                let version = offered.version(&offer.definition);
                version.policy = spoke.policy;
                version.providers.retain(|p| p.spoke.name != spoke.name);
                version.providers.push(Provider { spoke: Arc::clone(spoke), local: Arc::clone(&offer.local) });
            });
        }
        spoke.offer(offers.iter().map(|o| (o.local.to_string(), o.definition.id().to_owned())));
        self.away.came_back();
    }

    fn remove_provider(&self, spoke: &SpokeConnection, ids: &[String], of: impl Fn(&Definition) -> bool) {
        let is_its = |p: &Provider| p.spoke.connection == spoke.connection;
        for id in ids {
            let found = self.operations.pin().get(id).is_some_and(|offered| {
                offered.versions.iter().any(|v| of(&v.definition) && v.providers.iter().any(is_its))
            });
            if found {
                self.change(id.clone(), |offered| {
                    for version in offered.versions.iter_mut().filter(|version| of(&version.definition)) {
                        version.providers.retain(|p| !is_its(p));
                    }
                });
            }
        }
    }

    fn change(&self, id: String, with: impl FnOnce(&mut Offered)) {
        let operations = self.operations.pin();
        let mut offered = operations.get(&id).map_or_else(|| Offered::new(&id), |o| Offered::clone(o));
        let before = offered.shown().map(|v| Arc::clone(&v.definition));
        let was_active = offered.is_active();
        with(&mut offered);
        let active = offered.is_active();
        // Only what is shown can be found by its words: another version may be for other eyes.
        let shown = offered.shown().map(|v| &v.definition);
        if let Some(shown) = shown.filter(|shown| before.is_none_or(|before| !Arc::ptr_eq(shown, &before))) {
            self.words.put(shown.spec(), active);
        } else if active != was_active {
            self.words.set_active(&id, active);
        }
        operations.insert(id, Arc::new(offered));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Changes with every change of what is offered.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Finds the version that a call gets: the highest in `range` with a provider, pre-releases only if named.
    ///
    /// # Errors
    /// `OPERATION_NOT_FOUND` when the caller may see no version, `OPERATION_UNAVAILABLE` when none has a provider.
    pub(crate) fn find(&self, id: &str, range: Option<&VersionReq>, caller: &Identity) -> Result<Found, CallError> {
        let (plain, pinned) = match id.split_once('@') {
            Some((plain, spoke)) => (plain, Some(spoke)),
            None => (id, None),
        };
        let offered = self.operations.pin().get(plain).cloned().ok_or_else(|| Definition::not_found(id))?;
        let mut seen = false;
        for version in &offered.versions {
            let number = version.definition.version();
            let fits = range.map_or(number.pre.is_empty(), |r| r.matches(number));
            if !fits || !version.definition.is_visible_to(caller) {
                continue;
            }
            seen = true;
            let mut providers: Vec<Provider> =
                version.providers.iter().filter(|p| !p.spoke.is_draining()).cloned().collect();
            if let Some(pinned) = pinned {
                providers.retain(|p| &*p.spoke.name == pinned);
            }
            if !providers.is_empty() {
                return Ok(Found {
                    definition: Arc::clone(&version.definition),
                    providers,
                    policy: version.policy,
                    pooled: offered.pooled && pinned.is_none(),
                    turn: Arc::clone(&version.turn),
                    waiting: Arc::clone(&self.waiting),
                });
            }
        }
        if seen { Err(unavailable(id)) } else { Err(Definition::not_found(id)) }
    }

    /// The definition to show for an id: the highest version with a provider, else the highest.
    pub(crate) fn show(&self, id: &str) -> Option<Arc<Definition>> {
        self.operations.pin().get(id).and_then(|o| o.shown().map(|v| Arc::clone(&v.definition)))
    }

    /// The words of everything that can be searched.
    pub(crate) fn words(&self) -> &SearchIndex {
        &self.words
    }

    /// The entry of an id.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Offered>> {
        self.operations.pin().get(id).cloned()
    }

    /// All operations that the caller may see, in no order.
    pub(crate) fn visible(&self, caller: &Identity) -> Vec<Arc<Offered>> {
        let operations = self.operations.pin();
        operations.values().filter(|o| o.is_visible_to(caller)).cloned().collect()
    }

    /// Number of operations with a provider.
    pub(crate) fn active(&self) -> usize {
        self.operations.pin().values().filter(|o| o.is_active()).count()
    }
}

impl Found {
    /// The same with only this spoke, if it is among the providers.
    pub(crate) fn only(&self, spoke: &str) -> Option<Self> {
        let providers: Vec<Provider> = self.providers.iter().filter(|p| &*p.spoke.name == spoke).cloned().collect();
        (!providers.is_empty()).then(|| Self {
            providers,
            definition: Arc::clone(&self.definition),
            policy: self.policy,
            pooled: self.pooled,
            turn: Arc::clone(&self.turn),
            waiting: Arc::clone(&self.waiting),
        })
    }
}

/// What `first` and `last` go by: the same on every hub.
pub(crate) fn order_of(connected_at: Stamp) -> u64 {
    connected_at.0.unsigned_abs()
}

pub(crate) fn unavailable(id: &str) -> CallError {
    CallError::new(ErrorCode::OperationUnavailable, format!("no spoke provides {id:?} now"))
        .with_details(&serde_json::json!({ "operationId": id }))
}

impl Offered {
    fn new(id: &str) -> Self {
        Self { id: id.into(), versions: Vec::new(), pooled: false }
    }

    /// The entry of this definition's version, made if it is new.
    fn version(&mut self, definition: &Arc<Definition>) -> &mut Version {
        let at = match self.versions.iter().position(|v| v.definition.version() == definition.version()) {
            Some(at) => at,
            None => {
                let at = self.versions.partition_point(|v| v.definition.version() > definition.version());
                let new = Version {
                    definition: Arc::clone(definition),
                    providers: Vec::new(),
                    policy: Policy::default(),
                    turn: Arc::default(),
                };
                self.versions.insert(at, new);
                at
            }
        };
        &mut self.versions[at]
    }

    /// The version to show: as [`Directory::find`] would choose, else the newest.
    pub(crate) fn shown(&self) -> Option<&Version> {
        let active = |v: &&Version| !v.providers.is_empty();
        self.versions
            .iter()
            .filter(active)
            .find(|v| v.definition.version().pre.is_empty())
            .or_else(|| self.versions.iter().find(active))
            .or_else(|| self.versions.first())
    }

    /// Whether the caller may know of it.
    pub(crate) fn is_visible_to(&self, caller: &Identity) -> bool {
        self.shown().is_some_and(|v| v.definition.is_visible_to(caller))
    }

    /// Whether anybody provides any version.
    pub(crate) fn is_active(&self) -> bool {
        self.versions.iter().any(|v| !v.providers.is_empty())
    }

    /// As a list shows it.
    pub(crate) fn item(&self) -> Option<OperationItem> {
        let shown = self.shown()?;
        let mut providers: Vec<String> = shown.providers.iter().map(|p| p.spoke.name.to_string()).collect();
        providers.sort();
        Some(item_of(shown.definition.spec(), !providers.is_empty(), providers))
    }
}

/// As a list shows an operation.
pub(crate) fn item_of(spec: &OperationSpec, active: bool, providers: Vec<String>) -> OperationItem {
    OperationItem {
        id: spec.id(),
        version: spec.version.clone(),
        kind: spec.kind,
        title: spec.title.clone(),
        description: spec.description.clone(),
        tags: spec.tags.clone(),
        active,
        providers,
        score: None,
    }
}
