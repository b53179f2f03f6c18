use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use hub_protocol::ops::calls::{AbortMode, Receipt};
use hub_protocol::{CallCompleted, CallError, CallRequested, CallResponded, ErrorCode, Event, IdStyle, encode};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{Answer, Incoming, Items, Peer, Unsent, abort_frame, error_frame, overfull};

/// A call that this side serves.
pub(super) struct Serving {
    pub(super) abort: AbortSignal,
    pub(super) paused: watch::Sender<bool>,
}

/// Tells a served call that its caller gives it up, and carries back what the abort reached.
#[derive(Clone, Default)]
pub struct AbortSignal {
    token: CancellationToken,
    shared: Arc<Mutex<AbortState>>,
}

#[derive(Default)]
struct AbortState {
    reason: Option<String>,
    mode: Option<AbortMode>,
    receipts: Option<Vec<Receipt>>,
}

impl AbortSignal {
    /// Gives the call up. Only the first time counts.
    pub fn fire(&self, reason: Option<String>, mode: Option<AbortMode>) {
        if !self.token.is_cancelled() {
            let mut state = self.lock();
            state.reason = reason;
            state.mode = mode;
            drop(state);
            self.token.cancel();
        }
    }

    /// Whether the call was given up.
    #[must_use]
    pub fn is_fired(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Waits until the call is given up.
    pub async fn fired(&self) {
        self.token.cancelled().await;
    }

    /// The token behind the signal, for handlers that take one.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.token
    }

    /// Why, for people.
    #[must_use]
    pub fn reason(&self) -> Option<String> {
        self.lock().reason.clone()
    }

    /// How the caller wants it.
    #[must_use]
    pub fn mode(&self) -> AbortMode {
        self.lock().mode.unwrap_or_default()
    }

    /// Leaves receipts for the confirmation that goes back to the caller.
    pub fn set_receipts(&self, receipts: Vec<Receipt>) {
        self.lock().receipts = Some(receipts);
    }

    fn take_receipts(&self) -> Option<Vec<Receipt>> {
        self.lock().receipts.take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AbortState> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer {
    /// Serves one request in a task of its own.
    pub(super) fn serve(&self, request: CallRequested, style: IdStyle) {
        let id = request.request_id.clone();
        let abort = AbortSignal::default();
        let (paused, gate) = watch::channel(false);
        let refusal = {
            let mut maps = self.lock();
            if maps.closed {
                return;
            }
            let max = self.inner.config.max_serving;
            if maps.serving.contains_key(&id) {
                Some(CallError::new(ErrorCode::Conflict, "this request id is in flight on the connection"))
            } else if maps.serving.len() >= max {
                Some(
                    CallError::new(ErrorCode::Overloaded, format!("{max} calls are in flight on this connection"))
                        .with_details(&serde_json::json!({ "limit": max, "retryAfterMs": 100 })),
                )
            } else {
                maps.serving.insert(id.clone(), Serving { abort: abort.clone(), paused });
                None
            }
        };
        if let Some(error) = refusal {
            self.inner.outbox.push(error_frame(&id, error, style));
            return;
        }
        self.inner.serving.fetch_add(1, Ordering::Relaxed);
        let peer = self.clone();
        self.inner.tasks.spawn(async move {
            let incoming =
                Incoming { request, abort: abort.clone(), gone: peer.inner.gone.clone(), peer: peer.clone() };
            let work = peer.answer(incoming, &id, style, gate);
            // One call's panic must not take the connection down.
            let last = match std::panic::AssertUnwindSafe(work).catch_unwind().await {
                Ok(last) => last,
                Err(_) => {
                    tracing::error!(request.id = %id, "a handler panicked");
                    Some(error_frame(&id, CallError::new(ErrorCode::ExecutionError, "the handler panicked"), style))
                }
            };
            // Out of the map before the last message: the caller may use the id again once it has that.
            peer.lock().serving.remove(&id);
            if let Some(frame) = last {
                peer.send_last(frame, &id, style).await;
            }
            // Counted until the last message is queued: whoever closes the connection once nothing is served must
            // not lose it.
            peer.inner.serving.fetch_sub(1, Ordering::Release);
        });
    }

    /// Sends what ends a call. An answer that finds no room ends it as an error instead, and only it.
    async fn send_last(&self, frame: Bytes, id: &str, style: IdStyle) {
        if let Err(full @ Unsent::Full) = self.inner.outbox.send(frame).await {
            // A connection that is closed needs no answer.
            let _closed = self.inner.outbox.send(error_frame(id, overfull(full), style)).await;
        }
    }

    /// Runs the responder and streams; answers the last message, which ends the call.
    async fn answer(&self, incoming: Incoming, id: &str, style: IdStyle, gate: watch::Receiver<bool>) -> Option<Bytes> {
        let abort = incoming.abort.clone();
        let result = match self.inner.responder.call(incoming).await {
            Ok(Answer::One(output)) => {
                let frame = responded(id, output, style);
                self.check_size(&frame).map(|()| frame)
            }
            Ok(Answer::Many(items)) => self
                .pump(items, id, style, gate)
                .await
                .map(|()| encode(&Event::Completed(CallCompleted { request_id: id.to_owned() }), style)),
            Err(error) => Err(error),
        };
        Some(match result {
            Ok(frame) => frame,
            Err(error) if abort.is_fired() && error.is(ErrorCode::Aborted) => {
                abort_frame(id, abort.reason(), abort.take_receipts(), style)
            }
            Err(error) => error_frame(id, error, style),
        })
    }

    /// Sends a stream's items as fast as its reader takes them. Whatever holds it back, the stream's own end (an
    /// abort, a deadline) gets through.
    async fn pump(
        &self,
        mut items: Items,
        id: &str,
        style: IdStyle,
        mut gate: watch::Receiver<bool>,
    ) -> Result<(), CallError> {
        let mut over = false;
        let gone = &self.inner.gone;
        loop {
            if !over && *gate.borrow_and_update() {
                tokio::select! {
                    changed = gate.changed() => if changed.is_err() { return Ok(()) },
                    () = items.over() => over = true,
                    // Nobody will ask for more. Dropping the stream tells its owner, who may let it run on.
                    () = gone.cancelled() => return Ok(()),
                }
                continue;
            }
            let item = tokio::select! {
                biased;
                item = items.next() => item,
                () = gone.cancelled() => return Ok(()),
            };
            let Some(item) = item else { return Ok(()) };
            let frame = responded(id, item?, style);
            self.check_size(&frame)?;
            // A stream that always has an item must leave time to other calls.
            tokio::task::coop::consume_budget().await;
            tokio::select! {
                biased;
                sent = self.inner.outbox.send_item(frame) => match sent {
                    Ok(()) => {}
                    // Dropping the stream tells its owner, who may keep it for later readers.
                    Err(Unsent::Closed) => return Ok(()),
                    Err(full @ Unsent::Full) => return Err(overfull(full)),
                },
                () = items.over(), if !over => over = true,
            }
        }
    }
}

fn responded(id: &str, output: hub_protocol::Json, style: IdStyle) -> Bytes {
    encode(&Event::Responded(CallResponded { request_id: id.to_owned(), output }), style)
}
