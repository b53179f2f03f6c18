//! The DNS of an HTTP client that may not go everywhere.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{NetError, NetPolicy, plain};

/// Where names become addresses.
pub trait Lookup: Send + Sync + 'static {
    /// The addresses of a name.
    fn lookup(&self, host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: String) -> BoxFuture<'static, std::io::Result<Vec<IpAddr>>> {
        async move {
            let found = tokio::net::lookup_host((host, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        }
        .boxed()
    }
}

/// Hands out only addresses that it has checked, and only those of one host.
#[derive(Clone)]
pub struct GuardedResolver {
    policy: Arc<NetPolicy>,
    host: Arc<str>,
    lookup: Arc<dyn Lookup>,
}

impl GuardedResolver {
    /// A resolver for `host` alone.
    #[must_use]
    pub fn new(policy: NetPolicy, host: &str, lookup: Arc<dyn Lookup>) -> Self {
        Self { policy: Arc::new(policy), host: plain(host).into(), lookup }
    }

    /// The checked addresses of a name.
    ///
    /// # Errors
    /// When it is another host, does not resolve, or *any* of its addresses is refused: a name that means places
    /// inside as well as outside is no name of a public service.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, NetError> {
        if plain(host) != *self.host {
            return Err(NetError::Elsewhere { host: host.to_owned(), configured: self.host.to_string() });
        }
        self.policy.check_name(host)?;
        let found = self.lookup.lookup(host.to_owned()).await;
        let found = found.ok().filter(|found| !found.is_empty());
        let found = found.ok_or_else(|| NetError::Unresolved { host: host.to_owned() })?;
        found.iter().try_for_each(|address| self.policy.check_address(host, *address))?;
        Ok(found)
    }
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let this = self.clone();
        Box::pin(async move {
            let found = this.addresses(name.as_str()).await?;
            // Port 0 is replaced by that of the URL.
            let addresses: Addrs = Box::new(found.into_iter().map(|address| SocketAddr::new(address, 0)));
            Ok(addresses)
        })
    }
}

impl std::fmt::Debug for GuardedResolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuardedResolver").field("host", &self.host).finish_non_exhaustive()
    }
}
