//! Migrations: embedded, applied by one hub at a time.

use std::sync::Arc;

use diesel::QueryableByName;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::sync::oneshot;

use super::connect::Target;
use crate::StoreError;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Key of the advisory lock under which a database is migrated: "hub-stor" in ASCII.
const LOCK: i64 = 0x6875_622D_7374_6F72;

/// A migration may take as long as it needs, but does not queue behind another transaction's lock for long: all
/// others would queue behind it.
const SET_UP: &str = "SET statement_timeout = 0; SET lock_timeout = '60s'; SET client_min_messages = warning";

/// Applies what is pending, under a lock that other hubs wait for; returns the names of what was applied.
pub(crate) async fn migrate(target: Arc<Target>) -> Result<Vec<String>, StoreError> {
    on_own_runtime(move || async move {
        let mut conn = connect(&target).await?;
        // Before the lock, so that a newer database is refused at once, and again under it.
        missing(&mut conn).await?;
        diesel::sql_query("SELECT 1 FROM pg_advisory_lock($1)").bind::<BigInt, _>(LOCK).execute(&mut conn).await?;
        let pending = missing(&mut conn).await?;
        if !pending.is_empty() {
            // The lock belongs to the connection, and ends with it.
            let mut harness = AsyncMigrationHarness::new(conn);
            harness.run_pending_migrations(MIGRATIONS).map_err(|source| StoreError::Migrate { source })?;
        }
        Ok(pending)
    })
    .await
}

/// The names of what [`migrate`] would apply.
pub(crate) async fn pending(target: Arc<Target>) -> Result<Vec<String>, StoreError> {
    on_own_runtime(move || async move { missing(&mut connect(&target).await?).await }).await
}

async fn connect(target: &Target) -> Result<AsyncPgConnection, StoreError> {
    let conn = target.connect_with(SET_UP).await;
    conn.map_err(|error| StoreError::Unavailable(error.into()))
}

/// Runs on a thread with a runtime of its own: the harness blocks, which a runtime of one thread forbids.
async fn on_own_runtime<T, F, W>(work: F) -> Result<T, StoreError>
where
    T: Send + 'static,
    F: FnOnce() -> W + Send + 'static,
    W: Future<Output = Result<T, StoreError>>,
{
    let (reply, answer) = oneshot::channel();
    std::thread::Builder::new().name("hub-store-migrate".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let outcome = match runtime {
            Ok(runtime) => runtime.block_on(work()),
            Err(error) => Err(error.into()),
        };
        // The caller may have gone; the migrations are applied all the same.
        let _ = reply.send(outcome);
    })?;
    answer.await.map_err(|_| StoreError::Closed)?
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

/// The names of migrations that are not applied; fails if the database has one that this binary doesn't.
async fn missing(conn: &mut AsyncPgConnection) -> Result<Vec<String>, StoreError> {
    let table = "SELECT 'x' AS version WHERE to_regclass('__diesel_schema_migrations') IS NOT NULL";
    let applied = match diesel::sql_query(table).load::<Version>(conn).await?.is_empty() {
        true => Vec::new(),
        false => diesel::sql_query("SELECT version FROM __diesel_schema_migrations").load::<Version>(conn).await?,
    };
    let migrations: Vec<Box<dyn Migration<Pg>>> =
        MIGRATIONS.migrations().map_err(|source| StoreError::Migrate { source })?;
    let mut known: Vec<(String, String)> = migrations
        .iter()
        .map(|migration| (migration.name().version().to_string(), migration.name().to_string()))
        .collect();
    known.sort();
    let stranger = |row: &&Version| !known.iter().any(|(version, _)| *version == row.version);
    if let Some(newest) = applied.iter().filter(stranger).map(|row| &row.version).max() {
        let known = known.pop().map(|(version, _)| version).unwrap_or_default();
        return Err(StoreError::NewerDatabase { found: newest.clone(), known });
    }
    known.retain(|(version, _)| !applied.iter().any(|row| row.version == *version));
    Ok(known.into_iter().map(|(_, name)| name).collect())
}
