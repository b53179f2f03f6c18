//! A master that Sentinels watch, and replace.

use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{Client, ConnectionAddr, ConnectionInfo, RedisError, TlsCertificates, TlsMode};

use super::place::{Turns, Way, is_tls, split_login};
use crate::TargetError;

pub(crate) struct Watched {
    name: String,
    sentinels: Turns<ConnectionAddr>,
    /// User, password and database of the master.
    login: ConnectionInfo,
    roots: Option<TlsCertificates>,
}

impl Watched {
    /// `[user:password@]host[:port][,host[:port]…]/master[/database]`.
    pub(crate) fn parse(way: Way<'_>, rest: &str) -> Result<Self, TargetError> {
        const SHAPE: TargetError = TargetError::InvalidUrl(
            "expected redis+sentinel://[user:password@]host[:port][,host[:port]…]/master[/db], or rediss+sentinel://",
        );
        let (login, rest) = split_login(rest);
        let (text, path) = rest.split_once('/').ok_or(SHAPE)?;
        let (name, database) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() || name.contains('?') {
            return Err(SHAPE);
        }
        let infos = way.hosts(login, text, 26379, database).ok_or(SHAPE)?;
        let sentinels = Turns::new(infos.iter().map(|info| info.addr().clone()).collect());
        let login = infos.into_iter().next().ok_or(SHAPE)?;
        Ok(Self { name: name.to_owned(), sentinels, login, roots: way.roots })
    }

    pub(crate) fn has_tls(&self) -> bool {
        is_tls(&self.login)
    }

    /// Asks the Sentinels for the master.
    pub(crate) async fn master(&self) -> Result<Client, RedisError> {
        let login = self.login.redis_settings();
        let sentinels = self.sentinels.next().cloned();
        let mut asking = SentinelClientBuilder::new(sentinels, &self.name, SentinelServerType::Master)?
            .set_client_to_redis_db(login.db())
            .set_client_to_redis_protocol(login.protocol())
            .set_client_to_redis_tcp_settings(self.login.tcp_settings().clone());
        if self.has_tls() {
            asking = asking.set_client_to_redis_tls_mode(TlsMode::Secure);
        }
        if let Some(roots) = &self.roots {
            asking = asking.set_client_to_redis_certificates(roots.clone());
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
