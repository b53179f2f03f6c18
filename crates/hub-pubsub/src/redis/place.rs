//! Which server is connected to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion,
    RedisError, RedisResult, TlsCertificates,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

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
        let (url, roots) = split_roots(url)?;
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        if roots.is_some() && scheme != "rediss" {
            return Err(TargetError::InvalidUrl("sslrootcert is for rediss://"));
        }
        let way = Way { scheme, roots };
        match (scheme, kind) {
            ("redis" | "rediss", "sentinel") => Ok(Self::Master(Arc::new(Watched::parse(way, rest)?))),
            ("redis" | "rediss", "cluster") => Ok(Self::Owner(Arc::new(Cluster::parse(&way, rest, prefix)?))),
            _ if rest.contains(',') => {
                Err(TargetError::InvalidUrl("several hosts need redis+cluster:// or redis+sentinel://"))
            }
            _ => {
                // The crate's own errors may repeat parts of the URL, and with them the password.
                let invalid = |_| {
                    TargetError::InvalidUrl(
                        "expected redis://[user:password@]host[:port][/db], rediss:// or unix://, and within a user or \
                         password %40 for @, %3A for :, %2F for /",
                    )
                };
                Ok(Self::Server(Box::new(way.info(url).and_then(Client::open).map_err(invalid)?)))
            }
        }
    }

    /// Whether the first thing said is the handshake of TLS.
    pub(crate) fn has_tls(&self) -> bool {
        match self {
            Self::Server(client) => is_tls(client.get_connection_info()),
            Self::Master(watched) => watched.has_tls(),
            Self::Owner(cluster) => cluster.has_tls(),
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

pub(crate) fn is_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

/// Splits off `?sslrootcert=FILE`, which the crate doesn't know.
fn split_roots(url: &str) -> Result<(&str, Option<TlsCertificates>), TargetError> {
    const UNREADABLE: TargetError = TargetError::InvalidUrl("sslrootcert names no file with certificates");
    let Some((url, file)) = url.split_once("?sslrootcert=") else { return Ok((url, None)) };
    let pem = std::fs::read(file).map_err(|_| UNREADABLE)?;
    if CertificateDer::pem_slice_iter(&pem).next().is_none_or(|first| first.is_err()) {
        return Err(UNREADABLE);
    }
    Ok((url, Some(TlsCertificates { client_tls: None, root_cert: Some(pem) })))
}

/// How servers are connected to, whichever they are.
pub(crate) struct Way<'a> {
    /// `redis` or `rediss`.
    pub(crate) scheme: &'a str,
    /// Who issues the certificates, if no public authority does.
    pub(crate) roots: Option<TlsCertificates>,
}

impl Way<'_> {
    fn info(&self, url: &str) -> RedisResult<ConnectionInfo> {
        let mut info = url.into_connection_info()?;
        if let Some(roots) = &self.roots {
            info = Client::build_with_tls(info, roots.clone())?.get_connection_info().clone();
        }
        let tcp = info.tcp_settings().clone().set_nodelay(true);
        // Subscriptions that share a connection with answers need RESP3.
        let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
        Ok(info.set_tcp_settings(tcp).set_redis_settings(redis))
    }

    /// Reads `host[:port][,host[:port]…]`. None when it is not that.
    pub(crate) fn hosts(&self, login: &str, text: &str, port: u16, database: &str) -> Option<Vec<ConnectionInfo>> {
        let info = |host: &str| {
            // What follows the last bracket of an IPv6 address, if it is one.
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { String::new() } else { format!(":{port}") };
            self.info(&format!("{}://{login}{host}{port}/{database}", self.scheme)).ok()
        };
        text.split(',').map(info).collect()
    }
}

/// Splits `[user:password@]rest` behind the `@`.
pub(crate) fn split_login(text: &str) -> (&str, &str) {
    text.split_at(text.rfind('@').map_or(0, |at| at + 1))
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

    pub(crate) fn first(&self) -> Option<&T> {
        self.hosts.first()
    }

    /// All of them, another one first each time: the one before may be what doesn't answer.
    pub(crate) fn next(&self) -> impl Iterator<Item = &T> {
        let first = self.taken.fetch_add(1, Ordering::Relaxed) % self.hosts.len().max(1);
        let (before, from) = self.hosts.split_at(first);
        from.iter().chain(before)
    }
}
