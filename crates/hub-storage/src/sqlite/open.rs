//! Connections: how they are set up, migrated and copied to a backup.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use diesel::connection::SimpleConnection;
use diesel::migration::{Migration, MigrationSource};
use diesel::prelude::*;
use diesel::sql_types::Text;
use diesel::sqlite::{Sqlite, SqliteConnection};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness, embed_migrations};

use crate::StoreError;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("../../migrations/sqlite");

/// Tries of a step that SQLite refuses at once, without its busy timeout, while another process opens.
const OPEN_TRIES: u32 = 50;
const OPEN_PAUSE: Duration = Duration::from_millis(100);

/// A file and how to write to it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) path: PathBuf,
    pub(super) sync_full: bool,
}

impl Target {
    /// The writer's connection, with every migration applied.
    pub(super) fn writer(&self) -> Result<SqliteConnection, StoreError> {
        private_file(&self.path)?;
        let mut conn = connect(&self.path)?;
        // Before anything is written, so that a newer file stays as it is.
        patiently(|| refuse_newer(&mut conn))?;
        patiently(|| conn.batch_execute("PRAGMA journal_mode = WAL").map_err(StoreError::Query))?;
        self.set_up_writer(&mut conn)?;
        patiently(|| migrate(&mut conn))?;
        Ok(conn)
    }

    /// The writer's connection to a file that this process has migrated already.
    pub(super) fn plain_writer(&self) -> Result<SqliteConnection, StoreError> {
        let mut conn = connect(&self.path)?;
        self.set_up_writer(&mut conn)?;
        Ok(conn)
    }

    pub(super) fn reader(&self) -> Result<SqliteConnection, StoreError> {
        let mut conn = connect(&self.path)?;
        conn.batch_execute("PRAGMA query_only = ON; PRAGMA cache_size = -8192;")?;
        Ok(conn)
    }

    fn set_up_writer(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        let synchronous = if self.sync_full { "FULL" } else { "NORMAL" };
        // A checkpoint each 16 MiB instead of 4: hot index pages are then written back once instead of four times.
        conn.batch_execute(&format!(
            "PRAGMA synchronous = {synchronous}; PRAGMA foreign_keys = ON; PRAGMA cache_size = -65536;
             PRAGMA wal_autocheckpoint = 4096; PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY;"
        ))?;
        Ok(())
    }
}

fn connect(path: &Path) -> Result<SqliteConnection, StoreError> {
    let refused = |source| StoreError::Open { path: path.to_owned(), source };
    let text = path.to_str().ok_or_else(|| refused("the path is not unicode".into()))?;
    let mut conn = SqliteConnection::establish(text).map_err(|error| refused(error.into()))?;
    // First of all statements: the others need it when the file is busy.
    conn.batch_execute("PRAGMA busy_timeout = 5000").map_err(|error| refused(error.into()))?;
    Ok(conn)
}

/// Creates the file for its owner alone, since it holds payloads; SQLite gives the WAL the same mode.
fn private_file(path: &Path) -> Result<File, StoreError> {
    open_private(path, OpenOptions::new().read(true).write(true).create(true))
        .map_err(|error| StoreError::Open { path: path.to_owned(), source: error.into() })
}

fn open_private(path: &Path, options: &mut OpenOptions) -> std::io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path)
}

fn patiently(mut step: impl FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
    let mut tries = 1;
    loop {
        match step() {
            Err(error) if error.is_retryable() && tries < OPEN_TRIES => thread::sleep(OPEN_PAUSE),
            other => return other,
        }
        tries += 1;
    }
}

#[derive(QueryableByName)]
struct Version {
    #[diesel(sql_type = Text)]
    version: String,
}

/// Fails if the file has a migration that this binary doesn't.
fn refuse_newer(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    missing(conn).map(drop)
}

/// The names of migrations that are not applied, oldest first; fails if the file has one that this binary doesn't.
fn missing(conn: &mut SqliteConnection) -> Result<Vec<String>, StoreError> {
    let mut known = known_migrations()?;
    let tables = "SELECT name AS version FROM sqlite_master WHERE name = '__diesel_schema_migrations'";
    if diesel::sql_query(tables).load::<Version>(conn)?.is_empty() {
        return Ok(known.into_iter().map(|(_, name)| name).collect());
    }
    let applied = diesel::sql_query("SELECT version FROM __diesel_schema_migrations").load::<Version>(conn)?;
    let stranger = |row: &&Version| !known.iter().any(|(version, _)| *version == row.version);
    if let Some(newest) = applied.iter().filter(stranger).map(|row| &row.version).max() {
        let known = known.pop().map(|(version, _)| version).unwrap_or_default();
        return Err(StoreError::NewerDatabase { found: newest.clone(), known });
    }
    known.retain(|(version, _)| !applied.iter().any(|row| row.version == *version));
    Ok(known.into_iter().map(|(_, name)| name).collect())
}

/// Versions and names, oldest first.
fn known_migrations() -> Result<Vec<(String, String)>, StoreError> {
    let migrations: Vec<Box<dyn Migration<Sqlite>>> =
        MIGRATIONS.migrations().map_err(|source| StoreError::Migrate { source })?;
    let names = migrations.iter().map(|migration| migration.name());
    let mut known: Vec<_> = names.map(|name| (name.version().to_string(), name.to_string())).collect();
    known.sort();
    Ok(known)
}

/// The names of what opening the file would apply; it is not made if it is not there.
pub(crate) fn pending(path: &Path) -> Result<Vec<String>, StoreError> {
    if !path.exists() {
        return Ok(known_migrations()?.into_iter().map(|(_, name)| name).collect());
    }
    let mut conn = connect(path)?;
    let mut names = Vec::new();
    patiently(|| missing(&mut conn).map(|found| names = found))?;
    Ok(names)
}

/// Applies what is pending. The exclusive lock makes other openers wait, so each migration runs once.
fn migrate(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    conn.exclusive_transaction(|conn| {
        // Again, since a newer hub may have been faster.
        refuse_newer(conn)?;
        conn.run_pending_migrations(MIGRATIONS).map(drop).map_err(|source| StoreError::Migrate { source })
    })
}

/// Copies the database at `from` into the new file `to` while it is written to; returns its size in bytes.
///
/// The copy appears under its name only when it is whole and on disk.
pub(crate) fn backup(from: &Path, to: &Path) -> Result<u64, StoreError> {
    // Reserves the name, so that of two backups one is refused and nothing is ever overwritten.
    open_private(to, OpenOptions::new().write(true).create_new(true)).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => StoreError::Conflict { what: "backup file" },
        _ => StoreError::Io(error),
    })?;
    let mut partial = to.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let copied = copy_into(from, &partial).and_then(|bytes| {
        std::fs::rename(&partial, to)?;
        Ok(bytes)
    });
    if copied.is_err() {
        // Best effort; the error that counts is the copy's.
        let _ = std::fs::remove_file(&partial);
        let _ = std::fs::remove_file(to);
    }
    copied
}

fn copy_into(from: &Path, to: &Path) -> Result<u64, StoreError> {
    let refused = || StoreError::Open { path: to.to_owned(), source: "the path is not unicode".into() };
    let text = to.to_str().ok_or_else(refused)?;
    // SQLite takes an existing empty file and keeps its mode; a leftover of a crash is emptied.
    let file = open_private(to, OpenOptions::new().read(true).write(true).create(true).truncate(true))?;
    let mut conn = connect(from)?;
    diesel::sql_query("VACUUM INTO ?").bind::<Text, _>(text).execute(&mut conn)?;
    file.sync_all()?;
    Ok(file.metadata()?.len())
}
