use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Json, MAX_NESTING};

macro_rules! codes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, retryable $retry:literal, http $http:literal;)*) => {
        /// Codes that the hub itself gives (protocol §3, errors). Operations declare their own beside these.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode { $($(#[$doc])* $variant,)* }

        impl ErrorCode {
            /// Every code, in the order of the protocol's table.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The code on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// Whether the same call may succeed later, unless the error itself says otherwise.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retry,)* }
            }

            /// HTTP status of the code for an authenticated caller.
            #[must_use]
            pub const fn http_status(self) -> u16 {
                match self { $(Self::$variant => $http,)* }
            }

            /// The code with this text, if it is one of the hub's.
            #[must_use]
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

codes! {
    /// No such operation, or one that this caller may not see.
    OperationNotFound = "OPERATION_NOT_FOUND", retryable false, http 404;
    /// Known operation, no active provider.
    OperationUnavailable = "OPERATION_UNAVAILABLE", retryable true, http 503;
    /// Scopes or resources do not suffice.
    AccessDenied = "ACCESS_DENIED", retryable false, http 403;
    /// Input does not fit; details are a list of [`Violation`]s.
    ValidationError = "VALIDATION_ERROR", retryable false, http 422;
    /// Deadline or idle time passed.
    Timeout = "TIMEOUT", retryable true, http 504;
    /// Cancelled.
    Aborted = "ABORTED", retryable false, http 499;
    /// The callee's connection went away during the call.
    SpokeDisconnected = "SPOKE_DISCONNECTED", retryable false, http 502;
    /// State moved on, a duplicate id, or an idempotency key used again with another input.
    Conflict = "CONFLICT", retryable false, http 409;
    /// The thing named in the input does not exist or is not visible.
    NotFound = "NOT_FOUND", retryable false, http 404;
    /// Too many calls; `details.retryAfterMs` where known.
    RateLimited = "RATE_LIMITED", retryable true, http 429;
    /// The call tree has no money left.
    BudgetExceeded = "BUDGET_EXCEEDED", retryable false, http 402;
    /// A bounded queue is full; `details.retryAfterMs` where known.
    Overloaded = "OVERLOADED", retryable true, http 503;
    /// Over a limit that `details` names.
    PayloadTooLarge = "PAYLOAD_TOO_LARGE", retryable false, http 413;
    /// The handler failed with no declared code. HTTP 502 when a spoke's handler did.
    ExecutionError = "EXECUTION_ERROR", retryable false, http 500;
    /// The handler raised something that is not an error. HTTP 502 when a spoke's handler did.
    UnknownError = "UNKNOWN_ERROR", retryable false, http 500;
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a call failed, as every face reports it.
///
/// `message` is meant for the peer: it never holds an internal cause.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, thiserror::Error)]
#[serde(rename_all = "camelCase")]
#[error("{code}: {message}")]
pub struct CallError {
    /// An [`ErrorCode`], or a code that the operation declares.
    pub code: String,
    /// One sentence for the peer.
    pub message: String,
    /// More, in a shape that the code decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Json>,
    /// Whether the same call may succeed later.
    #[serde(default)]
    pub retryable: bool,
}

impl CallError {
    /// An error with one of the hub's codes and that code's usual retryability.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code: code.as_str().to_owned(), message: message.into(), details: None, retryable: code.retryable() }
    }

    /// An error with a code that an operation declares.
    #[must_use]
    pub fn domain(code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: code.into(), message: message.into(), details: None, retryable: false }
    }

    /// Adds details.
    #[must_use]
    pub fn with_details<T: Serialize>(mut self, details: &T) -> Self {
        self.details = Json::from_serialize(details).ok();
        self
    }

    /// Sets whether the call may be tried again.
    #[must_use]
    pub const fn with_retryable(mut self, retryable: bool) -> Self {
        self.retryable = retryable;
        self
    }

    /// How long to wait before trying again, where the hub knows (`details.retryAfterMs`).
    #[must_use]
    pub fn retry_after(&self) -> Option<std::time::Duration> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Hint {
            retry_after_ms: u64,
        }
        let hint = self.details.as_ref()?.parse::<Hint>().ok()?;
        Some(std::time::Duration::from_millis(hint.retry_after_ms))
    }

    /// The hub's code, or `None` for an operation's own.
    #[must_use]
    pub fn known(&self) -> Option<ErrorCode> {
        ErrorCode::parse(&self.code)
    }

    /// Whether the error has this code.
    #[must_use]
    pub fn is(&self, code: ErrorCode) -> bool {
        self.code == code.as_str()
    }
}

/// One place where an input does not fit its schema.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Violation {
    /// JSON Pointer into the input; empty for the whole.
    pub path: String,
    /// What is wrong there.
    pub message: String,
}

impl Violation {
    /// Of a value that nests deeper than [`MAX_NESTING`].
    #[must_use]
    pub fn too_deep(path: &str) -> Self {
        Self { path: path.to_owned(), message: format!("nests deeper than {MAX_NESTING} levels") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_read_back() {
        for code in ErrorCode::ALL {
            assert_eq!(ErrorCode::parse(code.as_str()), Some(*code));
            assert_eq!(code.to_string(), code.as_str());
            assert!((400..600).contains(&code.http_status()));
        }
        for other in ["", "timeout", "TIMEOUT ", "Timeout", "FILE_NOT_FOUND"] {
            assert_eq!(ErrorCode::parse(other), None);
        }
    }

    #[test]
    fn builders() {
        let error = CallError::new(ErrorCode::Timeout, "too late");
        assert!(error.retryable && error.is(ErrorCode::Timeout) && !error.is(ErrorCode::Aborted));
        assert_eq!(error.known(), Some(ErrorCode::Timeout));
        assert_eq!(error.to_string(), "TIMEOUT: too late");
        assert!(!error.with_retryable(false).retryable);

        let error = CallError::domain("TANK_EMPTY", "refill").with_details(&[1, 2]);
        assert_eq!((error.known(), error.retryable), (None, false));
        assert_eq!(error.details.as_ref().map(Json::as_str), Some("[1,2]"));
        // Details that do not serialize are left out rather than fail the failure.
        assert_eq!(error.with_details(&std::collections::BTreeMap::from([(vec![1], 1)])).details, None);
    }

    #[test]
    fn wire_form() {
        let error: CallError = serde_json::from_str(r#"{"code":"X","message":"m"}"#).unwrap();
        assert_eq!(error, CallError::domain("X", "m"));
        let text = serde_json::to_string(&CallError::new(ErrorCode::Overloaded, "busy")).unwrap();
        assert_eq!(text, r#"{"code":"OVERLOADED","message":"busy","retryable":true}"#);
    }

    #[test]
    fn debug_shows_no_details() {
        let error = CallError::domain("X", "m").with_details(&"hunter2");
        assert!(!format!("{error:?}").contains("hunter2"));
    }
}
