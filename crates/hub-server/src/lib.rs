//! The hub as a server.
//!
//! **Purpose.** Faces (WebSocket, HTTP, SSE, MCP) around [`hub_core::Hub`], configuration, and the order of starting and
//! stopping. [`run`] takes its inputs as parameters, so tests start the very same server as `main`.
//!
//! **Non-goals.** No SQL and no bodies of operations: a face only translates.
//!
//! **Invariants.**
//! - This crate owns every socket and every task around it; nothing outlives [`run`].
//! - The environment is read in [`config`] only.
//! - A request is bounded in size and time before anything of it is believed.
//!
//! ```no_run
//! # async fn example() -> anyhow::Result<()> {
//! use hub_server::config::{Config, Layered, command};
//!
//! let flags = command().get_matches_from(["hub-server", "--listen", "127.0.0.1:0", "--data-dir", "/tmp/hub"]);
//! let config = Config::from_layers(&Layered::load(&flags, &|_| None)?)?;
//! let server = hub_server::start(config).await?;
//! println!("{}", server.url());
//! server.stop().await;
//! # Ok(())
//! # }
//! ```

mod accept;
mod clients;
pub mod commands;
pub mod config;
mod database;
mod detached;
mod http;
mod lock;
mod mcp;
mod remedy;
mod serve;
mod signals;
mod supervisor;
mod telemetry;
mod ws;

pub use http::openapi_document;
pub use remedy::remedy;
pub use serve::{Server, make_admin_key, run, start};
pub use telemetry::init_logs;
