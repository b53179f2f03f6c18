//! `keys.*`: API keys.

use std::collections::BTreeMap;

use super::{operation, wire};
use crate::KeyId;

wire! {
    /// Makes a key.
    #[derive(Default)]
    pub struct CreateKey {
        /// For people.
        #[schemars(length(min = 1, max = 100))]
        name: String,
        /// What it may do.
        #[serde(default)]
        scopes: Vec<String>,
        /// Actions per resource, keyed `"type:id"` or `"type:*"`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resources: Option<BTreeMap<String, Vec<String>>>,
        /// When it ends; absent is never.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        /// Account that owns it; default the caller's own.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        account: Option<String>,
        /// Operations that are tools of their own in its holder's MCP hosts, of those it may call: patterns of ids, in
        /// which `*` is one segment and `**` the rest.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        #[schemars(length(max = 64))]
        tools: Vec<String>,
    }
    /// A new key. The only time its text is shown.
    pub struct CreatedKey {
        /// About the key.
        key: KeyItem,
        /// The key itself: `hub_` + public id + `_` + secret.
        #[schemars(extend("x-secret" = true))]
        secret: String,
    }
    /// What may be shown of a key.
    pub struct KeyItem {
        /// Row id.
        id: KeyId,
        /// Public part, to recognise a leaked key by.
        public_id: String,
        /// For people.
        name: String,
        /// Principal it stands for: the same before and after rotation.
        principal: String,
        /// Account that owns it.
        account: String,
        /// What it may do.
        scopes: Vec<String>,
        /// Actions per resource.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        resources: Option<BTreeMap<String, Vec<String>>>,
        /// Patterns of the operations that are tools of their own for its holder.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        tools: Vec<String>,
        /// Since when.
        created_at: u64,
        /// Until when.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
        /// When it was revoked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        revoked_at: Option<u64>,
        /// The key that replaces it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rotated_to: Option<KeyId>,
        /// Last use, to the minute.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_used_at: Option<u64>,
    }
    /// Replaces a key; the old one works until the overlap ends.
    pub struct RotateKey {
        /// Row id.
        id: KeyId,
        /// How long the old one goes on working, in milliseconds; default 24 hours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        overlap_ms: Option<u64>,
    }
    /// Ends a key at once and closes its connections.
    pub struct RevokeKey {
        /// Row id.
        id: KeyId,
    }
    /// Lists keys.
    #[derive(Default)]
    pub struct ListKeys {
        /// Also revoked and expired ones.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        include_ended: Option<bool>,
    }
    /// Keys, newest first.
    pub struct Keys {
        /// Newest first.
        keys: Vec<KeyItem>,
    }
}

operation!(CreateKey => CreatedKey, "keys.create", Mutation, ["keys:admin"],
    "Make an API key. Its text is in the answer and nowhere else. A key can't grant what its maker lacks.");
operation!(RotateKey => CreatedKey, "keys.rotate", Mutation, ["keys:admin"],
    "Replace an API key by a new one with the same rights; the old one works until the overlap ends.");
operation!(RevokeKey => KeyItem, "keys.revoke", Mutation, ["keys:admin"],
    "End an API key at once; its connections are closed.");
operation!(ListKeys => Keys, "keys.list", Query, ["keys:admin"], "List API keys, without their secrets.");
