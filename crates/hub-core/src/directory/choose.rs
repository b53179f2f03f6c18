use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::select_all;
use hub_protocol::ops::hub::Policy;
use hub_protocol::{CallError, ErrorCode};
use rand::Rng;
use tokio::sync::OwnedSemaphorePermit;

use super::{Directory, Found, Provider, SpokeConnection, unavailable};

/// Calls that may wait for a provider with room, over all operations.
const MAX_WAITING: usize = 1_024;

/// What a refused caller is told to wait, in milliseconds.
const RETRY_AFTER_MS: u64 = 250;

/// The right to run one call on a spoke; gives the place back when dropped.
pub(crate) struct Lease {
    pub(crate) provider: Provider,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Lease {
    fn new(provider: Provider, permit: Option<OwnedSemaphorePermit>) -> Self {
        provider.spoke.in_flight.fetch_add(1, Ordering::Relaxed);
        Self { provider, _permit: permit }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.provider.spoke.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Found {
    /// A provider by policy, waiting for one with room if all are at their `maxInFlight`.
    ///
    /// # Errors
    /// `OVERLOADED` when too many calls wait already.
    pub(crate) async fn choose(&self, sticky: Option<&str>, not: Option<&SpokeConnection>) -> Result<Lease, CallError> {
        let mut candidates: Vec<&Provider> = self
            .providers
            .iter()
            .filter(|p| not.is_none_or(|n| n.connection != p.spoke.connection))
            .filter(|p| p.spoke.takes_calls())
            .collect();
        if candidates.is_empty() {
            return Err(unavailable(self.definition.id()));
        }
        self.arrange(&mut candidates, sticky);
        for provider in &candidates {
            match provider.spoke.permits.as_ref() {
                None => return Ok(Lease::new((*provider).clone(), None)),
                Some(permits) => {
                    if let Ok(permit) = Arc::clone(permits).try_acquire_owned() {
                        return Ok(Lease::new((*provider).clone(), Some(permit)));
                    }
                    // A sticky call waits for its own provider.
                    if self.policy == Policy::Sticky && sticky.is_some() {
                        return wait_for(&self.waiting, &candidates[..1]).await;
                    }
                }
            }
        }
        wait_for(&self.waiting, &candidates).await
    }

    /// Best candidate first.
    fn arrange(&self, candidates: &mut [&Provider], sticky: Option<&str>) {
        match self.policy {
            // On a tie, the way that does not lead over another hub.
            Policy::LeastPending => candidates.sort_by_cached_key(load),
            Policy::First => candidates.sort_by_key(|p| p.spoke.order),
            Policy::Last => candidates.sort_by_key(|p| std::cmp::Reverse(p.spoke.order)),
            Policy::RoundRobin => {
                candidates.sort_by_key(|p| p.spoke.order);
                let turn = self.turn.fetch_add(1, Ordering::Relaxed) % candidates.len();
                candidates.rotate_left(turn);
            }
            Policy::Random => candidates.rotate_left(rand::rng().random_range(0..candidates.len())),
            Policy::Sticky => match sticky {
                // Rendezvous hashing: when a provider comes or goes, only its own keys move.
                Some(key) => candidates.sort_by_key(|p| std::cmp::Reverse(weight(key, &p.spoke.name))),
                None => candidates.sort_by_cached_key(load),
            },
        }
    }
}

impl Directory {
    /// The right to run a call of another hub on this spoke.
    ///
    /// # Errors
    /// `OVERLOADED` when too many calls wait already, `OPERATION_UNAVAILABLE` when it takes no calls.
    pub(crate) async fn lease(&self, spoke: &Arc<SpokeConnection>) -> Result<Lease, CallError> {
        let provider = Provider { spoke: Arc::clone(spoke), local: "".into() };
        if !spoke.takes_calls() {
            return Err(unavailable(&spoke.name));
        }
        match spoke.permits.as_ref().map(|permits| Arc::clone(permits).try_acquire_owned()) {
            None => Ok(Lease::new(provider, None)),
            Some(Ok(permit)) => Ok(Lease::new(provider, Some(permit))),
            Some(Err(_)) => wait_for(&self.waiting, &[&provider]).await,
        }
    }
}

/// Waits for the first of these providers to have room. The caller's deadline bounds the wait.
async fn wait_for(waiting: &AtomicUsize, candidates: &[&Provider]) -> Result<Lease, CallError> {
    let _place = Place::take(waiting)?;
    let waits = candidates.iter().filter_map(|provider| {
        let permits = Arc::clone(provider.spoke.permits.as_ref()?);
        let provider = (*provider).clone();
        Some(Box::pin(async move {
            let gone = provider.spoke.peer.gone().clone();
            let permit = tokio::select! {
                permit = permits.acquire_owned() => permit.ok(),
                () = gone.cancelled() => None,
            };
            // A spoke that was told to drain meanwhile finishes what runs and takes no more.
            let permit = permit.filter(|_| provider.spoke.takes_calls());
            permit.map(|permit| Lease::new(provider, Some(permit)))
        }))
    });
    let mut waits: Vec<_> = waits.collect();
    while !waits.is_empty() {
        let (lease, _, rest) = select_all(waits).await;
        if let Some(lease) = lease {
            return Ok(lease);
        }
        waits = rest;
    }
    Err(CallError::new(ErrorCode::OperationUnavailable, "every provider went away while the call waited"))
}

/// Looked at once per candidate: it changes while they are sorted.
fn load(provider: &&Provider) -> (u64, bool) {
    (provider.spoke.in_flight(), !provider.spoke.is_local())
}

fn weight(key: &str, spoke: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, spoke).hash(&mut hasher);
    hasher.finish()
}

/// A place in the bounded queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Result<Self, CallError> {
        let place = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING {
            return Err(CallError::new(ErrorCode::Overloaded, "every provider is busy and too many calls wait")
                .with_details(&serde_json::json!({ "limit": MAX_WAITING, "retryAfterMs": RETRY_AFTER_MS })));
        }
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
