//! Servers as processes of their own, ended by their ids.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::args::Options;
use crate::client::http::get;

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(60);

/// A server that was started here.
pub(crate) struct Server {
    child: Child,
    pub(crate) pid: u32,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// Starts a program that listens on `address`, and waits until it takes connections.
    pub(crate) async fn start(mut command: Command, address: SocketAddr) -> Result<Self> {
        let command = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).kill_on_drop(true);
        let child = command.spawn().with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
        let pid = child.id().context("it has ended already")?;
        let mut this = Self { child, pid, address };
        this.until_ready(async || TcpStream::connect(address).await.is_ok()).await?;
        Ok(this)
    }

    async fn until_ready(&mut self, ready: impl AsyncFn() -> bool) -> Result<()> {
        let until = Instant::now() + START;
        while !ready().await {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at its start: {status}");
            }
            anyhow::ensure!(Instant::now() < until, "the server did not answer within {START:?}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// Ends it at once.
    pub(crate) async fn kill(mut self) -> Result<()> {
        self.child.kill().await.context("cannot end a server")
    }
}

/// The hub over a folder.
pub(crate) struct Hub {
    pub(crate) server: Server,
    pub(crate) folder: TempDir,
    pub(crate) admin_key: String,
    /// From its start to its first answer that it is ready.
    pub(crate) ready_after: Duration,
}

impl Hub {
    pub(crate) async fn start(binary: &Path) -> Result<Self> {
        Self::start_in(binary, TempDir::new()?).await
    }

    /// Over a folder that another hub may have left.
    pub(crate) async fn start_in(binary: &Path, folder: TempDir) -> Result<Self> {
        Self::start_with(binary, folder, &[], None).await
    }

    /// With more flags, and the admin's key where another hub has made it.
    pub(crate) async fn start_with(
        binary: &Path,
        folder: TempDir,
        flags: &[String],
        admin_key: Option<&str>,
    ) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(binary);
        command.args(["--listen", &address.to_string(), "--log", "error", "--max-in-flight", "4096", "--data-dir"]);
        command.arg(folder.path()).args(flags);
        let started = Instant::now();
        let mut server = Server::start(command, address).await?;
        server.until_ready(async || get(address, "/readyz").await.is_ok_and(|(status, _)| status == 200)).await?;
        let ready_after = started.elapsed();
        let admin_key = match admin_key {
            Some(key) => key.to_owned(),
            None => std::fs::read_to_string(folder.path().join("admin.key"))?.trim().to_owned(),
        };
        Ok(Self { server, folder, admin_key, ready_after })
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// Goes down as it would when asked to, and leaves the folder.
    pub(crate) async fn stop(mut self) -> Result<TempDir> {
        let pid = self.server.pid.to_string();
        anyhow::ensure!(Command::new("kill").args(["-TERM", &pid]).status().await?.success(), "kill failed");
        tokio::time::timeout(START, self.server.child.wait()).await.context("the hub did not go down")??;
        Ok(self.folder)
    }

    /// Ends as a power failure would, and leaves the folder.
    pub(crate) async fn kill(self) -> Result<TempDir> {
        self.server.kill().await?;
        Ok(self.folder)
    }

    /// One value of `/metrics`; 0 where it was never set.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64> {
        let (_, body) = get(self.server.address, "/metrics").await?;
        let line = body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        Ok(line.and_then(|v| v.trim().parse().ok()).unwrap_or(0.0))
    }

    /// Waits until every record is written, so that what one turn left does not burden the next.
    pub(crate) async fn settled(&self) -> Result<()> {
        let until = Instant::now() + START;
        while self.metric("hub_recorder_backlog").await? > 0.0 {
            anyhow::ensure!(Instant::now() < until, "the recorder did not catch up within {START:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// The hub to measure: given, or built now.
pub(crate) async fn hub_binary(options: &Options) -> Result<PathBuf> {
    if let Some(binary) = &options.hub {
        return Ok(binary.clone());
    }
    let beside = std::env::current_exe()?.with_file_name(format!("hub-server{}", std::env::consts::EXE_SUFFIX));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("this crate lies in the workspace")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let build = Command::new(cargo).args(["build", "--release", "-p", "hub-server"]).current_dir(root).status().await;
    match build {
        Ok(status) if status.success() => Ok(beside),
        _ if beside.exists() => Ok(beside),
        _ => bail!("hub-server can't be built; give one with --hub"),
    }
}

/// `nats-server`, where it is installed.
pub(crate) async fn start_nats() -> Result<Option<Server>> {
    if !has_nats().await {
        return Ok(None);
    }
    nats_node(&[]).await.map(Some)
}

/// Two of them as a cluster.
pub(crate) async fn start_nats_pair() -> Result<Option<[Server; 2]>> {
    if !has_nats().await {
        return Ok(None);
    }
    let [one, two] = [free_address()?, free_address()?].map(|address| format!("nats://{address}"));
    let node = async |own: &str, other: &str| {
        nats_node(&["--cluster_name", "bench", "--cluster", own, "--routes", other]).await
    };
    Ok(Some([node(&one, &two).await?, node(&two, &one).await?]))
}

async fn has_nats() -> bool {
    Command::new("nats-server").arg("--version").stdout(Stdio::null()).status().await.is_ok()
}

async fn nats_node(flags: &[&str]) -> Result<Server> {
    let address = free_address()?;
    let mut command = Command::new("nats-server");
    command.args(["--addr", "127.0.0.1", "--port", &address.port().to_string()]).args(flags);
    Server::start(command, address).await
}

/// This program as a bare relay.
pub(crate) async fn start_relay() -> Result<Server> {
    let address = free_address()?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args([crate::relay::COMMAND, &address.to_string()]);
    Server::start(command, address).await
}

/// An address that was free a moment ago.
fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
