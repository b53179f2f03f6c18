//! The target within one process.

use std::fmt;
use std::sync::Arc;

use crate::fanout::Fanout;
use crate::topic::{self, Pattern};
use crate::{Message, Subscription, TargetError};

/// Messages queued per subscriber by default: at the thousand hints a second of a busy hub, a reader may pause for
/// about one second, the time after which it would look at the event log anyway.
pub const DEFAULT_CAPACITY: usize = 1024;

/// See [`EventTarget::memory`](crate::EventTarget::memory).
#[derive(Clone)]
pub struct MemoryTarget {
    inner: Arc<Inner>,
}

struct Inner {
    capacity: usize,
    fanout: Arc<Fanout>,
}

/// Subscriptions end with the last handle, as nothing can be published to them any more.
impl Drop for Inner {
    fn drop(&mut self) {
        self.fanout.close();
    }
}

impl MemoryTarget {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { inner: Arc::new(Inner { capacity, fanout: Arc::default() }) }
    }

    pub(crate) async fn publish(&self, message: &Message) -> Result<(), TargetError> {
        topic::check(&message.topic)?;
        self.inner.fanout.publish(message)?;
        // Publishing never waits, so without this a publisher in a loop would starve the readers of its thread.
        tokio::task::coop::consume_budget().await;
        Ok(())
    }

    pub(crate) fn subscribe(&self, topic: &str) -> Result<Subscription, TargetError> {
        let pattern = Pattern::parse(topic)?;
        let queue = self.inner.fanout.subscribe(&pattern, self.inner.capacity)?;
        Ok(Subscription::new(queue, pattern, &self.inner.fanout))
    }

    pub(crate) fn close(&self) {
        self.inner.fanout.close();
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.inner.fanout.subscriptions()
    }
}

impl fmt::Debug for MemoryTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (capacity, subscriptions) = (self.inner.capacity, self.subscriptions());
        f.debug_struct("MemoryTarget").field("capacity", &capacity).field("subscriptions", &subscriptions).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures_util::{FutureExt as _, StreamExt as _};

    use crate::{Delivery, EventTarget, Message, TargetError};

    #[tokio::test]
    async fn receivers_share_the_payload() -> Result<(), TargetError> {
        let target = EventTarget::memory();
        let subscriptions = [target.subscribe("t").await?, target.subscribe("*").await?];
        let payload = Bytes::from(vec![7; 1000]);
        target.publish(Message::new("t", payload.clone())).await?;
        for mut subscription in subscriptions {
            let Some(Delivery::Message(got)) = subscription.recv().await else { panic!("no message") };
            assert_eq!(got.payload.as_ptr(), payload.as_ptr());
        }
        Ok(())
    }

    #[tokio::test]
    async fn the_last_handle_ends_subscriptions() -> Result<(), TargetError> {
        let target = EventTarget::memory();
        let mut subscription = target.clone().subscribe("t").await?;
        assert!(subscription.recv().now_or_never().is_none());
        target.publish(Message::new("t", "last")).await?;
        drop(target);
        assert_eq!(subscription.recv().await, Some(Delivery::Message(Message::new("t", "last"))));
        assert_eq!(subscription.next().await, None);
        assert_eq!(subscription.next().await, None);
        Ok(())
    }

    /// On one thread, a publisher in a tight loop lets the reader keep up.
    #[tokio::test(start_paused = true)]
    async fn a_busy_publisher_yields() -> Result<(), TargetError> {
        let target = EventTarget::memory();
        let mut subscription = target.subscribe("t").await?;
        let mut tasks = tokio::task::JoinSet::new();
        tasks.spawn(async move {
            for _ in 0..10_000 {
                target.publish(Message::new("t", "x")).await.expect("open");
            }
        });
        let read = async {
            let mut count = 0;
            while let Some(delivery) = subscription.recv().await {
                assert!(matches!(delivery, Delivery::Message(_)), "{delivery:?}");
                count += 1;
            }
            count
        };
        assert_eq!(tokio::time::timeout(Duration::from_secs(5), read).await, Ok(10_000));
        Ok(())
    }
}
