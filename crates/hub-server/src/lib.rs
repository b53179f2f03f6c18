//! The hub as a server: HTTP, WebSocket and SSE faces, configuration and lifecycle.
