//! The event log as a stream: what is stored, then what comes, without gap or duplicate (promise 3).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, Stream};
use hub_protocol::CallId;
use hub_pubsub::{Connectivity, EventTarget, Message, Subscription};
use hub_storage::{EventRow, NewEvent, Store};

use crate::CoreError;
use crate::error::put_off;

/// Topic of the hints that the log has grown.
const GROWN: &str = "log";

/// Rows read at once.
const PAGE: u32 = 512;

/// Readers look this often even without a hint, since a hint may be lost.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Appends to the log, wakes its readers, and reads it. Clones share it.
#[derive(Clone)]
pub(crate) struct EventLog {
    store: Store,
    target: EventTarget,
}

/// What a reader gets.
#[derive(Debug, Clone)]
pub(crate) enum LogItem {
    /// One event.
    Event(EventRow),
    /// Events from `from` to `to` are past retention.
    Gap { from: u64, to: u64 },
    /// The log ends at `last`, before the position `asked` for: it is another one, such as a restored copy. What follows
    /// is what comes after `last`.
    Shorter { last: u64, asked: u64 },
    /// All that was stored has been given; what follows is live.
    CaughtUp,
}

impl EventLog {
    pub(crate) fn new(store: Store, target: EventTarget) -> Self {
        Self { store, target }
    }

    /// Stores events and wakes readers.
    pub(crate) async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<EventRow>, CoreError> {
        let rows = self.store.events().append(events).await?;
        self.announce(rows.last().map(|r| r.seq)).await;
        Ok(rows)
    }

    /// Wakes readers after a commit that stored events. Losing the hint costs a reader at most a second.
    pub(crate) async fn announce(&self, last: Option<u64>) {
        let Some(last) = last else { return };
        let message = Message { topic: GROWN.into(), payload: Bytes::from(last.to_string()) };
        if let Err(error) = self.target.publish(message).await {
            put_off(&error.into(), "readers of the event log were not woken");
        }
    }

    /// Whether readers at other hubs can be woken.
    pub(crate) fn connectivity(&self) -> Connectivity {
        *self.target.watch().borrow()
    }

    /// Position of the newest event.
    pub(crate) async fn last(&self) -> Result<u64, CoreError> {
        Ok(self.store.events().last().await?)
    }

    /// One page after a position; answers the rows and the position read up to.
    pub(crate) async fn page(&self, after: u64, limit: u32) -> Result<Vec<EventRow>, CoreError> {
        Ok(self.store.events().after(after, None, limit).await?)
    }

    /// Highest position that retention has removed.
    pub(crate) async fn trimmed_to(&self) -> Result<u64, CoreError> {
        Ok(self.store.events().trimmed_to().await?)
    }

    /// Reads on from `after` (`None`: from now) for ever, of one call tree if `root` is given.
    pub(crate) async fn read(
        &self,
        after: Option<u64>,
        root: Option<CallId>,
    ) -> Result<impl Stream<Item = Result<LogItem, CoreError>> + Send + use<>, CoreError> {
        // First of all: "now" is when this was asked for, and subscribing may take a way to another server and back.
        let position = match after {
            Some(after) => after,
            None => self.last().await?,
        };
        // Subscribed before the reader looks, so that what is stored in between leaves a hint.
        let hints = self.target.subscribe(GROWN).await?;
        let reader =
            Reader { log: self.clone(), hints, root, position, ready: VecDeque::new(), started: false, idle: false };
        Ok(stream::try_unfold(reader, |mut reader| async move {
            let item = reader.next().await?;
            Ok(Some((item, reader)))
        }))
    }
}

struct Reader {
    log: EventLog,
    hints: Subscription,
    root: Option<CallId>,
    position: u64,
    ready: VecDeque<LogItem>,
    started: bool,
    /// Whether the reader has been told that it is up to date.
    idle: bool,
}

impl Reader {
    async fn next(&mut self) -> Result<LogItem, CoreError> {
        if !self.started {
            self.started = true;
            let trimmed = self.log.trimmed_to().await?;
            if self.position < trimmed {
                let from = self.position + 1;
                self.position = trimmed;
                return Ok(LogItem::Gap { from, to: trimmed });
            }
            let last = self.log.last().await?;
            if self.position > last {
                let asked = std::mem::replace(&mut self.position, last);
                return Ok(LogItem::Shorter { last, asked });
            }
        }
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(item);
            }
            let rows = self.log.store.events().after(self.position, self.root, PAGE).await?;
            if let Some(last) = rows.last() {
                self.skipped_by_retention(rows[0].seq).await?;
                self.position = last.seq;
                self.idle = false;
                self.ready.extend(rows.into_iter().map(LogItem::Event));
                continue;
            }
            if !self.idle {
                self.idle = true;
                return Ok(LogItem::CaughtUp);
            }
            self.wait().await;
        }
    }

    /// A reader so slow that retention overtook it is told so before it goes on.
    async fn skipped_by_retention(&mut self, first: u64) -> Result<(), CoreError> {
        if first > self.position + 1 {
            let trimmed = self.log.trimmed_to().await?;
            if trimmed > self.position {
                self.ready.push_back(LogItem::Gap { from: self.position + 1, to: trimmed });
            }
        }
        Ok(())
    }

    async fn wait(&mut self) {
        // Whatever arrives, even a report of lost hints, only means: look again.
        let hint = tokio::time::timeout(LOOK_EVERY, self.hints.recv()).await;
        if matches!(hint, Ok(None)) {
            // The target is closed; go on by looking now and then.
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
