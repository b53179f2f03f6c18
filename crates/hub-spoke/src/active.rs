use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use hub_operations::{End, Pending};
use hub_protocol::ops::calls::{AbortMode, Receipt};
use hub_protocol::{CallError, ErrorCode, Json, ResponseEnvelope};

use crate::client::Client;
use crate::request::no_envelope;
use crate::timer::Timer;

/// The receiving half of a call that has been sent. Dropping it before the end aborts the call.
#[must_use = "dropping an active call aborts it"]
pub struct ActiveCall {
    request_id: String,
    pending: Pending,
    timer: Timer,
    repeatable: bool,
    ended: bool,
    /// Keeps the connection up while the call runs.
    _client: Client,
}

impl ActiveCall {
    pub(crate) fn new(client: Client, request_id: String, pending: Pending, timer: Timer, repeatable: bool) -> Self {
        Self { request_id, pending, timer, repeatable, ended: false, _client: client }
    }

    /// This side's id of the call. The hub keeps it beside its own `callId`.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.request_id
    }

    /// The `data` of the next response; `None` after the last. An error is the last item.
    ///
    /// Safe to drop and call again: no response is lost.
    pub async fn next(&mut self) -> Option<Result<Json, CallError>> {
        poll_fn(|cx| self.poll_data(cx)).await
    }

    /// Aborts the call and waits up to `grace` for the confirmation. Answers what the abort reached, leaves first;
    /// empty when no confirmation came.
    pub async fn abort(mut self, reason: Option<String>, mode: AbortMode, grace: Duration) -> Vec<Receipt> {
        self.pending.abort(reason, Some(mode));
        match tokio::time::timeout(grace, self.pending.end()).await {
            Ok(End::Aborted { receipts, .. }) => receipts.unwrap_or_default(),
            _ => Vec::new(),
        }
    }

    /// As [`ActiveCall::next`], with the whole response envelope.
    pub(crate) async fn next_envelope(&mut self) -> Option<Result<Json, CallError>> {
        poll_fn(|cx| self.poll_envelope(cx)).await
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Json, CallError>>> {
        self.poll_envelope(cx).map(|item| {
            item.map(|envelope| {
                ResponseEnvelope::data_of(&envelope?).map_err(|_| {
                    self.give_up("a response was no envelope");
                    no_envelope()
                })
            })
        })
    }

    fn poll_envelope(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Json, CallError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match self.pending.poll_next(cx) {
            Poll::Ready(Ok(item)) => {
                self.timer.touch();
                Poll::Ready(Some(Ok(item)))
            }
            Poll::Ready(Err(end)) => {
                self.ended = true;
                Poll::Ready(self.error_of(end).map(Err))
            }
            Poll::Pending => self.timer.poll_expired(cx).map(|error| {
                self.give_up(&error.message);
                Some(Err(error))
            }),
        }
    }

    fn error_of(&self, end: End) -> Option<CallError> {
        match end {
            End::Completed => None,
            // Nobody knows how far the call got.
            End::Lost => {
                let error = CallError::new(ErrorCode::SpokeDisconnected, "the connection was lost during the call");
                Some(error.with_retryable(self.repeatable))
            }
            end => Some(Pending::error_of(end)),
        }
    }

    /// Ends the call from this side and tells the other.
    fn give_up(&mut self, reason: &str) {
        self.ended = true;
        self.pending.abort(Some(reason.to_owned()), None);
    }
}

/// The items of a subscription. Dropping it aborts the call.
///
/// An error is the last item. A reader that is slow holds the sender back; nothing is skipped.
#[must_use = "dropping a subscription aborts it"]
pub struct Subscription<T> {
    active: ActiveCall,
    decode: fn(Json) -> Result<T, CallError>,
}

impl<T> Subscription<T> {
    pub(crate) fn new(active: ActiveCall, decode: fn(Json) -> Result<T, CallError>) -> Self {
        Self { active, decode }
    }

    /// This side's id of the call.
    #[must_use]
    pub fn request_id(&self) -> &str {
        self.active.request_id()
    }

    /// As [`ActiveCall::abort`].
    pub async fn abort(self, reason: Option<String>, mode: AbortMode, grace: Duration) -> Vec<Receipt> {
        self.active.abort(reason, mode, grace).await
    }
}

impl<T> Stream for Subscription<T> {
    type Item = Result<T, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let decode = self.decode;
        self.active.poll_data(cx).map(|item| {
            item.map(|data| {
                let value = decode(data?);
                if value.is_err() {
                    self.active.give_up("an item does not fit its type");
                }
                value
            })
        })
    }
}
