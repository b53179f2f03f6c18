//! One execution per idempotency key, also across connections.
//!
//! A hub that restarts has lost the calls it was waiting for. Their callers try again with the same key; what runs
//! here already must not run twice, and its result must not be lost with the connection it was asked for on.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hub_protocol::{CallError, ErrorCode, Json};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lineage::Binding;

/// Most executions remembered, running ones included.
const MAX_ENTRIES: usize = 10_000;

/// Most bytes of outcomes remembered.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// How long an outcome is remembered.
const KEPT: Duration = Duration::from_secs(600);

/// Caller, operation, idempotency key.
pub(crate) type Key = (String, String, String);

/// A response envelope or the handler's error.
pub(crate) type Outcome = Result<Json, CallError>;

/// Executions by key.
#[derive(Default)]
pub(crate) struct Keyed {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    entries: HashMap<Arc<Key>, Arc<Execution>>,
    /// Oldest first.
    ended: VecDeque<Ended>,
    bytes: usize,
}

struct Ended {
    at: Instant,
    key: Arc<Key>,
    bytes: usize,
}

/// One run of a handler, for all who ask for it.
pub(crate) struct Execution {
    pub(crate) bound: watch::Sender<Binding>,
    pub(crate) outcome: watch::Sender<Option<Outcome>>,
    /// Stops the handler.
    pub(crate) stop: CancellationToken,
    waiters: AtomicUsize,
}

/// What asking for a key gives.
pub(crate) enum Entered {
    /// The caller has to run it.
    First(Arc<Execution>, Arc<Key>),
    /// It runs or has ended.
    Again(Arc<Execution>),
}

impl Keyed {
    /// Attaches to the execution of this key or starts one.
    pub(crate) fn enter(&self, key: Key, binding: Binding) -> Result<Entered, CallError> {
        let mut table = self.lock();
        table.forget_old();
        if let Some(execution) = table.entries.get(&key) {
            execution.bind(binding);
            return Ok(Entered::Again(Arc::clone(execution)));
        }
        if table.entries.len() >= MAX_ENTRIES && !table.forget_oldest() {
            let message = format!("{MAX_ENTRIES} calls with an idempotency key are running");
            return Err(CallError::new(ErrorCode::Overloaded, message));
        }
        let (key, execution) = (Arc::new(key), Arc::new(Execution::new(binding)));
        table.entries.insert(Arc::clone(&key), Arc::clone(&execution));
        Ok(Entered::First(execution, key))
    }

    /// Publishes the outcome. `lasting` outcomes are remembered; after another one the key may run again.
    pub(crate) fn finish(&self, key: &Arc<Key>, execution: &Execution, outcome: Outcome, lasting: bool) {
        let mut table = self.lock();
        if lasting {
            let bytes = outcome.as_ref().map_or_else(|e| e.message.len(), Json::size) + key.2.len();
            table.bytes += bytes;
            table.ended.push_back(Ended { at: Instant::now(), key: Arc::clone(key), bytes });
            while table.bytes > MAX_BYTES && table.forget_oldest() {}
        } else {
            table.entries.remove(key);
        }
        drop(table);
        execution.outcome.send_replace(Some(outcome));
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn forget_old(&mut self) {
        while self.ended.front().is_some_and(|ended| ended.at.elapsed() > KEPT) {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) -> bool {
        let Some(ended) = self.ended.pop_front() else { return false };
        self.bytes -= ended.bytes;
        self.entries.remove(&ended.key);
        true
    }
}

impl Execution {
    fn new(binding: Binding) -> Self {
        Self {
            bound: watch::Sender::new(binding),
            outcome: watch::Sender::new(None),
            stop: CancellationToken::new(),
            waiters: AtomicUsize::new(0),
        }
    }

    /// Takes over the parent of nested calls if the one so far is lost, and the later deadline.
    fn bind(&self, new: Binding) {
        self.bound.send_modify(|bound| {
            let deadline_ms = bound.deadline_ms.zip(new.deadline_ms).map(|(a, b)| a.max(b));
            if bound.peer.gone().is_cancelled() {
                *bound = new;
            }
            bound.deadline_ms = deadline_ms;
        });
    }

    /// Whether all who waited have given it up and it has not ended yet.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.is_cancelled() && self.outcome.borrow().is_none()
    }

    /// Waits for its end.
    pub(crate) async fn ended(&self) {
        let mut outcome = self.outcome.subscribe();
        // The sender lives in self, so waiting can't fail.
        outcome.wait_for(Option::is_some).await.map(drop).ok();
    }

    /// Counts one who waits for the outcome.
    pub(crate) fn wait(self: &Arc<Self>) -> Waiter {
        self.waiters.fetch_add(1, Ordering::AcqRel);
        Waiter { execution: Arc::clone(self), counted: true }
    }
}

/// One who waits for an outcome. Dropping it leaves the execution running.
pub(crate) struct Waiter {
    execution: Arc<Execution>,
    counted: bool,
}

impl Waiter {
    pub(crate) async fn outcome(&self) -> Outcome {
        let mut outcome = self.execution.outcome.subscribe();
        let published = outcome.wait_for(Option::is_some).await;
        let outcome = published.ok().and_then(|outcome| outcome.clone());
        outcome.unwrap_or_else(|| Err(CallError::new(ErrorCode::ExecutionError, "the execution has vanished")))
    }

    /// Gives the call up. If nobody else waits the handler is stopped, and this returns once it has.
    pub(crate) async fn abort(mut self) {
        if self.leave() {
            self.execution.stop.cancel();
            let _stopped = self.outcome().await;
        }
    }

    fn leave(&mut self) -> bool {
        std::mem::take(&mut self.counted) && self.execution.waiters.fetch_sub(1, Ordering::AcqRel) == 1
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
    }
}
