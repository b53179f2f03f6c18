use std::path::PathBuf;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use hub_protocol::{HubId, Json};

use crate::postgres::{Refusal, Refused};

type Source = Box<dyn std::error::Error + Send + Sync>;

/// Why a verb of the store failed; no text in it holds a payload.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file was written by a newer hub; it was left as it is.
    #[error("database has migration {found}, newer than {known} that this hub knows")]
    NewerDatabase {
        /// Newest migration in the file that this binary does not have.
        found: String,
        /// Newest migration this binary has.
        known: String,
    },
    /// Another program has what the hub's tables or their indexes are called; nothing was made.
    #[error("the database has another program's {}", names.join(", "))]
    Taken {
        /// What is in the way.
        names: Vec<String>,
    },
    /// The same operation and version is stored with another spec.
    #[error("operation {operation} version {version} is registered with another definition")]
    DefinitionConflict {
        /// Hub-wide operation id.
        operation: String,
        /// Version of the definition.
        version: String,
        /// The spec that is stored.
        stored: Json,
    },
    /// The row a verb needs is not there.
    #[error("{what} not found")]
    NotFound {
        /// The thing that is missing.
        what: &'static str,
    },
    /// A row with this unique value exists, or its state forbids the change.
    #[error("{what} conflicts with what is stored")]
    Conflict {
        /// The thing that is in the way.
        what: &'static str,
    },
    /// Another principal owns the name of the spoke.
    #[error("spoke belongs to another principal")]
    HeldByOther {
        /// The owner.
        owner: String,
    },
    /// An instance of the spoke that started later, or at the same time, is connected at a hub that lives.
    #[error("a newer instance of the spoke is connected")]
    NewerInstance {
        /// The hub it is connected to.
        hub_id: HubId,
    },
    /// What is stored forbids the change: a foreign key, a check or a missing value.
    #[error("stored data forbids the change")]
    Constraint(#[source] DieselError),
    /// The store is closed, or one of its threads is gone; it stays so.
    #[error("store is closed")]
    Closed,
    /// No connection was free in time, or a statement took too long; try again a little later.
    #[error("database is busy")]
    Busy,
    /// The database can't be reached, or went away during the verb; try again a little later.
    ///
    /// When the connection ended while a write was being committed, it is not known whether the write is there:
    /// try again only what may happen twice. [`Calls::record`](crate::Calls::record) with a mark and
    /// [`Events::append`](crate::Events::append) take care of that themselves.
    #[error("database is unavailable")]
    Unavailable(#[source] Source),
    /// The server takes no writes: a standby, or one that recovers; try again after its failover.
    #[error("database is read-only")]
    ReadOnly,
    /// This backend can't do that.
    #[error("{what} is not for this database")]
    Unsupported {
        /// What was asked for.
        what: &'static str,
    },
    /// The URL of a server can't be used.
    #[error("the address of the database can't be used: {why}")]
    Address {
        /// What is wrong with it, without its password.
        why: String,
    },
    /// The file could not be opened.
    #[error("cannot open database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the database said.
        source: Source,
    },
    /// A migration failed; none of the pending ones was applied.
    #[error("cannot migrate the database")]
    Migrate {
        /// What the migration harness said.
        source: Source,
    },
    /// The database refused a statement or a commit.
    #[error("query failed")]
    Query(#[source] DieselError),
    /// A file operation failed.
    #[error("file operation failed")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Whether the same verb may succeed when it is tried again a little later.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Busy | Self::Unavailable(_) | Self::ReadOnly => true,
            // Diesel has no kind for SQLITE_BUSY; the text is SQLite's own and fixed.
            Self::Query(DieselError::DatabaseError(_, info)) => {
                self.is_undone_race() || matches!(info.message(), "database is locked" | "database table is locked")
            }
            _ => false,
        }
    }

    /// Whether its server is to blame. The store tells the log of it by itself, once and then now and then.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Busy | Self::Unavailable(_) | Self::ReadOnly)
    }

    /// Whether the server may just be starting: it refused the connection, did not answer, or said so. What is wrong with
    /// a password, a name or a certificate does not pass.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Unavailable(_)) && self.refusal().is_none_or(Refusal::may_pass)
    }

    /// What kept the first connection to a server from being made.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        let Self::Unavailable(source) = self else { return None };
        source.downcast_ref::<Refused>().map(|refused| refused.kind)
    }

    /// Whether the database undid the transaction because another one got in its way.
    pub(crate) fn is_undone_race(&self) -> bool {
        match self {
            Self::Query(DieselError::DatabaseError(DatabaseErrorKind::SerializationFailure, _)) => true,
            // Diesel has no kind for it, and keeps no code.
            Self::Query(DieselError::DatabaseError(_, info)) => info.message() == "deadlock detected",
            _ => false,
        }
    }

    /// A query error whose unique violation means `what`.
    pub(crate) fn conflict(what: &'static str) -> impl Fn(DieselError) -> Self {
        move |error| {
            let DieselError::DatabaseError(kind, info) = &error else { return Self::Query(error) };
            match kind {
                DatabaseErrorKind::UniqueViolation => Self::Conflict { what },
                DatabaseErrorKind::ForeignKeyViolation
                | DatabaseErrorKind::NotNullViolation
                | DatabaseErrorKind::CheckViolation => Self::Constraint(error),
                DatabaseErrorKind::ReadOnlyTransaction => Self::ReadOnly,
                DatabaseErrorKind::ClosedConnection | DatabaseErrorKind::UnableToSendCommand => {
                    Self::Unavailable(error.into())
                }
                _ => match info.message() {
                    text if text.starts_with("canceling statement") => Self::Busy,
                    text if text.starts_with("terminating connection")
                        || text.starts_with("the database system is") =>
                    {
                        Self::Unavailable(error.into())
                    }
                    _ => Self::Query(error),
                },
            }
        }
    }

    /// With its causes, for the log.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            text = format!("{text}: {cause}");
            source = cause.source();
        }
        text
    }

    /// Never reached the database in time.
    pub(crate) fn timed_out() -> Self {
        Self::Unavailable("no answer in time".into())
    }

    /// The same failure for another job of a group; sources can't be cloned, so their text is.
    pub(crate) fn copy(&self) -> Self {
        match self {
            Self::Query(DieselError::DatabaseError(kind, info)) => {
                Self::Query(DieselError::DatabaseError(copy_kind(kind), Box::new(info.message().to_owned())))
            }
            Self::Query(error) => {
                Self::Query(DieselError::DatabaseError(DatabaseErrorKind::Unknown, Box::new(error.to_string())))
            }
            Self::Busy => Self::Busy,
            Self::ReadOnly => Self::ReadOnly,
            Self::Unavailable(source) => Self::Unavailable(source.to_string().into()),
            _ => Self::Closed,
        }
    }
}

impl From<DieselError> for StoreError {
    fn from(error: DieselError) -> Self {
        Self::conflict("row")(error)
    }
}

fn copy_kind(kind: &DatabaseErrorKind) -> DatabaseErrorKind {
    match kind {
        DatabaseErrorKind::SerializationFailure => DatabaseErrorKind::SerializationFailure,
        DatabaseErrorKind::ClosedConnection => DatabaseErrorKind::ClosedConnection,
        _ => DatabaseErrorKind::Unknown,
    }
}
