//! What a target carries and the choice of targets.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

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
    /// The connection to the server was lost and is back, so messages may have been lost, nobody knows how many. Look at
    /// the event log. What comes after it was published later, but for messages that were already queued.
    Interrupted,
}

/// Whether others can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connectivity {
    /// The first attempt is not over.
    Connecting,
    /// Yes. Always so within one process.
    Connected,
    /// No, for this reason; attempts go on.
    Away(&'static str),
}

/// Why a target refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The topic or pattern can never be used; the text says what is wrong with it.
    #[error("invalid topic: {0}")]
    InvalidTopic(&'static str),
    /// The target or bus was closed.
    #[error("event target is closed")]
    Closed,
    /// The server is away or did not answer, for this reason. Whether others got the message is unknown, unless the
    /// server was away from the beginning.
    #[error("event server is unavailable: {0}")]
    Unavailable(&'static str),
    /// The URL of the server can't be used. The text never holds parts of it.
    #[error("invalid URL of the event server: {0}")]
    InvalidUrl(&'static str),
    /// The name of an inbox can never be used; the text says what is wrong with it.
    #[error("invalid name: {0}")]
    InvalidName(&'static str),
    /// Nobody listens by that name.
    #[error("nobody listens by that name")]
    NobodyThere,
    /// The frame is above [`MAX_FRAME_BYTES`](crate::MAX_FRAME_BYTES).
    #[error("frame is larger than 16 MiB")]
    FrameTooLarge,
}

/// Reasons of [`TargetError::Unavailable`] that waiting does not mend.
pub(crate) mod lasting {
    pub(crate) const LOGIN: &str = "wrong username or password";
    pub(crate) const RIGHTS: &str = "the user may not do this";
    pub(crate) const STRANGER: &str = "not a redis server";
    pub(crate) const OLD: &str = "the server is older than Redis 6";
    pub(crate) const ALONE: &str = "the server is not a node of a cluster";
    pub(crate) const DATABASE: &str = "the server has no database of that number";
    pub(crate) const NO_TLS: &str = "the server knows no TLS";
    pub(crate) const CERTIFICATE: &str = "the server's certificate is not valid";
}

impl TargetError {
    /// Whether the server may just be starting. What is wrong with a password or a version does not pass.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_)) && self.remedy().is_none()
    }

    /// What can be done about what does not pass.
    #[must_use]
    pub fn remedy(&self) -> Option<&'static str> {
        use lasting::{ALONE, CERTIFICATE, DATABASE, LOGIN, NO_TLS, OLD, RIGHTS, STRANGER};
        let Self::Unavailable(reason) = self else { return None };
        match *reason {
            LOGIN => Some("are user and password in its URL right?"),
            RIGHTS => {
                Some("the user needs &hub:* +@pubsub +@connection, in a cluster ~hub:* +exists +cluster|keyslot, too")
            }
            STRANGER => Some("is it a Redis that listens there?"),
            OLD => Some("take Redis 6 or newer, or Valkey"),
            ALONE => Some("for a server on its own write redis:// or rediss://"),
            DATABASE => Some("leave the number out of its URL, or raise `databases` of the server"),
            NO_TLS => Some("turn TLS on there, or write redis in place of rediss"),
            CERTIFICATE => Some(
                "it must be for the host's name and from a public authority, or from one in a file: ?sslrootcert=FILE \
                 behind the URL",
            ),
            _ => None,
        }
    }
}

/// Where messages are published and subscribed. Clones are handles of the same target.
///
/// An enum rather than a trait object: there are few targets, and calls stay plain async functions.
#[derive(Clone, Debug)]
pub enum EventTarget {
    /// Within this process.
    Memory(MemoryTarget),
    /// Between all processes that use one Redis server.
    #[cfg(feature = "redis")]
    Redis(crate::RedisTarget),
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

    /// A target between all processes that use the Redis (6 or newer) or Valkey server at `url`: `redis://`, `rediss://`
    /// (TLS) or `unix://`, with user, password and database where needed. Or one that may be replaced by another (with
    /// `rediss+` in place of `redis+`, TLS to all of them):
    /// - the master that Sentinels name, `redis+sentinel://[user:password@]host[:port][,host[:port]…]/master[/database]`,
    ///   where user and password are for the master;
    /// - the node of a Redis Cluster that serves the slot of the prefix,
    ///   `redis+cluster://[user:password@]host[:port][,host[:port]…]`.
    ///
    /// Connects in the background and goes on trying; [`check`](Self::check) tells how it is. While the server is away,
    /// [`publish`](Self::publish) fails at once, but reaches this process; subscribing works, and every subscription
    /// gets a [`Delivery::Interrupted`] when the server is back. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TargetError::InvalidUrl`].
    #[cfg(feature = "redis")]
    pub fn redis(url: &str, options: crate::RedisOptions) -> Result<Self, TargetError> {
        Ok(Self::Redis(crate::RedisTarget::new(url, options)?))
    }

    /// Hands a message to everyone who listens now. Never waits for a subscriber; nobody listening is no error.
    ///
    /// # Errors
    /// [`TargetError::InvalidTopic`] when the topic is empty, longer than [`MAX_TOPIC_BYTES`](crate::MAX_TOPIC_BYTES),
    /// or holds `*` or a control character; [`TargetError::Closed`] after [`close`](Self::close);
    /// [`TargetError::Unavailable`] when the server is away, or has not answered within the options' timeout. Then every
    /// subscriber is told [`Delivery::Interrupted`] once the server is back.
    pub async fn publish(&self, message: Message) -> Result<(), TargetError> {
        match self {
            Self::Memory(target) => target.publish(&message).await,
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.publish(message).await,
        }
    }

    /// Listens to an exact topic, or to every topic with a prefix when `topic` ends with `*` (`call:*`, `*`).
    ///
    /// What is published after this returns is received; where the server is away, after the [`Delivery::Interrupted`]
    /// that tells of its return.
    ///
    /// # Errors
    /// [`TargetError::InvalidTopic`] as [`publish`](Self::publish), but a `*` may stand at the end;
    /// [`TargetError::Closed`].
    pub async fn subscribe(&self, topic: &str) -> Result<Subscription, TargetError> {
        match self {
            Self::Memory(target) => target.subscribe(topic),
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.subscribe(topic).await,
        }
    }

    /// Ends all subscriptions, each after what it has queued, and refuses everything from now on. Idempotent.
    pub async fn close(&self) {
        match self {
            Self::Memory(target) => target.close(),
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.close(),
        }
    }

    /// Subscriptions that were made through this target's handles and are alive, for gauges and tests.
    #[must_use]
    pub fn subscriptions(&self) -> usize {
        match self {
            Self::Memory(target) => target.subscriptions(),
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.subscriptions(),
        }
    }

    /// Whether others can be reached now, as far as is known without asking.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        match self {
            Self::Memory(_) => true,
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.is_connected(),
        }
    }

    /// Asks the server on every connection, after waiting for the end of the first attempt to connect. Bounded by the
    /// options' timeout.
    ///
    /// # Errors
    /// [`TargetError::Unavailable`] with the reason.
    pub async fn check(&self) -> Result<(), TargetError> {
        match self {
            Self::Memory(_) => Ok(()),
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.check().await,
        }
    }

    /// Follows whether others can be reached. Within one process that never changes, and the sender is gone.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Connectivity> {
        match self {
            Self::Memory(_) => watch::channel(Connectivity::Connected).1,
            #[cfg(feature = "redis")]
            Self::Redis(target) => target.watch(),
        }
    }
}
