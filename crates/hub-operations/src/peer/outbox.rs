use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use hub_protocol::close;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Why and how the connection should be closed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Close {
    /// WebSocket close code.
    pub code: u16,
    /// Close reason, at most 123 bytes.
    pub reason: String,
    /// Whether what is queued is written first.
    pub flush: bool,
}

/// Why a message was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unsent {
    /// The connection is closed or its peer does not read.
    #[error("the connection takes no more messages")]
    Closed,
    /// Too many bytes wait for room already. The connection goes on: its peer reads, only not as fast as all senders
    /// together would like.
    #[error("too much waits to be sent on this connection")]
    Full,
}

/// How many times the limit may be waiting for room while nothing is written. A burst of large answers to a peer that
/// reads is not slowness, so time counts, too.
const WAITING: usize = 8;

/// How long one batch may be on its way while that much waits.
const PATIENCE: Duration = Duration::from_secs(2);

/// How many times the limit may be waiting in any case. What is more is refused to its sender, since the peer may well
/// read: closing would cost everybody else's calls on the connection.
const MOST_WAITING: usize = 64;

/// Messages up to this many bytes may always wait: the refusal of a large one has to get through.
const SMALL: usize = 1024;

/// Part of the queue that items of streams may fill.
const STREAMS: usize = 8;

/// Messages to be written, bounded in bytes. Clones share it.
///
/// Senders wait while more than `limit` bytes are queued. If much waits and nothing at all was written for a while, the
/// connection is closed with 1013; if so much waits that memory is at stake, large messages are refused. A peer that
/// reads nothing at all is found by the writer, too, whose writes then stall.
#[derive(Clone)]
pub struct Outbox {
    shared: Arc<Shared>,
}

struct Shared {
    limit: usize,
    state: Mutex<State>,
    /// Wakes the writer.
    filled: Notify,
    /// Wakes senders.
    room: Notify,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Bytes>,
    /// Queued or being written.
    bytes: usize,
    /// Of senders that wait for room.
    waiting: usize,
    /// Since when the writer has been writing one batch.
    writing_since: Option<Instant>,
    close: Option<Close>,
    reader_gone: bool,
}

/// The writer's end. Dropping it makes every send fail.
pub struct OutboxReader {
    shared: Arc<Shared>,
    taken: usize,
}

impl Outbox {
    /// A queue of about `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> (Self, OutboxReader) {
        let shared = Arc::new(Shared { limit, state: Mutex::default(), filled: Notify::new(), room: Notify::new() });
        (Self { shared: Arc::clone(&shared) }, OutboxReader { shared, taken: 0 })
    }

    /// Queues a message, waiting for room.
    ///
    /// # Errors
    /// When the connection is closed, also while waiting, or too much waits already.
    pub async fn send(&self, frame: Bytes) -> Result<(), Unsent> {
        self.send_below(frame, self.shared.limit).await
    }

    /// As [`Outbox::send`] for an item of a stream: it leaves most of the queue to others, so that streams neither
    /// delay calls nor have much on its way when their reader pauses them.
    ///
    /// # Errors
    /// As [`Outbox::send`].
    pub async fn send_item(&self, frame: Bytes) -> Result<(), Unsent> {
        self.send_below(frame, self.shared.limit / STREAMS).await
    }

    async fn send_below(&self, frame: Bytes, limit: usize) -> Result<(), Unsent> {
        if self.try_send(&frame, limit)? {
            return Ok(());
        }
        let waiting = Waiting::new(&self.shared, frame.len())?;
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            // Registered before looking, so that room made in between is not missed.
            room.as_mut().enable();
            if self.try_send(&frame, limit)? {
                drop(waiting);
                return Ok(());
            }
            room.await;
        }
    }

    fn try_send(&self, frame: &Bytes, limit: usize) -> Result<bool, Unsent> {
        let mut state = self.shared.lock();
        if state.close.is_some() || state.reader_gone {
            return Err(Unsent::Closed);
        }
        if state.bytes >= limit.max(1) {
            return Ok(false);
        }
        state.enqueue(frame.clone());
        drop(state);
        self.shared.filled.notify_one();
        Ok(true)
    }

    /// Queues a small control message without waiting. Too many of them close the connection with 1013.
    pub fn push(&self, frame: Bytes) {
        let mut state = self.shared.lock();
        if state.close.is_some() || state.reader_gone {
            return;
        }
        state.enqueue(frame);
        if state.bytes > 2 * self.shared.limit {
            state.close = Some(slow());
            self.shared.room.notify_waiters();
        }
        drop(state);
        self.shared.filled.notify_one();
    }

    /// Asks for the connection to be closed. The first request decides.
    pub fn close(&self, close: Close) {
        let mut state = self.shared.lock();
        if state.close.is_none() {
            state.close = Some(close);
        }
        drop(state);
        self.shared.filled.notify_one();
        self.shared.room.notify_waiters();
    }

    /// Waits while the queue is full: the owner then reads no more from this peer.
    pub async fn room(&self) {
        loop {
            let room = self.shared.room.notified();
            tokio::pin!(room);
            room.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.bytes < self.shared.limit || state.close.is_some() || state.reader_gone {
                    return;
                }
            }
            room.await;
        }
    }

    /// Bytes that are queued or being written.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.shared.lock().bytes
    }

    /// Whether nothing can be sent any more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        let state = self.shared.lock();
        state.close.is_some() || state.reader_gone
    }
}

impl OutboxReader {
    /// Moves up to about `max` queued bytes into `batch`, waiting for the first message. The bytes of the batch
    /// before count as written now, which makes room for senders. Answers how to close, if that is due.
    pub async fn next_batch(&mut self, batch: &mut Vec<Bytes>, max: usize) -> Option<Close> {
        let shared = Arc::clone(&self.shared);
        loop {
            let filled = shared.filled.notified();
            if let Some(close) = self.take(batch, max) {
                return close;
            }
            filled.await;
            // Whoever fills the queue is often one of many tasks that are ready. The scheduler would run this one
            // next; behind them it finds what all of them have to send, and one write takes it.
            tokio::task::yield_now().await;
        }
    }

    /// `Some(None)`: there is a batch. `Some(Some(_))`: close. `None`: nothing yet.
    fn take(&mut self, batch: &mut Vec<Bytes>, max: usize) -> Option<Option<Close>> {
        let mut state = self.shared.lock();
        let before = state.bytes;
        state.writing_since = None;
        state.bytes -= std::mem::take(&mut self.taken);
        let limit = self.shared.limit;
        if [limit, (limit / STREAMS).max(1)].iter().any(|mark| before >= *mark && state.bytes < *mark) {
            self.shared.room.notify_waiters();
        }
        let close = state.close.clone();
        if close.as_ref().is_some_and(|c| !c.flush || state.queue.is_empty()) {
            return Some(close);
        }
        while self.taken < max {
            let Some(frame) = state.queue.pop_front() else { break };
            self.taken += frame.len();
            batch.push(frame);
        }
        if batch.is_empty() {
            return None;
        }
        state.writing_since = Some(Instant::now());
        Some(None)
    }
}

impl Drop for OutboxReader {
    fn drop(&mut self) {
        self.shared.lock().reader_gone = true;
        self.shared.room.notify_waiters();
    }
}

impl State {
    fn enqueue(&mut self, frame: Bytes) {
        self.bytes += frame.len();
        self.queue.push_back(frame);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the bytes of one waiting sender.
struct Waiting<'a> {
    shared: &'a Shared,
    bytes: usize,
}

impl<'a> Waiting<'a> {
    fn new(shared: &'a Shared, bytes: usize) -> Result<Self, Unsent> {
        let mut state = shared.lock();
        let waiting = state.waiting + bytes;
        let stuck = state.writing_since.is_some_and(|since| since.elapsed() > PATIENCE);
        if stuck && waiting > WAITING * shared.limit && state.close.is_none() {
            state.close = Some(slow());
            shared.room.notify_waiters();
            shared.filled.notify_one();
        }
        if bytes > SMALL && waiting > MOST_WAITING * shared.limit {
            return Err(Unsent::Full);
        }
        state.waiting = waiting;
        drop(state);
        Ok(Self { shared, bytes })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.shared.lock().waiting -= self.bytes;
    }
}

fn slow() -> Close {
    Close { code: close::SLOW_CONSUMER, reason: "slow consumer".to_owned(), flush: false }
}
