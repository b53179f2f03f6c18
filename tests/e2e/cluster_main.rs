//! Several hubs.
#![expect(clippy::disallowed_methods, reason = "a test awaits the tasks that it spawns")]
#![expect(clippy::print_stdout, reason = "what a test has measured is worth a line")]
mod cluster;
