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
    /// What the hub was told last; locked while it is told.
    told: tokio::sync::Mutex<Option<Arc<Registry<C>>>>,
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
        Self { registry: RwLock::new(Arc::new(registry)), told: tokio::sync::Mutex::default() }
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
        let mut told = self.told.lock().await;
        let now = self.now();
        let mut updates = updates(steps(None, &now), peer.message_bytes())?.into_iter();
        let operations = updates.next().map(|update| update.operations).unwrap_or_default();
        let mut registered = peer.ask(&RegisterSpoke { operations, ..registration.clone() }).await?;
        for update in updates {
            registered.operations = peer.ask(&update).await?.operations;
        }
        *told = Some(now);
        Ok(registered)
    }

    /// Offers `next` from now on, with what differs told to the hub at the other end of the connection, if there is one by
    /// then. Calls that run go on. A connection that is lost meanwhile is no error: the next one registers `next`. Answers
    /// whether anything is declared in another way than before.
    ///
    /// # Errors
    /// What the hub answers; then all is as it was, unless the hub refuses that, too.
    pub async fn change(&self, peer: impl FnOnce() -> Option<Peer>, next: Registry<C>) -> Result<bool, CallError> {
        let mut told = self.told.lock().await;
        let (before, next) = (self.now(), Arc::new(next));
        let differs = !steps(Some(&before), &next).is_empty();
        match peer() {
            Some(peer) => self.replace(&peer, &mut told, before, next).await?,
            None => self.set(next),
        }
        Ok(differs)
    }

    /// Tells the hub of a change that came after the registration over this connection, and before it was known to be up.
    ///
    /// # Errors
    /// As [`Offering::change`].
    pub async fn settle(&self, peer: &Peer) -> Result<(), CallError> {
        let mut told = self.told.lock().await;
        let before = told.clone().unwrap_or_else(|| self.now());
        self.replace(peer, &mut told, before, self.now()).await
    }

    async fn replace(
        &self,
        peer: &Peer,
        told: &mut Option<Arc<Registry<C>>>,
        before: Arc<Registry<C>>,
        next: Arc<Registry<C>>,
    ) -> Result<(), CallError> {
        let known = told.clone().unwrap_or_else(|| Arc::clone(&before));
        let all = updates(steps(Some(&known), &next), peer.message_bytes())?;
        // Until the hub knows of what goes, it may ask for it.
        self.set(Arc::new(next.with(&before)));
        let (taken, answer) = tell(peer, &all).await;
        if answer.is_ok() {
            *told = Some(Arc::clone(&next));
        }
        if answer.is_ok() || peer.gone().is_cancelled() {
            self.set(next);
            return Ok(());
        }
        let back = match updates(undo(&all[..taken], &known), peer.message_bytes()) {
            Ok(back) => tell(peer, &back).await.1,
            Err(error) => Err(error),
        };
        if let Err(error) = back {
            tracing::warn!(%error, "a change of operations that the hub refused was not taken back");
        }
        self.set(before);
        answer
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
mod tests;
