//! Credentials for the upstream. Callers never see them: not in errors, logs or `Debug` text.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use secrecy::{ExposeSecret, SecretString};

use super::client::ClientError;
use super::plan::{Plan, Scheme};
use super::style::Encoding;

/// Header of an API key when neither document nor caller names one.
const DEFAULT_KEY_HEADER: &str = "X-API-Key";

/// Where an API key goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyPlace {
    /// A header of this name.
    Header(String),
    /// A query parameter of this name.
    Query(String),
    /// A cookie of this name.
    Cookie(String),
}

/// What the upstream knows this client by.
#[derive(Debug, Clone)]
pub enum Credential {
    /// `Authorization: Bearer`; for the document's bearer, OAuth 2 and OpenID Connect schemes.
    Bearer(SecretString),
    /// `Authorization: Basic`.
    Basic {
        /// User name.
        user: String,
        /// Password.
        password: SecretString,
    },
    /// An API key.
    Key {
        /// Where it goes. `None`: where the document says, else in the header `X-API-Key`.
        place: Option<KeyPlace>,
        /// The key.
        value: SecretString,
    },
}

/// With which requests credentials go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Apply {
    /// With those whose operation asks for such a credential in the document; with all when it says nothing of
    /// security.
    #[default]
    AsDocumented,
    /// With all.
    Always,
}

/// All credentials of a client.
#[derive(Debug, Clone, Default)]
pub(super) struct Credentials {
    pub(super) all: Vec<Credential>,
    pub(super) apply: Apply,
}

/// A credential in its place, ready to be sent.
pub(super) enum Placed {
    Header(HeaderName, HeaderValue),
    /// Encoded.
    Query(String, String),
    /// Encoded.
    Cookie(String, String),
}

impl Credentials {
    /// Each credential that a request takes, in its place.
    pub(super) fn placed(&self, plan: &Plan) -> Result<Vec<Placed>, ClientError> {
        let mut placed = Vec::new();
        for credential in &self.all {
            if let Some(place) = self.place(credential, plan.security.as_deref()) {
                placed.push(written(credential, &place)?);
            }
        }
        Ok(placed)
    }

    fn place(&self, credential: &Credential, security: Option<&[Vec<Scheme>]>) -> Option<KeyPlace> {
        let asked = security.into_iter().flatten().flatten().find_map(|scheme| match (credential, scheme) {
            (Credential::Bearer(_), Scheme::Bearer) | (Credential::Basic { .. }, Scheme::Basic) => {
                Some(authorization())
            }
            (Credential::Key { place: None, .. }, Scheme::Key(place)) => Some(place.clone()),
            (Credential::Key { place: Some(own), .. }, Scheme::Key(place)) => (own == place).then(|| own.clone()),
            _ => None,
        });
        let everywhere = security.is_none() || self.apply == Apply::Always;
        asked.or_else(|| {
            everywhere.then(|| match credential {
                Credential::Key { place: Some(place), .. } => place.clone(),
                Credential::Key { place: None, .. } => KeyPlace::Header(DEFAULT_KEY_HEADER.to_owned()),
                Credential::Bearer(_) | Credential::Basic { .. } => authorization(),
            })
        })
    }

    /// Every secret, and what is made of it.
    pub(super) fn secrets(&self) -> Vec<SecretString> {
        let of = |credential: &Credential| match credential {
            Credential::Bearer(token) => vec![token.clone()],
            Credential::Basic { user, password } => vec![password.clone(), basic(user, password)],
            Credential::Key { value, .. } => vec![value.clone()],
        };
        self.all.iter().flat_map(of).collect()
    }
}

fn authorization() -> KeyPlace {
    KeyPlace::Header(header::AUTHORIZATION.as_str().to_owned())
}

fn basic(user: &str, password: &SecretString) -> SecretString {
    STANDARD.encode(format!("{user}:{}", password.expose_secret())).into()
}

fn written(credential: &Credential, place: &KeyPlace) -> Result<Placed, ClientError> {
    let value: SecretString = match credential {
        Credential::Bearer(token) => format!("Bearer {}", token.expose_secret()).into(),
        Credential::Basic { user, password } => format!("Basic {}", basic(user, password).expose_secret()).into(),
        Credential::Key { value, .. } => value.clone(),
    };
    let encoded = || Encoding::Strict.apply(value.expose_secret());
    Ok(match place {
        KeyPlace::Header(name) => {
            let header = HeaderName::from_bytes(name.as_bytes());
            let header = header.map_err(|_| ClientError::Header { name: name.clone() })?;
            let value = HeaderValue::from_str(value.expose_secret());
            let mut value = value.map_err(|_| ClientError::Header { name: name.clone() })?;
            value.set_sensitive(true);
            Placed::Header(header, value)
        }
        KeyPlace::Query(name) => Placed::Query(Encoding::Strict.apply(name), encoded()),
        KeyPlace::Cookie(name) => Placed::Cookie(Encoding::Strict.apply(name), encoded()),
    })
}

/// Static headers; their values may be secrets, too.
pub(super) fn headers(pairs: &[(String, SecretString)]) -> Result<HeaderMap, ClientError> {
    let mut headers = HeaderMap::new();
    for (name, value) in pairs {
        let bad = || ClientError::Header { name: name.chars().take(60).collect() };
        let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| bad())?;
        let mut value = HeaderValue::from_str(value.expose_secret()).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.append(header, value);
    }
    Ok(headers)
}
