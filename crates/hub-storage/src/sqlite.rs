//! SQLite behind threads: one writer that commits in groups, and readers that own their connections.
//!
//! The async query bodies run to completion on these threads: [`Inline`] makes every await of a
//! connection ready at once, so a verb costs one hop however many statements it has, and a caller that
//! goes away never stops a statement half-way.

mod open;
mod thread;

use std::error::Error;
use std::future::ready;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use diesel_async::sync_connection_wrapper::{SpawnBlocking, SyncConnectionWrapper};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::StoreError;
pub(crate) use open::{backup, pending};
use thread::{Job, Message, Verb};

/// Writes that may wait for the writer thread; past it callers wait before they are queued. Four groups.
const WRITE_QUEUE: usize = 1024;
/// Reads that may wait for a reader thread.
const READ_QUEUE: usize = 1024;

/// The connection type that the query bodies run on.
pub(crate) type LiteConn = SyncConnectionWrapper<SqliteConnection, Inline>;

/// What query bodies call their connection and database, whichever backend they are instantiated for.
pub(crate) mod names {
    pub(crate) use super::LiteConn as Conn;
    pub(crate) use diesel::sqlite::Sqlite as Db;

    /// Before a column: choose no index for its sake. The planner knows no figures of the data and picks badly
    /// where a range on time meets an order by something else.
    pub(crate) const UNINDEXED: &str = "+";

    /// The lowest id of the calls that are asked for, without a walk along the ids.
    pub(crate) const LOWEST_CALL: &str = "min(+call_id)";

    /// Which calls are tasks, as their index says it.
    pub(crate) const IS_TASK: &str = "replace(request_id, '-', '') = lower(hex(call_id))";

    /// Bodies of other areas for the same backend.
    pub(crate) mod of {
        pub(crate) use crate::audit::lite as audit;
        pub(crate) use crate::batches::lite as batches;
        pub(crate) use crate::clients::lite as clients;
        pub(crate) use crate::events::lite as events;
        pub(crate) use crate::hubs::lite as hubs;
        pub(crate) use crate::settings::lite as settings;
    }
}

/// How the file is opened.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// Number of reader threads, at least 1.
    pub readers: usize,
    /// Whether each commit is on disk before it is answered (`synchronous=FULL`); without it a power
    /// failure, but no crash of the process, can lose the last commits.
    pub sync_full: bool,
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self { readers: 3, sync_full: true }
    }
}

/// Runs a "blocking" task where it is: these threads are made for blocking.
pub(crate) struct Inline;

impl SpawnBlocking for Inline {
    fn spawn_blocking<'a, R>(
        &mut self,
        task: impl FnOnce() -> R + Send + 'static,
    ) -> BoxFuture<'a, Result<R, Box<dyn Error + Send + Sync>>>
    where
        R: Send + 'static,
    {
        Box::pin(ready(Ok(task())))
    }

    fn get_runtime() -> Self {
        Self
    }
}

/// Runs `task` on the plain connection under `conn`, for what the async one can't say.
pub(crate) fn on_sync<R: Send + 'static>(
    conn: &mut LiteConn,
    task: impl FnOnce(&mut SqliteConnection) -> QueryResult<R> + Send + 'static,
) -> QueryResult<R> {
    conn.spawn_blocking(task).now_or_never().unwrap_or(Err(diesel::result::Error::NotInTransaction))
}

/// The queues to the threads of one open file.
pub(crate) struct Sqlite {
    path: PathBuf,
    writer: mpsc::Sender<Message>,
    readers: mpsc::Sender<Message>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Sqlite {
    /// Opens and migrates the file, then starts the threads.
    pub(crate) async fn open(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let (writer, write_queue) = mpsc::channel(WRITE_QUEUE);
        let (readers, read_queue) = mpsc::channel(READ_QUEUE);
        let mut threads = Vec::new();
        let target = open::Target { path: path.to_owned(), sync_full: options.sync_full };
        threads.push(started(|ready| thread::spawn_writer(target.clone(), write_queue, ready)).await?);
        let read_queue = Arc::new(Mutex::new(read_queue));
        for n in 0..options.readers.max(1) {
            let queue = Arc::clone(&read_queue);
            threads.push(started(|ready| thread::spawn_reader(n, target.clone(), queue, ready)).await?);
        }
        Ok(Self { path: path.to_owned(), writer, readers, threads: Mutex::new(threads) })
    }

    /// Runs `work` in the writer's next group and answers once the group is committed.
    pub(crate) async fn write<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&mut LiteConn) -> Result<T, StoreError> + Send + 'static,
    {
        run(&self.writer, work).await
    }

    /// Runs `work` on the next free reader.
    pub(crate) async fn read<T, F>(&self, work: F) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: AsyncFnOnce(&mut LiteConn) -> Result<T, StoreError> + Send + 'static,
    {
        run(&self.readers, work).await
    }

    /// Whether the writer thread still takes jobs.
    pub(crate) fn writer_lives(&self) -> bool {
        !self.writer.is_closed()
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Lets queued work finish, then ends the threads; the writer goes last and empties the WAL.
    pub(crate) async fn close(&self) {
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        // A closed queue means the thread has already gone.
        let _ = self.readers.send(Message::Stop).await;
        self.readers.closed().await;
        let _ = self.writer.send(Message::Stop).await;
        self.writer.closed().await;
        let joined = tokio::task::spawn_blocking(move || threads.into_iter().map(JoinHandle::join).collect::<Vec<_>>());
        match joined.await {
            Ok(results) if results.iter().any(Result::is_err) => tracing::error!("store.thread_panicked"),
            Ok(_) => {}
            Err(error) => tracing::error!(%error, "store.close_interrupted"),
        }
    }
}

async fn run<T, F>(queue: &mpsc::Sender<Message>, work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: AsyncFnOnce(&mut LiteConn) -> Result<T, StoreError> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    let job: Box<dyn Job> = Box::new(Verb::new(work, reply));
    queue.send(Message::Job(job)).await.map_err(|_| StoreError::Closed)?;
    answer.await.map_err(|_| StoreError::Closed)?
}

/// Starts a thread and waits until it has its connection.
async fn started(
    spawn: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> std::io::Result<JoinHandle<()>>,
) -> Result<JoinHandle<()>, StoreError> {
    let (ready, opened) = oneshot::channel();
    let thread = spawn(ready)?;
    opened.await.map_err(|_| StoreError::Closed)??;
    Ok(thread)
}
