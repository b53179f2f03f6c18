//! Which addresses an outgoing request may reach.
//!
//! A hub or spoke that calls URLs for others must not become their way into the network it stands in. The rule is
//! applied to the address that is connected to: the resolver of the HTTP client hands out only addresses it has
//! checked, so an answer of the DNS that changes between check and use changes nothing.
//!
//! ```
//! use hub_adapters::net::NetPolicy;
//! use url::Url;
//!
//! let policy = NetPolicy::default();
//! assert!(policy.check_url(&Url::parse("https://api.example.com/v1").unwrap()).is_ok());
//! // However it is written.
//! for inside in ["http://127.0.0.1/", "http://2130706433/", "http://0x7f.1/", "http://[::ffff:10.0.0.1]/"] {
//!     assert!(policy.check_url(&Url::parse(inside).unwrap()).is_err(), "{inside}");
//! }
//! ```

mod address;
mod client;
mod resolver;

use std::net::IpAddr;

use ipnet::IpNet;
use url::{Host, Url};

pub use address::{AddressKind, kind_of};
pub(crate) use client::refusal;
pub use client::{ClientSettings, cause, client};
pub use resolver::{GuardedResolver, Lookup, SystemLookup};

/// Which addresses may be reached beside those of the public internet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NetPolicy {
    /// Loopback and private networks. Link-local addresses stay refused: clouds keep credentials there.
    pub allow_private: bool,
    /// Host names (whatever they resolve to), addresses or networks such as `10.1.0.0/16`, that may be reached.
    pub allow_hosts: Vec<String>,
}

/// Why a URL or an address is not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NetError {
    /// Not `http` or `https`.
    #[error("scheme {0:?} is not http or https")]
    Scheme(String),
    /// No host.
    #[error("the URL has no host")]
    NoHost,
    /// User and password in the URL: they would end up in logs.
    #[error("the URL of {0} holds a user or password; give credentials apart from it")]
    Userinfo(String),
    /// An address of a kind that the policy does not allow.
    #[error("{host} is not reached: {address} is {}{}", kind.describe(), kind.remedy())]
    Address {
        /// As asked for.
        host: String,
        /// What it stands for.
        address: String,
        /// What is wrong with it.
        kind: AddressKind,
    },
    /// Another host than the configured one.
    #[error("{host} is not reached: only {configured} is configured")]
    Elsewhere {
        /// As asked for.
        host: String,
        /// The only one allowed.
        configured: String,
    },
    /// The name does not resolve.
    #[error("{host} can't be resolved")]
    Unresolved {
        /// As asked for.
        host: String,
    },
    /// The HTTP client can't be set up.
    #[error("the HTTP client can't be set up: {0}")]
    Client(String),
}

impl NetPolicy {
    /// Public addresses, loopback and private networks.
    #[must_use]
    pub fn private() -> Self {
        Self { allow_private: true, allow_hosts: Vec::new() }
    }

    /// Checks scheme, credentials and host. A name is judged by its form only; what it resolves to is judged by the
    /// [`GuardedResolver`] when it is connected to.
    ///
    /// # Errors
    /// What is wrong with the URL.
    pub fn check_url(&self, url: &Url) -> Result<(), NetError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(NetError::Scheme(url.scheme().to_owned()));
        }
        let shown = url.host_str().unwrap_or_default().to_owned();
        if !url.username().is_empty() || url.password().is_some() {
            return Err(NetError::Userinfo(shown));
        }
        match url.host().ok_or(NetError::NoHost)? {
            Host::Ipv4(address) => self.check_address(&shown, address.into()),
            Host::Ipv6(address) => self.check_address(&shown, address.into()),
            Host::Domain(name) => self.check_name(name),
        }
    }

    /// Checks a name by its form.
    ///
    /// # Errors
    /// When it means this machine.
    pub fn check_name(&self, name: &str) -> Result<(), NetError> {
        let plain = plain(name);
        if let Ok(address) = plain.parse::<IpAddr>() {
            return self.check_address(name, address);
        }
        let means_this_machine = ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback"];
        let local = means_this_machine.contains(&plain.as_str()) || plain.ends_with(".localhost");
        if local && !self.allow_private && !self.names(&plain) {
            let kind = AddressKind::Loopback;
            return Err(NetError::Address { host: name.to_owned(), address: "the name".to_owned(), kind });
        }
        Ok(())
    }

    /// Checks an address that `host` stands for.
    ///
    /// # Errors
    /// When the policy does not allow the kind of address.
    pub fn check_address(&self, host: &str, address: IpAddr) -> Result<(), NetError> {
        let kind = kind_of(address);
        let allowed = match kind {
            AddressKind::Public => true,
            kind => kind.is_private() && self.allow_private,
        };
        if allowed || self.names(&plain(host)) || self.has_network(address) {
            return Ok(());
        }
        Err(NetError::Address { host: host.to_owned(), address: address.to_string(), kind })
    }

    fn names(&self, plain_host: &str) -> bool {
        self.allow_hosts.iter().any(|allowed| plain(allowed) == plain_host)
    }

    fn has_network(&self, address: IpAddr) -> bool {
        self.allow_hosts.iter().any(|allowed| match allowed.parse::<IpNet>() {
            Ok(network) => network.contains(&address),
            Err(_) => allowed.parse::<IpAddr>().is_ok_and(|one| one == address),
        })
    }
}

/// Lower case, without the brackets of an IPv6 address and the final dot of a full name.
fn plain(host: &str) -> String {
    host.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests;
