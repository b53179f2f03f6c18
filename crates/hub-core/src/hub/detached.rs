//! Ended calls whose streams can still be read.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_protocol::CallId;
use tokio::time::Instant;

/// How long the stream of an ended call stays readable.
const HELD_FOR: Duration = Duration::from_secs(300);

/// Most ended calls whose streams are held.
const HELD: usize = 256;

/// The newest that have ended, the oldest first.
pub(super) struct Detached<T>(Mutex<VecDeque<(Instant, CallId, T)>>);

impl<T> Default for Detached<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Detached<T> {
    /// Holds a call that ends now.
    pub(super) fn keep(&self, id: CallId, call: T) {
        let mut held = self.lock();
        if held.len() >= HELD {
            held.pop_front();
        }
        held.push_back((Instant::now(), id, call));
    }

    pub(super) fn get(&self, id: CallId) -> Option<T> {
        let found = |(since, held, _): &&(Instant, CallId, T)| *held == id && since.elapsed() < HELD_FOR;
        self.lock().iter().find(found).map(|(.., call)| call.clone())
    }

    /// Lets go of those that are not readable any more.
    pub(super) fn forget(&self) {
        self.lock().retain(|(since, ..)| since.elapsed() < HELD_FOR);
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(Instant, CallId, T)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_has_ended_is_held_for_some_minutes_and_not_without_bound() {
        let detached = Detached::default();
        let first = CallId::new();
        detached.keep(first, 0);
        tokio::time::advance(HELD_FOR / 2).await;
        let ids: Vec<CallId> = (1..HELD).map(|_| CallId::new()).collect();
        ids.iter().zip(1..).for_each(|(id, n)| detached.keep(*id, n));
        assert_eq!((detached.get(first), detached.get(ids[0])), (Some(0), Some(1)));
        tokio::time::advance(HELD_FOR / 2).await;
        // Too old, whether it was let go or not.
        assert_eq!((detached.get(first), detached.get(ids[0])), (None, Some(1)));
        detached.forget();
        assert_eq!(detached.lock().len(), HELD - 1);
        for id in [CallId::new(), CallId::new()] {
            detached.keep(id, 0);
        }
        assert_eq!(detached.get(ids[0]), None);
        assert_eq!(detached.lock().len(), HELD);
    }
}
