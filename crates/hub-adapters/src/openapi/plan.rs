//! How an operation's input becomes a request. Made at import, executed by the client.

use std::collections::BTreeMap;

use http::{HeaderName, Method};

use super::auth::KeyPlace;
use super::promise::Success;

/// The request of one operation, without its values.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) method: Method,
    /// With `{name}` where path parameters go.
    pub(super) path: String,
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<Body>,
    /// `None` when the document says nothing of security.
    pub(super) security: Option<Vec<Vec<Scheme>>>,
    pub(super) answers: Answers,
}

impl Plan {
    /// HTTP method.
    #[must_use]
    pub fn method(&self) -> &str {
        self.method.as_str()
    }

    /// Path below the server's URL, with `{name}` where parameters go.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Whether the upstream promises that running it twice is running it once.
    pub(super) fn is_safe(&self) -> bool {
        [Method::GET, Method::HEAD, Method::OPTIONS].contains(&self.method)
    }
}

/// What may come back.
#[derive(Debug, Clone, Default)]
pub(super) struct Answers {
    pub(super) accept: String,
    pub(super) streams: bool,
    pub(super) successes: Vec<Success>,
    /// Statuses with an error code of their own: `404`, `4XX`.
    pub(super) errors: Vec<String>,
}

#[derive(Debug, Clone)]
pub(super) struct Parameter {
    /// Name in the input.
    pub(super) member: String,
    /// Name on the wire.
    pub(super) name: String,
    pub(super) place: Place,
    pub(super) form: Form,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    Path,
    Query,
    Header(HeaderName),
    Cookie,
}

/// How a value is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Form {
    pub(super) style: Style,
    pub(super) explode: bool,
    pub(super) allow_reserved: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Style {
    Simple,
    Label,
    Matrix,
    Form,
    SpaceDelimited,
    PipeDelimited,
    DeepObject,
    /// A parameter with `content` instead of a schema.
    Json,
}

#[derive(Debug, Clone)]
pub(super) struct Body {
    pub(super) media_type: String,
    pub(super) kind: BodyKind,
}

#[derive(Debug, Clone)]
pub(super) enum BodyKind {
    Json,
    Form(BTreeMap<String, Field>),
    Multipart(BTreeMap<String, Field>),
    Text,
    /// Base64 in the input.
    Bytes,
}

/// A member of a form.
#[derive(Debug, Clone, Default)]
pub(super) struct Field {
    pub(super) form: Option<Form>,
    pub(super) content_type: Option<String>,
    /// Base64 in the input, bytes on the wire.
    pub(super) binary: bool,
}

/// One way in which an operation wants its caller to be known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scheme {
    Bearer,
    Basic,
    Key(KeyPlace),
    /// Mutual TLS and schemes without a name here.
    Other,
}
