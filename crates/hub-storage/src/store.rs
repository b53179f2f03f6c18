use std::fmt;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::oneshot;

use crate::sqlite::{Sqlite, SqliteOptions, backup};
use crate::{Accounts, Audit, Calls, Events, Idempotency, Keys, Settings, Spokes, StoreError};

/// The store; clones share it.
#[derive(Clone)]
pub struct Store {
    pub(crate) backend: Backend,
}

#[derive(Clone)]
pub(crate) enum Backend {
    Sqlite(Arc<Sqlite>),
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

    /// Verbs on settings.
    #[must_use]
    pub fn settings(&self) -> Settings<'_> {
        Settings(self)
    }

    /// Whether the store serves: reads once and checks that the writer lives.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when a thread is gone, else what the read met.
    pub async fn ping(&self) -> Result<(), StoreError> {
        let Backend::Sqlite(db) = &self.backend;
        if !db.writer_lives() {
            return Err(StoreError::Unavailable);
        }
        self.settings().get("ping").await.map(drop)
    }

    /// Copies the whole store into a new file while it is in use; returns the copy's size in bytes.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when `path` exists, else what copying met.
    pub async fn backup_to(&self, path: &Path) -> Result<u64, StoreError> {
        let Backend::Sqlite(db) = &self.backend;
        let (from, to) = (db.path().to_owned(), path.to_owned());
        let (reply, answer) = oneshot::channel();
        // On a thread and connection of its own: a copy may take minutes, and the readers are few.
        std::thread::Builder::new().name("hub-store-backup".to_owned()).spawn(move || {
            // The caller may have gone; the copy is complete all the same.
            let _ = reply.send(backup(&from, &to));
        })?;
        answer.await.map_err(|_| StoreError::Unavailable)?
    }

    /// Finishes queued work, empties the WAL and ends the threads; every later verb is [`StoreError::Unavailable`].
    pub async fn close(&self) {
        let Backend::Sqlite(db) = &self.backend;
        db.close().await;
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Backend::Sqlite(db) = &self.backend;
        f.debug_struct("Store").field("path", &db.path()).finish_non_exhaustive()
    }
}
