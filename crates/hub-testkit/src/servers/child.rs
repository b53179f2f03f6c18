//! A server as a child process that can't outlive this one.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// How long a server may take to answer after its start, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Waits for the end of its standard input, then ends the server ($1) with its whole family and removes the folder ($2).
/// The handle ends this shell first, so the process id is never another's.
const GUARD: &str = r#"trap '' INT TERM HUP
cat >/dev/null
kill -QUIT "$1" 2>/dev/null; sleep 1; kill -KILL "$1" 2>/dev/null
rm -rf -- "$2""#;

/// A port that is free now. Another process may take it before the server does; the server's start fails then.
pub(super) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Whom a server runs as, when this process is root and the server refuses that.
#[derive(Clone, Copy, Debug)]
pub(super) struct User {
    uid: u32,
    gid: u32,
}

impl User {
    /// None when this process isn't root.
    pub(super) fn for_server() -> Result<Option<Self>> {
        if id(&["-u"])? != 0 {
            return Ok(None);
        }
        for name in ["postgres", "nobody", "daemon"] {
            if let (Ok(uid), Ok(gid)) = (id(&["-u", name]), id(&["-g", name])) {
                return Ok(Some(Self { uid, gid }));
            }
        }
        bail!("Postgres does not run as root, and there is no user postgres or nobody");
    }
}

fn id(args: &[&str]) -> Result<u32> {
    let output = Command::new("id").args(args).stderr(Stdio::null()).output().context("cannot start id")?;
    Ok(String::from_utf8(output.stdout)?.trim().parse()?)
}

/// A folder that is removed with its handle.
pub(super) fn folder(name: &str, user: Option<User>) -> Result<TempDir> {
    let folder = tempfile::Builder::new().prefix(&format!("hub-test-{name}-")).tempdir()?;
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700))?;
    if let Some(user) = user {
        chown(folder.path(), Some(user.uid), Some(user.gid))?;
    }
    Ok(folder)
}

/// A command that runs in `folder`, as `user`, out of reach of a terminal's Ctrl-C.
pub(super) fn command(program: &Path, folder: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).stdin(Stdio::null()).process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

/// The running server.
pub(super) struct Server {
    child: Child,
    guard: Child,
}

impl Server {
    /// Starts it with its output in `folder`/server.log and waits until `is_ready`.
    pub(super) fn start(command: &mut Command, folder: &Path, is_ready: impl Fn() -> bool) -> Result<Self> {
        let log = folder.join("server.log");
        let output = File::options().create(true).append(true).open(&log)?;
        command.stdout(output.try_clone()?).stderr(output);
        let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let guard = guard(child.id(), folder).inspect_err(|_| _ = child.kill())?;
        let mut server = Self { child, guard };
        let until = Instant::now() + PATIENCE;
        while !is_ready() {
            let ended = server.child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let text = fs::read_to_string(&log).unwrap_or_default();
                let last: Vec<_> = text.lines().rev().take(5).collect();
                let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
                let what = if ended.is_some() { "ended at its start" } else { "does not become ready" };
                bail!("{:?} {what}:\n{last}", command.get_program());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Ends it and all its children as a power failure would.
    pub(super) fn kill(mut self) -> Result<()> {
        self.end_guard();
        // Stopped first, so that it starts no child that nobody kills.
        signal("STOP", &[self.pid()])?;
        let children = children(self.pid());
        self.child.kill()?;
        _ = signal("KILL", &children);
        self.child.wait()?;
        let until = Instant::now() + PATIENCE;
        while children.iter().any(|pid| is_alive(*pid)) {
            if Instant::now() > until {
                bail!("processes {children:?} do not end");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Asks it to end, and waits.
    pub(super) fn stop(mut self) -> Result<()> {
        self.end_guard();
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        // To Postgres: end all sessions, finish writing; Redis knows INT too.
        signal("INT", &[self.pid()])?;
        let until = Instant::now() + PATIENCE;
        while self.child.try_wait()?.is_none() {
            if Instant::now() > until {
                self.child.kill()?;
                self.child.wait()?;
                bail!("the server did not end when asked");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    fn end_guard(&mut self) {
        // Its only failure is to have ended.
        _ = self.guard.kill();
        _ = self.guard.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end_guard();
        // Nothing to tell it to; a server that does not end has been killed.
        _ = self.end();
    }
}

fn guard(pid: u32, folder: &Path) -> Result<Child> {
    let mut guard = Command::new("/bin/sh");
    guard.args(["-c", GUARD, "guard", &pid.to_string()]).arg(folder);
    guard.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0).current_dir("/");
    guard.spawn().context("cannot start /bin/sh")
}

fn signal(name: &str, pids: &[u32]) -> Result<()> {
    if pids.is_empty() {
        return Ok(());
    }
    let mut kill = Command::new("kill");
    kill.arg(format!("-{name}")).args(pids.iter().map(u32::to_string)).stderr(Stdio::null());
    let status = kill.status().context("cannot start kill")?;
    anyhow::ensure!(status.success(), "kill -{name} {pids:?} failed");
    Ok(())
}

/// What `ps` says of every process: its id, its parent's, its state.
fn processes() -> Vec<(u32, u32, String)> {
    let output = Command::new("ps").args(["-A", "-o", "pid=,ppid=,state="]).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.split_whitespace();
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?, fields.next()?.to_owned()))
    };
    text.lines().filter_map(parse).collect()
}

fn children(parent: u32) -> Vec<u32> {
    processes().into_iter().filter(|(_, of, _)| *of == parent).map(|(pid, ..)| pid).collect()
}

/// Nobody may collect orphans in a container: a zombie counts as gone.
fn is_alive(wanted: u32) -> bool {
    processes().into_iter().any(|(pid, _, state)| pid == wanted && !state.starts_with('Z'))
}

/// The first of `names` on the PATH or in one of `folders`.
pub(super) fn find(names: &[&str], folders: &[PathBuf]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all: Vec<_> = std::env::split_paths(&path).chain(folders.iter().cloned()).collect();
    names.iter().flat_map(|name| all.iter().map(move |folder| folder.join(name))).find(|program| program.is_file())
}
