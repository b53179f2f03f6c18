//! Private Postgres and Redis servers: on a free port of the loopback address, over a temp folder, as child processes.
//!
//! They end with their handle, and when this process ends in any other way, Ctrl-C and SIGKILL included: a small shell
//! beside each server waits for the end of a pipe that this process holds.

mod child;
mod install;
mod postgres;
mod redis;
mod redis_cluster;

pub use install::ensure_installed;
pub use postgres::{Postgres, PostgresOptions};
pub use redis::{Redis, RedisServerOptions, Sentinel};
pub use redis_cluster::RedisCluster;

use anyhow::{Context as _, Result};

/// Names the Postgres server of a test run: the URL of a superuser and the database `postgres`.
pub const POSTGRES_VARIABLE: &str = "HUB_TEST_POSTGRES_URL";

/// Names the Redis server of a test run.
pub const REDIS_VARIABLE: &str = "HUB_TEST_REDIS_URL";

/// The Postgres server of this test run. Make a database of your own there.
///
/// # Errors
/// The variable isn't set.
pub fn postgres_url() -> Result<String> {
    variable(POSTGRES_VARIABLE)
}

/// The Redis server of this test run. Use a prefix of your own there.
///
/// # Errors
/// The variable isn't set.
pub fn redis_url() -> Result<String> {
    variable(REDIS_VARIABLE)
}

fn variable(name: &str) -> Result<String> {
    let value = std::env::var_os(name).and_then(|value| value.into_string().ok()).filter(|value| !value.is_empty());
    value.with_context(|| format!("{name} is not set: run `cargo xtask test`"))
}
