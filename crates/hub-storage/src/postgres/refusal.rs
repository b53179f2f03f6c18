//! Why there is no connection to a server.

use std::error::Error as _;
use std::io;

use diesel::ConnectionError;
use tokio_postgres::error::SqlState;

/// Why there is no connection to a server, and to which.
#[derive(Debug, thiserror::Error)]
#[error("{address}: {why}")]
pub(crate) struct Refused {
    pub(crate) address: String,
    pub(crate) why: String,
    pub(crate) kind: Refusal,
}

/// What kept a connection from being made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// Nobody answers there, or not in time.
    Unreachable,
    /// The name of the host is not known.
    UnknownHost,
    /// The server starts or stops.
    Starting,
    /// The server has no connection left.
    TooManyConnections,
    /// The connection was ended before anything was said.
    Ended,
    /// What was answered is not Postgres.
    Stranger,
    /// TLS was demanded, and the server has none.
    NoTls,
    /// The handshake of TLS failed, most often for the server's certificate.
    Tls,
    /// The password is wrong or missing.
    Password,
    /// The role is not there, or the server lets nobody in that way.
    Role,
    /// The database is not there.
    Database,
    /// Something else, as the text says.
    Other,
}

impl Refusal {
    /// Whether the server may just be starting.
    pub(crate) fn may_pass(self) -> bool {
        use Refusal::{Ended, Starting, TooManyConnections, UnknownHost, Unreachable};
        matches!(self, Unreachable | UnknownHost | Starting | TooManyConnections | Ended)
    }
}

/// Kind and text, in one line.
pub(super) fn of(error: &tokio_postgres::Error) -> (Refusal, String) {
    if let Some(told) = error.as_db_error() {
        return (of_code(told.code()), format!("{}: {}", told.severity(), told.message()));
    }
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    (of_text(&text, error), text)
}

fn of_code(code: &SqlState) -> Refusal {
    match code {
        code if *code == SqlState::INVALID_PASSWORD => Refusal::Password,
        code if *code == SqlState::INVALID_AUTHORIZATION_SPECIFICATION => Refusal::Role,
        code if *code == SqlState::INVALID_CATALOG_NAME => Refusal::Database,
        code if *code == SqlState::TOO_MANY_CONNECTIONS => Refusal::TooManyConnections,
        code if [SqlState::CANNOT_CONNECT_NOW, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN].contains(code) => {
            Refusal::Starting
        }
        _ => Refusal::Other,
    }
}

/// The driver keeps its kinds for itself; its own texts are fixed.
fn of_text(text: &str, error: &tokio_postgres::Error) -> Refusal {
    let says = |words: &str| text.contains(words);
    let io = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    // What rustls refuses is invalid data; anything else of a handshake is the connection's.
    let invalid = io.is_none_or(|io| io.kind() == io::ErrorKind::InvalidData);
    match () {
        () if says("server does not support TLS") => Refusal::NoTls,
        () if says("error performing TLS handshake") && invalid => Refusal::Tls,
        () if says("password missing") => Refusal::Password,
        () if says("failed to lookup address") => Refusal::UnknownHost,
        () if says("error parsing response") || says("unexpected message") => Refusal::Stranger,
        () if says("error connecting") || says("timeout waiting") => Refusal::Unreachable,
        () if error.is_closed() || io.is_some() => Refusal::Ended,
        () => Refusal::Other,
    }
}

impl From<Refused> for ConnectionError {
    /// For the pool, whose owner knows the address.
    fn from(refused: Refused) -> Self {
        Self::BadConnection(refused.why)
    }
}
