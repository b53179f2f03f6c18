//! Migrations: embedded, applied by one hub at a time.

use std::sync::Arc;

use diesel::QueryableByName;
use diesel::migration::{Migration, MigrationSource};
use diesel::pg::Pg;
use diesel::sql_types::{Array, BigInt, Text};
use diesel_async::{AnsiTransactionManager, AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl, TransactionManager};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};
use tokio::sync::oneshot;

use super::connect::Target;
use crate::StoreError;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/postgres");

/// Key of the advisory lock under which a database is migrated: "hub-stor" in ASCII.
const LOCK: i64 = 0x6875_622D_7374_6F72;

/// A migration may take as long as it needs, but does not queue behind another transaction's lock for long: all
/// others would queue behind it, and behind what the migrations before it have locked.
const SET_UP: &str = "SET statement_timeout = 0; SET lock_timeout = '5s'; SET client_min_messages = warning";

/// The texts of [`MIGRATIONS`], which keeps them for itself.
const TEXTS: [(&str, &str); 5] = [
    ("0001_store", include_str!("../../../../migrations/postgres/0001_store/up.sql")),
    ("0002_hubs", include_str!("../../../../migrations/postgres/0002_hubs/up.sql")),
    ("0003_clients", include_str!("../../../../migrations/postgres/0003_clients/up.sql")),
    ("0004_tasks", include_str!("../../../../migrations/postgres/0004_tasks/up.sql")),
    ("0005_key_tools", include_str!("../../../../migrations/postgres/0005_key_tools/up.sql")),
];

/// Which of these names the schema has in which the hub's tables would be made. A table is a type, too.
const TAKEN: &str = "SELECT name AS version FROM unnest($1) AS name, pg_namespace WHERE nspname = current_schema()
    AND (EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_namespace.oid AND relname = name)
      OR EXISTS (SELECT FROM pg_type WHERE typnamespace = pg_namespace.oid AND typname = name)) ORDER BY 1";

/// Applies what is pending, all of it or nothing, under a lock that other hubs wait for; returns the names of what was
/// applied.
pub(crate) async fn migrate(target: Arc<Target>) -> Result<Vec<String>, StoreError> {
    on_own_runtime(move || async move {
        let mut conn = connect(&target).await?;
        // Before the lock, so that a newer database is refused at once, and again under it.
        missing(&mut conn).await?;
        diesel::sql_query("SELECT 1 FROM pg_advisory_lock($1)").bind::<BigInt, _>(LOCK).execute(&mut conn).await?;
        let pending = missing(&mut conn).await?;
        if !pending.is_empty() {
            refuse_taken(&mut conn, &pending).await?;
            // Lock and transaction belong to the connection, and end with it.
            AnsiTransactionManager::begin_transaction(&mut conn).await?;
            let mut harness = AsyncMigrationHarness::new(conn);
            harness.run_pending_migrations(MIGRATIONS).map_err(|source| StoreError::Migrate { source })?;
            AnsiTransactionManager::commit_transaction(&mut harness.into_inner()).await?;
        }
        Ok(pending)
    })
    .await
}

/// The names of what [`migrate`] would apply.
pub(crate) async fn pending(target: Arc<Target>) -> Result<Vec<String>, StoreError> {
    on_own_runtime(move || async move {
        let mut conn = connect(&target).await?;
        let pending = missing(&mut conn).await?;
        refuse_taken(&mut conn, &pending).await?;
        Ok(pending)
    })
    .await
}

/// Fails if another program has what these migrations would make; what has other names is left alone.
async fn refuse_taken(conn: &mut AsyncPgConnection, pending: &[String]) -> Result<(), StoreError> {
    let texts = TEXTS.iter().filter(|(name, _)| pending.iter().any(|pending| pending == name));
    let made: Vec<&str> = texts.flat_map(|(_, text)| made_by(text)).collect();
    let taken = diesel::sql_query(TAKEN).bind::<Array<Text>, _>(made).load::<Version>(conn).await?;
    let names: Vec<String> = taken.into_iter().map(|row| row.version).collect();
    if names.is_empty() { Ok(()) } else { Err(StoreError::Taken { names }) }
}

/// The names of the tables and indexes that a migration makes.
fn made_by(text: &str) -> impl Iterator<Item = &str> {
    let made = ["CREATE TABLE ", "CREATE INDEX ", "CREATE UNIQUE INDEX "];
    let rest = text.lines().filter_map(move |line| made.iter().find_map(|begin| line.strip_prefix(begin)));
    rest.filter_map(|rest| rest.split_whitespace().next())
}

async fn connect(target: &Target) -> Result<AsyncPgConnection, StoreError> {
    target.connect_with(SET_UP).await.map_err(|refused| StoreError::Unavailable(refused.into()))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_texts_are_those_of_the_migrations() {
        let migrations: Vec<Box<dyn Migration<Pg>>> = MIGRATIONS.migrations().unwrap();
        let names: Vec<String> = migrations.iter().map(|migration| migration.name().to_string()).collect();
        assert_eq!(names, TEXTS.map(|(name, _)| name));
        for (name, text) in TEXTS {
            assert_eq!(made_by(text).count(), text.matches("CREATE").count(), "{name}");
        }
        assert!(made_by(TEXTS[1].1).eq(["hubs", "leases", "applied_batches", "imports", "calls_live_hub"]));
    }
}
