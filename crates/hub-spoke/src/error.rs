use std::time::Duration;

use hub_operations::RegistryError;
use hub_protocol::{CallError, close};

/// Why no connection could be made. The texts name the URL and what to do, never the key.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The URL can't be used.
    #[error("hub url {url:?} can't be used: {reason}; it looks like wss://hub.example.org or http://127.0.0.1:8080")]
    InvalidUrl {
        /// As it was given, without user information and query.
        url: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// The key has characters that no key has.
    #[error("the key is empty or has characters that no key has: copy it again, without quotes and line ends")]
    InvalidKey,
    /// A certificate, or the lack of one, makes TLS impossible.
    #[error("no TLS to {url}: {reason}")]
    Certificates {
        /// Where to.
        url: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// The hub does not accept the key. Final.
    #[error(
        "the hub at {url} does not accept the key (HTTP {status}): it is unknown, revoked or expired; ask for a new one"
    )]
    Unauthorized {
        /// Where.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// The server answered with another HTTP status than 101.
    #[error("{url} answered HTTP {status}: {}", meaning(*status))]
    NotAHub {
        /// Where.
        url: String,
        /// HTTP status.
        status: u16,
    },
    /// Nothing answers there.
    #[error("no hub can be reached at {url}: {reason}; check that it runs and that host and port are right")]
    Unreachable {
        /// Where.
        url: String,
        /// What the system says.
        reason: String,
    },
    /// It took too long.
    #[error("no answer from {url} within {after:?}; check host, port and firewall, or raise connect_timeout")]
    Timeout {
        /// Where.
        url: String,
        /// The connect timeout.
        after: Duration,
    },
    /// What answers there does not speak WebSocket as a hub does.
    #[error("{url} does not speak the hub's protocol: {reason}")]
    Protocol {
        /// Where.
        url: String,
        /// What is wrong.
        reason: String,
    },
    /// The hub ended the connection at once.
    #[error("{0}")]
    Closed(ClosedReason),
}

impl ConnectError {
    /// Whether trying again with the same URL and key is pointless.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::InvalidUrl { .. } | Self::InvalidKey | Self::Certificates { .. } | Self::Unauthorized { .. } => true,
            Self::Closed(reason) => reason.is_final(),
            Self::NotAHub { .. } | Self::Unreachable { .. } | Self::Timeout { .. } | Self::Protocol { .. } => false,
        }
    }
}

/// What a status other than 101 is a sign of.
const fn meaning(status: u16) -> &'static str {
    match status {
        500..=599 => "the hub there, or what it needs, is away for now; try again a little later",
        _ => "a hub answers 101; check the path, and whether a proxy passes WebSocket on",
    }
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClosedReason {
    /// This side wanted it.
    #[error("the connection was closed by this side")]
    Requested,
    /// The key was revoked (close code 4001). Final.
    #[error("the hub revoked the key of this connection: ask for a new one")]
    KeyRevoked,
    /// A newer instance holds the spoke's name (close code 4009). Final.
    #[error("a newer instance of this spoke is connected: stop it first, or choose another name")]
    NameHeld,
    /// A newer instance took the spoke's name over (close code 4010). Final.
    #[error("a newer instance of this spoke took its name over: only one can run under a name")]
    Superseded,
    /// The hub no longer accepts the key at a reconnect. Final.
    #[error("the hub no longer accepts the key: it was revoked or has expired; ask for a new one")]
    Unauthorized,
    /// The hub refused the registration. Final.
    #[error("the hub refused to register the spoke: {0}")]
    Refused(CallError),
    /// The connection was lost. Final only for a client that does not reconnect.
    #[error("the connection to the hub was lost: {0}")]
    Lost(String),
}

impl ClosedReason {
    /// Whether connecting again by itself is forbidden or pointless.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Lost(_))
    }

    /// The reason that a close code stands for.
    pub(crate) fn of_code(code: u16, text: &str) -> Self {
        match code {
            close::KEY_REVOKED => Self::KeyRevoked,
            close::NAME_HELD => Self::NameHeld,
            close::SUPERSEDED => Self::Superseded,
            code if text.is_empty() => Self::Lost(format!("close code {code}")),
            code => Self::Lost(format!("close code {code}, {text:?}")),
        }
    }
}

/// Why a spoke can't be built or no longer serves.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpokeError {
    /// A declared operation is malformed or declared twice.
    #[error(transparent)]
    Declaration(#[from] RegistryError),
    /// A value for the builder can't be sent to a hub.
    #[error("{field} of the spoke: {reason}")]
    Setting {
        /// Builder method.
        field: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The first connection could not be made.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The hub refused the registration.
    #[error("the hub refused to register the spoke: {0}")]
    Refused(CallError),
    /// The hub ended the connection for good.
    #[error("{0}")]
    Closed(ClosedReason),
}

impl SpokeError {
    pub(crate) fn of_closed(reason: ClosedReason) -> Self {
        match reason {
            ClosedReason::Refused(error) => Self::Refused(error),
            reason => Self::Closed(reason),
        }
    }
}
