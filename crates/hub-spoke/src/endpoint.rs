use std::fmt;

use tokio_tungstenite::tungstenite::http::{HeaderValue, Uri};

use crate::ConnectError;

/// An API key. Neither `Debug` nor any error shows it.
#[derive(Clone)]
pub(crate) struct Key {
    header: HeaderValue,
}

impl Key {
    pub(crate) fn new(key: &str) -> Result<Self, ConnectError> {
        // What a bearer token may hold (RFC 6750); everything else would be refused with a less helpful answer.
        let fits = |b: u8| b.is_ascii_graphic() && b != b',' && b != b'"';
        if key.is_empty() || !key.bytes().all(fits) {
            return Err(ConnectError::InvalidKey);
        }
        let mut header = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ConnectError::InvalidKey)?;
        header.set_sensitive(true);
        Ok(Self { header })
    }

    pub(crate) fn header(&self) -> HeaderValue {
        self.header.clone()
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key([redacted])")
    }
}

/// Where the hub's WebSocket is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Endpoint {
    pub(crate) secure: bool,
    /// Without the brackets of an IPv6 address.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// For the request and for people.
    pub(crate) url: String,
}

impl Endpoint {
    /// Takes `ws`, `wss`, `http` and `https`; keeps a base path; appends `/ws` if it is missing.
    pub(crate) fn parse(url: &str) -> Result<Self, ConnectError> {
        let invalid = |reason| ConnectError::InvalidUrl { url: shown(url), reason };
        let uri: Uri = url.trim().parse().map_err(|_| invalid("it is not a URL"))?;
        let secure = match uri.scheme_str() {
            Some("ws" | "http") => false,
            Some("wss" | "https") => true,
            Some(_) => return Err(invalid("its scheme is none of ws, wss, http, https")),
            None => return Err(invalid("it has no scheme")),
        };
        let authority = uri.authority().ok_or_else(|| invalid("it has no host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("it has user information; the key is given apart from the URL"));
        }
        if uri.query().is_some() {
            return Err(invalid("it has a query; the key is given apart from the URL"));
        }
        let host = authority.host();
        if host.is_empty() {
            return Err(invalid("it has no host"));
        }
        let base = uri.path().trim_end_matches('/');
        let path = if base.ends_with("/ws") { base.to_owned() } else { format!("{base}/ws") };
        Ok(Self {
            secure,
            host: host.trim_matches(['[', ']']).to_owned(),
            port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }),
            url: format!("{}://{authority}{path}", if secure { "wss" } else { "ws" }),
        })
    }
}

/// A URL as errors may show it: people put keys into user information and queries.
fn shown(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    let cut = match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, host))) => format!("{scheme}://{host}"),
        (None, Some((_, host))) => host.to_owned(),
        _ => url.to_owned(),
    };
    cut.chars().take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_become_the_address_of_the_websocket() {
        for (given, url, host, port) in [
            ("http://127.0.0.1:8080", "ws://127.0.0.1:8080/ws", "127.0.0.1", 8080),
            ("ws://hub/", "ws://hub/ws", "hub", 80),
            ("https://hub.example.org/hub", "wss://hub.example.org/hub/ws", "hub.example.org", 443),
            ("wss://hub.example.org/hub/ws", "wss://hub.example.org/hub/ws", "hub.example.org", 443),
            ("ws://[::1]:9/base/", "ws://[::1]:9/base/ws", "::1", 9),
        ] {
            let endpoint = Endpoint::parse(given).unwrap();
            assert_eq!((&*endpoint.url, &*endpoint.host, endpoint.port), (url, host, port), "{given}");
        }
    }

    #[test]
    fn a_refused_url_is_named_without_its_secrets() {
        for given in
            ["ftp://h", "127.0.0.1:8080", "ws://u:hk_secret@h", "ws://h/?key=hk_secret", "ws://", "", "ws://a b"]
        {
            let error = Endpoint::parse(given).unwrap_err();
            assert!(matches!(error, ConnectError::InvalidUrl { .. }), "{given}");
            assert!(!format!("{error} {error:?}").contains("hk_secret"), "{error}");
        }
    }

    #[test]
    fn a_key_is_never_shown() {
        assert!(!format!("{:?}", Key::new("hk_secret").unwrap()).contains("hk_secret"));
        for bad in ["", "hk_secret\n", "hk secret", "hk_sécret", "\"hk_secret\""] {
            let error = Key::new(bad).unwrap_err();
            assert!(!format!("{error} {error:?}").contains("secret"), "{error}");
        }
    }
}
