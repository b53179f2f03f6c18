use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// How long a hub may take to answer after its start.
const START: Duration = Duration::from_secs(20);

/// The real binary as a process of its own.
pub struct HubProcess {
    child: Child,
    port: u16,
    folder: PathBuf,
}

impl HubProcess {
    /// Starts it on `port` over `folder` and waits until it is ready.
    pub async fn start(folder: &Path, port: u16, flags: &[&str]) -> Result<Self> {
        Self::start_from(&mut Self::command(folder, port, flags)?, folder, port).await
    }

    /// The command that [`HubProcess::start`] runs, for changes.
    pub fn command(folder: &Path, port: u16, flags: &[&str]) -> Result<Command> {
        let mut command = Command::new(server_binary()?);
        command.args(["--listen", &format!("127.0.0.1:{port}"), "--data-dir"]).arg(folder).args(flags);
        command.envs(crate::store_settings(folder, flags)?);
        command.stdout(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true);
        Ok(command)
    }

    /// As [`HubProcess::start`], by a command that listens on `port` over `folder`.
    pub async fn start_from(command: &mut Command, folder: &Path, port: u16) -> Result<Self> {
        let child = command.spawn().context("cannot start hub-server")?;
        let mut this = Self { child, port, folder: folder.to_owned() };
        let until = Instant::now() + START;
        while !answers(port).await {
            if let Some(status) = this.child.try_wait()? {
                bail!("hub-server ended at its start: {status}");
            }
            if Instant::now() > until {
                bail!("hub-server did not become ready within {START:?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(this)
    }

    /// Base URL for HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Process id.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// The admin key.
    pub fn admin_key(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.folder.join("admin.key"))?.trim().to_owned())
    }

    /// Ends it as a power failure would.
    pub async fn kill9(mut self) -> Result<()> {
        self.child.start_kill()?;
        self.child.wait().await?;
        Ok(())
    }

    /// Sends a signal by name, such as `TERM`.
    pub async fn signal(&self, name: &str) -> Result<()> {
        let pid = self.child.id().context("it has ended")?.to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().await?;
        anyhow::ensure!(sent.success(), "kill -{name} {pid} failed");
        Ok(())
    }

    /// Waits for its end.
    pub async fn wait(&mut self) -> Result<ExitStatus> {
        Ok(self.child.wait().await?)
    }
}

/// A port that was free a moment ago, for processes that must come back on the same one.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The built `hub-server`, beside the running test in the target folder.
pub fn server_binary() -> Result<PathBuf> {
    crate::binary("hub-server")
}

async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /readyz HTTP/1.1\r\nhost: hub\r\nconnection: close\r\n\r\n").await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok::<_, std::io::Error>(answer.starts_with("HTTP/1.1 200"))
    };
    tokio::time::timeout(Duration::from_secs(2), ask).await.is_ok_and(|r| r.unwrap_or(false))
}
