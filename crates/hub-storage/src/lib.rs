//! The hub's durable memory: one set of verbs over an embedded SQLite file or a Postgres server.
//!
//! **Purpose.** [`Store`] keeps accounts, keys, the audit trail, clients with their encrypted secrets, spokes and their operations, calls, idempotency
//! keys, the event log and settings. Verbs are grouped by area: `store.calls().record(..)`.
//!
//! **Non-goals.** No rights, no rules, no wire types, no publishing: `hub-core` decides, then calls one verb and
//! publishes what it returns. Payloads are texts that are never parsed here. Ids and times are the caller's.
//!
//! **Invariants.**
//! - One method is one transaction, its event rows included; [`Store::sweep`] and
//!   [`Calls::close_interrupted`] are several, since they may touch very many rows.
//! - A verb answers after its commit. On SQLite with `sync_full` (the default) what was answered survives a power
//!   failure, without it the death of the process; on Postgres the server's `synchronous_commit` says.
//! - Dropping the future of a verb never leaves half of it: the verb happens as a whole or not at all.
//! - Event positions only grow, without holes, are given in commit order and never twice.
//! - A database with a migration that this binary doesn't know is refused and left as it is.
//! - No verb on Postgres waits without a bound; see [`PostgresOptions`].
//!
//! ```
//! use hub_protocol::{AccountId, Json};
//! use hub_storage::{AccountRow, NewEvent, SqliteOptions, Stamp, Store};
//!
//! # let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
//! # runtime.block_on(async {
//! let folder = tempfile::tempdir().unwrap();
//! let store = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await?;
//!
//! let row = AccountRow { id: AccountId::new(), name: "ada".into(), kind: "admin".into(), created_at: Stamp::now() };
//! let stored = store.accounts().ensure(row.clone()).await?;
//! assert_eq!(stored.id, row.id);
//!
//! let event = NewEvent {
//!     topic: "accounts".into(),
//!     kind: "created".into(),
//!     at: Stamp::now(),
//!     payload: Json::null(),
//!     root: None,
//! };
//! let written = store.events().append(vec![event]).await?;
//! assert_eq!(store.events().last().await?, written[0].seq);
//! store.close().await;
//! # Ok::<(), hub_storage::StoreError>(())
//! # }).unwrap();
//! ```

mod error;
mod outage;
mod postgres;
mod schema;
mod sqlite;
mod types;

/// Instantiates query bodies once per backend, as `lite` and as `pg`. Errors in a body point at the macro: write it
/// outside first.
macro_rules! backends {
    ($($bodies:tt)*) => {
        pub(crate) mod lite {
            use super::*;
            use crate::sqlite::names::*;
            $($bodies)*
        }
        pub(crate) mod pg {
            use super::*;
            use crate::postgres::names::*;
            $($bodies)*
        }
    };
}

/// Runs a body as a write: in its own transaction, answered after the commit. On Postgres it may run several times.
macro_rules! on_writer {
    ($store:expr, $verb:ident($($arg:expr),*)) => {
        match &$store.backend {
            $crate::store::Backend::Sqlite(db) => db.write(async move |c| lite::$verb(c, $($arg),*).await).await,
            $crate::store::Backend::Postgres(db) => {
                let mut tries = $crate::postgres::Tries::default();
                loop {
                    let attempt = async {
                        let mut tx = db.begin().await?;
                        let done = pg::$verb(tx.conn(), $(Clone::clone(&$arg)),*).await;
                        tx.finish(done, &tries).await
                    };
                    let outcome = db.bounded(attempt).await;
                    match tries.judge(outcome).await {
                        Some(result) => break result,
                        None => {}
                    }
                }
            }
        }
    };
}

/// Runs a body that is a single statement as a write: on Postgres without a transaction around it.
macro_rules! on_writer_once {
    ($store:expr, $verb:ident($($arg:expr),*)) => {
        match &$store.backend {
            $crate::store::Backend::Sqlite(db) => db.write(async move |c| lite::$verb(c, $($arg),*).await).await,
            $crate::store::Backend::Postgres(db) => {
                let mut lent = db.lend().await?;
                let done = db.bounded(pg::$verb(lent.conn(), $($arg),*)).await;
                lent.give_back(done)
            }
        }
    };
}

/// Runs a body as a read of what is committed. On Postgres it is tried again once when its connection was lost.
macro_rules! on_reader {
    ($store:expr, $verb:ident($($arg:expr),*)) => {
        match &$store.backend {
            $crate::store::Backend::Sqlite(db) => db.read(async move |c| lite::$verb(c, $($arg),*).await).await,
            $crate::store::Backend::Postgres(db) => {
                let mut tries = $crate::postgres::Tries::default();
                loop {
                    let attempt = async {
                        let mut lent = db.lend().await?;
                        let done = db.bounded(pg::$verb(lent.conn(), $(Clone::clone(&$arg)),*)).await;
                        lent.give_back(done)
                    };
                    let outcome = attempt.await;
                    match tries.judge(outcome).await {
                        Some(result) => break result,
                        None => {}
                    }
                }
            }
        }
    };
}

mod accounts;
mod audit;
mod batches;
mod bulk;
mod calls;
mod clients;
mod copy;
mod events;
mod hubs;
mod idempotency;
mod keys;
mod retention;
mod secrets;
mod settings;
mod spokes;
mod store;
mod verify;

pub use accounts::{AccountRow, Accounts};
pub use audit::{Audit, AuditFilter, AuditRow};
pub use calls::{
    BatchMark, CallBatch, CallFilter, CallRow, CallUpdate, Calls, EdgeRow, ExportFilter, KeyedOutcome, StatRow,
};
pub use clients::{ClientChange, ClientRow, ClientState, Clients};
pub use copy::{CopiedTable, CopyProgress};
pub use error::StoreError;
pub use events::{EventRow, Events, NewEvent};
pub use hubs::{HeldSpoke, HubRow, Hubs, Leases, Renewed};
pub use idempotency::{Begun, Idempotency, IdempotencyRow};
pub use keys::{KeyRow, Keys};
pub use outage::Outage;
pub use postgres::{PostgresOptions, Refusal};
pub use retention::{Retention, Swept};
pub use secrets::{Agreement, SecretRow, Secrets};
pub use settings::Settings;
pub use spokes::{DefinitionRow, PreviousHolder, RegistrationRow, SpokeRow, Spokes};
pub use sqlite::SqliteOptions;
pub use store::Store;
pub use types::Stamp;
pub use verify::{Finding, VerifyProgress};
