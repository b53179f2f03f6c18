//! Client and spoke SDK: connect, call, subscribe, serve, reconnect.
