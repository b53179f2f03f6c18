//! The hub's wire contract as plain data.
//!
//! **Purpose.** Everything two peers must agree on: the [`Envelope`] that each WebSocket message carries, the
//! [`Event`]s of a call, [`OperationSpec`]s, [`Identity`], [`CallError`] with its [`ErrorCode`]s, ids, and the
//! parameters and replies of the hub's own operations ([`ops`]).
//!
//! **Non-goals.** No IO, no async runtime, no database, no rules: what a message *means* is decided in
//! `hub-operations` and `hub-core`.
//!
//! **Invariants.**
//! - Payloads that are only passed on ([`Json`]) keep the exact text they arrived in.
//! - Decoding never panics and never allocates more than a constant factor of its input.
//! - Every shape has a vector in `vectors/`, tested in both directions.
//!
//! ```
//! use hub_protocol::{CallRequested, Event, IdStyle, decode, encode};
//!
//! let event = Event::Requested(CallRequested::new("r1", "fs.read", serde_json::json!({"path": "a.txt"}).into()));
//! let frame = encode(&event, IdStyle::Empty);
//! let (back, style) = decode(&frame).unwrap();
//! assert_eq!(back, event);
//! assert_eq!(style, IdStyle::Empty);
//! ```

mod decode;
mod encode;
mod error;
mod event;
mod head;
mod id;
mod identity;
mod json;
mod object;
pub mod ops;
mod response;
mod spec;

pub use decode::decode;
pub use encode::{encode, encode_request};
pub use error::{CallError, ErrorCode, Violation};
pub use event::{
    CallAborted, CallCompleted, CallFailed, CallRequested, CallResponded, Envelope, Event, Fault, FaultCode, IdStyle,
    OnDisconnect,
};
pub use head::decode_head;
pub use id::{AccountId, CallId, ConnectionId, HubId, KeyId, SpokeId};
pub use identity::Identity;
pub use json::{Json, MAX_NESTING, MAX_SCHEMA_NESTING, READABLE_NESTING};
pub use response::{ResponseEnvelope, ResponseMeta};
pub use spec::{AccessControl, ErrorDefinition, NameError, OperationSpec, OperationType, check_operation_id};

/// WebSocket subprotocol of this version of the contract (protocol §1).
pub const SUBPROTOCOL: &str = "hub.v1";

/// Largest WebSocket message either side accepts unless configured otherwise, in bytes (protocol §1).
pub const DEFAULT_MESSAGE_LIMIT: usize = 1024 * 1024;

/// Time a query or mutation has when its caller names no deadline, in milliseconds (protocol §3).
pub const DEFAULT_DEADLINE_MS: u64 = 30_000;

/// WebSocket close codes of the contract (protocol §1).
pub mod close {
    /// Normal end.
    pub const NORMAL: u16 = 1000;
    /// The hub drains: connect again, after the `retry-after-ms=N` of the reason.
    pub const GOING_AWAY: u16 = 1001;
    /// The peer broke the protocol too often.
    pub const POLICY: u16 = 1008;
    /// A message above the limit whose head could not be read.
    pub const TOO_LARGE: u16 = 1009;
    /// The peer did not read what it was sent.
    pub const SLOW_CONSUMER: u16 = 1013;
    /// The key of this connection was revoked. Final.
    pub const KEY_REVOKED: u16 = 4001;
    /// A newer instance holds the spoke's name. Final.
    pub const NAME_HELD: u16 = 4009;
    /// A newer instance took the spoke's name over. Final.
    pub const SUPERSEDED: u16 = 4010;

    /// Whether a peer closed with `code` must not connect again by itself.
    #[must_use]
    pub const fn is_final(code: u16) -> bool {
        matches!(code, KEY_REVOKED | NAME_HELD | SUPERSEDED)
    }
}
