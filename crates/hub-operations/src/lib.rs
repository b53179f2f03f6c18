//! Operations and the conversation about them: what a spoke and a hub have in common.
//!
//! **Purpose.** The [`Registry`] of declared operations with their handlers; compiled [`Schema`]s that check inputs
//! and find secrets; the [`access`] rules; the [`CallTable`] of live calls; and [`Peer`], the engine that both ends
//! of a connection run.
//!
//! **Non-goals.** No sockets, no store, no clock of its own beyond tokio's timer. Who may connect, where a call is
//! routed and what is recorded are decided above.
//!
//! **Invariants.**
//! - A registry is immutable once built; looking an operation up takes no lock.
//! - Every queue is bounded. A reader that is too slow gets an error, never a silent gap.
//! - Dropping the receiving half of a call tells the other side to stop.
//!
//! ```
//! use hub_operations::{Definition, Registry, Reply};
//! use hub_protocol::{AccessControl, Json, OperationSpec, OperationType};
//!
//! let spec = OperationSpec {
//!     name: "echo".into(), namespace: "demo".into(), version: "1.0.0".into(), kind: OperationType::Query,
//!     title: None, description: "Answers its input.".into(), tags: vec![], input_schema: true.into(),
//!     output_schema: true.into(), error_schemas: vec![], access_control: AccessControl::default(), meta: None,
//! };
//! let registry: Registry<()> = Registry::builder()
//!     .raw(spec, |(), input: Json| async move { Ok(Reply::Value(input)) })
//!     .build()
//!     .unwrap();
//! assert_eq!(registry.get("demo.echo").unwrap().definition().id(), "demo.echo");
//! ```

pub mod access;
mod call_table;
pub mod compat;
mod definition;
mod offering;
mod peer;
mod registry;
mod schema;
mod scrub;
mod time;

pub use call_table::{CallTable, Limits, Reached, TableError};
pub use definition::{Definition, DefinitionError, ERROR_STATUS};
pub use offering::{MAX_DECLARATION, Offering};
pub use peer::{
    AbortSignal, Answer, Close, End, Incoming, Items, Outbox, OutboxReader, Peer, PeerConfig, Pending, Responder,
    Unsent,
};
pub use registry::{Entry, Registry, RegistryBuilder, RegistryError, Reply};
pub use schema::{REDACTED, Schema, SchemaError, place};
pub use scrub::{MIN_SCRUBBED, Scrubber};
pub use time::{now_ms, until};
