//! MCP servers become operations.
