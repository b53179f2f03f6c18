//! What a spoke offers: told to its hub in messages that fit, and changed while calls run.

use std::sync::{Arc, PoisonError, RwLock};

use hub_protocol::ops::hub::{RegisterSpoke, RegisteredSpoke, UpdateOperations};
use hub_protocol::{CallError, DEFAULT_MESSAGE_LIMIT, ErrorCode, OperationSpec};
use serde_json::json;

use crate::{Entry, Peer, Registry};

/// Bytes of a message that are left for all but operations.
const ROOM: usize = 32 * 1024;

/// Largest declaration of an operation, in bytes of JSON, that every hub takes.
pub const MAX_DECLARATION: usize = DEFAULT_MESSAGE_LIMIT - ROOM - 1024;

/// The operations of a spoke, which may become others.
pub struct Offering<C> {
    registry: RwLock<Arc<Registry<C>>>,
    /// One conversation with the hub about them at a time.
    turn: tokio::sync::Mutex<()>,
}

/// One operation that is new, changes or goes.
struct Step {
    withdraw: Option<String>,
    offer: Option<OperationSpec>,
}

impl<C: Send + 'static> Offering<C> {
    /// Begins with these.
    #[must_use]
    pub fn new(registry: Registry<C>) -> Self {
        Self { registry: RwLock::new(Arc::new(registry)), turn: tokio::sync::Mutex::default() }
    }

    /// The operation with this local id, as it is now.
    #[must_use]
    pub fn get(&self, id: &str) -> Option<Arc<Entry<C>>> {
        self.now().get(id).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.now().iter().count()
    }

    /// Registers all of them over a new connection: with `registration`, whose own operations don't count, and with
    /// updates for what does not fit one message.
    ///
    /// # Errors
    /// What the hub answers, and `PAYLOAD_TOO_LARGE` for an operation that fits no message. The connection is of no use
    /// then: part of the operations may be registered.
    pub async fn register(&self, peer: &Peer, registration: &RegisterSpoke) -> Result<RegisteredSpoke, CallError> {
        let _turn = self.turn.lock().await;
        let mut updates = updates(steps(None, &self.now()), peer.message_bytes())?.into_iter();
        let operations = updates.next().map(|update| update.operations).unwrap_or_default();
        let mut registered = peer.ask(&RegisterSpoke { operations, ..registration.clone() }).await?;
        for update in updates {
            registered.operations = peer.ask(&update).await?.operations;
        }
        Ok(registered)
    }

    /// Offers `next` from now on, with what differs told to the hub at the other end of `peer`, if there is one. Calls
    /// that run go on. A connection that is lost meanwhile is no error: the next one registers `next`. Answers whether
    /// anything is declared in another way than before.
    ///
    /// # Errors
    /// What the hub answers; then all is as it was, unless the hub refuses that, too.
    pub async fn change(&self, peer: Option<&Peer>, next: Registry<C>) -> Result<bool, CallError> {
        let _turn = self.turn.lock().await;
        let (before, next) = (self.now(), Arc::new(next));
        let differs = !steps(Some(&before), &next).is_empty();
        let Some(peer) = peer.filter(|_| differs) else {
            self.set(next);
            return Ok(differs);
        };
        let all = updates(steps(Some(&before), &next), peer.message_bytes())?;
        // Until the hub knows of what goes, it may ask for it.
        self.set(Arc::new(next.with(&before)));
        let (taken, told) = tell(peer, &all).await;
        if told.is_ok() || peer.gone().is_cancelled() {
            self.set(next);
            return Ok(true);
        }
        let undo = updates(undo(&all[..taken], &before), peer.message_bytes())?;
        if let (_, Err(error)) = tell(peer, &undo).await {
            tracing::warn!(%error, "a change of operations that the hub refused was not taken back");
        }
        self.set(before);
        told.map(|()| true)
    }

    fn now(&self) -> Arc<Registry<C>> {
        Arc::clone(&self.registry.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn set(&self, registry: Arc<Registry<C>>) {
        *self.registry.write().unwrap_or_else(PoisonError::into_inner) = registry;
    }
}

/// Answers how many the hub has taken.
async fn tell(peer: &Peer, updates: &[UpdateOperations]) -> (usize, Result<(), CallError>) {
    for (taken, update) in updates.iter().enumerate() {
        if let Err(error) = peer.ask(update).await {
            return (taken, Err(error));
        }
    }
    (updates.len(), Ok(()))
}

/// Back to what was before some updates.
fn undo<C: Send + 'static>(taken: &[UpdateOperations], before: &Registry<C>) -> Vec<Step> {
    let spec = |id: &str| before.get(id).map(|entry| entry.definition().spec().clone());
    let all = taken.iter().flat_map(|update| {
        let offered: Vec<String> = update.operations.iter().map(OperationSpec::id).collect();
        let gone = update.withdraw.iter().filter(|id| !offered.contains(id));
        let gone: Vec<Step> = gone.map(|id| Step { withdraw: None, offer: spec(id) }).collect();
        gone.into_iter().chain(offered.into_iter().map(|id| Step { offer: spec(&id), withdraw: Some(id) }))
    });
    all.collect()
}

/// What goes, then what changes or is new: a spoke has only so much room.
fn steps<C: Send + 'static>(from: Option<&Registry<C>>, to: &Registry<C>) -> Vec<Step> {
    let before = |id: &str| from.and_then(|from| from.get(id)).map(|entry| entry.definition());
    let gone = from.into_iter().flat_map(Registry::iter).map(|entry| entry.definition().id());
    let gone = gone.filter(|id| to.get(id).is_none()).map(|id| Step { withdraw: Some(id.to_owned()), offer: None });
    let changed = to.iter().map(Entry::definition).filter_map(|now| {
        let before = before(now.id());
        if before.is_some_and(|before| before.spec() == now.spec()) {
            return None;
        }
        let other_version = before.filter(|before| before.version() != now.version());
        Some(Step { withdraw: other_version.map(|before| before.id().to_owned()), offer: Some(now.spec().clone()) })
    });
    gone.chain(changed).collect()
}

/// The steps in as few messages as their order allows.
fn updates(steps: Vec<Step>, message_bytes: usize) -> Result<Vec<UpdateOperations>, CallError> {
    let limit = message_bytes.saturating_sub(ROOM);
    let mut all: Vec<UpdateOperations> = Vec::new();
    let mut filled = limit;
    for Step { withdraw, offer } in steps {
        let spec = offer.as_ref().map_or(0, |spec| serde_json::to_string(spec).map_or(usize::MAX, |text| text.len()));
        let size = spec.saturating_add(withdraw.as_ref().map_or(0, String::len) + 4);
        if size > limit {
            return Err(too_large(&offer.map(|spec| spec.id()).unwrap_or_default(), size, limit));
        }
        if filled + size > limit {
            all.push(UpdateOperations { operations: Vec::new(), withdraw: Vec::new() });
            filled = 0;
        }
        filled += size;
        if let Some(update) = all.last_mut() {
            update.operations.extend(offer);
            update.withdraw.extend(withdraw);
        }
    }
    Ok(all)
}

fn too_large(id: &str, size: usize, limit: usize) -> CallError {
    let message = format!("the declaration of {id} has {size} bytes; one that can be registered has at most {limit}");
    CallError::new(ErrorCode::PayloadTooLarge, message)
        .with_details(&json!({ "limit": limit, "size": size, "operationId": id }))
}

#[cfg(test)]
mod tests {
    use hub_protocol::Json;
    use hub_protocol::ops::Operation;
    use hub_protocol::ops::hub::WhoAmI;

    use super::*;
    use crate::Reply;

    fn registry(operations: &[(&str, &str)]) -> Registry<()> {
        let specs = operations
            .iter()
            .map(|(id, version)| OperationSpec { version: (*version).to_owned(), ..WhoAmI::spec().with_id(id) });
        let all = specs
            .fold(Registry::builder(), |all, spec| all.raw(spec, |(), _| async { Ok(Reply::Value(Json::null())) }));
        all.build().unwrap()
    }

    #[test]
    fn only_what_differs_is_told() {
        let before = registry(&[("a.gone", "1.0.0"), ("a.same", "1.0.0"), ("a.changed", "1.0.0")]);
        let next = registry(&[("a.same", "1.0.0"), ("a.changed", "1.0.0+b"), ("a.new", "1.0.0")]);
        let told = updates(steps(Some(&before), &next), 1 << 20).unwrap();
        let [told] = told.as_slice() else { panic!("{told:?}") };
        assert_eq!(told.withdraw, ["a.gone", "a.changed"]);
        assert_eq!(told.operations.iter().map(OperationSpec::id).collect::<Vec<_>>(), ["a.changed", "a.new"]);
        assert!(updates(steps(Some(&next), &next), 1 << 20).unwrap().is_empty());
    }

    #[test]
    fn what_was_taken_is_taken_back() {
        let before = registry(&[("a.gone", "1.0.0"), ("a.same", "1.0.0"), ("a.changed", "1.0.0")]);
        let next = registry(&[("a.same", "1.0.0"), ("a.changed", "1.0.0+b"), ("a.new", "1.0.0")]);
        let told = updates(steps(Some(&before), &next), 1 << 20).unwrap();
        let back = updates(undo(&told, &before), 1 << 20).unwrap();
        assert_eq!(back[0].withdraw, ["a.changed", "a.new"]);
        let offered: Vec<String> =
            back[0].operations.iter().map(|spec| format!("{} {}", spec.id(), spec.version)).collect();
        assert_eq!(offered, ["a.gone 1.0.0", "a.changed 1.0.0"]);
        assert!(undo(&[], &before).is_empty());
    }

    #[test]
    fn what_does_not_fit_one_message_goes_in_several() {
        let ids: Vec<String> = (0..100).map(|n| format!("a.n{n}")).collect();
        let all = registry(&ids.iter().map(|id| (id.as_str(), "1.0.0")).collect::<Vec<_>>());
        let one = serde_json::to_string(all.get("a.n10").unwrap().definition().spec()).unwrap().len();
        let told = updates(steps(None, &all), ROOM + 10 * (one + 4)).unwrap();
        assert_eq!(told.len(), 10);
        assert_eq!(told.iter().map(|update| update.operations.len()).sum::<usize>(), 100);
        let error = updates(steps(None, &all), ROOM + one / 2).unwrap_err();
        assert!(error.is(ErrorCode::PayloadTooLarge) && error.message.contains("a.n0 has"), "{error}");
    }
}
