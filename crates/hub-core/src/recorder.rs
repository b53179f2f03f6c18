//! Writes call records off the hot path (protocol §4, record).
//!
//! Calls hand their changes to one task, which writes all that has gathered in one transaction. The queue is bounded
//! and nothing is dropped: when the store can't keep up, calls wait. An answer to a mutation or to a keyed call is
//! given only after its record is committed ([`Recorder::committed`]); a query's record follows within milliseconds.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hub_protocol::CallId;
use hub_storage::{BatchMark, CallBatch, CallRow, CallUpdate, EdgeRow, KeyedOutcome, NewEvent, Store};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::log::EventLog;
use crate::tasks::Tasks;

/// Changes that may wait to be written.
const QUEUE: usize = 8_192;

/// Most changes in one transaction.
const BATCH: usize = 1_024;

/// How long a small batch waits for company when nobody waits for it.
const LINGER: Duration = Duration::from_millis(2);

/// Pause before a failed batch is written again.
const RETRY: Duration = Duration::from_millis(200);

/// Failed attempts between two lines in the log.
const LOG_EVERY: u32 = 50;

/// One change to the record.
pub(crate) enum Change {
    /// A call was accepted.
    Started(Box<CallRow>, NewEvent),
    /// A call moved on or ended.
    Moved(Box<CallUpdate>, Option<NewEvent>, Option<Box<KeyedOutcome>>),
    /// One response of a subscription.
    Item(NewEvent),
    /// A relation that the tree does not show.
    Edge(EdgeRow),
}

struct Job {
    change: Change,
    committed: Option<oneshot::Sender<()>>,
}

/// Hands changes to the writing task. Clones share it.
#[derive(Clone)]
pub(crate) struct Recorder {
    queue: mpsc::Sender<Job>,
    backlog: Arc<AtomicU64>,
    /// Somebody waits for a commit.
    awaited: Arc<Notify>,
    closing: CancellationToken,
}

/// The recorder has stopped: the hub is closing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopped;

impl Recorder {
    /// Starts the writing task; it ends after [`Recorder::close`], once all that was queued is written.
    pub(crate) fn start(store: Store, log: EventLog, tasks: &Tasks) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE);
        let backlog = Arc::new(AtomicU64::new(0));
        let (awaited, closing) = (Arc::new(Notify::new()), CancellationToken::new());
        let writer = Writer {
            store,
            log,
            jobs,
            backlog: Arc::clone(&backlog),
            awaited: Arc::clone(&awaited),
            closing: closing.clone(),
            mark: BatchMark { writer: uuid::Uuid::now_v7(), number: 0 },
        };
        tasks.spawn_last("recorder", writer.run());
        Self { queue, backlog, awaited, closing }
    }

    /// Takes no more and lets the writing task end.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Queues a change, waiting for room.
    pub(crate) async fn write(&self, change: Change) -> Result<(), Stopped> {
        self.push(Job { change, committed: None }).await
    }

    /// Queues a change and waits until it is committed.
    pub(crate) async fn committed(&self, change: Change) -> Result<(), Stopped> {
        let (committed, done) = oneshot::channel();
        self.push(Job { change, committed: Some(committed) }).await?;
        self.awaited.notify_one();
        done.await.map_err(|_| Stopped)
    }

    /// As [`Recorder::committed`], but waits no longer than this: `None` when the change is not committed by then. It is
    /// written all the same, as soon as there is room for it.
    pub(crate) async fn committed_within(
        &self,
        change: Change,
        patience: Duration,
        tasks: &Tasks,
    ) -> Option<Result<(), Stopped>> {
        let until = tokio::time::Instant::now() + patience;
        let (committed, done) = oneshot::channel();
        let job = Job { change, committed: Some(committed) };
        match tokio::time::timeout_at(until, self.queue.reserve()).await {
            Ok(Ok(place)) => self.put(place, job),
            Ok(Err(_)) => return Some(Err(Stopped)),
            Err(_) => {
                let recorder = self.clone();
                tasks.spawn_last("late record", async move {
                    if recorder.push(job).await.is_err() {
                        tracing::warn!("the end of a call was not recorded: the hub is closing");
                    }
                });
                return None;
            }
        }
        self.awaited.notify_one();
        let written = tokio::time::timeout_at(until, done).await.ok()?;
        Some(written.map_err(|_| Stopped))
    }

    async fn push(&self, job: Job) -> Result<(), Stopped> {
        let place = self.queue.reserve().await.map_err(|_| Stopped)?;
        self.put(place, job);
        Ok(())
    }

    fn put(&self, place: mpsc::Permit<'_, Job>, job: Job) {
        // Only now: who gives up waiting for room, or comes too late, leaves nothing to be written.
        self.backlog.fetch_add(1, Ordering::Relaxed);
        place.send(job);
    }

    /// Changes that wait to be written.
    pub(crate) fn backlog(&self) -> u64 {
        self.backlog.load(Ordering::Relaxed)
    }
}

struct Writer {
    store: Store,
    log: EventLog,
    jobs: mpsc::Receiver<Job>,
    backlog: Arc<AtomicU64>,
    awaited: Arc<Notify>,
    closing: CancellationToken,
    /// Of the last batch: one whose commit went unanswered is tried again and must not be written twice.
    mark: BatchMark,
}

impl Writer {
    async fn run(mut self) {
        let mut jobs = Vec::with_capacity(BATCH);
        while self.gathered(&mut jobs).await {
            if jobs.len() < BATCH && jobs.iter().all(|j| j.committed.is_none()) {
                self.linger(&mut jobs).await;
            }
            let count = jobs.len() as u64;
            let (mut batch, waiting) = gather(&mut jobs);
            self.mark.number += 1;
            batch.mark = Some(self.mark);
            self.commit(batch).await;
            self.backlog.fetch_sub(count, Ordering::Relaxed);
            for done in waiting {
                // The caller may have gone; its record stands all the same.
                let _gone = done.send(());
            }
        }
    }

    /// Waits for changes; false once the recorder is closed and empty.
    async fn gathered(&mut self, jobs: &mut Vec<Job>) -> bool {
        tokio::select! {
            biased;
            n = self.jobs.recv_many(jobs, BATCH) => n > 0,
            () = self.closing.cancelled(), if !self.jobs.is_closed() => {
                // Queued changes are still given; new ones are refused.
                self.jobs.close();
                self.jobs.recv_many(jobs, BATCH).await > 0
            }
        }
    }

    /// Lets a start meet its end, so that a short call costs one row written once. Asleep meanwhile: being woken for
    /// each change cost more than writing it.
    async fn linger(&mut self, jobs: &mut Vec<Job>) {
        tokio::select! {
            () = tokio::time::sleep(LINGER) => {}
            // Of a commit that was awaited before, at worst: then this batch goes out early.
            () = self.awaited.notified() => {}
            () = self.closing.cancelled() => {}
        }
        while jobs.len() < BATCH {
            let Ok(job) = self.jobs.try_recv() else { return };
            jobs.push(job);
        }
    }

    /// Writes until it is written: a record is never dropped while the store can come back.
    async fn commit(&self, batch: CallBatch) {
        let (mut failures, mut told) = (0_u32, false);
        loop {
            match self.store.calls().record(batch.clone()).await {
                Ok(rows) => {
                    if told {
                        tracing::info!(failures, "call records are written again");
                    }
                    metrics::counter!("hub_recorder_events_total").increment(rows.len() as u64);
                    return self.log.announce(rows.last().map(|r| r.seq)).await;
                }
                Err(hub_storage::StoreError::Closed) => {
                    tracing::error!("call records were lost: the store is closed");
                    return;
                }
                Err(error) => {
                    // Once and now and then: it may last. Of an outage the store tells by itself.
                    if failures.is_multiple_of(LOG_EVERY) && !error.is_outage() {
                        told = true;
                        tracing::error!(error = %crate::error::chain(&error), "call records wait: the store failed");
                    }
                    failures = failures.wrapping_add(1);
                    metrics::counter!("hub_recorder_failures_total").increment(1);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }
}

/// Merges what has gathered: an end that meets its start in the same batch becomes one row.
fn gather(jobs: &mut Vec<Job>) -> (CallBatch, Vec<oneshot::Sender<()>>) {
    let mut batch = CallBatch::default();
    let mut waiting = Vec::new();
    let mut started: HashMap<CallId, usize> = HashMap::with_capacity(jobs.len());
    let mut moved: HashMap<CallId, usize> = HashMap::new();
    for job in jobs.drain(..) {
        waiting.extend(job.committed);
        match job.change {
            Change::Started(row, event) => {
                if let Some(parent) = row.parent {
                    batch.edges.push(EdgeRow { source: parent, target: row.call_id, kind: "triggered".into() });
                }
                started.insert(row.call_id, batch.started.len());
                batch.started.push(*row);
                batch.events.push(event);
            }
            Change::Moved(update, event, outcome) => {
                batch.events.extend(event);
                batch.outcomes.extend(outcome.map(|o| *o));
                if let Some(at) = started.get(&update.call_id) {
                    apply(&mut batch.started[*at], *update);
                } else if let Some(at) = moved.get(&update.call_id) {
                    batch.updates[*at] = *update;
                } else {
                    moved.insert(update.call_id, batch.updates.len());
                    batch.updates.push(*update);
                }
            }
            Change::Item(event) => batch.events.push(event),
            Change::Edge(edge) => batch.edges.push(edge),
        }
    }
    (batch, waiting)
}

fn apply(row: &mut CallRow, update: CallUpdate) {
    let CallUpdate {
        call_id: _,
        status,
        spoke,
        attempts,
        output,
        output_size,
        output_hash,
        error,
        completed_at,
        items,
        cost,
    } = update;
    row.status = status;
    row.spoke = spoke;
    row.attempts = attempts;
    row.output = output;
    row.output_size = output_size;
    row.output_hash = output_hash;
    row.error = error;
    row.completed_at = completed_at;
    row.items = items;
    row.cost = cost;
}

#[cfg(test)]
mod tests {
    use hub_pubsub::EventTarget;
    use hub_storage::{SqliteOptions, Stamp};

    use super::*;

    fn item(kind: &str) -> Change {
        let payload = hub_protocol::Json::null();
        Change::Item(NewEvent { topic: "t".into(), kind: kind.into(), at: Stamp::now(), payload, root: None })
    }

    #[tokio::test]
    async fn a_change_that_is_not_waited_for_any_longer_is_queued_once_there_is_room() {
        let (queue, mut jobs) = mpsc::channel(1);
        let recorder =
            Recorder { queue, backlog: Arc::default(), awaited: Arc::default(), closing: CancellationToken::new() };
        let tasks = Tasks::default();
        recorder.write(item("first")).await.unwrap();
        assert!(recorder.committed_within(item("second"), Duration::ZERO, &tasks).await.is_none());
        for kind in ["first", "second"] {
            let job = tokio::time::timeout(Duration::from_secs(10), jobs.recv()).await.unwrap().unwrap();
            assert!(matches!(job.change, Change::Item(event) if event.kind == kind), "not {kind}");
        }
        assert_eq!(recorder.backlog(), 2);
    }

    #[tokio::test]
    async fn a_change_that_comes_too_late_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await.unwrap();
        let log = EventLog::new(store.clone(), EventTarget::memory());
        let tasks = Tasks::default();
        let recorder = Recorder::start(store.clone(), log, &tasks);
        recorder.committed(item("a")).await.unwrap();
        recorder.close();
        tasks.written().await;
        assert!(recorder.write(item("b")).await.is_err());
        assert_eq!((recorder.backlog(), store.events().last().await.unwrap()), (0, 1));
    }
}
