//! Every promise and every face, over real sockets.
#![expect(clippy::disallowed_methods, reason = "a test awaits the tasks that it spawns")]
#![expect(clippy::print_stdout, reason = "what a test has measured is worth a line")]

mod cli;
mod cluster;
mod commands;
mod crash;
mod deploy;
mod door;
mod examples;
mod graph;
mod hidden;
mod hostile;
mod http;
mod import;
mod imports;
mod key_ends;
mod keyed;
mod mcp;
mod nginx;
mod observe;
mod process;
mod resume;
mod rights;
mod search;
mod secrets;
mod service;
mod shutdown;
mod size;
mod slow;
mod smoke;
mod spokes;
mod sqlite;
mod stalled;
mod strict;
mod tools;
mod tree;
