//! The Postgres and Redis servers of a test run.

use std::ffi::OsString;

use anyhow::Result;
use hub_testkit::servers::{POSTGRES_VARIABLE, Postgres, REDIS_VARIABLE, Redis, ensure_installed};

use crate::process::is_set;

/// Private servers, which end with this, and with this process however that ends.
pub(crate) struct Servers {
    postgres: Option<Postgres>,
    redis: Option<Redis>,
}

impl Servers {
    /// Makes sure that [`Servers::start`] finds what it starts, by installing it if need be.
    ///
    /// # Errors
    /// One line that says what to install.
    pub(crate) fn prepare() -> Result<()> {
        ensure_installed(!is_set(POSTGRES_VARIABLE), !is_set(REDIS_VARIABLE))
    }

    /// Starts those that the environment doesn't name, and prints one line on what is used.
    ///
    /// # Errors
    /// One does not start.
    pub(crate) fn start() -> Result<Self> {
        let postgres = if is_set(POSTGRES_VARIABLE) { None } else { Some(Postgres::start()?) };
        let redis = if is_set(REDIS_VARIABLE) { None } else { Some(Redis::start()?) };
        let private = |port: Option<u16>, variable: &str| match port {
            Some(port) => format!("a private one on port {port}"),
            None => format!("the one of {variable}"),
        };
        let postgres_from = private(postgres.as_ref().map(Postgres::port), POSTGRES_VARIABLE);
        let redis_from = private(redis.as_ref().map(Redis::port), REDIS_VARIABLE);
        println!("servers for tests: Postgres, {postgres_from}; Redis, {redis_from}");
        Ok(Self { postgres, redis })
    }

    /// The variables that hand the private ones to the tests; those of the environment are there already.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, OsString)> {
        let postgres = self.postgres.as_ref().map(|server| (POSTGRES_VARIABLE, server.url("postgres").into()));
        let redis = self.redis.as_ref().map(|server| (REDIS_VARIABLE, server.url().into()));
        postgres.into_iter().chain(redis)
    }
}

/// `cargo xtask servers`: until Ctrl-C.
///
/// # Errors
/// As [`Servers::prepare`] and [`Servers::start`].
pub(crate) fn run() -> Result<()> {
    Servers::prepare()?;
    let servers = Servers::start()?;
    for (name, value) in servers.environment() {
        println!("export {name}={}", value.display());
    }
    println!("Ctrl-C ends them");
    loop {
        // Ctrl-C ends this process, and that ends the servers.
        std::thread::park();
    }
}
