//! Why a command failed, what people read of it, and the exit code that scripts see.

use hub_spoke::{CallError, ClosedReason, ConnectError, ErrorCode, SpokeError};
use serde_json::{Value, json};

use crate::output::clean;

/// Exit codes, as `hub --help` and docs/cli.md list them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    Ok = 0,
    Failed = 1,
    Usage = 2,
    NoConnection = 3,
    NotAuthorised = 4,
    NotFound = 5,
    Timeout = 6,
    Aborted = 130,
}

impl Exit {
    /// The one place where the hub's codes become exit codes. Exhaustive: a new code must be given a place here.
    const fn of(code: ErrorCode) -> Self {
        match code {
            ErrorCode::OperationNotFound | ErrorCode::NotFound => Self::NotFound,
            ErrorCode::AccessDenied => Self::NotAuthorised,
            ErrorCode::Timeout => Self::Timeout,
            ErrorCode::OperationUnavailable
            | ErrorCode::ValidationError
            // Somebody else aborted it: 130 is for this terminal's own Ctrl-C.
            | ErrorCode::Aborted
            | ErrorCode::SpokeDisconnected
            | ErrorCode::Conflict
            | ErrorCode::RateLimited
            | ErrorCode::BudgetExceeded
            | ErrorCode::Overloaded
            | ErrorCode::PayloadTooLarge
            | ErrorCode::ExecutionError
            | ErrorCode::UnknownError => Self::Failed,
        }
    }
}

/// Why a command ends otherwise than well.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line can't be used.
    Usage(String),
    /// There is no key to connect with.
    NoKey(String),
    /// No connection; `key` says which key was used and from where.
    Connect { error: ConnectError, key: String },
    /// The connection ended while it was needed.
    Closed { reason: ClosedReason, key: String },
    /// The hub or a spoke answered with an error.
    Call { error: CallError, operation: String },
    /// A file, a stream, a child: everything of this machine.
    Local(String),
    /// What was asked for is not there.
    Missing(String),
    /// The answer is a "no" that has been printed already.
    Answered,
    /// Ctrl-C.
    Interrupted,
    /// The reader of standard output went away, as `head` does: no fault.
    BrokenPipe,
}

pub(crate) type Result<T, E = Failure> = std::result::Result<T, E>;

impl Failure {
    pub(crate) fn call(operation: &str, error: CallError) -> Self {
        Self::Call { error, operation: operation.to_owned() }
    }

    pub(crate) fn spoke(error: SpokeError, key: &str) -> Self {
        match error {
            SpokeError::Connect(error) => Self::Connect { error, key: key.to_owned() },
            SpokeError::Refused(error) => Self::call("hub.register", error),
            SpokeError::Closed(reason) => Self::Closed { reason, key: key.to_owned() },
            error @ (SpokeError::Declaration(_) | SpokeError::Setting { .. }) => Self::Usage(with_causes(&error)),
            error => Self::Local(error.to_string()),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::NoKey(_) => Exit::NotAuthorised,
            Self::Connect { error, .. } => connect_exit(error),
            Self::Closed { reason, .. } => closed_exit(reason),
            Self::Call { error, .. } => error.known().map_or(Exit::Failed, Exit::of),
            Self::Missing(_) => Exit::NotFound,
            Self::Local(_) | Self::Answered => Exit::Failed,
            Self::Interrupted => Exit::Aborted,
            Self::BrokenPipe => Exit::Ok,
        }
    }

    /// Cause and remedy in one line; `None` when everything has been said.
    pub(crate) fn line(&self) -> Option<String> {
        let text = match self {
            Self::Answered | Self::Interrupted | Self::BrokenPipe => return None,
            Self::Usage(text) | Self::NoKey(text) | Self::Local(text) | Self::Missing(text) => text.clone(),
            Self::Connect { error, key } => connect_text(error, key),
            Self::Closed { reason, key } if closed_exit(reason) == Exit::NotAuthorised => format!("{reason} ({key})"),
            Self::Closed { reason, .. } if closed_exit(reason) == Exit::NoConnection => {
                format!("{reason}; `hub status` says whether it is back")
            }
            Self::Closed { reason, .. } => reason.to_string(),
            Self::Call { error, operation } => call_text(error, operation),
        };
        Some(clean(&text))
    }

    /// The same for programs, for standard error.
    pub(crate) fn json(&self) -> Option<Value> {
        let mut error = match self {
            Self::Call { error, operation } => {
                let mut value = serde_json::to_value(error).unwrap_or_default();
                value["operationId"] = json!(operation);
                if let Some(hint) = hint(error, operation) {
                    value["hint"] = json!(hint);
                }
                value
            }
            other => json!({ "code": self.word(), "message": other.line()?, "retryable": false }),
        };
        error["exitCode"] = json!(self.exit() as i32);
        Some(json!({ "error": error }))
    }

    fn word(&self) -> &'static str {
        match self.exit() {
            Exit::Ok | Exit::Failed => "FAILED",
            Exit::Usage => "USAGE",
            Exit::NoConnection => "NO_CONNECTION",
            Exit::NotAuthorised => "NOT_AUTHORISED",
            Exit::NotFound => "NOT_FOUND",
            Exit::Timeout => "TIMEOUT",
            Exit::Aborted => "ABORTED",
        }
    }
}

const fn connect_exit(error: &ConnectError) -> Exit {
    match error {
        ConnectError::InvalidUrl { .. } => Exit::Usage,
        ConnectError::InvalidKey | ConnectError::Unauthorized { .. } => Exit::NotAuthorised,
        ConnectError::Timeout { .. } => Exit::Timeout,
        ConnectError::Closed(reason) => closed_exit(reason),
        _ => Exit::NoConnection,
    }
}

const fn closed_exit(reason: &ClosedReason) -> Exit {
    match reason {
        ClosedReason::KeyRevoked | ClosedReason::Unauthorized => Exit::NotAuthorised,
        ClosedReason::NameHeld | ClosedReason::Superseded | ClosedReason::Refused(_) => Exit::Failed,
        _ => Exit::NoConnection,
    }
}

fn connect_text(error: &ConnectError, key: &str) -> String {
    match error {
        ConnectError::Unreachable { url, reason } => format!(
            "no hub can be reached at {url}: {reason}; start one with `hub-server`, or name another with --url or HUB_URL"
        ),
        ConnectError::Unauthorized { url, status } => format!(
            "the hub at {url} does not accept the key (HTTP {status}): {key}; it is unknown, revoked or expired, or of \
             another hub; give another with --key-file or HUB_KEY"
        ),
        ConnectError::InvalidKey => {
            format!("{key} is empty or has characters that no key has: copy it again, without quotes and line ends")
        }
        ConnectError::Timeout { url, after } => {
            format!(
                "no answer from {url} within {after:?}; check host, port and firewall, or give it longer with --timeout"
            )
        }
        ConnectError::Certificates { url, reason } => {
            format!("no TLS to {url}: {}", reason.replace("ca_certificate_pem", "--ca-file"))
        }
        error => error.to_string(),
    }
}

fn call_text(error: &CallError, operation: &str) -> String {
    let text = format!("{}: {}", error.code, error.message);
    hint(error, operation).map_or_else(|| text.clone(), |hint| format!("{text}; {hint}"))
}

/// What to do about it.
fn hint(error: &CallError, operation: &str) -> Option<String> {
    let text = match error.known()? {
        ErrorCode::OperationNotFound => {
            "`hub ops search WORDS` finds operations, `hub whoami` shows what your key may do".to_owned()
        }
        ErrorCode::OperationUnavailable => "no spoke offers it now: `hub spokes --all` shows who did".to_owned(),
        ErrorCode::AccessDenied => "`hub whoami` shows what your key may do".to_owned(),
        ErrorCode::ValidationError => format!("`hub ops schema {operation}` shows what it takes"),
        ErrorCode::PayloadTooLarge => "ask for less, or raise max_message_bytes of the hub".to_owned(),
        ErrorCode::NotFound if operation.starts_with("clients.") => "`hub clients list` shows all".to_owned(),
        ErrorCode::NotFound if operation.starts_with("secrets.") => "`hub secrets list` shows all".to_owned(),
        ErrorCode::Timeout => "give it longer with --deadline or --timeout".to_owned(),
        _ if error.retryable => "trying again may help".to_owned(),
        _ => return None,
    };
    Some(text)
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text.push_str(": ");
        text.push_str(&next.to_string());
        cause = next.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn call(code: ErrorCode) -> Failure {
        Failure::call("a.b", CallError::new(code, "m"))
    }

    #[test]
    fn exit_codes() {
        let url = String::new;
        let connect = |error| Failure::Connect { error, key: "the key of HUB_KEY".into() }.exit();
        assert_eq!(call(ErrorCode::NotFound).exit(), Exit::NotFound);
        assert_eq!(call(ErrorCode::OperationNotFound).exit(), Exit::NotFound);
        assert_eq!(call(ErrorCode::AccessDenied).exit(), Exit::NotAuthorised);
        assert_eq!(call(ErrorCode::Timeout).exit(), Exit::Timeout);
        assert_eq!(call(ErrorCode::Aborted).exit(), Exit::Failed);
        assert_eq!(Failure::call("a.b", CallError::domain("TANK_EMPTY", "m")).exit(), Exit::Failed);
        assert_eq!(connect(ConnectError::Unauthorized { url: url(), status: 401 }), Exit::NotAuthorised);
        assert_eq!(connect(ConnectError::Unreachable { url: url(), reason: url() }), Exit::NoConnection);
        assert_eq!(connect(ConnectError::Timeout { url: url(), after: Duration::ZERO }), Exit::Timeout);
        assert_eq!(connect(ConnectError::InvalidUrl { url: url(), reason: "x" }), Exit::Usage);
        assert_eq!(connect(ConnectError::Closed(ClosedReason::KeyRevoked)), Exit::NotAuthorised);
        assert_eq!((Failure::Interrupted.exit() as i32, Failure::BrokenPipe.exit() as i32), (130, 0));
    }

    #[test]
    fn a_line_has_cause_and_remedy() {
        assert_eq!(
            call(ErrorCode::ValidationError).line().unwrap(),
            "VALIDATION_ERROR: m; `hub ops schema a.b` shows what it takes"
        );
        let error = ConnectError::Unauthorized { url: "ws://h/ws".into(), status: 401 };
        let line = Failure::Connect { error, key: "the key of HUB_KEY".into() }.line().unwrap();
        assert!(line.contains("HUB_KEY") && line.contains("--key-file"), "{line}");
        let error = ConnectError::Unreachable { url: "ws://h/ws".into(), reason: "refused".into() };
        assert!(Failure::Connect { error, key: String::new() }.line().unwrap().contains("`hub-server`"));
    }

    #[test]
    fn a_line_can_not_steer_the_terminal() {
        let line = Failure::call("a.b", CallError::domain("X", "\u{1b}]0;title\u{7}\nsecond")).line().unwrap();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }

    #[test]
    fn json_keeps_the_callee_s_own_words() {
        let error = CallError::domain("TANK_EMPTY", "refill").with_details(&[1]);
        let value = Failure::call("a.b", error).json().unwrap();
        let expected = json!({ "error": {
            "code": "TANK_EMPTY", "message": "refill", "details": [1], "retryable": false,
            "operationId": "a.b", "exitCode": 1,
        }});
        assert_eq!(value, expected);
        assert_eq!(Failure::Usage("x".into()).json().unwrap()["error"]["code"], "USAGE");
        assert_eq!(Failure::Interrupted.json(), None);
    }
}
