//! The receiving end.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, ready};

use futures_util::{Stream, StreamExt as _};
use tokio::task::coop;

use crate::Delivery;
use crate::fanout::Fanout;
use crate::queue::Queue;
use crate::topic::Pattern;

/// Messages of one topic or pattern, from [`EventTarget::subscribe`](crate::EventTarget::subscribe).
///
/// Ends once the target is closed and what was queued has been read; then stays ended. Dropping it unsubscribes.
pub struct Subscription {
    queue: Arc<Queue>,
    pattern: Pattern,
    // Weak, so that a forgotten subscription does not keep a target open.
    fanout: Weak<Fanout>,
    /// Kept for its drop.
    #[cfg(feature = "redis")]
    watched: Option<crate::redis::Watched>,
}

impl Subscription {
    pub(crate) fn new(queue: Arc<Queue>, pattern: Pattern, fanout: &Arc<Fanout>) -> Self {
        Self {
            queue,
            pattern,
            fanout: Arc::downgrade(fanout),
            #[cfg(feature = "redis")]
            watched: None,
        }
    }

    /// The same subscription, which also ends its share in a connection's.
    #[cfg(feature = "redis")]
    pub(crate) fn watched(mut self, watched: crate::redis::Watched) -> Self {
        self.watched = Some(watched);
        self
    }

    /// The next delivery; `None` once the target is closed. Nothing is lost when the future is dropped early.
    pub async fn recv(&mut self) -> Option<Delivery> {
        self.next().await
    }
}

// No size hint: what is queued may still be dropped for something newer.
impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        // A reader that always finds something still gives way to others from time to time.
        let budget = ready!(coop::poll_proceed(cx));
        let delivery = ready!(self.queue.poll(cx));
        budget.made_progress();
        Poll::Ready(delivery)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(fanout) = self.fanout.upgrade() {
            fanout.unsubscribe(&self.pattern, &self.queue);
        }
        self.queue.discard();
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Subscription").field(&self.pattern).finish()
    }
}
