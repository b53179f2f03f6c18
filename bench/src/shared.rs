//! A Postgres that waits for its disk and a Redis, for hubs that share them.

use std::path::Path;

use anyhow::{Context, Result};
use hub_testkit::servers::{Postgres, PostgresOptions, Redis};
use tempfile::TempDir;

use crate::process::Hub;

/// Servers of this run alone.
pub(crate) struct Shared {
    postgres: Postgres,
    redis: Redis,
}

impl Shared {
    pub(crate) async fn start() -> Result<Self> {
        let postgres = start_postgres().await?;
        let redis = tokio::task::spawn_blocking(Redis::start).await??;
        Ok(Self { postgres, redis })
    }

    /// A hub on both. The first one makes the admin's key, the others are given it.
    pub(crate) async fn hub(&self, binary: &Path, admin_key: Option<&str>) -> Result<Hub> {
        let flags = ["--database".to_owned(), self.postgres.url(DATABASE), "--redis".to_owned(), self.redis.url()];
        Hub::start_with(binary, TempDir::new()?, &flags, admin_key).await
    }

    /// The process ids of Redis and Postgres.
    pub(crate) fn pids(&self) -> Result<[u32; 2]> {
        Ok([self.redis.pid().context("Redis has ended")?, self.postgres.pid().context("Postgres has ended")?])
    }

    pub(crate) async fn down(mut self) -> Result<()> {
        tokio::task::spawn_blocking(move || self.redis.stop().and(self.postgres.stop())).await?
    }
}

/// The database that every server has.
pub(crate) const DATABASE: &str = "postgres";

/// Starts a Postgres with the settings that it has by itself: each commit waits for the disk.
pub(crate) async fn start_postgres() -> Result<Postgres> {
    tokio::task::spawn_blocking(|| Postgres::start_with(PostgresOptions { durable: true })).await?
}

/// Ends it.
pub(crate) async fn stop_postgres(mut postgres: Postgres) -> Result<()> {
    tokio::task::spawn_blocking(move || postgres.stop()).await?
}
