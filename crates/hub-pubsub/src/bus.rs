//! Frames from one hub to another, by name.

mod inbox;
mod memory;

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::{Connectivity, MAX_TOPIC_BYTES, TargetError};
#[cfg(feature = "redis")]
pub(crate) use inbox::Queue;
pub use inbox::{BusDelivery, Inbox};
use memory::MemoryBus;

/// Largest frame: the largest message of the hub's own protocol.
pub const MAX_FRAME_BYTES: usize = 16 * 1024 * 1024;

/// Bytes of frames that an inbox holds by default: four of the largest.
pub const DEFAULT_INBOX_BYTES: usize = 64 * 1024 * 1024;

/// Carries frames to the inboxes of a name, at most once. Clones are handles of the same bus.
///
/// Frames from one sender to one name arrive in the order they were sent, and so do its broadcasts.
#[derive(Clone)]
pub struct Bus {
    kind: Kind,
}

#[derive(Clone)]
enum Kind {
    Memory(Arc<MemoryBus>),
    #[cfg(feature = "redis")]
    Redis(Arc<crate::redis::RedisBus>),
}

/// Where a frame goes.
#[derive(Clone, Copy)]
pub(crate) enum To<'a> {
    Name(&'a str),
    All,
}

impl Bus {
    /// A bus within this process, between the clones of this handle.
    #[must_use]
    pub fn memory() -> Self {
        Self::memory_with_inbox_bytes(DEFAULT_INBOX_BYTES)
    }

    /// A bus within this process whose inboxes hold `bytes` each.
    #[must_use]
    pub fn memory_with_inbox_bytes(bytes: usize) -> Self {
        Self { kind: Kind::Memory(Arc::new(MemoryBus::new(bytes))) }
    }

    /// A bus between all processes that use one Redis server; URL and behaviour as of
    /// [`EventTarget::redis`](crate::EventTarget::redis). Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`TargetError::InvalidUrl`].
    #[cfg(feature = "redis")]
    pub fn redis(url: &str, options: crate::RedisOptions) -> Result<Self, TargetError> {
        Ok(Self { kind: Kind::Redis(Arc::new(crate::redis::RedisBus::new(url, options)?)) })
    }

    /// Sends a frame to every inbox of a name, and waits for the answer whether there was one.
    ///
    /// Sends from many tasks share round trips. From one task, [`enqueue`](Self::enqueue) saves waiting for each.
    ///
    /// # Errors
    /// [`TargetError::NobodyThere`]; [`TargetError::Unavailable`], at once while the server is away, or when it has not
    /// answered in time: then the frame may have arrived; [`TargetError::FrameTooLarge`]; [`TargetError::InvalidName`];
    /// [`TargetError::Closed`].
    pub async fn send(&self, to: &str, frame: impl Into<Bytes>) -> Result<(), TargetError> {
        self.enqueue(to, frame).await?.await
    }

    /// Puts a frame behind all that were put before. Waits only while too much is queued; awaiting what it returns
    /// gives the answer of [`send`](Self::send), and dropping that changes nothing.
    ///
    /// # Errors
    /// As [`send`](Self::send), where it is known now.
    pub async fn enqueue(&self, to: &str, frame: impl Into<Bytes>) -> Result<Sent, TargetError> {
        check_name(to)?;
        Ok(Sent { answer: self.put(To::Name(to), frame.into()).await?, wants_receiver: true })
    }

    /// Sends a frame to every inbox of every name, those of this process included.
    ///
    /// # Errors
    /// As [`send`](Self::send), but nobody listening is no error.
    pub async fn broadcast(&self, frame: impl Into<Bytes>) -> Result<(), TargetError> {
        Sent { answer: self.put(To::All, frame.into()).await?, wants_receiver: false }.await
    }

    /// Receives what is sent to `name` from now on, and what is broadcast. Several inboxes of one name all get it.
    ///
    /// While the server is away this works too, and the inbox gets a [`BusDelivery::Interrupted`] when it is back.
    ///
    /// # Errors
    /// [`TargetError::InvalidName`]; [`TargetError::Closed`].
    pub async fn listen(&self, name: &str) -> Result<Inbox, TargetError> {
        check_name(name)?;
        match &self.kind {
            Kind::Memory(bus) => bus.listen(name),
            #[cfg(feature = "redis")]
            Kind::Redis(bus) => bus.listen(name).await,
        }
    }

    /// Whether there is an inbox of that name, anywhere.
    ///
    /// # Errors
    /// [`TargetError::Unavailable`]; [`TargetError::InvalidName`]; [`TargetError::Closed`].
    pub async fn is_listening(&self, name: &str) -> Result<bool, TargetError> {
        check_name(name)?;
        match &self.kind {
            Kind::Memory(bus) => bus.is_listening(name),
            #[cfg(feature = "redis")]
            Kind::Redis(bus) => bus.is_listening(name).await,
        }
    }

    /// Asks the server on the connection for sending. An inbox tells of its own connection.
    ///
    /// # Errors
    /// [`TargetError::Unavailable`] with the reason.
    pub async fn check(&self) -> Result<(), TargetError> {
        match &self.kind {
            Kind::Memory(_) => Ok(()),
            #[cfg(feature = "redis")]
            Kind::Redis(bus) => bus.check().await,
        }
    }

    /// Whether the connection for sending is there, as far as is known without asking.
    #[must_use]
    pub fn connectivity(&self) -> Connectivity {
        match &self.kind {
            Kind::Memory(_) => Connectivity::Connected,
            #[cfg(feature = "redis")]
            Kind::Redis(bus) => bus.connectivity(),
        }
    }

    /// Ends all inboxes of this handle and its clones, each after what it has queued, and refuses everything from now
    /// on. Idempotent.
    pub fn close(&self) {
        match &self.kind {
            Kind::Memory(bus) => bus.close(),
            #[cfg(feature = "redis")]
            Kind::Redis(bus) => bus.close(),
        }
    }

    async fn put(&self, to: To<'_>, frame: Bytes) -> Result<Answer, TargetError> {
        if frame.len() > MAX_FRAME_BYTES {
            return Err(TargetError::FrameTooLarge);
        }
        match &self.kind {
            Kind::Memory(bus) => {
                let receivers = bus.put(to, &frame)?;
                // Sending never waits here, so without this a sender in a loop would starve the readers of its thread.
                tokio::task::coop::consume_budget().await;
                Ok(Answer::Known(receivers))
            }
            #[cfg(feature = "redis")]
            Kind::Redis(bus) => Ok(Answer::Awaited(bus.put(to, frame).await?)),
        }
    }
}

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match &self.kind {
            Kind::Memory(_) => "memory",
            #[cfg(feature = "redis")]
            Kind::Redis(_) => "redis",
        };
        f.debug_tuple("Bus").field(&kind).finish()
    }
}

/// The answer to a frame that was put on its way by [`Bus::enqueue`].
#[derive(Debug)]
pub struct Sent {
    answer: Answer,
    wants_receiver: bool,
}

/// How many got it.
#[derive(Debug)]
enum Answer {
    Known(u64),
    #[cfg(feature = "redis")]
    Awaited(tokio::sync::oneshot::Receiver<Result<u64, TargetError>>),
}

impl Future for Sent {
    type Output = Result<(), TargetError>;

    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "nothing to wait for within one process"))]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let receivers = match &mut self.answer {
            Answer::Known(receivers) => *receivers,
            #[cfg(feature = "redis")]
            Answer::Awaited(answer) => match std::task::ready!(Pin::new(answer).poll(cx)) {
                Ok(Ok(receivers)) => receivers,
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                // The task that answers ends with the bus only.
                Err(_) => return Poll::Ready(Err(TargetError::Closed)),
            },
        };
        let found = receivers > 0 || !self.wants_receiver;
        Poll::Ready(if found { Ok(()) } else { Err(TargetError::NobodyThere) })
    }
}

fn check_name(name: &str) -> Result<(), TargetError> {
    match name {
        "" => Err(TargetError::InvalidName("empty")),
        _ if name.len() > MAX_TOPIC_BYTES => Err(TargetError::InvalidName("longer than 512 bytes")),
        // The star is kept for the broadcast.
        _ if name.contains(|c: char| c == '*' || c.is_control()) => {
            Err(TargetError::InvalidName("`*` or control character"))
        }
        _ => Ok(()),
    }
}
