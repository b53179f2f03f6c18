//! A child process that speaks MCP, with all that it starts.

use std::pin::Pin;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::task::TaskTracker;

use super::{Inherit, McpError, McpTarget, StderrTo};
use crate::process::Group;

/// Longest message of a child; a longer one ends the connection. A little below the SDK's own limit, above which it
/// drops a message and lets the call wait.
const MAX_LINE: usize = 16 * 1024 * 1024 - 1024;

/// Lines of standard output in a row that are no messages and passed over: some servers log there.
const MAX_OTHERS: u32 = 1_000;

/// Why a server that prints more of them is given up.
pub(super) const GARBAGE: &str = "it prints what is not MCP on its standard output";

/// Bytes of a line of standard error, and lines, that are logged; more is read and dropped.
const LOG_BYTES: usize = 1_000;
const LOG_LINES: u32 = 1_000;

/// How long a child may take to go when its input has ended.
const GOING: Duration = Duration::from_secs(2);

/// A running child. Dropping it kills its whole process group.
pub(super) struct Running {
    child: Child,
    // Dropped with the child; the group's number is not given away again while it has members.
    _group: Group,
}

/// Starts the program; answers it with its two ends.
pub(super) fn start(
    target: &McpTarget,
    name: &str,
    stderr: StderrTo,
    tasks: &TaskTracker,
) -> Result<(Running, Bounded, ChildStdin), McpError> {
    let McpTarget::Child { program, args, env, inherit, cwd } = target else {
        return Err(broken("a URL", std::io::ErrorKind::InvalidInput));
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.stderr(if stderr == StderrTo::Inherit { Stdio::inherit() } else { Stdio::piped() });
    match inherit {
        Inherit::AllBut(hidden) => hidden.iter().for_each(|variable| _ = command.env_remove(variable)),
        Inherit::Basics => {
            command.env_clear();
            let value = |name| std::env::var_os(name).map(|value| (name, value));
            command.envs(["PATH", "HOME", "LANG", "TZ", "TMPDIR"].into_iter().filter_map(value));
        }
    }
    command.envs(env.iter().map(|(key, value)| (key, value)));
    if let Some(cwd) = cwd {
        command.current_dir(cwd);
    }
    let (mut child, group) = Group::spawn(&mut command).map_err(|error| broken(program, error.kind()))?;
    let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
    if let Some(stderr) = child.stderr.take() {
        tasks.spawn(log(stderr, name.to_owned()));
    }
    let running = Running { child, _group: group };
    match (stdin, stdout) {
        (Some(stdin), Some(stdout)) => Ok((running, Bounded::new(stdout), stdin)),
        _ => Err(broken(program, std::io::ErrorKind::BrokenPipe)),
    }
}

fn broken(program: &str, kind: std::io::ErrorKind) -> McpError {
    McpError::Start { program: program.to_owned(), kind }
}

impl Running {
    /// Lets the child go by itself for a moment; its input has been closed.
    pub(super) async fn let_go(mut self) {
        let _killed_otherwise = tokio::time::timeout(GOING, self.child.wait()).await;
    }
}

/// Logs what a child says, as much of it as is bearable.
async fn log(stderr: ChildStderr, name: String) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut lines = 0;
    loop {
        let Ok(buffer) = reader.fill_buf().await else { return };
        if buffer.is_empty() {
            return;
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min(LOG_BYTES - line.len().min(LOG_BYTES))]);
        let used = end.map_or(buffer.len(), |end| end + 1);
        reader.consume(used);
        if end.is_some() {
            if lines < LOG_LINES {
                tracing::debug!(mcp.client = name, line = %String::from_utf8_lossy(&line), "stderr of an MCP server");
            }
            lines = lines.saturating_add(1);
            line.clear();
        }
    }
}

/// The child's standard output; fails at a line that is too long, and when much of it can be no message.
pub(super) struct Bounded {
    from: ChildStdout,
    line: usize,
    too_long: Arc<AtomicBool>,
    /// Lines in a row that can be no message.
    others: u32,
    garbage: Arc<AtomicBool>,
}

impl Bounded {
    fn new(from: ChildStdout) -> Self {
        Self { from, line: 0, too_long: Arc::default(), others: 0, garbage: Arc::default() }
    }

    /// Whether a line was too long.
    pub(super) fn too_long(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.too_long)
    }

    /// Whether it prints what is not MCP.
    pub(super) fn garbage(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.garbage)
    }

    /// Counts lines since the last one that began like a JSON object or array.
    fn count_others(&mut self, new: &[u8]) {
        let mut begins = self.line == 0;
        for byte in new {
            if begins && !byte.is_ascii_whitespace() {
                self.others = if matches!(byte, b'{' | b'[') { 0 } else { self.others.saturating_add(1) };
            }
            begins = *byte == b'\n';
        }
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.from).poll_read(cx, buf))?;
        let new = &buf.filled()[before..];
        self.count_others(new);
        if self.others > MAX_OTHERS {
            self.garbage.store(true, Ordering::Release);
            return Poll::Ready(Err(std::io::Error::other(GARBAGE)));
        }
        // A line never ends at its bound and begins anew within one read: reads are far smaller than the bound.
        match new.iter().rposition(|b| *b == b'\n') {
            Some(end) => self.line = new.len() - end - 1,
            None => self.line += new.len(),
        }
        if self.line > MAX_LINE {
            self.too_long.store(true, Ordering::Release);
            return Poll::Ready(Err(std::io::Error::other("a message is too long")));
        }
        Poll::Ready(Ok(()))
    }
}
