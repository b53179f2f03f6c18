//! The bus within one process.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use super::To;
use super::inbox::{Inbox, Queue};
use crate::TargetError;

pub(super) struct MemoryBus {
    inbox_bytes: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Weak: an inbox that was dropped is found gone by the next who looks.
    inboxes: HashMap<String, Vec<Weak<Queue>>>,
    closed: bool,
}

/// Inboxes end with the last handle, as nothing can be sent to them any more.
impl Drop for MemoryBus {
    fn drop(&mut self) {
        self.close();
    }
}

impl MemoryBus {
    pub(super) fn new(inbox_bytes: usize) -> Self {
        Self { inbox_bytes, state: Mutex::default() }
    }

    pub(super) fn listen(&self, name: &str) -> Result<Inbox, TargetError> {
        let queue = Arc::new(Queue::new(self.inbox_bytes));
        let mut state = self.open()?;
        // The names of hubs that came and went do not pile up.
        state.inboxes.retain(|_, queues| {
            queues.retain(|queue| queue.strong_count() > 0);
            !queues.is_empty()
        });
        state.inboxes.entry(name.to_owned()).or_default().push(Arc::downgrade(&queue));
        Ok(Inbox::new(queue))
    }

    pub(super) fn put(&self, to: To<'_>, frame: &Bytes) -> Result<u64, TargetError> {
        // Under the lock, so that all inboxes see the same order. Pushing never waits.
        let state = self.open()?;
        let queues: Vec<_> = match to {
            To::Name(name) => state.inboxes.get(name).into_iter().flatten().collect(),
            To::All => state.inboxes.values().flatten().collect(),
        };
        let receivers = queues.iter().filter_map(|queue| queue.upgrade()).map(|queue| queue.push(frame.clone()));
        Ok(u64::try_from(receivers.count()).unwrap_or(u64::MAX))
    }

    pub(super) fn is_listening(&self, name: &str) -> Result<bool, TargetError> {
        Ok(self.open()?.inboxes.get(name).is_some_and(|queues| queues.iter().any(|queue| queue.strong_count() > 0)))
    }

    pub(super) fn close(&self) {
        let closed = std::mem::replace(&mut *self.lock(), State { closed: true, ..State::default() });
        closed.inboxes.values().flatten().filter_map(Weak::upgrade).for_each(|queue| queue.close());
    }

    fn open(&self) -> Result<MutexGuard<'_, State>, TargetError> {
        let state = self.lock();
        if state.closed { Err(TargetError::Closed) } else { Ok(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing in here panics half-way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
