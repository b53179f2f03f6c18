use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::object::object_only;

/// Who calls, as the hub tells the callee (protocol §3).
///
/// The hub always sets it on what it forwards and ignores what a peer claims.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, JsonSchema)]
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

#[derive(Deserialize)]
struct Members {
    id: String,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    resources: Option<BTreeMap<String, Vec<String>>>,
    #[serde(default)]
    chain: Vec<String>,
}

impl<'de> Deserialize<'de> for Identity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Members { id, scopes, resources, chain } = object_only(deserializer)?;
        Ok(Self { id, scopes, resources, chain })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(held: &str, scope: &str) -> bool {
        Identity { scopes: vec!["other".to_owned(), held.to_owned()], ..Identity::default() }.has_scope(scope)
    }

    #[test]
    fn exact_and_wildcard_scopes() {
        assert!(holds("fs:read", "fs:read"));
        assert!(holds("*", "anything:at:all"));
        assert!(holds("fs:*", "fs:read"));
        assert!(holds("fs:*", "fs:read:deep"));
        assert!(holds("a:b:*", "a:b:c"));
    }

    #[test]
    fn what_a_scope_does_not_reach() {
        assert!(!holds("fs:read", "fs:write"));
        assert!(!holds("fs:*", "fsx:read"));
        assert!(!holds("fs:*", "fs"));
        assert!(!holds("a:b:*", "a:c"));
        assert!(!holds("fs:Read", "fs:read"));
        assert!(!holds(" fs:read", "fs:read"));
        assert!(!Identity::default().has_scope(""));
    }

    #[test]
    fn a_star_elsewhere_is_an_ordinary_character() {
        assert!(!holds("fs*", "fs:read"));
        assert!(!holds("*:read", "fs:read"));
        assert!(!holds("**", "fs:read"));
        assert!(holds("fs*", "fs*"));
        // A caller that holds one scope does not gain more by what is asked of it.
        assert!(!holds("fs:read", "fs:*"));
        assert!(!holds("fs:read", "*"));
    }
}
