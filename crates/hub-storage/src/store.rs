use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::postgres::{Postgres, PostgresOptions, Target, migrate, pending};
use crate::sqlite::{Sqlite, SqliteOptions, backup, pending as pending_in};
use crate::{
    Accounts, Audit, Calls, Clients, Events, Hubs, Idempotency, Keys, Leases, Secrets, Settings, Spokes, StoreError,
};

/// The store; clones share it.
#[derive(Clone)]
pub struct Store {
    pub(crate) backend: Backend,
}

#[derive(Clone)]
pub(crate) enum Backend {
    Sqlite(Arc<Sqlite>),
    Postgres(Arc<Postgres>),
}

impl Store {
    /// Opens the file at `path`, creating and migrating it as needed; several processes may do so at once.
    ///
    /// # Errors
    /// [`StoreError::NewerDatabase`] for the file of a newer hub, else what opening or migrating met.
    pub async fn open_sqlite(path: &Path, options: SqliteOptions) -> Result<Self, StoreError> {
        let sqlite = Sqlite::open(path, options).await?;
        Ok(Self { backend: Backend::Sqlite(Arc::new(sqlite)) })
    }

    /// Opens a Postgres database (14 or newer), migrating it as needed; several hubs may do so at once.
    ///
    /// `url` is `postgres://user:password@host:port/database?sslmode=..`, where `sslmode` is
    /// - `disable`: never encrypted,
    /// - `prefer` (the default): encrypted if the server can, to whoever answers,
    /// - `require`: encrypted, to whoever answers: its certificate is not verified, as libpq has it,
    /// - `verify-full`: encrypted, and the certificate must be for the host's name and from a public authority, or
    ///   from one in the PEM file of `sslrootcert=FILE`.
    ///
    /// With several hosts, `target_session_attrs=read-write` finds the one that takes writes.
    ///
    /// # Errors
    /// [`StoreError::NewerDatabase`] for the database of a newer hub, which is left as it is,
    /// [`StoreError::Unavailable`] when it can't be reached, [`StoreError::Address`] for a malformed address, else what
    /// migrating met.
    pub async fn open_postgres(url: &str, options: PostgresOptions) -> Result<Self, StoreError> {
        Ok(Self { backend: Backend::Postgres(Arc::new(Postgres::open(url, options).await?)) })
    }

    /// The same database, on Postgres by one connection of its own: for what must not wait behind the verbs of others.
    ///
    /// # Errors
    /// As [`Store::open_postgres`].
    pub async fn apart(&self) -> Result<Self, StoreError> {
        let backend = match &self.backend {
            Backend::Sqlite(file) => Backend::Sqlite(Arc::clone(file)),
            Backend::Postgres(database) => Backend::Postgres(Arc::new(database.apart().await?)),
        };
        Ok(Self { backend })
    }

    /// From here on the log is told when the server is away and when it is back. Before, whoever opens the store is told
    /// by the error.
    pub fn tell_outages(&self) {
        if let Backend::Postgres(database) = &self.backend {
            database.tell_outages();
        }
    }

    /// Applies the migrations that a Postgres database lacks; returns their names, oldest first.
    ///
    /// # Errors
    /// As [`Store::open_postgres`].
    pub async fn migrate_postgres(url: &str) -> Result<Vec<String>, StoreError> {
        migrate(Arc::new(Target::parse(url, &PostgresOptions::default())?)).await
    }

    /// The names of the migrations that [`Store::migrate_postgres`] would apply, oldest first; changes nothing.
    ///
    /// # Errors
    /// As [`Store::open_postgres`].
    pub async fn pending_postgres(url: &str) -> Result<Vec<String>, StoreError> {
        pending(Arc::new(Target::parse(url, &PostgresOptions::default())?)).await
    }

    /// The names of the migrations that [`Store::open_sqlite`] would apply, oldest first; changes nothing. A file that
    /// is not there lacks all.
    ///
    /// # Errors
    /// As [`Store::open_sqlite`].
    pub async fn pending_sqlite(path: &Path) -> Result<Vec<String>, StoreError> {
        let path = path.to_owned();
        let (reply, answer) = oneshot::channel();
        std::thread::Builder::new().name("hub-store-pending".to_owned()).spawn(move || {
            // The caller may have gone; nothing was changed.
            let _ = reply.send(pending_in(&path));
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Verbs on accounts.
    #[must_use]
    pub fn accounts(&self) -> Accounts<'_> {
        Accounts(self)
    }

    /// Verbs on API keys.
    #[must_use]
    pub fn keys(&self) -> Keys<'_> {
        Keys(self)
    }

    /// Verbs on the audit trail.
    #[must_use]
    pub fn audit(&self) -> Audit<'_> {
        Audit(self)
    }

    /// Verbs on spokes and the operations they serve.
    #[must_use]
    pub fn spokes(&self) -> Spokes<'_> {
        Spokes(self)
    }

    /// Verbs on call records.
    #[must_use]
    pub fn calls(&self) -> Calls<'_> {
        Calls(self)
    }

    /// Verbs on idempotency keys.
    #[must_use]
    pub fn idempotency(&self) -> Idempotency<'_> {
        Idempotency(self)
    }

    /// Verbs on the event log.
    #[must_use]
    pub fn events(&self) -> Events<'_> {
        Events(self)
    }

    /// Verbs on the hubs of a cluster.
    #[must_use]
    pub fn hubs(&self) -> Hubs<'_> {
        Hubs(self)
    }

    /// Verbs on named leases.
    #[must_use]
    pub fn leases(&self) -> Leases<'_> {
        Leases(self)
    }

    /// Verbs on external services.
    #[must_use]
    pub fn clients(&self) -> Clients<'_> {
        Clients(self)
    }

    /// Verbs on the encrypted secrets of external services.
    #[must_use]
    pub fn secrets(&self) -> Secrets<'_> {
        Secrets(self)
    }

    /// Verbs on settings.
    #[must_use]
    pub fn settings(&self) -> Settings<'_> {
        Settings(self)
    }

    /// Whether the store serves: reads once and, on SQLite, checks that the writer lives.
    ///
    /// # Errors
    /// [`StoreError::Closed`] when a thread is gone, else what the read met.
    pub async fn ping(&self) -> Result<(), StoreError> {
        if let Backend::Sqlite(db) = &self.backend
            && !db.writer_lives()
        {
            return Err(StoreError::Closed);
        }
        self.settings().get("ping").await.map(drop)
    }

    /// Copies the whole store into a new file while it is in use; returns the copy's size in bytes.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `path` exists, [`StoreError::Unsupported`] on Postgres, which has its own tools
    /// for that, else what copying met.
    pub async fn backup_to(&self, path: &Path) -> Result<u64, StoreError> {
        let Backend::Sqlite(db) = &self.backend else {
            return Err(StoreError::Unsupported { what: "a backup to a file" });
        };
        let (from, to) = (db.path().to_owned(), path.to_owned());
        let (reply, answer) = oneshot::channel();
        // On a thread and connection of its own: a copy may take minutes, and the readers are few.
        std::thread::Builder::new().name("hub-store-backup".to_owned()).spawn(move || {
            // The caller may have gone; the copy is complete all the same.
            let _ = reply.send(backup(&from, &to));
        })?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Finishes queued work and lets go of the database; every later verb is [`StoreError::Closed`]. On SQLite the
    /// WAL is emptied and the threads end.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Sqlite(db) => db.close().await,
            Backend::Postgres(db) => db.close().await,
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Store");
        match &self.backend {
            Backend::Sqlite(db) => f.field("path", &db.path()),
            Backend::Postgres(db) => f.field("address", &db.address()),
        };
        f.finish_non_exhaustive()
    }
}
