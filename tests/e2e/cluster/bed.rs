use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use hub_spoke::{Client, Spoke, SpokeBuilder};
use hub_testkit::servers::{Postgres, PostgresOptions, Redis};
use hub_testkit::{HubProcess, eventually, free_port, http};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use super::proxy::{Balancer, Cable};

/// One hub of the bed: where it is, and what leads to its servers.
pub(super) struct Place {
    pub(super) port: u16,
    pub(super) folder: PathBuf,
    flags: Vec<String>,
    process: Option<HubProcess>,
    pub(super) to_postgres: Cable,
    pub(super) to_redis: Cable,
}

/// Hubs with servers of their own, which may be killed.
pub(super) struct Bed {
    pub(super) hubs: Vec<Place>,
    pub(super) postgres: Postgres,
    pub(super) redis: Redis,
    pub(super) balancer: Balancer,
    pub(super) key: String,
    folder: TempDir,
}

impl Bed {
    /// So many hubs, all linked to each other.
    pub(super) async fn start(count: usize) -> Result<Self> {
        Self::start_with(count, &[]).await
    }

    pub(super) async fn start_with(count: usize, flags: &[&str]) -> Result<Self> {
        Self::start_at(None, count, flags).await
    }

    /// With another Redis than the bed's own.
    pub(super) async fn start_at(redis_url: Option<&str>, count: usize, flags: &[&str]) -> Result<Self> {
        let (postgres, redis) = tokio::task::spawn_blocking(|| {
            anyhow::Ok((Postgres::start_with(PostgresOptions { durable: false })?, Redis::start()?))
        })
        .await??;
        let folder = TempDir::new()?;
        let mut hubs = Vec::new();
        for n in 0..count {
            let to_postgres = Cable::to(postgres.port()).await?;
            let to_redis = Cable::to(redis.port()).await?;
            let own = [
                "--log".to_owned(),
                "warn".to_owned(),
                "--database".to_owned(),
                format!("postgres://postgres@127.0.0.1:{}/postgres", to_postgres.port()),
                "--redis".to_owned(),
                redis_url.map_or_else(|| format!("redis://127.0.0.1:{}/", to_redis.port()), str::to_owned),
            ];
            let flags = own.into_iter().chain(flags.iter().map(|f| (*f).to_owned())).collect();
            let folder = folder.path().join(format!("hub{n}"));
            std::fs::create_dir(&folder)?;
            hubs.push(Place { port: free_port()?, folder, flags, process: None, to_postgres, to_redis });
        }
        let balancer = Balancer::start(hubs.iter().map(|h| h.port).collect()).await?;
        let mut bed = Self { hubs, postgres, redis, balancer, key: String::new(), folder };
        for n in 0..count {
            bed.start_hub(n).await?;
        }
        let made = bed.hubs.iter().find_map(|h| std::fs::read_to_string(h.folder.join("admin.key")).ok());
        bed.key = made.context("no hub has made an admin key")?.trim().to_owned();
        bed.all_linked().await?;
        Ok(bed)
    }

    pub(super) async fn start_hub(&mut self, n: usize) -> Result<()> {
        let hub = &mut self.hubs[n];
        let flags: Vec<&str> = hub.flags.iter().map(String::as_str).collect();
        hub.process = Some(HubProcess::start(&hub.folder, hub.port, &flags).await?);
        Ok(())
    }

    /// A folder for programs beside the hubs.
    pub(super) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The command that starts a hub, with other settings.
    pub(super) fn command(&self, n: usize, settings: &[(&str, &str)]) -> Result<Command> {
        let Place { folder, port, flags, .. } = &self.hubs[n];
        let mut flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for (name, value) in settings {
            match flags.iter().position(|flag| flag == name) {
                Some(at) => flags[at + 1] = value,
                None => flags.extend([name, value]),
            }
        }
        HubProcess::command(folder, *port, &flags)
    }

    /// Ends a hub as a power failure would.
    pub(super) async fn kill_hub(&mut self, n: usize) -> Result<()> {
        self.hubs[n].process.take().context("it runs")?.kill9().await
    }

    /// Ends a hub in order; answers whether it ended cleanly.
    pub(super) async fn stop_hub(&mut self, n: usize) -> Result<bool> {
        let mut process = self.hubs[n].process.take().context("it runs")?;
        process.signal("TERM").await?;
        Ok(process.wait().await?.success())
    }

    /// Waits until every running hub has a link to every other.
    pub(super) async fn all_linked(&self) -> Result<()> {
        let running: Vec<usize> = (0..self.hubs.len()).filter(|n| self.hubs[*n].process.is_some()).collect();
        for n in &running {
            eventually("the hubs are linked", || async {
                let status = self.status(*n).await?;
                let linked = status["hubs"]
                    .as_array()
                    .is_some_and(|hubs| hubs.len() == running.len() && hubs.iter().all(|hub| hub["linked"] == true));
                Ok(linked.then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    /// What `hub.status` answers.
    pub(super) async fn status(&self, n: usize) -> Result<Value> {
        let answer = http(
            ([127, 0, 0, 1], self.hubs[n].port).into(),
            "POST",
            "/api/operations/hub.status",
            &self.key,
            &serde_json::json!({}),
        )
        .await?;
        Ok(serde_json::from_str::<Value>(&answer.body)?["data"].take())
    }

    /// What `/readyz` answers: its status and its body.
    pub(super) async fn ready(&self, n: usize) -> Result<(u16, Value)> {
        let answer = http(([127, 0, 0, 1], self.hubs[n].port).into(), "GET", "/readyz", "", &Value::Null).await?;
        Ok((answer.status, serde_json::from_str(&answer.body)?))
    }

    pub(super) fn url(&self, n: usize) -> String {
        format!("http://127.0.0.1:{}", self.hubs[n].port)
    }

    /// A client of one hub.
    pub(super) async fn client(&self, n: usize) -> Result<Client> {
        Ok(Client::connect(&self.url(n), &self.key).await?)
    }

    /// A client of whichever hub the balancer gives it.
    pub(super) async fn balanced(&self) -> Result<Client> {
        Ok(Client::builder(&self.balancer.url(), &self.key).liveness(Duration::from_secs(1)).connect().await?)
    }

    /// A spoke on one hub.
    pub(super) fn spoke(&self, n: usize, name: &str) -> SpokeBuilder {
        Spoke::builder(&self.url(n), &self.key, name).spoke_type("compute")
    }

    /// A spoke on whichever hub the balancer gives it.
    pub(super) fn balanced_spoke(&self, name: &str) -> SpokeBuilder {
        Spoke::builder(&self.balancer.url(), &self.key, name).spoke_type("compute").liveness(Duration::from_secs(1))
    }
}

/// Waits until a hub knows that an operation is provided.
pub(super) async fn known(client: &Client, operation: &str) -> Result<()> {
    eventually("the operation is known", || async {
        match client.call_raw("hub.schema", json!({ "operationIds": [operation] })).await {
            Ok(_) => {
                let page: Value = client.call_raw("hub.list", json!({})).await?.parse()?;
                let there = page["operations"].as_array().into_iter().flatten().any(|o| o["id"] == operation);
                Ok(there.then_some(()))
            }
            Err(_) => Ok(None),
        }
    })
    .await
}
