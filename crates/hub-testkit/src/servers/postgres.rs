use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;

use super::child::{Server, User, command, find, folder, free_port};

/// What to start.
#[derive(Clone, Copy, Debug, Default)]
pub struct PostgresOptions {
    /// Waits for the disk at each commit, as a real server does. Without it a killed server still finds all it wrote:
    /// only a killed machine loses it.
    pub durable: bool,
}

/// A Postgres server of its own, with the superuser `postgres` who needs no password.
pub struct Postgres {
    server: Option<Server>,
    program: PathBuf,
    user: Option<User>,
    port: u16,
    options: PostgresOptions,
    // Last, so that the server has ended when it is removed.
    folder: TempDir,
}

impl Postgres {
    /// Starts a fast one.
    ///
    /// # Errors
    /// Postgres isn't installed or does not start.
    pub fn start() -> Result<Self> {
        Self::start_with(PostgresOptions::default())
    }

    /// Starts one.
    ///
    /// # Errors
    /// Postgres isn't installed or does not start.
    pub fn start_with(options: PostgresOptions) -> Result<Self> {
        let [initdb, program] = programs().context("Postgres is not installed (no initdb and postgres found)")?;
        let user = User::for_server()?;
        let folder = folder("postgres", user)?;
        initialize(&initdb, folder.path(), user)?;
        let mut postgres = Self { server: None, program, user, port: free_port()?, options, folder };
        postgres.start_again()?;
        Ok(postgres)
    }

    /// The URL of a database, which need not exist yet; `postgres` does.
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    /// The port on the loopback address; the unix socket is in [`folder`](Self::folder).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Holds the data, the socket and `server.log`.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(Server::pid)
    }

    /// Ends all its processes with SIGKILL.
    ///
    /// # Errors
    /// They can't be killed.
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

    /// Starts it on the same port and data, after [`kill`](Self::kill) or [`stop`](Self::stop).
    ///
    /// # Errors
    /// It does not start.
    pub fn start_again(&mut self) -> Result<()> {
        let folder = self.folder.path();
        let mut command = command(&self.program, folder, self.user);
        command.arg("-D").arg(folder.join("data")).arg("-k").arg(folder).args(["-p", &self.port.to_string()]);
        let fast = ["fsync=off", "full_page_writes=off"];
        let fast = if self.options.durable { &[][..] } else { &fast };
        for setting in ["listen_addresses=127.0.0.1", "max_connections=200"].iter().chain(fast) {
            command.args(["-c", setting]);
        }
        self.server = Some(Server::start(&mut command, folder, || accepts(self.port))?);
        Ok(())
    }
}

/// `initdb` and `postgres` of one installation.
pub(super) fn programs() -> Option<[PathBuf; 2]> {
    // The newest first; their names are numbers.
    let mut versions: Vec<_> = fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    let number = |path: &PathBuf| path.file_name()?.to_str()?.parse::<u32>().ok();
    versions.sort_by_key(|path| std::cmp::Reverse(number(path)));
    let versions = versions.into_iter().map(|path| path.join("bin"));
    let others = ["/usr/local/pgsql/bin", "/opt/homebrew/bin", "/opt/homebrew/opt/postgresql/bin", "/usr/local/bin"];
    let others = others.iter().map(PathBuf::from);
    let initdb = find(&["initdb"], &versions.chain(others).collect::<Vec<_>>())?;
    // A link leads to the installation, with the server beside it.
    let beside = |initdb: &Path| Some(initdb.parent()?.join("postgres")).filter(|program| program.is_file());
    let resolved = fs::canonicalize(&initdb).ok()?;
    let postgres = beside(&resolved).or_else(|| beside(&initdb))?;
    Some([initdb, postgres])
}

fn initialize(initdb: &Path, folder: &Path, user: Option<User>) -> Result<()> {
    let mut initdb: Command = command(initdb, folder, user);
    initdb.args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync", "--pgdata"]);
    let output = initdb.arg(folder.join("data")).stdin(Stdio::null()).output().context("cannot start initdb")?;
    anyhow::ensure!(output.status.success(), "initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Whether a session can begin: the server answers its opening with a request (`R`), and while it starts with an error.
fn accepts(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let body = b"\0\x03\0\0user\0postgres\0database\0postgres\0\0";
        let length = u32::try_from(body.len() + 4).unwrap_or_default();
        stream.write_all(&[&length.to_be_bytes()[..], body].concat())?;
        let mut first = [0];
        stream.read_exact(&mut first)?;
        Ok(first == *b"R")
    };
    ask().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_dies_and_starts_again() -> Result<()> {
        let mut postgres = Postgres::start()?;
        let first = postgres.pid();
        assert!(first.is_some() && accepts(postgres.port()));
        postgres.kill()?;
        assert!(postgres.pid().is_none() && !accepts(postgres.port()));
        postgres.start_again()?;
        assert!(postgres.pid() != first && accepts(postgres.port()));
        let folder = postgres.folder().to_owned();
        drop(postgres);
        assert!(!folder.exists());
        Ok(())
    }
}
