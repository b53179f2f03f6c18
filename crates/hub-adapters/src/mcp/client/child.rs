//! A child process that speaks MCP, with all that it starts.

use std::collections::VecDeque;
use std::pin::Pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use hub_operations::Scrubber;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, ReadBuf};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::mend::mended;
use super::{Inherit, McpError, McpTarget, StderrTo};
use crate::process::Group;

/// Longest message of a child; a longer one ends the connection. A little below the SDK's own limit, above which it
/// drops a message and lets the call wait.
const MAX_LINE: usize = 16 * 1024 * 1024 - 1024;

/// Bytes of standard output that are read at once.
const READ: usize = 8 * 1024;

/// Lines of standard output in a row that are no messages and passed over: some servers log there.
const MAX_OTHERS: u32 = 1_000;

/// Why one is given up that lives on.
pub(super) const MUTE: &str = "it has closed its output";
pub(super) const DEAF: &str = "it has closed its input";

/// Why a server that prints more of them is given up.
pub(super) const GARBAGE: &str = "it prints what is not MCP on its standard output";

/// Bytes of a line of standard error, and lines, that are logged; more is read and dropped.
const LOG_BYTES: usize = 1_000;
const LOG_LINES: u32 = 1_000;

/// How long a child may take to go when its input has ended.
const GOING: Duration = Duration::from_secs(2);

/// Lines of standard error that are kept, to tell what the child's last words were, and characters of each.
const KEPT_LINES: usize = 10;
const KEPT_CHARS: usize = 300;

/// How long is waited for the last words of a child that has closed its output, and for its end.
const ENDING: Duration = Duration::from_millis(500);

/// A running child. Dropping it kills its whole process group.
pub(super) struct Running {
    child: Child,
    // Dropped with the child; the group's number is not given away again while it has members.
    _group: Group,
    words: Words,
}

/// What a child has said on standard error of late, without secrets.
#[derive(Clone)]
pub(super) struct Words {
    lines: Arc<Mutex<VecDeque<String>>>,
    scrubber: Arc<Scrubber>,
    /// Cancelled when it says no more.
    over: CancellationToken,
}

/// How a child ended.
#[derive(Debug)]
pub(super) struct Ending {
    /// Exit code or signal; `None` for one that lives on.
    pub(super) exit: Option<String>,
    /// Why one that lives on is ended.
    pub(super) why: String,
    /// Its last lines of standard error.
    pub(super) stderr: Vec<String>,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.exit {
            Some(exit) => write!(f, "it ended with {exit}")?,
            None => f.write_str(&self.why)?,
        }
        match self.stderr.as_slice() {
            [] => f.write_str(" and no word on standard error"),
            // The end says most, and a state has little room.
            [.., last] => write!(f, ", saying {last:?}"),
        }
    }
}

impl Words {
    pub(super) fn new(scrubber: Arc<Scrubber>) -> Self {
        Self { lines: Arc::default(), scrubber, over: CancellationToken::new() }
    }

    /// Keeps a line; answers it without secrets.
    fn hear(&self, line: &[u8]) -> String {
        let line = String::from_utf8_lossy(line);
        let mut clean = self.scrubber.text(&line).unwrap_or_else(|| line.into_owned());
        clean.truncate(clean.floor_char_boundary(LOG_BYTES));
        clean.truncate(clean.trim_end().len());
        if clean.is_empty() {
            return clean;
        }
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() >= KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(clean.chars().take(KEPT_CHARS).collect());
        clean
    }

    /// The last lines.
    pub(super) fn last(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

/// Starts the program; answers it with its two ends.
pub(super) fn start(
    target: &McpTarget,
    name: &str,
    stderr: StderrTo,
    words: Words,
    tasks: &TaskTracker,
) -> Result<(Running, Bounded, ChildStdin), McpError> {
    let McpTarget::Child { program, args, env, inherit, cwd } = target else {
        return Err(broken("a URL", std::io::ErrorKind::InvalidInput));
    };
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
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
    if let Some(from) = child.stderr.take() {
        tasks.spawn(listen(from, words.clone(), stderr, name.to_owned()));
    }
    let running = Running { child, _group: group, words };
    match (stdin, stdout) {
        (Some(stdin), Some(stdout)) => Ok((running, Bounded::new(stdout), stdin)),
        _ => Err(broken(program, std::io::ErrorKind::BrokenPipe)),
    }
}

fn broken(program: &str, kind: std::io::ErrorKind) -> McpError {
    McpError::Start { program: program.to_owned(), kind }
}

impl Running {
    /// How it ended; `why`, should it live on.
    pub(super) async fn ending(&mut self, why: &str) -> Ending {
        let exit = tokio::time::timeout(ENDING, self.child.wait()).await;
        // What it has started may go on speaking.
        let _speaks_on = tokio::time::timeout(ENDING, self.words.over.cancelled()).await;
        let exit = exit.ok().and_then(Result::ok).map(|status| status.to_string());
        Ending { exit, why: why.to_owned(), stderr: self.words.last() }
    }

    /// Lets the child go by itself for a moment; its input has been closed.
    pub(super) async fn let_go(mut self) {
        let _killed_otherwise = tokio::time::timeout(GOING, self.child.wait()).await;
    }
}

/// Hears what a child says, and passes on as much of it as is bearable.
async fn listen(stderr: ChildStderr, words: Words, to: StderrTo, name: String) {
    let _over = words.over.clone().drop_guard();
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    let mut lines = 0;
    loop {
        let Ok(buffer) = reader.fill_buf().await else { return };
        if buffer.is_empty() {
            words.hear(&line);
            return;
        }
        let end = buffer.iter().position(|b| *b == b'\n');
        let used = end.map_or(buffer.len(), |end| end + 1);
        if to == StderrTo::Inherit {
            // Somebody who reads it no more is no reason to stop hearing.
            let _closed = tokio::io::stderr().write_all(&buffer[..used]).await;
        }
        let part = &buffer[..end.unwrap_or(buffer.len())];
        line.extend_from_slice(&part[..part.len().min((2 * LOG_BYTES).saturating_sub(line.len()))]);
        reader.consume(used);
        if end.is_some() {
            let line_said = words.hear(&line);
            if to == StderrTo::Log && lines < LOG_LINES {
                tracing::debug!(mcp.client = name, line = line_said, "stderr of an MCP server");
            }
            lines = lines.saturating_add(1);
            line.clear();
        }
    }
}

/// The child's standard output, with lines that can't be read [mended](mended); fails at a line that is too long, and
/// when much of it can be no message.
pub(super) struct Bounded {
    from: ChildStdout,
    /// Begun and not yet ended.
    line: Vec<u8>,
    /// Whole lines that are not yet given on.
    ready: VecDeque<u8>,
    too_long: Arc<AtomicBool>,
    /// Lines in a row that can be no message.
    others: u32,
    garbage: Arc<AtomicBool>,
}

impl Bounded {
    fn new(from: ChildStdout) -> Self {
        Self {
            from,
            line: Vec::new(),
            ready: VecDeque::new(),
            too_long: Arc::default(),
            others: 0,
            garbage: Arc::default(),
        }
    }

    /// Whether a line was too long.
    pub(super) fn too_long(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.too_long)
    }

    /// Whether it prints what is not MCP.
    pub(super) fn garbage(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.garbage)
    }

    /// Takes what the child has printed.
    fn keep(&mut self, new: &[u8]) -> std::io::Result<()> {
        self.count_others(new);
        if self.others > MAX_OTHERS {
            self.garbage.store(true, Ordering::Release);
            return Err(std::io::Error::other(GARBAGE));
        }
        for part in new.split_inclusive(|b| *b == b'\n') {
            if self.line.len() + part.len() > MAX_LINE {
                self.too_long.store(true, Ordering::Release);
                return Err(std::io::Error::other("a message is too long"));
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                // Not cleared: a long message must not keep its room.
                let line = std::mem::take(&mut self.line);
                match mended(line.trim_ascii_end()) {
                    Some(instead) => self.ready.extend(instead.iter().chain(b"\n")),
                    None => self.ready.extend(&line),
                }
            }
        }
        Ok(())
    }

    /// Counts lines since the last one that began like a JSON object or array.
    fn count_others(&mut self, new: &[u8]) {
        let mut begins = self.line.is_empty();
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
        while self.ready.is_empty() {
            let mut space = [0; READ];
            let mut read = ReadBuf::new(&mut space);
            std::task::ready!(Pin::new(&mut self.from).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                // What has no end is no message.
                return Poll::Ready(Ok(()));
            }
            self.keep(read.filled())?;
        }
        let (first, _) = self.ready.as_slices();
        let given = first.len().min(buf.remaining());
        buf.put_slice(&first[..given]);
        self.ready.drain(..given);
        if self.ready.is_empty() {
            self.ready = VecDeque::new();
        }
        Poll::Ready(Ok(()))
    }
}
