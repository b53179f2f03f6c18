use hub_operations::RegistryError;
use hub_protocol::{CallError, ErrorCode};
use hub_pubsub::TargetError;
use hub_storage::StoreError;

use crate::keyring::KeyringError;

/// Why the hub itself can't do something. Callers of operations see a [`CallError`] made from it.
#[derive(Debug, thiserror::Error)]
pub enum CoreError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The event target failed.
    #[error("the event target failed")]
    Target(#[from] TargetError),
    /// The registry of the hub's own operations is malformed.
    #[error("an operation is declared wrongly")]
    Registry(#[from] RegistryError),
    /// The keyring can't be used, or a secret does not open.
    #[error("secrets can't be used")]
    Keyring(#[from] KeyringError),
    /// The machine gives no random bytes.
    #[error("no random bytes")]
    Random,
    /// The thing named does not exist or is not visible.
    #[error("{what} not found")]
    NotFound {
        /// Kind of thing.
        what: &'static str,
    },
    /// State moved on, or a name is taken.
    #[error("{0}")]
    Conflict(String),
    /// Rights do not suffice.
    #[error("{0}")]
    Denied(String),
    /// The input breaks a rule that its schema can't state.
    #[error("{0}")]
    Invalid(String),
    /// The operation only makes sense on a WebSocket connection that has registered.
    #[error("{0}")]
    NotASpoke(&'static str),
    /// The hub is going down.
    #[error("the hub is draining")]
    Draining,
}

/// The one place where the hub's errors become wire errors. Internal causes go to the log only.
impl From<CoreError> for CallError {
    fn from(error: CoreError) -> Self {
        match error {
            CoreError::Store(StoreError::NotFound { what }) | CoreError::NotFound { what } => {
                Self::new(ErrorCode::NotFound, format!("{what} not found"))
            }
            CoreError::Store(StoreError::Conflict { what }) => {
                Self::new(ErrorCode::Conflict, format!("{what} is in conflict with what is stored"))
            }
            CoreError::Store(StoreError::HeldByOther { .. }) => {
                Self::new(ErrorCode::AccessDenied, "the spoke name belongs to another key")
            }
            CoreError::Store(StoreError::NewerInstance { .. }) => {
                Self::new(ErrorCode::Conflict, "a newer instance holds the spoke name")
            }
            CoreError::Store(StoreError::Busy) => {
                Self::new(ErrorCode::Overloaded, "the hub's store is busy").with_retryable(true)
            }
            CoreError::Store(source) => {
                if !source.is_outage() {
                    tracing::error!(error = %chain(&source), "the store failed");
                }
                if source.is_retryable() {
                    Self::new(ErrorCode::Overloaded, "the hub can't reach its store").with_retryable(true)
                } else {
                    Self::new(ErrorCode::ExecutionError, "the hub's store has failed")
                }
            }
            CoreError::Target(source) => {
                put_off(&source.into(), "the event target failed");
                Self::new(ErrorCode::ExecutionError, "the hub could not reach its event bus").with_retryable(true)
            }
            CoreError::Registry(source) => {
                tracing::error!(error = %chain(&source), "the registry failed");
                Self::new(ErrorCode::ExecutionError, "the hub is misconfigured")
            }
            // The vault tells of it when it begins.
            CoreError::Keyring(source) => Self::new(ErrorCode::ExecutionError, crate::vault::for_callers(&source)),
            CoreError::Random => {
                Self::new(ErrorCode::ExecutionError, "the hub has no random bytes").with_retryable(true)
            }
            CoreError::Conflict(message) => Self::new(ErrorCode::Conflict, message),
            CoreError::Denied(message) => Self::new(ErrorCode::AccessDenied, message),
            CoreError::Invalid(message) => Self::new(ErrorCode::ValidationError, message.clone())
                .with_details(&[hub_protocol::Violation { path: String::new(), message }]),
            CoreError::NotASpoke(message) => Self::new(ErrorCode::Conflict, message),
            CoreError::Draining => Self::new(ErrorCode::Overloaded, "the hub is draining"),
        }
    }
}

impl CoreError {
    /// Whether a server of the hub is to blame, whose outages are told of in one place each.
    fn is_outage(&self) -> bool {
        match self {
            Self::Store(error) => error.is_outage(),
            Self::Target(error) => matches!(error, TargetError::Unavailable(_)),
            _ => false,
        }
    }
}

/// Tells the log what could not be done now and will be tried again.
pub(crate) fn put_off(error: &CoreError, what: &str) {
    match error.is_outage() {
        true => tracing::debug!(error = %chain(error), "{what}"),
        false => tracing::warn!(error = %chain(error), "{what}"),
    }
}

/// An error with its causes, for the log.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
