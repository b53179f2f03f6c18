//! Test support, a dev-dependency only.
//!
//! [`TestHub`] is the real server in this process on a free port over a temp folder; [`HubProcess`] is the real binary,
//! to be killed; both run on the store that `HUB_TEST_STORE` names ([`TestStore`]). [`RawPeer`] is a WebSocket that says
//! exactly what it is told to; [`corpus`] is what there is to search in; [`servers`] are private Postgres and Redis
//! servers, all that there is without features.
//!
//! **Non-goals.** No mock of the project's own code.

#[cfg(feature = "corpus")]
pub mod corpus;
#[cfg(feature = "hub")]
mod http;
#[cfg(feature = "hub")]
mod hub;
#[cfg(feature = "hub")]
mod process;
#[cfg(feature = "hub")]
mod program;
#[cfg(feature = "hub")]
mod raw;
pub mod servers;
#[cfg(feature = "hub")]
mod store;
#[cfg(feature = "hub")]
mod wait;

#[cfg(feature = "hub")]
pub use http::{HttpAnswer, http, http_over};
#[cfg(feature = "hub")]
pub use hub::TestHub;
#[cfg(feature = "hub")]
pub use process::{HubProcess, free_port, server_binary};
#[cfg(feature = "hub")]
pub use program::{Ran, binary, command, left_out, run, run_with};
#[cfg(feature = "hub")]
pub use raw::{Closed, RawPeer};
#[cfg(feature = "hub")]
pub use store::{STORE_VARIABLE, TestStore, database_of, pg_dump, psql, store_settings};
#[cfg(feature = "hub")]
pub use wait::eventually;
