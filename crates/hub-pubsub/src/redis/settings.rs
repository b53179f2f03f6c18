//! Where the server is, and the limits.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _, ProtocolVersion, RedisError, TlsMode};

use crate::TargetError;

/// What a [target](crate::EventTarget::redis) or [bus](crate::Bus::redis) on Redis can be told besides its URL.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RedisOptions {
    /// Begins every channel's name, so that clusters of hubs can share a server. Hubs with another prefix are strangers.
    pub prefix: String,
    /// Messages queued per subscriber of a target.
    pub capacity: usize,
    /// Bytes of frames queued per inbox of a bus.
    pub inbox_bytes: usize,
    /// Longest wait for a connection or an answer; then the server counts as away.
    pub timeout: Duration,
}

impl Default for RedisOptions {
    fn default() -> Self {
        Self {
            prefix: "hub:".to_owned(),
            capacity: crate::DEFAULT_CAPACITY,
            inbox_bytes: crate::DEFAULT_INBOX_BYTES,
            timeout: Duration::from_secs(5),
        }
    }
}

impl RedisOptions {
    /// The same options with another prefix.
    #[must_use]
    pub fn with_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// The same options with another capacity per subscriber.
    #[must_use]
    pub fn with_capacity(mut self, capacity: usize) -> Self {
        self.capacity = capacity;
        self
    }

    /// The same options with another bound of an inbox.
    #[must_use]
    pub fn with_inbox_bytes(mut self, bytes: usize) -> Self {
        self.inbox_bytes = bytes;
        self
    }

    /// The same options with another longest wait.
    #[must_use]
    pub fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }
}

/// A checked URL with its options.
#[derive(Clone)]
pub(crate) struct Settings {
    place: Place,
    pub(crate) options: RedisOptions,
}

#[derive(Clone)]
enum Place {
    Server(Box<Client>),
    Master(Arc<Watched>),
}

/// A master that Sentinels watch, and replace.
struct Watched {
    name: String,
    sentinels: Vec<ConnectionAddr>,
    /// User, password and database of the master.
    login: ConnectionInfo,
    tls: bool,
    tried: AtomicUsize,
}

/// Without the client, which knows the password.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Settings {
    pub(crate) fn new(url: &str, options: RedisOptions) -> Result<Self, TargetError> {
        // The crate's own errors may repeat parts of the URL, and with them the password.
        let invalid = |_| TargetError::InvalidUrl("expected redis://, rediss:// or unix://, with optional user and db");
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Without one TLS would panic later. It only fails when another thread was faster, which is as good.
            _ = rustls::crypto::ring::default_provider().install_default();
        }
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let place = match scheme {
            "redis+sentinel" | "rediss+sentinel" => {
                Place::Master(Arc::new(Watched::parse(scheme == "rediss+sentinel", rest)?))
            }
            // In a cluster PUBLISH counts the receivers of one node only, so the bus could not tell who is there.
            _ if scheme.contains("cluster") || rest.contains(',') => {
                return Err(TargetError::InvalidUrl("Redis Cluster is not supported: name one server, or Sentinels"));
            }
            _ => {
                let info = url.into_connection_info().map_err(invalid)?;
                let tcp = info.tcp_settings().clone().set_nodelay(true);
                // Subscriptions that share a connection with answers need RESP3, whatever the URL says.
                let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
                let info = info.set_tcp_settings(tcp).set_redis_settings(redis);
                Place::Server(Box::new(Client::open(info).map_err(invalid)?))
            }
        };
        Ok(Self { place, options })
    }

    /// The server to connect to now.
    pub(crate) async fn client(&self) -> Result<Client, RedisError> {
        match &self.place {
            Place::Server(client) => Ok(Client::clone(client)),
            Place::Master(watched) => watched.master().await,
        }
    }

    /// The channel of what `kind` and `name` say.
    pub(crate) fn channel(&self, kind: &str, name: &str) -> String {
        [self.options.prefix.as_str(), kind, name].concat()
    }
}

impl Watched {
    /// `[user:password@]host[:port][,host[:port]…]/master[/database]`.
    fn parse(tls: bool, rest: &str) -> Result<Self, TargetError> {
        const SHAPE: TargetError = TargetError::InvalidUrl(
            "expected redis+sentinel://[user:password@]host[:port][,host[:port]…]/master[/db], or rediss+sentinel://",
        );
        let (login, rest) = rest.rsplit_once('@').map_or(("", rest), |(login, rest)| (login, rest));
        let (hosts, path) = rest.split_once('/').ok_or(SHAPE)?;
        let (name, database) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() || name.contains('?') {
            return Err(SHAPE);
        }
        let scheme = if tls { "rediss" } else { "redis" };
        let at = if login.is_empty() { "" } else { "@" };
        let info = |host: &str| {
            // What follows the last bracket of an IPv6 address, if it is one.
            let has_port = host.rsplit(']').next().is_some_and(|end| end.contains(':'));
            let port = if has_port { "" } else { ":26379" };
            format!("{scheme}://{login}{at}{host}{port}/{database}").into_connection_info().map_err(|_| SHAPE)
        };
        let infos: Vec<ConnectionInfo> = hosts.split(',').map(info).collect::<Result<_, _>>()?;
        let sentinels = infos.iter().map(|info| info.addr().clone()).collect();
        let login = infos.into_iter().next().ok_or(SHAPE)?;
        Ok(Self { name: name.to_owned(), sentinels, login, tls, tried: AtomicUsize::new(0) })
    }

    /// Asks the Sentinels, each time another one first: the one before may be what doesn't answer.
    async fn master(&self) -> Result<Client, RedisError> {
        let first = self.tried.fetch_add(1, Ordering::Relaxed) % self.sentinels.len().max(1);
        let (before, from) = self.sentinels.split_at(first);
        let sentinels = from.iter().chain(before).cloned();
        let login = self.login.redis_settings();
        let mut asking = SentinelClientBuilder::new(sentinels, &self.name, SentinelServerType::Master)?
            .set_client_to_redis_db(login.db())
            .set_client_to_redis_protocol(ProtocolVersion::RESP3)
            .set_client_to_redis_tcp_settings(TcpSettings::default().set_nodelay(true));
        if self.tls {
            asking = asking.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(user) = login.username() {
            asking = asking.set_client_to_redis_username(user);
        }
        if let Some(password) = login.password() {
            asking = asking.set_client_to_redis_password(password);
        }
        asking.build()?.async_get_client().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_and_never_repeated() {
        let check = |url: &str| Settings::new(url, RedisOptions::default());
        for url in [
            "redis://h",
            "redis://u:p%40w@h:1/2",
            "rediss://:pw@h/",
            "unix:///tmp/x.sock?db=1",
            "redis://[::1]:1",
            "redis+sentinel://a/main",
            "rediss+sentinel://u:pw@a:1,[::1],b/main/2",
        ] {
            assert!(check(url).is_ok(), "{url}");
        }
        for url in [
            "",
            "h:6379",
            "http://h",
            "redis://:secret@h:x",
            "redis+cluster://:secret@a,b",
            "redis://:secret@a,b",
            "redis+sentinel://:secret@a,b",
            "redis+sentinel://:secret@a/",
            "redis+sentinel://:secret@a:x/main",
        ] {
            let error = check(url).expect_err(url);
            assert!(matches!(error, TargetError::InvalidUrl(_)), "{url}: {error}");
            assert!(!format!("{error} {error:?}").contains("secret"), "{url}: {error}");
        }
        assert!(!format!("{:?}", check("redis://:secret@h")).contains("secret"));
    }
}
