//! A Postgres server of a test's own, for it to be killed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The server; it and its files are gone at the end.
pub(crate) struct Server {
    folder: tempfile::TempDir,
    port: u16,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // initdb and postgres refuse to run as root: then they are user postgres, who must own the folder.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let server = Self { folder, port };
        let mut made = server.tool("initdb");
        made.args(["-A", "trust", "-U", "postgres", "--no-sync", "-D"]).arg(server.data());
        assert!(quiet(&mut made).success(), "initdb failed");
        server.up();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts it and waits until it answers.
    pub(crate) fn up(&self) {
        let options = format!("-p {} -k {} -c listen_addresses=127.0.0.1", self.port, self.folder.path().display());
        let mut started = self.tool("pg_ctl");
        started
            .args(["-w", "-o", &options, "-l"])
            .arg(self.folder.path().join("log"))
            .arg("-D")
            .arg(self.data())
            .arg("start");
        assert!(quiet(&mut started).success(), "the server did not start");
    }

    /// Kills it as a crash does: SIGQUIT, no checkpoint, no farewell to clients that wait.
    pub(crate) fn kill(&self) {
        let mut stopped = self.tool("pg_ctl");
        stopped.args(["-m", "immediate", "-D"]).arg(self.data()).arg("stop");
        quiet(&mut stopped);
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn tool(&self, name: &str) -> Command {
        let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
        let path = installed(name);
        if !root {
            return Command::new(path);
        }
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups"]).arg(path).current_dir("/");
        command
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The newest installed tool of that name, or the one in the path.
fn installed(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|entry| entry.path().join("bin").join(name)).filter(|path| path.exists()).max();
    found.unwrap_or_else(|| Path::new(name).to_owned())
}

fn quiet(command: &mut Command) -> std::process::ExitStatus {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap()
}
