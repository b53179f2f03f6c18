use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Longest operation id, in bytes.
pub(crate) const MAX_ID: usize = 200;

/// What an operation does to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OperationType {
    /// Reads; safe to run again.
    Query,
    /// Changes something.
    Mutation,
    /// Answers with any number of items, then ends.
    Subscription,
}

impl OperationType {
    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Query => "query",
            Self::Mutation => "mutation",
            Self::Subscription => "subscription",
        }
    }
}

/// An operation without its handler, as spokes register it and `hub.schema` shows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct OperationSpec {
    /// Last part of the id.
    pub name: String,
    /// Everything before the last dot of the id.
    pub namespace: String,
    /// Semantic version.
    pub version: String,
    /// Query, mutation or subscription.
    #[serde(rename = "type")]
    pub kind: OperationType,
    /// Short name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// What it does, for people and models.
    pub description: String,
    /// Words to find it by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// JSON Schema 2020-12 of the input.
    pub input_schema: Value,
    /// JSON Schema 2020-12 of each response's `data`.
    pub output_schema: Value,
    /// Codes of its own that it may fail with.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub error_schemas: Vec<ErrorDefinition>,
    /// Who may call it. Must be there: a forgotten rule must not open an operation to everybody.
    pub access_control: AccessControl,
    /// Free metadata; the hub reads `resourceParam`.
    #[serde(default, rename = "_meta", skip_serializing_if = "Option::is_none")]
    pub meta: Option<Value>,
}

impl OperationSpec {
    /// `namespace.name`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}.{}", self.namespace, self.name)
    }

    /// Sets namespace and name from an id; an id without a dot becomes a name in the namespace `""`.
    #[must_use]
    pub fn with_id(mut self, id: &str) -> Self {
        let (namespace, name) = id.rsplit_once('.').unwrap_or(("", id));
        self.namespace = namespace.to_owned();
        self.name = name.to_owned();
        self
    }
}

/// An error code of an operation's own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ErrorDefinition {
    /// The code, by custom in capitals.
    pub code: String,
    /// When it happens.
    #[serde(default)]
    pub description: String,
    /// JSON Schema of the error's `details`.
    #[serde(default)]
    pub schema: Value,
    /// HTTP status instead of 500, from 400 to 599.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_status: Option<u16>,
}

/// Who may call an operation. Empty means every authenticated caller.
///
/// Unknown members are refused: a rule that is misspelt or that the hub does not enforce (`customAuth` of the
/// TypeScript library) must not look as if it protected anything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AccessControl {
    /// All of these scopes are needed.
    #[serde(default)]
    pub required_scopes: Vec<String>,
    /// And at least one of these, if any are named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub required_scopes_any: Vec<String>,
    /// And `resourceAction` on the resource of this type that the input names (protocol §5).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_type: Option<String>,
    /// The action needed on the resource.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource_action: Option<String>,
}

impl AccessControl {
    /// Access for holders of all of `scopes`.
    #[must_use]
    pub fn scopes(scopes: &[&str]) -> Self {
        Self { required_scopes: scopes.iter().map(|s| (*s).to_owned()).collect(), ..Self::default() }
    }
}

/// Why an operation id is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `namespace.name`.
    #[error("operation id {0:?} has no namespace: it must be two or more segments joined by dots")]
    NoNamespace(String),
    /// A segment is empty or has a character outside `A-Z a-z 0-9 _ -`.
    #[error("operation id {0:?} has a bad segment {1:?}: segments are 1 to 64 of A-Z a-z 0-9 _ -")]
    BadSegment(String, String),
    /// Above 200 bytes.
    #[error("operation id is {0} bytes long, above the limit of {MAX_ID}")]
    TooLong(usize),
}

/// Checks the form of an operation id: two or more segments of `A-Z a-z 0-9 _ -`, joined by dots.
///
/// # Errors
/// A [`NameError`] that names the fault.
pub fn check_operation_id(id: &str) -> Result<(), NameError> {
    if id.len() > MAX_ID {
        return Err(NameError::TooLong(id.len()));
    }
    if !id.contains('.') {
        return Err(NameError::NoNamespace(id.to_owned()));
    }
    let fits = |s: &str| {
        !s.is_empty() && s.len() <= 64 && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
    };
    match id.split('.').find(|segment| !fits(segment)) {
        Some(bad) => Err(NameError::BadSegment(id.to_owned(), bad.to_owned())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_ids() {
        let longest = ["a".repeat(64), "b".repeat(64), "c".repeat(64), "d".repeat(5)].join(".");
        assert_eq!(longest.len(), MAX_ID);
        for id in ["fs.read", "dev.laptop.fs.read", "A-b_9.Z", "-._", &longest] {
            assert_eq!(check_operation_id(id), Ok(()), "{id}");
        }
    }

    #[test]
    fn bad_ids() {
        let bad = |id: &str, segment: &str| Err(NameError::BadSegment(id.to_owned(), segment.to_owned()));
        for id in ["", "read", "fs/read", "fs\u{2024}read"] {
            assert_eq!(check_operation_id(id), Err(NameError::NoNamespace(id.to_owned())));
        }
        for (id, segment) in [
            (".", ""),
            ("fs.", ""),
            (".read", ""),
            ("a..b", ""),
            ("fs.read@laptop", "read@laptop"),
            ("fs.r\u{e9}ad", "r\u{e9}ad"),
            ("fs.re ad", "re ad"),
            ("fs.read\n", "read\n"),
            ("fs.read\0", "read\0"),
            ("*.read", "*"),
        ] {
            assert_eq!(check_operation_id(id), bad(id, segment));
        }
        let wide = format!("fs.{}", "a".repeat(65));
        assert_eq!(check_operation_id(&wide), bad(&wide, &"a".repeat(65)));
        // Length first, so that a refusal never quotes a text of the caller's size.
        assert_eq!(check_operation_id(&"x".repeat(1 << 20)), Err(NameError::TooLong(1 << 20)));
        assert_eq!(check_operation_id(&"a.".repeat(101)), Err(NameError::TooLong(202)));
    }

    #[test]
    fn refusals_are_printable() {
        let refusal = check_operation_id("fs.\u{1b}[2J").unwrap_err().to_string();
        assert!(!refusal.contains('\u{1b}'), "{refusal:?}");
    }
}
