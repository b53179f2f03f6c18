//! Live calls: what the hub knows of a call while it runs.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hub_operations::{AbortSignal, Definition, Peer};
use hub_protocol::ops::calls::{AbortOutcome, Receipt};
use hub_protocol::{CallError, CallId, ConnectionId, ErrorCode, Identity, Json};
use hub_storage::Stamp;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::redact::Kept;
use crate::rerun::Rerun;

/// Items of a stream that `calls.attach` can still read.
const HELD_ITEMS: usize = 1_024;

/// Bytes of a stream that `calls.attach` can still read.
const HELD_BYTES: usize = 1024 * 1024;

/// One live call.
pub(crate) struct LiveCall {
    pub(crate) id: CallId,
    pub(crate) root: CallId,
    pub(crate) depth: u32,
    pub(crate) parent: Option<CallId>,
    pub(crate) request_id: String,
    pub(crate) definition: Arc<Definition>,
    /// Whose output it gives, for the record: its own, or for `hub.call` that of what it calls; `None` if not known.
    pub(crate) gives: Option<Arc<Definition>>,
    /// As it is recorded.
    pub(crate) input: Kept,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) started_at: Stamp,
    /// Who calls, with the chain from the root.
    pub(crate) caller: Arc<Identity>,
    /// Milliseconds since the epoch.
    pub(crate) deadline: Option<u64>,
    /// Micro-dollars that it and all below it may spend.
    pub(crate) budget: Option<i64>,
    /// Stops it.
    pub(crate) stop: AbortSignal,
    /// Answers its caller now and lets it run on.
    pub(crate) skip: CancellationToken,
    /// Set while a tree is run again against its record.
    pub(crate) rerun: Option<Arc<Rerun>>,
    /// The stream's recent items, for subscriptions.
    pub(crate) held: Held,
    place: Mutex<Place>,
    outcome: watch::Sender<Option<AbortOutcome>>,
    failure: OnceLock<CallError>,
    grace_ms: AtomicU64,
}

/// Where a call runs.
#[derive(Default, Clone)]
struct Place {
    spoke: Option<Arc<str>>,
    callee: Option<Callee>,
    /// Whether the callee has been sent the request, and then that it is to stop.
    sent: bool,
    told: bool,
    attempts: i32,
}

#[derive(Clone)]
struct Callee {
    connection: ConnectionId,
    peer: Peer,
}

/// What a new call is made of.
pub(crate) struct NewCall {
    pub(crate) id: CallId,
    pub(crate) root: CallId,
    pub(crate) depth: u32,
    pub(crate) parent: Option<CallId>,
    pub(crate) request_id: String,
    pub(crate) definition: Arc<Definition>,
    pub(crate) gives: Option<Arc<Definition>>,
    pub(crate) input: Kept,
    pub(crate) idempotency_key: Option<String>,
    pub(crate) caller: Arc<Identity>,
    pub(crate) deadline: Option<u64>,
    pub(crate) budget: Option<i64>,
    pub(crate) rerun: Option<Arc<Rerun>>,
}

impl LiveCall {
    pub(crate) fn new(new: NewCall) -> Self {
        let NewCall {
            id,
            root,
            depth,
            parent,
            request_id,
            definition,
            gives,
            input,
            idempotency_key,
            caller,
            deadline,
            budget,
            rerun,
        } = new;
        Self {
            id,
            root,
            depth,
            parent,
            request_id,
            definition,
            gives,
            input,
            idempotency_key,
            started_at: Stamp::now(),
            caller,
            deadline,
            budget,
            rerun,
            stop: AbortSignal::default(),
            skip: CancellationToken::new(),
            held: Held::default(),
            place: Mutex::default(),
            outcome: watch::Sender::new(None),
            failure: OnceLock::new(),
            grace_ms: AtomicU64::new(5_000),
        }
    }

    /// Notes that a spoke has been given the call.
    pub(crate) fn dispatched(&self, spoke: Arc<str>, connection: ConnectionId, peer: Peer) {
        let mut place = self.lock();
        place.spoke = Some(spoke);
        place.callee = Some(Callee { connection, peer });
        place.sent = false;
        place.told = false;
        place.attempts += 1;
    }

    /// Notes the spoke that may have begun the work for an earlier call with the same key.
    pub(crate) fn may_run_at(&self, spoke: Arc<str>) {
        self.lock().spoke = Some(spoke);
    }

    /// Notes that the request is on its way to the spoke, so that what is sent from now on comes after it.
    pub(crate) fn sent(&self) {
        self.lock().sent = true;
    }

    /// Notes that the spoke was lost before the call could be sent to it.
    pub(crate) fn not_dispatched(&self) {
        let mut place = self.lock();
        place.callee = None;
        place.attempts -= 1;
    }

    /// Notes that the hub itself runs the call.
    pub(crate) fn runs_here(&self) {
        self.lock().attempts += 1;
    }

    /// What nobody waits for any more must not begin: a callee would act on it although its caller was told that it
    /// did not happen.
    pub(crate) fn check_deadline(&self) -> Result<(), CallError> {
        match self.deadline {
            Some(at) if at <= hub_operations::now_ms() => Err(self.timeout()),
            _ => Ok(()),
        }
    }

    /// The error of a call whose deadline has passed.
    pub(crate) fn timeout(&self) -> CallError {
        CallError::new(ErrorCode::Timeout, "the deadline has passed")
            .with_details(&serde_json::json!({ "deadline": self.deadline }))
    }

    /// The spoke that has the call.
    pub(crate) fn spoke(&self) -> Option<Arc<str>> {
        self.lock().spoke.clone()
    }

    /// Providers it was given to.
    pub(crate) fn attempts(&self) -> i32 {
        self.lock().attempts
    }

    /// Whether the call is being executed on this very connection, so that calls below it may come from there.
    pub(crate) fn runs_on(&self, connection: ConnectionId) -> bool {
        self.lock().callee.as_ref().is_some_and(|c| c.connection == connection)
    }

    /// Tells the callee to stop, once and at once, before anything above it is told. Does nothing while the request is
    /// still to be sent: an abort that overtakes it would stop nothing, so the call's own task tells it then.
    pub(crate) fn tell_callee(&self, reason: Option<&str>) {
        let mut place = self.lock();
        let Some(callee) = place.callee.clone() else { return };
        if !place.sent || std::mem::replace(&mut place.told, true) {
            return;
        }
        callee.peer.push(&hub_protocol::Event::Aborted(hub_protocol::CallAborted {
            request_id: self.id.to_string(),
            reason: reason.map(str::to_owned),
            mode: None,
            receipts: None,
        }));
    }

    /// How long an abort that waits may wait for this call's callee.
    pub(crate) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms.load(Ordering::Relaxed))
    }

    pub(crate) fn set_grace(&self, grace: Duration) {
        self.grace_ms.store(u64::try_from(grace.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Notes a failure that frees the call's idempotency key, for those who wait for this execution.
    pub(crate) fn failed(&self, error: CallError) {
        self.failure.get_or_init(|| error);
    }

    /// The failure that has freed its idempotency key.
    pub(crate) fn failure(&self) -> Option<&CallError> {
        self.failure.get()
    }

    /// Notes how the call ended, for whoever aborts it.
    pub(crate) fn ended(&self, outcome: AbortOutcome) {
        self.outcome.send_if_modified(|now| now.is_none().then(|| *now = Some(outcome)).is_some());
        self.held.close();
    }

    /// How the call ended, if it has.
    pub(crate) fn outcome(&self) -> Option<AbortOutcome> {
        *self.outcome.borrow()
    }

    /// Waits for the end.
    pub(crate) async fn finished(&self) -> AbortOutcome {
        let mut outcome = self.outcome.subscribe();
        // The sender lives in self, so waiting can't fail.
        let now = outcome.wait_for(Option::is_some).await.ok().and_then(|o| *o);
        now.unwrap_or(AbortOutcome::AlreadyFinished)
    }

    /// What an abort tells of this call.
    pub(crate) fn receipt(&self, outcome: AbortOutcome, after_ms: u64) -> Receipt {
        Receipt {
            call_id: self.id,
            operation_id: self.definition.id().to_owned(),
            spoke: self.spoke().map(|s| s.to_string()),
            outcome,
            after_ms,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The recent items of a stream, numbered from 1.
#[derive(Default)]
pub(crate) struct Held {
    state: Mutex<HeldState>,
    changed: Notify,
    pub(crate) closed: CancellationToken,
    count: AtomicU64,
}

#[derive(Default)]
struct HeldState {
    items: VecDeque<Json>,
    bytes: usize,
    /// Number of the first item that is held.
    first: u64,
}

/// What a reader of held items finds.
pub(crate) enum Next {
    Item(u64, Json),
    Gap(u64, u64),
    Wait,
    End,
}

impl Held {
    /// Keeps an item; answers its number.
    pub(crate) fn push(&self, item: &Json) -> u64 {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.items.is_empty() {
            state.first = self.count.load(Ordering::Relaxed) + 1;
        }
        state.bytes += item.size();
        state.items.push_back(item.clone());
        while state.items.len() > HELD_ITEMS || state.bytes > HELD_BYTES && state.items.len() > 1 {
            if let Some(old) = state.items.pop_front() {
                state.bytes -= old.size();
                state.first += 1;
            }
        }
        let number = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        drop(state);
        self.changed.notify_waiters();
        number
    }

    /// Items so far.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    fn close(&self) {
        self.closed.cancel();
        self.changed.notify_waiters();
    }

    /// The item after number `after`.
    pub(crate) fn after(&self, after: u64) -> Next {
        let closed = self.closed.is_cancelled();
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = after.saturating_add(1);
        if wanted > self.count() {
            return if closed { Next::End } else { Next::Wait };
        }
        if wanted < state.first {
            return Next::Gap(wanted, state.first - 1);
        }
        let at = usize::try_from(wanted - state.first).unwrap_or(usize::MAX);
        state.items.get(at).map_or(Next::End, |item| Next::Item(wanted, item.clone()))
    }

    /// Waits for more, after having looked with [`Held::after`].
    pub(crate) async fn more(&self, after: u64) {
        let changed = self.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if matches!(self.after(after), Next::Wait) {
            changed.await;
        }
    }
}
