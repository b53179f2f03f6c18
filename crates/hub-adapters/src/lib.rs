//! Other worlds' operations in: OpenAPI documents and MCP servers become operations of a hub or a spoke.

mod left_out;
mod mark;
pub mod mcp;
pub mod net;
pub mod openapi;
pub mod process;
