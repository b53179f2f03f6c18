//! HTTP clients under a [`NetPolicy`].

use std::io::ErrorKind;
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

/// What hyper says of what does not begin like an answer: an alert of TLS, or one that speaks first.
const NO_HTTP: [&str; 2] = ["invalid HTTP version parsed", "received unexpected message from connection"];

/// What lies behind a failure, in words that hold nothing of the request but host and port.
#[must_use]
pub fn cause(error: &reqwest::Error) -> String {
    if let Some(refusal) = refusal(error) {
        return refusal.to_string();
    }
    let place = error.url().map_or_else(|| "the server".to_owned(), place);
    if let Some(tls) = chain(error).find_map(tls_error) {
        return match tls {
            rustls::Error::InvalidMessage(_) => {
                format!("{place} answers, but not in TLS; use http:// if it is plain")
            }
            tls => format!("{place}: {tls}"),
        };
    }
    if chain(error).any(|error| NO_HTTP.contains(&error.to_string().as_str())) {
        return format!("{place} answers, but not in HTTP; use https:// if it has TLS");
    }
    match chain(error).filter_map(|error| error.downcast_ref()).last().map(innermost) {
        _ if error.is_timeout() => format!("no answer from {place} in time"),
        Some(ErrorKind::ConnectionRefused) => {
            format!("connection refused by {place}: does a server run there?")
        }
        Some(kind) => format!("{kind} ({place})"),
        // The first of the chain holds the URL.
        None => chain(error)
            .skip(1)
            .last()
            .map_or_else(|| format!("the HTTP exchange with {place} failed"), |last| format!("{last} ({place})")),
    }
}

fn place(url: &Url) -> String {
    let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}{port}", url.host_str().unwrap_or_default())
}

fn chain(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error as &(dyn std::error::Error + 'static)), |error| error.source())
}

/// Some wrap it in an error of IO, of which it is no source.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => io.get_ref().and_then(|inner| tls_error(inner)),
        None => error.downcast_ref(),
    }
}

fn innermost(error: &std::io::Error) -> ErrorKind {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<std::io::Error>());
    inner.map_or_else(|| error.kind(), innermost)
}

/// The refusal of the policy behind a failure, if it is one.
pub(crate) fn refusal(error: &reqwest::Error) -> Option<NetError> {
    chain(error).find_map(|error| error.downcast_ref::<NetError>().cloned())
}
