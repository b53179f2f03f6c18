//! Postgres behind a pool: each write is a transaction on a connection of its own.
//!
//! Nothing here waits without a bound: for a connection as long as [`PostgresOptions::wait`], for a statement as
//! long as the server's `statement_timeout`, for a verb three times that, and for a peer that has vanished as long
//! as `tcp_user_timeout`.

mod address;
mod append;
mod bulk;
mod connect;
mod migrate;
mod refusal;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel_async::pooled_connection::bb8::{Pool, PooledConnection};
use diesel_async::pooled_connection::{AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod};
use diesel_async::{AnsiTransactionManager, AsyncPgConnection, TransactionManager};
use futures_util::FutureExt;

use crate::{EventRow, NewEvent, Outage, StoreError};
use append::Appender;
use connect::Health;
pub(crate) use connect::Target;
pub(crate) use migrate::{migrate, pending};
pub use refusal::Refusal;
pub(crate) use refusal::Refused;

/// What query bodies call their connection and database; see the one of SQLite.
pub(crate) mod names {
    pub(crate) use diesel::pg::Pg as Db;
    pub(crate) use diesel_async::AsyncPgConnection as Conn;

    /// Postgres has figures of the data and needs no hints.
    pub(crate) const UNINDEXED: &str = "";

    /// As text, since Postgres before 18 knows no least uuid; hexadecimal sorts as the bytes do.
    pub(crate) const LOWEST_CALL: &str = "min(call_id::text COLLATE \"C\")::uuid";

    /// Which calls are tasks, as their index says it.
    pub(crate) const IS_TASK: &str = "request_id = call_id::text";

    /// Bodies of other areas for the same backend.
    pub(crate) mod of {
        pub(crate) use crate::audit::pg as audit;
        pub(crate) use crate::batches::pg as batches;
        pub(crate) use crate::clients::pg as clients;
        pub(crate) use crate::events::pg as events;
        pub(crate) use crate::hubs::pg as hubs;
        pub(crate) use crate::settings::pg as settings;
    }
}

/// Most tries of a transaction that others got in the way of.
const RACES: u32 = 5;

/// How a Postgres database is used.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    /// Most connections.
    pub pool: u32,
    /// How long a verb waits for a connection before it is [`StoreError::Busy`].
    pub wait: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// `statement_timeout` of every connection; a verb may take three times as long.
    pub statement_timeout: Duration,
    /// `idle_in_transaction_session_timeout` of every connection: when a hub hangs, its locks end.
    pub idle_in_transaction_timeout: Duration,
    /// How long sent data may stay unacknowledged before the connection counts as lost (Linux).
    pub tcp_user_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            pool: 8,
            wait: Duration::from_secs(3),
            connect_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(10),
            idle_in_transaction_timeout: Duration::from_secs(10),
            tcp_user_timeout: Duration::from_secs(5),
        }
    }
}

/// One database and the connections to it.
pub(crate) struct Postgres {
    inner: Arc<Inner>,
    appender: Appender,
}

/// What the verbs and the appending task share.
struct Inner {
    /// `None` once closed.
    pool: Mutex<Option<Pool<AsyncPgConnection>>>,
    health: Arc<Health>,
    target: Arc<Target>,
    options: PostgresOptions,
    outage: Arc<Outage>,
}

impl Postgres {
    /// Migrates the database, then fills the pool.
    pub(crate) async fn open(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        let target = Arc::new(Target::parse(url, &options)?);
        migrate(Arc::clone(&target)).await?;
        let outage = Arc::new(Outage::of(target.address()));
        Self::connect(target, options, outage).await
    }

    /// The same database by one other connection.
    pub(crate) async fn apart(&self) -> Result<Self, StoreError> {
        let Inner { target, outage, options, .. } = &*self.inner;
        let options = PostgresOptions { pool: 1, ..options.clone() };
        Self::connect(Arc::clone(target), options, Arc::clone(outage)).await
    }

    async fn connect(target: Arc<Target>, options: PostgresOptions, outage: Arc<Outage>) -> Result<Self, StoreError> {
        let health = Arc::new(Health::default());
        let mut config = ManagerConfig::default();
        // No query at each check-out, which would halve the pool's speed, but a look whether it is open.
        config.recycling_method = RecyclingMethod::CustomFunction(Box::new(|conn: &mut AsyncPgConnection| {
            use diesel_async::pooled_connection::PoolableConnection;
            let closed = conn.is_broken();
            let outcome = if closed { Err(diesel::result::Error::BrokenTransactionManager) } else { Ok(()) };
            std::future::ready(outcome).boxed()
        }));
        let (watched, to) = (Arc::clone(&health), Arc::clone(&target));
        config.custom_setup = Box::new(move |_| {
            let (target, health) = (Arc::clone(&to), Arc::clone(&watched));
            async move { health.connect(&target).await }.boxed()
        });
        let address = target.address();
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), config);
        let pool = Pool::builder()
            .max_size(options.pool.max(1))
            .connection_timeout(options.wait)
            // The next verb tries again, so the first one after an outage already finds the database.
            .retry_connection(false)
            .build(manager)
            .await
            .map_err(|error| StoreError::Unavailable(format!("{address}: {error}").into()))?;
        let inner = Arc::new(Inner { pool: Mutex::new(Some(pool)), health, target, options, outage });
        Ok(Self { appender: Appender::start(Arc::clone(&inner)), inner })
    }

    pub(crate) fn tell_outages(&self) {
        self.inner.outage.tell();
    }

    /// The server's address, without secrets.
    pub(crate) fn address(&self) -> String {
        self.inner.target.address()
    }

    /// A connection for statements that need no transaction.
    pub(crate) async fn lend(&self) -> Result<Lent, StoreError> {
        self.inner.lend().await
    }

    /// A connection in a new transaction.
    pub(crate) async fn begin(&self) -> Result<Tx, StoreError> {
        self.inner.begin().await
    }

    /// Runs `work` as long as a verb may take.
    pub(crate) async fn bounded<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.inner.bounded(work).await
    }

    /// Adds events together with those of other callers.
    pub(crate) async fn append(&self, events: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError> {
        self.appender.append(events).await
    }

    /// Finishes queued events and gives up the connections as they come back.
    pub(crate) async fn close(&self) {
        self.appender.close().await;
        drop(self.inner.pool.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
}

impl Inner {
    async fn lend(&self) -> Result<Lent, StoreError> {
        let pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(StoreError::Closed)?;
        let conn = self.health.get(&pool).await.inspect_err(|error| self.outage.failed(&error.chain()))?;
        Ok(Lent { conn, outage: Arc::clone(&self.outage) })
    }

    async fn begin(&self) -> Result<Tx, StoreError> {
        let mut lent = self.lend().await?;
        AnsiTransactionManager::begin_transaction(lent.conn()).await?;
        Ok(Tx { lent })
    }

    async fn bounded<T>(&self, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        match tokio::time::timeout(self.options.statement_timeout.saturating_mul(3), work).await {
            Ok(outcome) => outcome,
            Err(_) => {
                let late = StoreError::timed_out();
                self.outage.failed(&late.chain());
                Err(late)
            }
        }
    }
}

/// A connection out of the pool.
pub(crate) struct Lent {
    conn: PooledConnection<'static, AsyncPgConnection>,
    outage: Arc<Outage>,
}

impl Lent {
    pub(crate) fn conn(&mut self) -> &mut AsyncPgConnection {
        &mut self.conn
    }

    /// Returns the connection, or ends it when the outcome says that it, or its server, is of no more use.
    pub(crate) fn give_back<T>(mut self, outcome: Result<T, StoreError>) -> Result<T, StoreError> {
        match &outcome {
            Err(error) if error.is_outage() => self.outage.failed(&error.chain()),
            _ => self.outage.worked(),
        }
        if let Err(StoreError::Unavailable(_) | StoreError::ReadOnly) = outcome {
            // What is in a broken transaction is not taken back by the pool.
            AnsiTransactionManager::transaction_manager_status_mut(&mut *self.conn).set_in_error();
        }
        outcome
    }
}

/// A connection in a transaction. Dropped before its end the connection is closed, which rolls back.
pub(crate) struct Tx {
    lent: Lent,
}

impl Tx {
    pub(crate) fn conn(&mut self) -> &mut AsyncPgConnection {
        self.lent.conn()
    }

    /// Commits what succeeded and rolls back what didn't.
    pub(crate) async fn finish<T>(mut self, done: Result<T, StoreError>, tries: &Tries) -> Result<T, StoreError> {
        let outcome = match done {
            Ok(value) => {
                tries.committing.store(true, Ordering::Relaxed);
                let committed = AnsiTransactionManager::commit_transaction(self.conn()).await;
                committed.map(|()| value).map_err(StoreError::from)
            }
            Err(error) => {
                // Fails only on a connection that is of no more use, and then nothing was committed either.
                let _ = AnsiTransactionManager::rollback_transaction(self.conn()).await;
                Err(error)
            }
        };
        self.lent.give_back(outcome)
    }
}

/// How often a verb was tried, and whether it may be tried again.
#[derive(Default)]
pub(crate) struct Tries {
    races: u32,
    lost: bool,
    /// Set once the commit of the current try was sent.
    committing: AtomicBool,
}

impl Tries {
    /// The outcome of the verb, or `None` to try it again.
    pub(crate) async fn judge<T>(&mut self, outcome: Result<T, StoreError>) -> Option<Result<T, StoreError>> {
        let committing = std::mem::take(self.committing.get_mut());
        match &outcome {
            Err(error) if error.is_undone_race() && self.races < RACES => {
                self.races += 1;
                // Those who met go different lengths of time.
                let pause = u64::from(self.races) * (2 + uuid::Uuid::now_v7().as_u128() as u64 % 8);
                tokio::time::sleep(Duration::from_millis(pause)).await;
                None
            }
            // A pooled connection that its server has closed meanwhile; the next one shows whether the server lives.
            Err(StoreError::Unavailable(source))
                if !committing && !self.lost && source.is::<diesel::result::Error>() =>
            {
                self.lost = true;
                None
            }
            _ => Some(outcome),
        }
    }
}
