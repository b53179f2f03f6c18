//! HTTP clients under a [`NetPolicy`].

use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls_platform_verifier::BuilderVerifierExt;
use url::Url;

use super::{GuardedResolver, Lookup, NetError, NetPolicy, SystemLookup};

/// How an HTTP client connects.
#[derive(Clone)]
pub struct ClientSettings {
    /// Longest wait for a connection, TLS included; default 10 s.
    pub connect_timeout: Duration,
    /// Where names become addresses; default the system's resolver.
    pub lookup: Arc<dyn Lookup>,
}

impl Default for ClientSettings {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(10), lookup: Arc::new(SystemLookup) }
    }
}

impl std::fmt::Debug for ClientSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientSettings").field("connect_timeout", &self.connect_timeout).finish_non_exhaustive()
    }
}

/// An HTTP client for the host of `base` alone: it follows no redirect, uses no proxy of the environment and keeps no
/// cookies. URLs with an address for a host bypass every resolver, so whoever makes URLs of other parts than `base`
/// has [`NetPolicy::check_url`] look at them first.
///
/// # Errors
/// When the policy refuses `base`, or the system's certificates can't be read.
pub fn client(base: &Url, policy: &NetPolicy, settings: &ClientSettings) -> Result<reqwest::Client, NetError> {
    policy.check_url(base)?;
    let host = base.host_str().ok_or(NetError::NoHost)?;
    let resolver = GuardedResolver::new(policy.clone(), host, Arc::clone(&settings.lookup));
    let built = reqwest::Client::builder()
        .tls_backend_preconfigured(tls(base)?)
        .dns_resolver(Arc::new(resolver))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .retry(reqwest::retry::never())
        .connect_timeout(settings.connect_timeout)
        .tcp_nodelay(true)
        .pool_idle_timeout(Duration::from_secs(60))
        .pool_max_idle_per_host(16)
        .user_agent(concat!("hub/", env!("CARGO_PKG_VERSION")))
        .build();
    built.map_err(|e| NetError::Client(e.to_string()))
}

fn tls(base: &Url) -> Result<ClientConfig, NetError> {
    let failed = |e: rustls::Error| NetError::Client(e.to_string());
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?;
    let mut config = if base.scheme() == "https" {
        builder.with_platform_verifier().map_err(failed)?.with_no_client_auth()
    } else {
        // Never used; a machine without certificates can still call plain HTTP.
        builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// What lies behind a failure, in words that hold nothing of the request.
pub(crate) fn cause(error: &reqwest::Error) -> String {
    let chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    let mut last = if error.is_timeout() { "no answer in time" } else { "the HTTP exchange failed" }.to_owned();
    for error in chain {
        if let Some(net) = error.downcast_ref::<NetError>() {
            return net.to_string();
        }
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return tls.to_string();
        }
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            last = innermost(io);
        }
    }
    last
}

/// Some wrap one in another, which is no source of it.
fn innermost(error: &std::io::Error) -> String {
    let Some(inner) = error.get_ref() else { return error.kind().to_string() };
    match (inner.downcast_ref::<std::io::Error>(), inner.downcast_ref::<rustls::Error>()) {
        (Some(io), _) => innermost(io),
        (None, Some(tls)) => tls.to_string(),
        (None, None) => error.kind().to_string(),
    }
}

/// The refusal of the policy behind a failure, if it is one.
pub(crate) fn refusal(error: &reqwest::Error) -> Option<NetError> {
    let mut chain = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
    chain.find_map(|error| error.downcast_ref::<NetError>().cloned())
}
