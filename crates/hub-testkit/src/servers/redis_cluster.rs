use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::redis::{Redis, RedisServerOptions};

const PATIENCE: Duration = Duration::from_secs(60);
const MASTERS: usize = 3;

/// Six nodes of a Redis Cluster with a password: three masters, and a replica of each that takes its place some seconds
/// after it has gone.
pub struct RedisCluster {
    /// The dead ones too.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// Starts one, and waits until all nodes agree.
    ///
    /// # Errors
    /// Redis isn't installed, is older than 7, or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(None)
    }

    /// As [`RedisCluster::start`], and with the files of [`RedisServerOptions::tls`] on TLS.
    ///
    /// # Errors
    /// As for [`RedisCluster::start`].
    pub fn start_with(tls: Option<PathBuf>) -> Result<Self> {
        let options = RedisServerOptions { password: Some("cluster-pw".to_owned()), cluster: true, tls };
        let nodes = (0..2 * MASTERS).map(|_| Redis::start_with(&options)).collect::<Result<Vec<_>>>()?;
        let cluster = Self { nodes };
        let [first, others @ ..] = &*cluster.nodes else { unreachable!("six") };
        let (port, bus) = (first.port().to_string(), first.bus_port().to_string());
        for node in others {
            node.command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus])?;
        }
        // Nodes whose handshake is not over have no lasting id yet.
        let all_met = |nodes: &str| nodes.matches(" connected").count() == 2 * MASTERS && !nodes.contains("handshake");
        cluster.all("CLUSTER NODES", all_met)?;
        let (masters, replicas) = cluster.nodes.split_at(MASTERS);
        for (n, (master, replica)) in masters.iter().zip(replicas).enumerate() {
            let [from, to] = [n, n + 1].map(|n| n * 16384 / MASTERS);
            master.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &(to - 1).to_string()])?;
            replica.command(&["CLUSTER", "REPLICATE", &id(master)?])?;
        }
        cluster.all("CLUSTER INFO", |info| info.contains("cluster_state:ok"))?;
        cluster
            .all("INFO replication", |info| info.contains("connected_slaves:1") || info.contains("link_status:up"))?;
        Ok(cluster)
    }

    /// Its URL, with the password and all nodes.
    #[must_use]
    pub fn url(&self) -> String {
        let urls: Vec<String> = self.nodes.iter().map(Redis::url).collect();
        let hosts = urls.iter().filter_map(|url| Some(url.split_once('@')?.1.trim_end_matches('/')));
        format!("redis+cluster://:cluster-pw@{}", hosts.collect::<Vec<_>>().join(","))
    }

    /// As [`RedisCluster::url`], of the ports for TLS.
    #[must_use]
    pub fn tls_url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("localhost:{}", node.tls_port())).collect();
        format!("rediss+cluster://:cluster-pw@{}", hosts.join(","))
    }

    /// The node that serves the slot of a key, after waiting until there is one.
    ///
    /// # Errors
    /// None does.
    pub fn serving(&self, key: &str) -> Result<usize> {
        let until = Instant::now() + PATIENCE;
        loop {
            let serves = |node: &Redis| node.command(&["EXISTS", key]).is_ok_and(|answer| answer.ends_with(":0\r\n"));
            if let Some(found) = self.nodes.iter().position(serves) {
                return Ok(found);
            }
            ensure!(Instant::now() < until, "no node serves {key}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Moves the slot of a key, which must hold nothing, from its node to another master, while both live.
    ///
    /// # Errors
    /// A node refuses.
    pub fn move_slot(&self, key: &str) -> Result<()> {
        let from = self.serving(key)?;
        let is_other =
            |n: &usize| *n != from && self.nodes[*n].command(&["ROLE"]).is_ok_and(|role| role.contains("master"));
        let to = (0..self.nodes.len()).find(is_other).context("one master only")?;
        let (from, to) = (&self.nodes[from], &self.nodes[to]);
        let slot = from.command(&["CLUSTER", "KEYSLOT", key])?;
        let slot = slot.rsplit(':').next().unwrap_or_default().trim();
        to.command(&["CLUSTER", "SETSLOT", slot, "IMPORTING", &id(from)?])?;
        from.command(&["CLUSTER", "SETSLOT", slot, "MIGRATING", &id(to)?])?;
        for node in [to, from] {
            node.command(&["CLUSTER", "SETSLOT", slot, "NODE", &id(to)?])?;
        }
        Ok(())
    }

    fn all(&self, question: &str, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let words: Vec<&str> = question.split(' ').collect();
        let until = Instant::now() + PATIENCE;
        for node in &self.nodes {
            while !is_so(&node.command(&words)?) {
                ensure!(Instant::now() < until, "the nodes do not agree: {}", node.command(&words)?);
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(())
    }
}

fn id(node: &Redis) -> Result<String> {
    let answer = node.command(&["CLUSTER", "MYID"])?;
    Ok(answer.lines().last().context("no id")?.to_owned())
}
