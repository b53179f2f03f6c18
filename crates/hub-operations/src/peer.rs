//! The engine that both ends of a connection run (protocol §3).
//!
//! The owner of the socket feeds [`Peer::receive`] with each message and writes what its [`OutboxReader`] yields.
//! Either end may call the other; each call is served in a task of its own, so none waits for another.

mod ask;
mod outbox;
mod pending;
mod serve;

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::future::{BoxFuture, Fuse, FusedFuture};
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt};
use hub_protocol::ops::calls::Receipt;
use hub_protocol::{
    CallAborted, CallError, CallFailed, CallRequested, ErrorCode, Event, Fault, IdStyle, Json, decode, encode,
    encode_request,
};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use outbox::{Close, Outbox, OutboxReader, Unsent};
pub use pending::{End, Pending};
pub use serve::AbortSignal;

use pending::Slot;
use serve::Serving;

/// Bounds of one connection.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Largest message that the other side takes, in bytes (protocol §1: 1 MiB).
    pub message_bytes: usize,
    /// Most calls served for the other side at once (protocol §1: 1,024).
    pub max_serving: usize,
    /// Most items of one stream held for a reader that is behind.
    pub stream_items: usize,
    /// Most bytes of one stream held for a reader that is behind.
    pub stream_bytes: usize,
    /// Most bytes of all streams of the connection held for readers that are behind.
    pub held_bytes: usize,
}

impl Default for PeerConfig {
    fn default() -> Self {
        // The other side is paused at a sixteenth. The rest takes what is on its way by then: what the sender has
        // queued, and the buffers of both kernels, which on Linux grow to 4 and 6 MiB.
        Self {
            message_bytes: hub_protocol::DEFAULT_MESSAGE_LIMIT,
            max_serving: 1024,
            stream_items: 256 * 1024,
            stream_bytes: 16 * 1024 * 1024,
            held_bytes: 64 * 1024 * 1024,
        }
    }
}

/// A call that the other side asks for.
pub struct Incoming {
    /// As it was sent.
    pub request: CallRequested,
    /// Fires when the caller gives the call up.
    pub abort: AbortSignal,
    /// Fires when the caller's connection is lost.
    pub gone: CancellationToken,
    /// The connection it came on, for calls back to the caller. Keep it no longer than the call.
    pub peer: Peer,
}

/// What serving a call came to.
pub enum Answer {
    /// One response envelope.
    One(Json),
    /// Any number of response envelopes.
    Many(Items),
}

/// The responses of a stream, with a sign that it is over for another reason than its reader.
///
/// A stream is asked for its next item only while its reader keeps up, so a stream that ends on a deadline or an abort
/// needs a way to say so while nobody asks.
pub struct Items {
    stream: BoxStream<'static, Result<Json, CallError>>,
    over: Fuse<BoxFuture<'static, ()>>,
}

impl Items {
    /// `over` ends once the stream's next item is its last: an error or the end.
    #[must_use]
    pub fn new(stream: BoxStream<'static, Result<Json, CallError>>, over: BoxFuture<'static, ()>) -> Self {
        Self { stream, over: over.fuse() }
    }

    /// The next response envelope.
    pub async fn next(&mut self) -> Option<Result<Json, CallError>> {
        self.stream.next().await
    }

    /// Waits for the sign; for ever once it was given.
    pub async fn over(&mut self) {
        if self.over.is_terminated() {
            std::future::pending::<()>().await;
        }
        (&mut self.over).await;
    }
}

impl From<BoxStream<'static, Result<Json, CallError>>> for Items {
    fn from(stream: BoxStream<'static, Result<Json, CallError>>) -> Self {
        Self::new(stream, Box::pin(std::future::pending()))
    }
}

/// Serves what the other side asks for.
pub trait Responder: Send + Sync + 'static {
    /// Serves one call. On `incoming.abort` the future should end soon: its end is what confirms the abort.
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>>;

    /// Takes anything that is no part of a call: topics and subscriptions to them.
    ///
    /// # Errors
    /// A [`Fault`] when this side has no use for it.
    fn other(&self, event: Event) -> Result<(), Fault>;
}

/// One end of a connection. Clones share it.
#[derive(Clone)]
pub struct Peer {
    inner: Arc<Inner>,
}

struct Inner {
    config: PeerConfig,
    outbox: Outbox,
    responder: Arc<dyn Responder>,
    tasks: TaskTracker,
    gone: CancellationToken,
    maps: Mutex<Maps>,
    serving: AtomicUsize,
    /// Bytes of all streams' items that wait for their readers.
    held: AtomicUsize,
}

/// Both directions under one lock: each critical section is a few map operations, never an await.
#[derive(Default)]
struct Maps {
    closed: bool,
    pending: HashMap<String, Arc<Slot>>,
    serving: HashMap<String, Serving>,
}

impl Peer {
    /// A peer that queues its messages in `outbox` and serves calls in tasks of `tasks`.
    #[must_use]
    pub fn new(config: PeerConfig, outbox: Outbox, responder: Arc<dyn Responder>, tasks: TaskTracker) -> Self {
        let inner = Inner {
            config,
            outbox,
            responder,
            tasks,
            gone: CancellationToken::new(),
            maps: Mutex::default(),
            serving: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The queue of what is to be sent.
    #[must_use]
    pub fn outbox(&self) -> &Outbox {
        &self.inner.outbox
    }

    /// Cancelled once the connection is lost.
    #[must_use]
    pub fn gone(&self) -> &CancellationToken {
        &self.inner.gone
    }

    /// Number of calls being served for the other side.
    #[must_use]
    pub fn serving(&self) -> usize {
        self.inner.serving.load(Ordering::Acquire)
    }

    /// Takes one message from the other side. Never waits.
    ///
    /// # Errors
    /// A [`Fault`] when the message can't be read; the connection may go on.
    pub fn receive(&self, frame: &Bytes) -> Result<(), Fault> {
        let (event, style) = decode(frame)?;
        match event {
            Event::Requested(request) => self.serve(request, style),
            Event::Responded(e) => self.settle(&e.request_id, |slot| slot.push(e.output, &self.inner)),
            Event::Completed(e) => self.finish(&e.request_id, End::Completed),
            Event::Failed(e) => {
                let id = e.request_id.clone();
                self.finish(&id, End::Failed(e.into_error()));
            }
            Event::Aborted(e) => self.aborted(e),
            Event::Pause(id) => self.gate(&id, true),
            Event::Resume(id) => self.gate(&id, false),
            event @ (Event::Subscribe(_) | Event::Unsubscribe(_) | Event::ProtocolError(_) | Event::Topic(_)) => {
                return self.inner.responder.other(event);
            }
        }
        Ok(())
    }

    /// Sends a request and gives the receiving half of its call. `one` ends the call at its first response.
    ///
    /// # Errors
    /// `SPOKE_DISCONNECTED` when the connection is lost, `CONFLICT` when the request id is in flight,
    /// `PAYLOAD_TOO_LARGE` when the other side would not take the message, `OVERLOADED` when too much waits to be sent.
    pub async fn start(&self, request: &CallRequested, one: bool) -> Result<Pending, CallError> {
        let frame = encode_request(request, IdStyle::Empty);
        self.check_size(&frame)?;
        let slot = Arc::new(Slot::new(request.request_id.clone(), one));
        {
            let mut maps = self.lock();
            if maps.closed {
                return Err(lost().with_retryable(true));
            }
            if maps.pending.contains_key(&request.request_id) {
                return Err(CallError::new(ErrorCode::Conflict, "this request id is in flight on the connection"));
            }
            maps.pending.insert(request.request_id.clone(), Arc::clone(&slot));
        }
        let pending = Pending::new(slot, self.clone());
        match self.inner.outbox.send(frame).await {
            Ok(()) => Ok(pending),
            Err(Unsent::Closed) => Err(lost().with_retryable(true)),
            Err(full @ Unsent::Full) => {
                self.forget(&request.request_id);
                Err(overfull(full))
            }
        }
    }

    /// A message that the other side would refuse costs its call, not the connection and all calls on it.
    fn check_size(&self, frame: &Bytes) -> Result<(), CallError> {
        let limit = self.inner.config.message_bytes;
        if frame.len() <= limit {
            return Ok(());
        }
        Err(CallError::new(ErrorCode::PayloadTooLarge, format!("the message is above the limit of {limit} bytes"))
            .with_details(&serde_json::json!({ "limit": limit, "of": "messageBytes" })))
    }

    /// Queues an event that belongs to no call, without waiting.
    pub fn push(&self, event: &Event) {
        self.inner.outbox.push(encode(event, IdStyle::Empty));
    }

    /// As [`Peer::close`], where the other side has said that it took nothing it has not answered: calls without a
    /// response have not begun, and fail with `error`.
    pub fn close_refused(&self, error: &CallError) {
        self.close_with(|slot| slot.refuse(error));
    }

    /// Ends everything on this connection: what this side waits for fails, what it serves is told.
    pub fn close(&self) {
        self.close_with(|_| {});
    }

    fn close_with(&self, before: impl Fn(&Slot)) {
        let pending = {
            let mut maps = self.lock();
            maps.closed = true;
            std::mem::take(&mut maps.pending)
        };
        for slot in pending.into_values() {
            before(&slot);
            slot.end(End::Lost);
        }
        self.inner.gone.cancel();
    }

    fn settle(&self, id: &str, with: impl FnOnce(&Arc<Slot>) -> bool) {
        let slot = self.lock().pending.get(id).cloned();
        // A response to a call that nobody waits for any more is ignored (alkdev.md §1.5).
        if slot.is_some_and(|slot| with(&slot)) {
            self.lock().pending.remove(id);
        }
    }

    fn finish(&self, id: &str, end: End) {
        let slot = self.lock().pending.remove(id);
        if let Some(slot) = slot {
            slot.end(end);
        }
    }

    /// Either side may abort: ours or theirs is told by which map knows the id.
    fn aborted(&self, event: CallAborted) {
        let served = self.lock().serving.get(&event.request_id).map(|s| s.abort.clone());
        match served {
            Some(abort) => abort.fire(event.reason, event.mode),
            None => {
                let id = event.request_id.clone();
                self.finish(&id, End::Aborted { reason: event.reason, receipts: event.receipts });
            }
        }
    }

    fn gate(&self, id: &str, paused: bool) {
        if let Some(serving) = self.lock().serving.get(id) {
            // The pump has gone when nobody listens; then there is nothing to hold back.
            let _gone = serving.paused.send(paused);
        }
    }

    fn forget(&self, id: &str) -> bool {
        self.lock().pending.remove(id).is_some()
    }

    fn lock(&self) -> MutexGuard<'_, Maps> {
        // Nothing under the lock can panic between two changes that belong together.
        self.inner.maps.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// The error of a call whose connection was lost.
fn lost() -> CallError {
    CallError::new(ErrorCode::SpokeDisconnected, "the connection was lost")
}

/// The error of a call whose message found too many before it.
fn overfull(full: Unsent) -> CallError {
    CallError::new(ErrorCode::Overloaded, full.to_string())
        .with_details(&serde_json::json!({ "of": "outboundBytes", "retryAfterMs": 1_000 }))
}

fn abort_frame(request_id: &str, reason: Option<String>, receipts: Option<Vec<Receipt>>, style: IdStyle) -> Bytes {
    encode(&Event::Aborted(CallAborted { request_id: request_id.to_owned(), reason, mode: None, receipts }), style)
}

fn error_frame(request_id: &str, error: CallError, style: IdStyle) -> Bytes {
    encode(&Event::Failed(CallFailed::of(request_id, error)), style)
}

#[cfg(test)]
mod tests;
