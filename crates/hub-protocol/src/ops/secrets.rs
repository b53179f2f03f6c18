//! `secrets.*`: what external services are reached with. They can be set, and used by the hub, but never read.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::{operation, wire};

/// A text that goes in and never comes out: its `Debug` is blank, and its schema keeps it out of records.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SecretText(pub String);

/// Longest secret, in bytes: keys and certificates fit, and a record never holds its hash for being too long.
pub const MAX_SECRET: usize = 16 * 1024;

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl JsonSchema for SecretText {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "SecretText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "minLength": 1, "maxLength": MAX_SECRET, "writeOnly": true, "x-secret": true })
    }
}

wire! {
    /// Sets a secret of a client, in place of one of that name.
    pub struct SetSecret {
        /// Whose.
        client: String,
        /// Unique within the client.
        #[schemars(regex(pattern = r"^[A-Za-z0-9_.-]{1,64}$"))]
        name: String,
        /// The secret. Can't be read again.
        value: SecretText,
    }
    /// Replaces a secret that is there.
    pub struct RotateSecret {
        /// Whose.
        client: String,
        /// Which.
        name: String,
        /// The new secret. Can't be read again.
        value: SecretText,
    }
    /// Removes a secret.
    pub struct DeleteSecret {
        /// Whose.
        client: String,
        /// Which.
        name: String,
    }
    /// A secret that is gone.
    pub struct DeletedSecret {
        /// Whose it was.
        client: String,
        /// Which it was.
        name: String,
    }
    /// What may be shown of a secret.
    pub struct SecretItem {
        /// Unique within the client.
        name: String,
        /// Version of the keyring that it is encrypted with.
        key_version: u32,
        /// When a secret of this name was first set.
        created_at: u64,
        /// When it was last replaced.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rotated_at: Option<u64>,
    }
}

operation!(SetSecret => SecretItem, "secrets.set", Mutation, ["clients:admin"],
    "Set a secret of an external service. It is stored encrypted and can't be read again by anyone.");
operation!(RotateSecret => SecretItem, "secrets.rotate", Mutation, ["clients:admin"],
    "Replace a secret that is set; the service is connected to anew with it.");
operation!(DeleteSecret => DeletedSecret, "secrets.delete", Mutation, ["clients:admin"],
    "Remove a secret of an external service.");
