//! The node of a Redis Cluster at which hubs meet.
//!
//! Every node delivers what is published at any other, but counts only its own subscribers. So all hubs connect to the
//! one that serves the slot of their prefix, and look again and again whether it still does.

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind,
};

use super::place::{Turns, Way, is_tls, split_login};
use crate::TargetError;

/// From node to node while they disagree. The cluster is changing then, and the next attempt will find it settled.
const MAX_HOPS: usize = 4;

pub(crate) struct Cluster {
    seeds: Turns<ConnectionInfo>,
    /// Never written: its slot is what is asked for.
    key: String,
}

impl Cluster {
    /// `[user:password@]host[:port][,host[:port]…][/]`.
    pub(crate) fn parse(way: &Way<'_>, rest: &str, key: &str) -> Result<Self, TargetError> {
        const SHAPE: TargetError = TargetError::InvalidUrl(
            "expected redis+cluster://[user:password@]host[:port][,host[:port]…], or rediss+cluster://",
        );
        let (login, text) = split_login(rest.strip_suffix('/').unwrap_or(rest));
        if text.contains('/') {
            return Err(SHAPE);
        }
        let seeds = way.hosts(login, text, 6379, "").ok_or(SHAPE)?;
        Ok(Self { seeds: Turns::new(seeds), key: key.to_owned() })
    }

    pub(crate) fn has_tls(&self) -> bool {
        self.seeds.first().is_some_and(is_tls)
    }

    /// The node that says of itself that it serves the slot.
    pub(crate) async fn owner(&self, config: &AsyncConnectionConfig) -> RedisResult<Client> {
        let mut failed = RedisError::from((ErrorKind::InvalidClientConfig, "no seeds"));
        for seed in self.seeds.next() {
            match self.follow(seed, config).await {
                Ok(client) => return Ok(client),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }

    async fn follow(&self, seed: &ConnectionInfo, config: &AsyncConnectionConfig) -> RedisResult<Client> {
        let mut node = seed.clone();
        let mut hops = 0;
        loop {
            let client = Client::open(node.clone())?;
            let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
            // Refused outside of a cluster, where EXISTS is answered by any server.
            redis::cmd("CLUSTER").arg("KEYSLOT").arg(&self.key).exec_async(&mut connection).await?;
            match self.ask(&mut connection).await {
                Err(error) if hops < MAX_HOPS => node = moved_to(&node, &error).ok_or(error)?,
                answer => return answer.map(|()| client),
            }
            hops += 1;
        }
    }

    /// A node that does not serve the slot, or is cut off from most of the others, answers with an error.
    pub(crate) async fn ask(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        match redis::cmd("EXISTS").arg(&self.key).exec_async(connection).await {
            // While a slot is on its way, its old node still serves it.
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::Ask) => Ok(()),
            answer => answer,
        }
    }
}

/// The node that another one names instead of itself.
fn moved_to(from: &ConnectionInfo, error: &RedisError) -> Option<ConnectionInfo> {
    let (address, _) = error.redirect_node()?;
    let (host, port) = address.rsplit_once(':')?;
    let port = port.parse().ok()?;
    // Without a host when the node does not know how others reach it: where it was reached itself.
    let named = |before: &String| if host.is_empty() { before.clone() } else { host.to_owned() };
    let to = match from.addr() {
        ConnectionAddr::Tcp(before, _) => ConnectionAddr::Tcp(named(before), port),
        ConnectionAddr::TcpTls { host: before, insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host: named(before), port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => return None,
    };
    Some(from.clone().set_addr(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_named_node_is_found_with_the_same_login() {
        let next = |seed: &str, address: &str| {
            let seeds = Way { scheme: seed, roots: None }.hosts("u:pw@", "seed:7000", 1, "").expect("a seed");
            let answer = redis::parse_redis_value(format!("-MOVED 7 {address}\r\n").as_bytes()).expect("an error");
            let info = moved_to(&seeds[0], &answer.extract_error().expect_err("an error"))?;
            assert_eq!((info.redis_settings().username(), info.redis_settings().password()), (Some("u"), Some("pw")));
            assert_eq!(matches!(info.addr(), ConnectionAddr::TcpTls { insecure: false, .. }), seed == "rediss");
            Some(info.addr().to_string())
        };
        assert_eq!(next("redis", "10.0.0.1:7001").as_deref(), Some("10.0.0.1:7001"));
        assert_eq!(next("rediss", "node.example:7001").as_deref(), Some("node.example:7001"));
        assert_eq!(next("redis", "::1:7001").as_deref(), Some("::1:7001"));
        // It does not know how it is reached.
        assert_eq!(next("rediss", ":7001").as_deref(), Some("seed:7001"));
        assert_eq!(next("redis", "?"), None);
    }
}
