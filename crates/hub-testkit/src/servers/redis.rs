use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::child::{Server, command, find, folder, free_port};

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct RedisServerOptions {
    /// Letters, digits and `-` only, as it is part of a URL.
    pub password: Option<String>,
    /// A node of a cluster that as yet has no others and serves nothing.
    pub cluster: bool,
    /// A folder with `ca.pem`, `localhost.pem` and `localhost-key.pem`, for TLS on a second port and between nodes.
    pub tls: Option<PathBuf>,
}

/// A Redis or Valkey server of its own that keeps nothing on disk.
pub struct Redis {
    server: Option<Server>,
    program: PathBuf,
    port: u16,
    /// On which nodes of a cluster speak to each other.
    bus_port: u16,
    tls_port: u16,
    options: RedisServerOptions,
    // Last, so that the server has ended when it is removed.
    folder: TempDir,
}

impl Redis {
    /// Starts one without a password.
    ///
    /// # Errors
    /// Redis isn't installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(&RedisServerOptions::default())
    }

    /// Starts one.
    ///
    /// # Errors
    /// Redis isn't installed or does not start.
    pub fn start_with(options: &RedisServerOptions) -> Result<Self> {
        let program = program().context("Redis is not installed (no redis-server or valkey-server found)")?;
        let folder = folder("redis", None)?;
        let [port, bus_port, tls_port] = [free_port()?, free_port()?, free_port()?];
        let mut redis = Self { server: None, program, port, bus_port, tls_port, options: options.clone(), folder };
        redis.start_again()?;
        Ok(redis)
    }

    /// Its URL, with the password.
    #[must_use]
    pub fn url(&self) -> String {
        let password = self.options.password.as_ref().map(|password| format!(":{password}@")).unwrap_or_default();
        format!("redis://{password}127.0.0.1:{}/", self.port)
    }

    /// The port on the loopback address.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The port for TLS, if it was asked for; the certificate is for `localhost`.
    #[must_use]
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    pub(super) fn bus_port(&self) -> u16 {
        self.bus_port
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Ends it with SIGKILL.
    ///
    /// # Errors
    /// It can't be killed.
    pub fn kill(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::kill)
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self) -> Result<()> {
        self.server.take().map_or(Ok(()), Server::stop)
    }

    /// Starts it on the same port, without data, after [`kill`](Self::kill) or [`stop`](Self::stop).
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let mut command = command(&self.program, folder, None);
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--daemonize", "no"]);
        command.args(["--save", "", "--appendonly", "no", "--dir"]).arg(folder);
        let password = self.options.password.iter();
        command.args(password.flat_map(|password| ["--requirepass", password, "--masterauth", password]));
        if self.options.cluster {
            command.args(["--cluster-enabled", "yes", "--cluster-port", &self.bus_port.to_string()]);
            // However long a replica has not heard of its master, it takes over; and it is one at once.
            command.args(["--cluster-node-timeout", "2000", "--cluster-replica-validity-factor", "0"]);
            command.args(["--repl-diskless-sync-delay", "0"]);
        }
        if let Some(files) = &self.options.tls {
            command.args(["--tls-port", &self.tls_port.to_string(), "--tls-auth-clients", "no"]);
            command.arg("--tls-ca-cert-file").arg(files.join("ca.pem"));
            command.arg("--tls-cert-file").arg(files.join("localhost.pem"));
            command.arg("--tls-key-file").arg(files.join("localhost-key.pem"));
        }
        if self.options.cluster && self.options.tls.is_some() {
            command.args(["--tls-cluster", "yes", "--tls-replication", "yes"]);
            // An address is not what the certificate is for.
            command.args(["--cluster-announce-hostname", "localhost", "--cluster-preferred-endpoint-type", "hostname"]);
        }
        // Any answer: with a password it is an error.
        let is_ready = || ask(self.port, "PING\r\n").is_ok_and(|answer| !answer.starts_with("-LOADING"));
        self.server = Some(Server::start(&mut command, folder, is_ready)?);
        Ok(())
    }

    /// Carries out a command of words without spaces, and returns the beginning of the raw answer.
    ///
    /// # Errors
    /// There is no answer, or it is an error.
    pub fn command(&self, words: &[&str]) -> Result<String> {
        let login = self.options.password.as_ref().map(|password| format!("AUTH {password}\r\n")).unwrap_or_default();
        let answer = ask(self.port, &format!("{login}{}\r\n", words.join(" ")))?;
        anyhow::ensure!(!answer.contains("-ERR"), "{words:?}: {answer}");
        Ok(answer)
    }
}

/// A Sentinel that watches one server under the name `main`, and on its own word replaces it by a replica of it half a
/// second after it has gone.
pub struct Sentinel {
    _server: Server,
    port: u16,
    _folder: TempDir,
}

impl Sentinel {
    /// Starts one.
    ///
    /// # Errors
    /// Redis isn't installed or does not start.
    pub fn watch(master: &Redis) -> Result<Self> {
        let (folder, port) = (folder("sentinel", None)?, free_port()?);
        let config = folder.path().join("sentinel.conf");
        let lines = [
            format!("port {port}"),
            "bind 127.0.0.1".to_owned(),
            format!("dir {}", folder.path().display()),
            format!("sentinel monitor main 127.0.0.1 {} 1", master.port),
            "sentinel down-after-milliseconds main 500".to_owned(),
            "sentinel failover-timeout main 3000".to_owned(),
        ];
        std::fs::write(&config, lines.join("\n"))?;
        let mut command = command(&master.program, folder.path(), None);
        command.arg(&config).arg("--sentinel");
        // It can replace the master once it has found the replicas, which the master tells it.
        let is_ready = || {
            ask(port, "SENTINEL REPLICAS main\r\n")
                .is_ok_and(|answer| answer.contains("master-link-status\r\n$2\r\nok"))
        };
        let server = Server::start(&mut command, folder.path(), is_ready)?;
        Ok(Self { _server: server, port, _folder: folder })
    }

    /// What leads to the master through this Sentinel.
    #[must_use]
    pub fn url(&self) -> String {
        format!("redis+sentinel://127.0.0.1:{}/main", self.port)
    }
}

/// The server, by either name.
pub(super) fn program() -> Option<PathBuf> {
    let folders = ["/usr/sbin", "/opt/homebrew/bin", "/usr/local/bin"].map(PathBuf::from);
    find(&["redis-server", "valkey-server"], &folders)
}

fn ask(port: u16, text: &str) -> Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(text.as_bytes())?;
    let mut answer = vec![0; 4096];
    let read = stream.read(&mut answer)?;
    anyhow::ensure!(read > 0, "no answer");
    Ok(String::from_utf8_lossy(answer.get(..read).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_dies_and_starts_again() -> Result<()> {
        let mut redis = Redis::start_with(&RedisServerOptions { password: Some("pw".into()), ..Default::default() })?;
        assert!(redis.command(&["PING"])?.contains("+PONG"));
        redis.kill()?;
        assert!(redis.command(&["PING"]).is_err());
        redis.start_again()?;
        assert!(redis.command(&["PING"])?.contains("+PONG"));
        redis.stop()?;
        assert!(redis.pid().is_none());
        Ok(())
    }
}
