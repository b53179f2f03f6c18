//! OpenAPI documents become operations.
//!
//! A [`Document`] (3.0 or 3.1, JSON or YAML) is read once; each of its operations becomes an [`Imported`]: a spec for
//! a registry and a plan of the request. An [`OpenApiClient`] executes plans against one origin, with credentials that
//! callers never see, and [`register`] binds it to any registry, that of a hub or that of a spoke.
//!
//! - The input is one object: parameters by name, the body under `body`. Members that would collide get the place
//!   they are sent to in front: `query_id`.
//! - A query or mutation answers the body with the status and headers as `meta`. Binary bodies are base64.
//! - A subscription's items are `{ event, id?, data }`, one for each server-sent event.
//! - Failures of the upstream are errors: `HTTP_404` where the document declares that status, else `EXECUTION_ERROR`,
//!   with `details` = `{ status, body }`; too many requests are `RATE_LIMITED`.
//!
//! **Non-goals.** Documents in several files, callbacks, webhooks, and the login flows of OAuth: give a token.
//!
//! ```
//! use hub_adapters::openapi::{Document, Options};
//!
//! let text = r#"
//! openapi: 3.1.0
//! info: { title: Pets, version: "2.1" }
//! servers: [{ url: "https://pets.example.com/v2" }]
//! paths:
//!   /pets/{petId}:
//!     get:
//!       operationId: showPet
//!       parameters: [{ name: petId, in: path, required: true, schema: { type: integer } }]
//!       responses: { "200": { description: A pet. } }
//! "#;
//! let import = Document::parse(text)?.operations(&Options::new("pets"))?;
//! assert_eq!(import.operations[0].spec.id(), "pets.showPet");
//! # Ok::<(), hub_adapters::openapi::ImportError>(())
//! ```

mod answer;
mod auth;
mod body;
mod client;
mod content;
mod document;
mod follow;
mod import;
mod media;
mod names;
mod parameters;
mod plan;
mod promise;
mod register;
mod request;
mod responses;
mod schema;
mod server;
mod source;
mod sse;
mod style;

pub use auth::{Apply, Credential, KeyPlace};
pub use client::{CallLimits, ClientError, OpenApiClient, OpenApiClientBuilder};
pub use document::{Document, ImportError, MAX_DOCUMENT};
pub use follow::{FollowError, FollowedApi, Make, REFRESH, Served};
pub use import::{Import, Imported, Options, Skipped};
pub use plan::Plan;
pub use register::{register, register_with};
pub use source::{Source, SourceError};

// Part of the signatures here.
pub use secrecy::SecretString;
pub use url::Url;
