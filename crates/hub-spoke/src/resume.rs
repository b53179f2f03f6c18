//! Streams that go on after a reconnect where they were.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt, unfold};
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::{CallEvent, CallEventKind, ObserveCalls};
use hub_protocol::ops::events::{EventItem, SubscribeEvents};
use hub_protocol::ops::hub::GetStatus;
use hub_protocol::{CallError, ErrorCode};

use crate::Subscription;
use crate::client::Client;
use crate::reconnect::{Link, backoff};

/// The event log from a position on ([`Client::follow_events`]). An error is the last item.
#[must_use = "streams do nothing unless polled"]
pub struct EventStream {
    items: BoxStream<'static, Result<EventItem, CallError>>,
}

/// What happens to calls ([`Client::observe_calls`]). An error is the last item.
#[must_use = "streams do nothing unless polled"]
pub struct CallEventStream {
    items: BoxStream<'static, Result<CallEvent, CallError>>,
}

impl EventStream {
    pub(crate) fn new(client: Client, topics: Vec<String>, after: Option<u64>) -> Self {
        let params = SubscribeEvents { topics, after };
        Self { items: Follower::new(client, params).into_stream() }
    }
}

impl CallEventStream {
    pub(crate) fn new(client: Client, params: ObserveCalls) -> Self {
        Self { items: Follower::new(client, params).into_stream() }
    }
}

impl Stream for EventStream {
    type Item = Result<EventItem, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(cx)
    }
}

impl Stream for CallEventStream {
    type Item = Result<CallEvent, CallError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.items.poll_next_unpin(cx)
    }
}

/// A subscription whose items have positions.
trait Resumable: Operation {
    fn position(item: &Self::Reply) -> u64;
    /// Tells of missing items, so its position may be one that was given before.
    fn is_gap(item: &Self::Reply) -> bool;
    fn after(&mut self) -> &mut Option<u64>;
    /// Whether leaving `after` out means "from now on".
    fn starts_now(&self) -> bool;
    /// Whether the stream may end well.
    fn may_complete(&self) -> bool;
}

impl Resumable for SubscribeEvents {
    fn position(item: &EventItem) -> u64 {
        item.seq
    }

    fn is_gap(item: &EventItem) -> bool {
        item.kind == "gap"
    }

    fn after(&mut self) -> &mut Option<u64> {
        &mut self.after
    }

    fn starts_now(&self) -> bool {
        self.after.is_none()
    }

    fn may_complete(&self) -> bool {
        false
    }
}

impl Resumable for ObserveCalls {
    fn position(item: &CallEvent) -> u64 {
        item.seq
    }

    fn is_gap(item: &CallEvent) -> bool {
        item.kind == CallEventKind::Gap
    }

    fn after(&mut self) -> &mut Option<u64> {
        &mut self.after
    }

    fn starts_now(&self) -> bool {
        self.after.is_none() && self.call_id.is_none()
    }

    fn may_complete(&self) -> bool {
        self.until_done == Some(true)
    }
}

struct Follower<O: Operation> {
    client: Client,
    params: O,
    current: Option<Subscription<O::Reply>>,
    attempt: u32,
}

impl<O: Resumable + Sync> Follower<O> {
    fn new(client: Client, params: O) -> Self {
        Self { client, params, current: None, attempt: 0 }
    }

    fn into_stream(self) -> BoxStream<'static, Result<O::Reply, CallError>> {
        unfold(Some(self), |this| async move {
            let mut this = this?;
            let item = this.next().await?;
            // An error is the last item.
            let rest = item.is_ok().then_some(this);
            Some((item, rest))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<Result<O::Reply, CallError>> {
        loop {
            let item = match &mut self.current {
                Some(current) => current.next().await,
                None => match self.subscribe().await {
                    Ok(()) => continue,
                    Err(error) => Some(Err(error)),
                },
            };
            match item {
                Some(Ok(item)) => {
                    if let Some(item) = self.fresh(item) {
                        return Some(Ok(item));
                    }
                }
                Some(Err(error)) if !self.can_resume(&error) => return Some(Err(error)),
                None if self.params.may_complete() => return None,
                Some(Err(_)) | None => self.pause().await,
            }
        }
    }

    async fn subscribe(&mut self) -> Result<(), CallError> {
        if self.params.starts_now() {
            // "From now on" has no position to go on from until an item has come; the hub's own is one. Without
            // the right to ask for it, events between a loss before the first item and the reconnect are missed.
            if let Ok(status) = self.client.call(&GetStatus {}).await {
                *self.params.after() = Some(status.last_event);
            }
        }
        self.current = Some(self.client.subscribe(&self.params).await?);
        Ok(())
    }

    /// The item unless it has been given before.
    fn fresh(&mut self, item: O::Reply) -> Option<O::Reply> {
        let position = O::position(&item);
        let after = self.params.after();
        if after.is_some_and(|after| position <= after) && !O::is_gap(&item) {
            return None;
        }
        // A gap may also lead back: to the end of a log that is shorter than it was.
        let further = after.filter(|_| !O::is_gap(&item)).map_or(position, |after| after.max(position));
        *after = Some(further);
        self.attempt = 0;
        Some(item)
    }

    fn can_resume(&self, error: &CallError) -> bool {
        let closed = matches!(&*self.client.shared.link.borrow(), Link::Closed(_));
        let passing = error.retryable || error.is(ErrorCode::SpokeDisconnected) || error.is(ErrorCode::Overloaded);
        passing && !closed
    }

    async fn pause(&mut self) {
        self.current = None;
        // The connection has its own backoff; this one is for a hub that ends the stream again and again.
        let wait = if self.attempt == 0 { Duration::ZERO } else { backoff(self.attempt) };
        self.attempt = self.attempt.saturating_add(1);
        tokio::time::sleep(wait).await;
    }
}
