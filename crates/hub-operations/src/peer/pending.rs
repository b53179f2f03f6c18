use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::{Inner, Peer, PeerConfig, abort_frame, lost};
use hub_protocol::ops::calls::{AbortMode, Receipt};
use hub_protocol::{CallAborted, CallError, ErrorCode, Event, IdStyle, Json, encode};

/// How a call ended.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// All responses were given.
    Completed,
    /// With an error.
    Failed(CallError),
    /// Given up; the callee confirms that its handler has stopped.
    Aborted {
        /// Why, for people.
        reason: Option<String>,
        /// What the abort reached, when the other side is a hub.
        receipts: Option<Vec<Receipt>>,
    },
    /// The connection was lost.
    Lost,
}

/// Part of the bounds at which the sender is paused.
const PAUSE: usize = 16;

/// Part of the bounds at which a paused sender goes on, early enough that the reader does not run dry.
const RESUME: usize = 32;

/// What an item costs beside its text.
const ITEM: usize = 64;

/// State of one call that this side waits for.
pub(super) struct Slot {
    id: String,
    one: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    items: VecDeque<Json>,
    bytes: usize,
    seen: u64,
    paused: bool,
    end: Option<End>,
    /// Of the one reader.
    reader: Option<Waker>,
}

impl Slot {
    pub(super) fn new(id: String, one: bool) -> Self {
        Self { id, one, state: Mutex::default() }
    }

    /// Takes a response; true when nothing more can come.
    pub(super) fn push(&self, item: Json, inner: &Inner) -> bool {
        let mut state = self.lock();
        if state.end.is_some() {
            return true;
        }
        state.take(&item, inner);
        state.seen += 1;
        state.items.push_back(item);
        let config = &inner.config;
        if self.one {
            state.end = Some(End::Completed);
        } else if state.is_over(config, 1) || (state.items.len() > 1 && inner.held() > config.held_bytes) {
            state.end = Some(End::Failed(
                CallError::new(ErrorCode::Overloaded, "the reader of this stream is too slow").with_retryable(false),
            ));
            inner.outbox.push(abort_frame(&self.id, Some("reader too slow".to_owned()), None, IdStyle::Empty));
        } else if !state.paused && state.is_over(config, PAUSE) {
            state.paused = true;
            inner.outbox.push(encode(&Event::Pause(self.id.clone()), IdStyle::Empty));
        }
        let ended = state.end.is_some();
        wake(state);
        ended
    }

    /// Ends a call that the other side has not begun.
    pub(super) fn refuse(&self, error: &CallError) {
        if self.lock().seen == 0 {
            self.end(End::Failed(error.clone()));
        }
    }

    pub(super) fn end(&self, end: End) {
        let mut state = self.lock();
        if state.end.is_none() {
            state.end = Some(end);
        }
        wake(state);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Whether more than a `part` of what may be held is held. A single item never counts as too much.
    fn is_over(&self, config: &PeerConfig, part: usize) -> bool {
        self.items.len() > 1
            && (self.items.len() > config.stream_items / part || self.bytes > config.stream_bytes / part)
    }

    fn take(&mut self, item: &Json, inner: &Inner) {
        self.bytes += item.size() + ITEM;
        inner.held.fetch_add(item.size() + ITEM, Ordering::Relaxed);
    }

    fn give(&mut self, item: &Json, inner: &Inner) {
        self.bytes -= item.size() + ITEM;
        inner.held.fetch_sub(item.size() + ITEM, Ordering::Relaxed);
    }
}

/// Wakes the reader outside the lock, which it is about to take.
fn wake(mut state: MutexGuard<'_, State>) {
    let reader = state.reader.take();
    drop(state);
    if let Some(reader) = reader {
        reader.wake();
    }
}

/// The receiving half of a call. Dropping it before the end tells the other side to stop.
#[must_use = "dropping a pending call aborts it"]
pub struct Pending {
    slot: Arc<Slot>,
    peer: Peer,
    told: bool,
}

impl Pending {
    pub(super) fn new(slot: Arc<Slot>, peer: Peer) -> Self {
        Self { slot, peer, told: false }
    }

    /// The next response, or how the call ended. After the end it gives the end again.
    ///
    /// Safe to drop and call again: no response is lost.
    pub async fn next(&mut self) -> Result<Json, End> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// [`Pending::next`] for those who implement a stream.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Json, End>> {
        let config = &self.peer.inner.config;
        let mut state = self.slot.lock();
        if let Some(item) = state.items.pop_front() {
            state.give(&item, &self.peer.inner);
            if state.paused && !state.is_over(config, RESUME) {
                state.paused = false;
                self.peer.push(&Event::Resume(self.slot.id.clone()));
            }
            return Poll::Ready(Ok(item));
        }
        if let Some(end) = &state.end {
            return Poll::Ready(Err(end.clone()));
        }
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Waits for the end, dropping responses.
    pub async fn end(&mut self) -> End {
        loop {
            if let Err(end) = self.next().await {
                return end;
            }
        }
    }

    /// Whether the callee has answered anything: from then on the call has certainly begun.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.slot.lock().seen > 0
    }

    /// Tells the other side to stop. The end comes once it confirms.
    pub fn abort(&mut self, reason: Option<String>, mode: Option<AbortMode>) {
        if std::mem::replace(&mut self.told, true) || self.slot.lock().end.is_some() {
            return;
        }
        let request_id = self.slot.id.clone();
        self.peer.push(&Event::Aborted(CallAborted { request_id, reason, mode, receipts: None }));
    }

    /// Notes that the other side has been told to stop by other means, so that dropping this stays silent.
    pub fn told(&mut self) {
        self.told = true;
    }

    /// Lets go of what nobody will read. Answers whether the call had ended.
    fn release(&self) -> bool {
        let mut state = self.slot.lock();
        let ended = state.end.is_some();
        // What comes in between this and the end of the slot is dropped at once.
        state.end.get_or_insert(End::Lost);
        self.peer.inner.held.fetch_sub(state.bytes, Ordering::Relaxed);
        state.bytes = 0;
        state.items.clear();
        ended
    }

    /// The error that stands for an end without the awaited response.
    #[must_use]
    pub fn error_of(end: End) -> CallError {
        match end {
            End::Completed => CallError::new(ErrorCode::ExecutionError, "the call was completed without a response"),
            End::Failed(error) => error,
            End::Aborted { reason, receipts } => {
                let message =
                    reason.map_or_else(|| "the call was aborted".to_owned(), |r| format!("the call was aborted: {r}"));
                let error = CallError::new(ErrorCode::Aborted, message);
                match receipts {
                    Some(receipts) => error.with_details(&serde_json::json!({ "receipts": receipts })),
                    None => error,
                }
            }
            End::Lost => lost(),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let ended = self.release();
        if self.peer.forget(&self.slot.id) && !ended && !self.told {
            self.peer.inner.outbox.push(abort_frame(&self.slot.id, None, None, IdStyle::Empty));
        }
    }
}
