//! Group commit of events: what many callers append at a time goes into one transaction.
//!
//! A transaction with events holds the row of positions until it has committed, so there is one at a time in the
//! whole cluster, and what counts is how many events it takes along.

use std::sync::{Arc, PoisonError};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use uuid::Uuid;

use super::bulk::{Weight, place_events};
use super::names::of;
use super::{Inner, Tries};
use crate::calls::BatchMark;
use crate::{EventRow, NewEvent, StoreError};

/// Appends that may wait; past it callers wait before they are queued.
const QUEUE: usize = 4096;
/// Most appends in one transaction. More brought nothing when measured.
const GROUP: usize = 512;
/// Bytes of payload after which a group takes no further append.
const GROUP_BYTES: usize = 8 << 20;
/// Tries of a group whose connection was lost, each with a wait for a connection of its own.
const TRIES: u32 = 3;

struct Append {
    events: Vec<NewEvent>,
    reply: oneshot::Sender<Result<Vec<EventRow>, StoreError>>,
}

/// The queue to the appending task, and the task.
pub(super) struct Appender {
    queue: std::sync::Mutex<Option<mpsc::Sender<Append>>>,
    task: tokio::sync::Mutex<JoinSet<()>>,
}

impl Appender {
    pub(super) fn start(inner: Arc<Inner>) -> Self {
        let (sender, queue) = mpsc::channel(QUEUE);
        let mut task = JoinSet::new();
        task.spawn(run(inner, queue));
        Self { queue: std::sync::Mutex::new(Some(sender)), task: tokio::sync::Mutex::new(task) }
    }

    pub(super) async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError> {
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (reply, answer) = oneshot::channel();
        queue.ok_or(StoreError::Closed)?.send(Append { events, reply }).await.map_err(|_| StoreError::Closed)?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Lets queued appends finish, then ends the task.
    pub(super) async fn close(&self) {
        drop(self.queue.lock().unwrap_or_else(PoisonError::into_inner).take());
        let mut task = self.task.lock().await;
        while let Some(ended) = task.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, "store.append_task_failed");
            }
        }
    }
}

async fn run(inner: Arc<Inner>, mut queue: mpsc::Receiver<Append>) {
    let mut mark = BatchMark { writer: Uuid::now_v7(), number: 0 };
    while let Some(first) = queue.recv().await {
        let mut bytes = Weight::of(&first.events);
        let mut group = vec![first];
        while group.len() < GROUP && bytes < GROUP_BYTES {
            let Ok(next) = queue.try_recv() else { break };
            bytes += Weight::of(&next.events);
            group.push(next);
        }
        mark.number += 1;
        write(&inner, mark, group).await;
    }
}

/// Writes a group and answers its callers.
async fn write(inner: &Inner, mark: BatchMark, group: Vec<Append>) {
    let sizes: Vec<usize> = group.iter().map(|append| append.events.len()).collect();
    let (events, replies): (Vec<_>, Vec<_>) = group.into_iter().map(|append| (append.events, append.reply)).unzip();
    let events: Vec<NewEvent> = events.into_iter().flatten().collect();
    match patiently(inner, mark, &events).await {
        Ok(first) => {
            let mut rows = crate::events::placed(first, events).into_iter();
            for (size, reply) in sizes.into_iter().zip(replies) {
                // The caller may have gone; what is committed stays committed.
                let _ = reply.send(Ok(rows.by_ref().take(size).collect()));
            }
        }
        Err(error) => {
            for reply in replies {
                let _ = reply.send(Err(error.copy()));
            }
        }
    }
}

/// Tries the group again where its connection was lost, the commit included: the mark keeps it from being doubled.
async fn patiently(inner: &Inner, mark: BatchMark, events: &[NewEvent]) -> Result<u64, StoreError> {
    let mut tries = Tries::default();
    let mut lost = 0;
    loop {
        match tries.judge(inner.bounded(once(inner, mark, events, &tries)).await).await {
            Some(Err(StoreError::Unavailable(source))) if lost < TRIES && source.is::<diesel::result::Error>() => {
                lost += 1
            }
            Some(outcome) => return outcome,
            None => {}
        }
    }
}

async fn once(inner: &Inner, mark: BatchMark, events: &[NewEvent], tries: &Tries) -> Result<u64, StoreError> {
    let mut tx = inner.begin().await?;
    let done = async {
        if let Some(first) = of::batches::applied(tx.conn(), mark).await? {
            return Ok(first);
        }
        place_events(tx.conn(), events, Some(mark.writer)).await
    };
    let done = done.await;
    tx.finish(done, tries).await
}
