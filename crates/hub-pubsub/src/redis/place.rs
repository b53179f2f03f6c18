//! Which server is connected to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisError};

use super::cluster::Cluster;
use super::sentinel::Watched;
use crate::TargetError;

/// A server, or what names one that may be another tomorrow.
#[derive(Clone)]
pub(crate) enum Place {
    Server(Box<Client>),
    Master(Arc<Watched>),
    Owner(Arc<Cluster>),
}

impl Place {
    /// Hubs of one `prefix` must meet at one server.
    pub(crate) fn parse(url: &str, prefix: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        match scheme {
            "redis+sentinel" => Ok(Self::Master(Arc::new(Watched::parse("redis", rest)?))),
            "rediss+sentinel" => Ok(Self::Master(Arc::new(Watched::parse("rediss", rest)?))),
            "redis+cluster" => Ok(Self::Owner(Arc::new(Cluster::parse("redis", rest, prefix)?))),
            "rediss+cluster" => Ok(Self::Owner(Arc::new(Cluster::parse("rediss", rest, prefix)?))),
            _ if rest.contains(',') => {
                Err(TargetError::InvalidUrl("several hosts need redis+cluster:// or redis+sentinel://"))
            }
            _ => {
                // The crate's own errors may repeat parts of the URL, and with them the password.
                let invalid =
                    |_| TargetError::InvalidUrl("expected redis://, rediss:// or unix://, with optional user and db");
                let info = url.into_connection_info().map_err(invalid)?;
                Ok(Self::Server(Box::new(Client::open(with_our_settings(info)).map_err(invalid)?)))
            }
        }
    }

    /// The server to connect to now.
    pub(crate) async fn client(&self, config: &AsyncConnectionConfig) -> Result<Client, RedisError> {
        match self {
            Self::Server(client) => Ok(Client::clone(client)),
            Self::Master(watched) => watched.master().await,
            Self::Owner(cluster) => cluster.owner(config).await,
        }
    }

    /// Asks the server of a connection whether it is there, and still the one to be connected to.
    pub(crate) async fn ask(&self, connection: &mut MultiplexedConnection) -> Result<(), RedisError> {
        match self {
            // Any answer, as the user may be allowed to do little.
            Self::Server(_) | Self::Master(_) => connection.send_packed_command(&redis::cmd("PING")).await.map(drop),
            Self::Owner(cluster) => cluster.ask(connection).await,
        }
    }
}

/// What is set for every server, whatever the URL says.
pub(crate) fn with_our_settings(info: ConnectionInfo) -> ConnectionInfo {
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    // Subscriptions that share a connection with answers need RESP3.
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    info.set_tcp_settings(tcp).set_redis_settings(redis)
}

/// Splits `[user:password@]rest` behind the `@`.
pub(crate) fn split_login(text: &str) -> (&str, &str) {
    text.split_at(text.rfind('@').map_or(0, |at| at + 1))
}

/// Reads `host[:port][,host[:port]…]`. None when it is not that.
pub(crate) fn hosts(scheme: &str, login: &str, text: &str, port: u16, database: &str) -> Option<Vec<ConnectionInfo>> {
    let info = |host: &str| {
        // What follows the last bracket of an IPv6 address, if it is one.
        let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
        let port = if has_port { String::new() } else { format!(":{port}") };
        format!("{scheme}://{login}{host}{port}/{database}").into_connection_info().ok().map(with_our_settings)
    };
    text.split(',').map(info).collect()
}

/// Hosts that are asked in turn.
pub(crate) struct Turns<T> {
    hosts: Vec<T>,
    taken: AtomicUsize,
}

impl<T> Turns<T> {
    pub(crate) fn new(hosts: Vec<T>) -> Self {
        Self { hosts, taken: AtomicUsize::new(0) }
    }

    /// All of them, another one first each time: the one before may be what doesn't answer.
    pub(crate) fn next(&self) -> impl Iterator<Item = &T> {
        let first = self.taken.fetch_add(1, Ordering::Relaxed) % self.hosts.len().max(1);
        let (before, from) = self.hosts.split_at(first);
        from.iter().chain(before)
    }
}
