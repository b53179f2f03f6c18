//! What a target carries and the choice of targets.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{MemoryTarget, Subscription};

/// One message. Encoded once; clones share the memory.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it was published, `type:id` by convention; never a pattern.
    pub topic: Arc<str>,
    /// Opaque to the target.
    pub payload: Bytes,
}

impl Message {
    /// A message on `topic`, which is checked when it is published.
    #[must_use]
    pub fn new(topic: impl Into<Arc<str>>, payload: impl Into<Bytes>) -> Self {
        Self { topic: topic.into(), payload: payload.into() }
    }
}

/// Payloads can hold secrets, so only their size is shown.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({:?}, {} bytes)", self.topic, self.payload.len())
    }
}

/// What a subscription yields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// The next message.
    Message(Message),
    /// The reader was too slow: this many messages before the next one were dropped. Look at the event log.
    Lagged(u64),
}

/// Why a target refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The topic or pattern can never be used; the text says what is wrong with it.
    #[error("invalid topic: {0}")]
    InvalidTopic(&'static str),
    /// The target was closed.
    #[error("event target is closed")]
    Closed,
}

/// Where messages are published and subscribed. Clones are handles of the same target.
///
/// An enum rather than a trait object: there are few targets, and calls stay plain async functions.
#[derive(Clone, Debug)]
pub enum EventTarget {
    /// Within this process.
    Memory(MemoryTarget),
}

impl EventTarget {
    /// A target within this process that queues [`DEFAULT_CAPACITY`](crate::DEFAULT_CAPACITY) messages per subscriber.
    #[must_use]
    pub fn memory() -> Self {
        Self::memory_with_capacity(crate::DEFAULT_CAPACITY)
    }

    /// A target within this process that queues `capacity` messages (at least one) per subscriber.
    #[must_use]
    pub fn memory_with_capacity(capacity: usize) -> Self {
        Self::Memory(MemoryTarget::new(capacity))
    }

    /// Hands a message to everyone who listens now. Never waits for a subscriber; nobody listening is no error.
    ///
    /// # Errors
    /// [`TargetError::InvalidTopic`] when the topic is empty, longer than [`MAX_TOPIC_BYTES`](crate::MAX_TOPIC_BYTES),
    /// or holds `*` or a control character; [`TargetError::Closed`] after [`close`](Self::close).
    pub async fn publish(&self, message: Message) -> Result<(), TargetError> {
        match self {
            Self::Memory(target) => target.publish(&message).await,
        }
    }

    /// Listens to an exact topic, or to every topic with a prefix when `topic` ends with `*` (`call:*`, `*`).
    ///
    /// What is published after this returns is received.
    ///
    /// # Errors
    /// As [`publish`](Self::publish), but a `*` may stand at the end.
    pub async fn subscribe(&self, topic: &str) -> Result<Subscription, TargetError> {
        match self {
            Self::Memory(target) => target.subscribe(topic),
        }
    }

    /// Ends all subscriptions, each after what it has queued, and refuses everything from now on. Idempotent.
    pub async fn close(&self) {
        match self {
            Self::Memory(target) => target.close(),
        }
    }

    /// Subscriptions that were made through this target's handles and are alive, for gauges and tests.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        match self {
            Self::Memory(target) => target.subscriptions(),
        }
    }
}
