//! Parameters and replies of the hub's own operations.
//!
//! The parameter type *is* the declaration: it implements [`Operation`], so a client that links this crate calls
//! `client.call(&ListSpokes::default())` and gets the typed reply, and the hub binds the same type to its handler.
//! Times are milliseconds since the epoch, money is micro-dollars, sizes are bytes.

pub mod audit;
pub mod calls;
pub mod clients;
pub mod events;
pub mod graph;
pub mod hub;
pub mod keys;
pub mod secrets;

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::{AccessControl, OperationSpec, OperationType};

/// A typed operation: the implementing type is its input.
pub trait Operation: Serialize + DeserializeOwned + JsonSchema + Send + 'static {
    /// What it answers; for a subscription, each item.
    type Reply: Serialize + DeserializeOwned + JsonSchema + Send + 'static;
    /// `namespace.name`.
    const ID: &'static str;
    /// Query, mutation or subscription.
    const KIND: OperationType;
    /// What it does, for people and models.
    const DESCRIPTION: &'static str;
    /// Semantic version.
    const VERSION: &'static str = "1.0.0";
    /// Scopes that a caller needs, all of them.
    const SCOPES: &'static [&'static str] = &[];

    /// The declaration as data.
    #[must_use]
    fn spec() -> OperationSpec {
        OperationSpec {
            name: String::new(),
            namespace: String::new(),
            version: Self::VERSION.to_owned(),
            kind: Self::KIND,
            title: None,
            description: Self::DESCRIPTION.to_owned(),
            tags: Vec::new(),
            input_schema: schema_of::<Self>(),
            output_schema: schema_of::<Self::Reply>(),
            error_schemas: Vec::new(),
            access_control: AccessControl::scopes(Self::SCOPES),
            meta: None,
        }
        .with_id(Self::ID)
    }
}

/// JSON Schema 2020-12 of a type, subschemas inlined where they do not recur.
#[must_use]
pub fn schema_of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    if let Some(object) = schema.as_object_mut() {
        object.remove("$schema");
    }
    schema
}

/// Declares that `$params` is operation `$id` and answers `$reply`.
macro_rules! operation {
    ($params:ty => $reply:ty, $id:literal, $kind:ident, [$($scope:literal),*], $description:literal) => {
        impl $crate::ops::Operation for $params {
            type Reply = $reply;
            const ID: &'static str = $id;
            const KIND: $crate::OperationType = $crate::OperationType::$kind;
            const DESCRIPTION: &'static str = $description;
            const SCOPES: &'static [&'static str] = &[$($scope),*];
        }
    };
}
pub(crate) use operation;

/// A wire struct: camelCase members, absent options left out.
macro_rules! wire {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* $field:ident: $ty:ty,)* })*) => {$(
        #[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
        $(#[$meta])*
        #[serde(rename_all = "camelCase")]
        pub struct $name { $($(#[$fmeta])* pub $field: $ty,)* }
    )*};
}
pub(crate) use wire;
