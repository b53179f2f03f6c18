//! The conversation of two hubs: the peer engine of a connection, over the bus instead of a socket.
//!
//! The bus may lose messages when it or a hub's connection to it breaks. A link therefore numbers its messages, and one
//! that misses a number, or could have, is given up as a whole: what runs over it fails at once, and a new link of another
//! epoch takes its place. Nothing is ever delivered twice or out of order.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use hub_operations::{Outbox, OutboxReader, Peer, PeerConfig, Responder};
use hub_protocol::HubId;
use hub_pubsub::Bus;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::wire::{Kind, Message};

/// Bytes that may be under way. Less than a slow reader may have waiting at a usual Redis (8 MiB), which would cut it off.
const WINDOW: u64 = 4 * 1024 * 1024;

/// Bytes of frames in one message on the bus.
const BATCH: usize = 256 * 1024;

/// Bytes that wait to be sent before senders wait.
const OUTBOX: usize = 4 * 1024 * 1024;

/// Largest frame: a message of the largest usual size, and what a hub adds to it.
const FRAME: usize = 8 * 1024 * 1024;

/// Calls that one hub may have running on another's spokes.
const SERVING: usize = 65_536;

/// One end of a link.
pub(crate) struct Link {
    pub(super) hub: HubId,
    pub(super) epoch: Uuid,
    pub(super) peer: Peer,
    /// Both ends know of it.
    up: CancellationToken,
    /// The number that the next message has.
    next: AtomicU64,
    received: AtomicU64,
    /// Of `received`, what the other end has been told.
    told: AtomicU64,
    /// Of what was sent, what the other end has received.
    arrived: AtomicU64,
    moved: Notify,
}

impl Link {
    /// A link that waits to be up, and what it has to send.
    pub(super) fn new(
        hub: HubId,
        epoch: Uuid,
        responder: Arc<dyn Responder>,
        tasks: TaskTracker,
    ) -> (Arc<Self>, OutboxReader) {
        let config = PeerConfig { message_bytes: FRAME, max_serving: SERVING, ..PeerConfig::default() };
        let (outbox, queue) = Outbox::new(OUTBOX);
        let link = Self {
            hub,
            epoch,
            peer: Peer::new(config, outbox, responder, tasks),
            up: CancellationToken::new(),
            next: AtomicU64::new(0),
            received: AtomicU64::new(0),
            told: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            moved: Notify::new(),
        };
        (Arc::new(link), queue)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.is_cancelled() && !self.is_closed()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.peer.gone().is_cancelled()
    }

    pub(super) fn set_up(&self) {
        self.up.cancel();
    }

    /// Takes a data message; false when one before it is missing. Only the task that reads the bus calls this.
    pub(super) fn receive(&self, message: Message) -> bool {
        let size = message.body.len() as u64;
        let Some((number, frames)) = message.frames() else { return false };
        if number != self.next.fetch_add(1, Ordering::Relaxed) {
            return false;
        }
        self.received.fetch_add(size, Ordering::Relaxed);
        for frame in frames {
            if let Err(fault) = self.peer.receive(&frame) {
                tracing::error!(hub.peer = %self.hub, fault = %fault.message, "another hub sent something unreadable");
                return false;
            }
        }
        true
    }

    /// What the other end is to be told of what was received, if that is due.
    pub(super) fn window(&self) -> Option<u64> {
        let received = self.received.load(Ordering::Relaxed);
        let due = received - self.told.load(Ordering::Relaxed) >= WINDOW / 4;
        due.then(|| {
            self.told.store(received, Ordering::Relaxed);
            received
        })
    }

    /// The other end has received so much.
    pub(super) fn has_arrived(&self, bytes: u64) {
        self.arrived.fetch_max(bytes, Ordering::Relaxed);
        self.moved.notify_one();
    }

    /// Sends what the peer has to say, until the link is of no use any more.
    pub(super) async fn send(self: Arc<Self>, bus: Bus, from: HubId, mut queue: OutboxReader) {
        let gone = self.peer.gone().clone();
        let sending = async {
            self.up.cancelled().await;
            let to = self.hub.to_string();
            let (mut number, mut sent) = (0, 0);
            let mut batch: Vec<Bytes> = Vec::new();
            loop {
                while u64::saturating_sub(sent, self.arrived.load(Ordering::Relaxed)) > WINDOW {
                    self.moved.notified().await;
                }
                batch.clear();
                if let Some(close) = queue.next_batch(&mut batch, BATCH).await {
                    tracing::warn!(hub.peer = %self.hub, reason = %close.reason, "the link to another hub is given up");
                    return;
                }
                let message = Message::data(from, self.epoch, number, &batch);
                number += 1;
                sent += batch.iter().map(|f| 4 + f.len() as u64).sum::<u64>() + 8;
                if let Err(error) = bus.send(&to, message).await {
                    tracing::debug!(hub.peer = %self.hub, %error, "a message to another hub was not sent");
                    return;
                }
            }
        };
        tokio::select! {
            () = gone.cancelled() => {}
            () = sending => {}
        }
        self.peer.close();
        // A reset that is lost too is made up for by the other end's own checks.
        let reset = Message::encode(Kind::Reset, from, self.epoch, &[]);
        let _lost = bus.send(&self.hub.to_string(), reset).await;
    }
}
