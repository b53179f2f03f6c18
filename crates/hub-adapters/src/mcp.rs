//! MCP, both ways: operations as tools of an MCP server, and tools of MCP servers as operations.
//!
//! **Out** (`to_mcp`): [`Face`] shows a hub to an MCP host as four tools, `list`, `search`, `schema` and `call`, however
//! many operations there are. It asks a [`Host`] for everything, so the server shows a hub in its own process and
//! `hub mcp` one at the other end of a connection. [`HttpFace`] serves it over streamable HTTP, [`serve_stdio`] over
//! standard input and output.
//!
//! **In** (`from_mcp`): [`McpClient`] keeps a connection to an MCP server (HTTP or a child process) up and gives each of
//! its tools as one operation; [`register`] puts them into a registry.
//!
//! This is the only module that names the SDK (adr/0014).

mod client;
mod face;
mod host;
mod http;
mod message;
mod stdio;

pub use client::{Health, Inherit, McpClient, McpError, McpOptions, McpTarget, StderrTo, register};
pub use face::Face;
pub use host::{Host, HostAnswer, HostCall, HostTool};
pub use http::{HttpFace, HttpFaceSettings, Owner};
pub use stdio::serve_stdio;
