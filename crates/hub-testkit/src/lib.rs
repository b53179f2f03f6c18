//! Test support, a dev-dependency only.
//!
//! [`TestHub`] is the real server in this process on a free port over a temp folder; [`HubProcess`] is the real binary,
//! to be killed; [`RawPeer`] is a WebSocket that says exactly what it is told to.
//!
//! **Non-goals.** No mock of the project's own code.

mod http;
mod hub;
mod process;
mod program;
mod raw;
mod wait;

pub use http::{HttpAnswer, http, http_over};
pub use hub::TestHub;
pub use process::{HubProcess, free_port, server_binary};
pub use program::{Ran, binary, command, left_out, run, run_with};
pub use raw::{Closed, RawPeer};
pub use wait::eventually;
