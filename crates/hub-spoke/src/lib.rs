//! Client and spoke SDK: connect, call, subscribe, serve, reconnect.
//!
//! **Purpose.** [`Client`] calls operations of a hub and of the spokes connected to it. [`Spoke`] offers operations
//! of its own to the hub. Both keep one WebSocket connection up and share its engine, [`hub_operations::Peer`].
//!
//! **Non-goals.** No routing, no access rules, no storage: those are the hub's. A spoke trusts the hub to have
//! checked a call's rights and input.
//!
//! **Invariants.**
//! - A call always ends: with a response, an error, its deadline, or the loss of its connection.
//! - Nothing is sent twice by itself. Only a call that was never sent goes out on a later connection.
//! - The key is in no error, log line or `Debug` text.
//! - Every queue is bounded; a slow reader holds the sender back and loses nothing.
//!
//! ```no_run
//! use hub_spoke::{CallError, Client, Context, ErrorCode, Spoke};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct ReadFile { path: String }
//!
//! async fn read(_: Context, file: ReadFile) -> Result<String, CallError> {
//!     std::fs::read_to_string(&file.path).map_err(|_| CallError::new(ErrorCode::NotFound, "no such file"))
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let spoke = Spoke::builder("http://127.0.0.1:3300", "hub_…", "laptop")
//!     .query("fs.read", "Reads a text file.", read)
//!     .build()?
//!     .start()
//!     .await?;
//!
//! let client = Client::connect("http://127.0.0.1:3300", "hub_…").await?;
//! let text = client.call_raw("dev.laptop.fs.read", serde_json::json!({ "path": "README.md" })).await?;
//! println!("{}", text.as_str());
//! spoke.stop().await?;
//! # Ok(()) }
//! ```

mod active;
mod builder;
mod client;
mod connection;
mod context;
mod dial;
mod endpoint;
mod error;
mod keyed;
mod lineage;
pub mod local;
mod reconnect;
mod request;
mod resume;
mod serve;
mod spoke;
mod timer;
mod tls;

pub use active::{ActiveCall, Subscription};
pub use builder::SpokeBuilder;
pub use client::{Client, ClientBuilder, ConnectionState};
pub use context::Context;
pub use error::{ClosedReason, ConnectError, SpokeError};
pub use hub_operations::{Registry, RegistryBuilder, Reply};
pub use hub_protocol;
pub use hub_protocol::ops::calls::{AbortMode, Receipt};
pub use hub_protocol::{CallError, ErrorCode, Identity, Json, OnDisconnect, OperationSpec};
pub use request::Request;
pub use resume::{CallEventStream, EventStream};
pub use spoke::{RunningSpoke, Spoke};
pub use tokio_util::sync::CancellationToken;
