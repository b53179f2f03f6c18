use std::path::PathBuf;

use diesel::result::{DatabaseErrorKind, Error as DieselError};
use hub_protocol::Json;

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
    /// The store is closing or one of its threads is gone.
    #[error("store is closed")]
    Unavailable,
    /// The database could not be opened.
    #[error("cannot open database {}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
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
            Self::Query(DieselError::DatabaseError(kind, info)) => {
                // Diesel has no kind for SQLITE_BUSY; the text is SQLite's own and fixed.
                matches!(kind, DatabaseErrorKind::SerializationFailure | DatabaseErrorKind::ClosedConnection)
                    || matches!(info.message(), "database is locked" | "database table is locked")
            }
            _ => false,
        }
    }

    /// A query error whose unique violation means `what`.
    pub(crate) fn conflict(what: &'static str) -> impl Fn(DieselError) -> Self {
        move |error| match error {
            DieselError::DatabaseError(DatabaseErrorKind::UniqueViolation, _) => Self::Conflict { what },
            other => Self::Query(other),
        }
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
            _ => Self::Unavailable,
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
