//! What the writer and reader threads do.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use diesel::connection::{AnsiTransactionManager, SimpleConnection, TransactionManager};
use diesel::sqlite::SqliteConnection;
use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};

use super::open::Target;
use super::{LiteConn, on_sync};
use crate::StoreError;

/// Most jobs in one commit. More brought nothing when measured, and each waits for the whole group.
const GROUP_JOBS: usize = 256;
/// Time after which a group takes no further job, so that a few large batches don't hold up the rest.
const GROUP_TIME: Duration = Duration::from_millis(20);

pub(crate) enum Message {
    Job(Box<dyn Job>),
    /// Take no more, do what is queued, end.
    Stop,
}

/// A verb on its way through a thread.
pub(crate) trait Job: Send {
    /// Does the work; `false` if it failed and must be undone.
    fn run(&mut self, conn: &mut LiteConn) -> bool;
    /// Tells the caller; `failure` is that of the commit around it.
    fn answer(self: Box<Self>, failure: Option<StoreError>);
}

type Outcome<T> = Result<T, StoreError>;

/// A job made of an async body and the caller's reply channel.
pub(crate) struct Verb<F, T> {
    work: Option<F>,
    /// `None` until it ran.
    outcome: Option<Outcome<T>>,
    reply: oneshot::Sender<Outcome<T>>,
}

impl<F, T> Verb<F, T> {
    pub(crate) fn new(work: F, reply: oneshot::Sender<Outcome<T>>) -> Self {
        Self { work: Some(work), outcome: None, reply }
    }
}

impl<F, T> Job for Verb<F, T>
where
    F: AsyncFnOnce(&mut LiteConn) -> Outcome<T> + Send,
    T: Send,
{
    fn run(&mut self, conn: &mut LiteConn) -> bool {
        // Never pending: every await in a body is one of this connection.
        self.outcome = self.work.take().and_then(|work| work(conn).now_or_never());
        matches!(self.outcome, Some(Ok(_)))
    }

    fn answer(self: Box<Self>, failure: Option<StoreError>) {
        let outcome = match (self.outcome, failure) {
            // A job that failed by itself keeps its own, better reason.
            (Some(Err(own)), _) => Err(own),
            (_, Some(failure)) => Err(failure),
            (Some(Ok(value)), None) => Ok(value),
            (None, None) => Err(StoreError::Closed),
        };
        // The caller may have gone; what is committed stays committed.
        let _ = self.reply.send(outcome);
    }
}

type Ready = oneshot::Sender<Result<(), StoreError>>;

pub(crate) fn spawn_writer(
    target: Target,
    mut queue: mpsc::Receiver<Message>,
    ready: Ready,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name("hub-store-writer".to_owned()).spawn(move || {
        let Some(mut conn) = opened(target.writer(), ready) else { return };
        while let Some(message) = queue.blocking_recv() {
            match message {
                Message::Stop => queue.close(),
                Message::Job(job) => {
                    if !write_group(&mut conn, job, &mut queue) && !reopen(&mut conn, &target) {
                        return;
                    }
                }
            }
        }
        if let Err(error) = on_sync(&mut conn, |c| c.batch_execute("PRAGMA wal_checkpoint(TRUNCATE)")) {
            tracing::warn!(%error, "store.checkpoint_failed");
        }
    })
}

pub(crate) fn spawn_reader(
    n: usize,
    target: Target,
    queue: Arc<Mutex<mpsc::Receiver<Message>>>,
    ready: Ready,
) -> std::io::Result<JoinHandle<()>> {
    Builder::new().name(format!("hub-store-read-{n}")).spawn(move || {
        let Some(mut conn) = opened(target.reader(), ready) else { return };
        loop {
            match next_read(&queue) {
                None => return,
                Some(Message::Stop) => {}
                Some(Message::Job(mut job)) => {
                    job.run(&mut conn);
                    job.answer(None);
                }
            }
        }
    })
}

/// One idle reader waits in the queue and the others for the lock, so each message wakes one thread.
fn next_read(queue: &Mutex<mpsc::Receiver<Message>>) -> Option<Message> {
    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
    let message = queue.blocking_recv();
    // Under the same lock: later another reader holds it, waiting for a message that never comes.
    if matches!(message, Some(Message::Stop)) {
        queue.close();
    }
    message
}

/// Reports how opening went and wraps the connection for the query bodies.
fn opened(conn: Result<SqliteConnection, StoreError>, ready: Ready) -> Option<LiteConn> {
    match conn {
        Ok(conn) => {
            // Nobody waits any more if the caller dropped its open; the empty queue then ends the thread.
            let _ = ready.send(Ok(()));
            Some(LiteConn::new(conn))
        }
        Err(error) => {
            let _ = ready.send(Err(error));
            None
        }
    }
}

/// One commit for what has queued up; `false` if the connection can't be used any further.
fn write_group(conn: &mut LiteConn, first: Box<dyn Job>, queue: &mut mpsc::Receiver<Message>) -> bool {
    let begun = on_sync(conn, |c| AnsiTransactionManager::begin_transaction_sql(c, "BEGIN IMMEDIATE"));
    if let Err(error) = begun {
        first.answer(Some(error.into()));
        return is_idle(conn);
    }
    let since = Instant::now();
    let mut done = Vec::new();
    let mut next = Some(first);
    let mut intact = true;
    while let Some(job) = next.take() {
        let (job, kept) = in_savepoint(conn, job);
        done.push(job);
        intact = kept;
        if !intact || done.len() == GROUP_JOBS || since.elapsed() > GROUP_TIME {
            break;
        }
        match queue.try_recv() {
            Ok(Message::Job(job)) => next = Some(job),
            Ok(Message::Stop) => queue.close(),
            Err(_) => {}
        }
    }
    let failure = finish(conn, intact);
    for job in done {
        job.answer(failure.as_ref().map(StoreError::copy));
    }
    is_idle(conn)
}

/// Runs a job so that its failure undoes only itself; `false` if even that was not possible.
fn in_savepoint(conn: &mut LiteConn, mut job: Box<dyn Job>) -> (Box<dyn Job>, bool) {
    if on_sync(conn, AnsiTransactionManager::begin_transaction).is_err() {
        return (job, false);
    }
    let left = if job.run(conn) {
        on_sync(conn, AnsiTransactionManager::commit_transaction)
    } else {
        // Fails when SQLite has rolled back the whole transaction by itself (disk full, IO error).
        on_sync(conn, AnsiTransactionManager::rollback_transaction)
    };
    (job, left.is_ok())
}

/// Commits, or rolls back a group that lost its transaction; the failure is that of every job in it.
fn finish(conn: &mut LiteConn, intact: bool) -> Option<StoreError> {
    if intact {
        return on_sync(conn, AnsiTransactionManager::commit_transaction).err().map(StoreError::Query);
    }
    let _ = on_sync(conn, |c| c.batch_execute("ROLLBACK"));
    let lost = diesel::result::Error::RollbackTransaction;
    Some(StoreError::Query(lost))
}

/// Whether no transaction is open or broken on the connection.
fn is_idle(conn: &mut LiteConn) -> bool {
    on_sync(conn, |c| {
        let status = AnsiTransactionManager::transaction_manager_status_mut(c);
        Ok(matches!(status.transaction_depth(), Ok(None)))
    })
    .unwrap_or(false)
}

fn reopen(conn: &mut LiteConn, target: &Target) -> bool {
    match target.plain_writer() {
        Ok(fresh) => {
            tracing::warn!("store.writer_reopened");
            *conn = LiteConn::new(fresh);
            true
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "store.writer_lost");
            false
        }
    }
}
