use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who calls, as the hub tells the callee (protocol §3).
///
/// The hub always sets it on what it forwards and ignores what a peer claims.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
pub struct Identity {
    /// Stable name of the principal; survives key rotation.
    pub id: String,
    /// What it may do. `*` is everything, `area:*` everything that begins with `area:`.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Actions per resource, keyed `"type:id"` or `"type:*"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<BTreeMap<String, Vec<String>>>,
    /// Principals from the root caller to here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

impl Identity {
    /// Whether the identity holds `scope`, by name or through a wildcard.
    #[must_use]
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| match held.strip_suffix('*') {
            Some("") => true,
            Some(prefix) if prefix.ends_with(':') => scope.starts_with(prefix),
            _ => held == scope,
        })
    }
}
