use std::ffi::OsString;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::group::{Group, Mark, lead};
use super::output::Output;
use super::{RunCommand, RunItem, RunStream};
use crate::error::ToolError;

/// Shells to try, in this order, with the argument that takes a command line.
#[cfg(not(windows))]
const SHELLS: [(&str, &str); 2] = [("bash", "-c"), ("sh", "-c")];
#[cfg(windows)]
const SHELLS: [(&str, &str); 2] = [("bash", "-c"), ("cmd", "/C")];

pub(super) fn spawn(params: &RunCommand, cwd: &Path, secret: &[OsString], mark: &Mark) -> Result<Child, ToolError> {
    for (shell, argument) in SHELLS {
        let mut command = Command::new(shell);
        command.arg(argument).arg(&params.command).current_dir(cwd);
        // Programs that would ask at the terminal of whoever started the spoke fail instead.
        command.env("GIT_TERMINAL_PROMPT", "0").envs(params.env.iter().flatten());
        for name in secret {
            command.env_remove(name);
        }
        let stdin = if params.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        lead(&mut command, mark);
        match command.spawn() {
            Ok(child) => return Ok(child),
            Err(error) => tracing::debug!(%error, shell, "a shell could not be started"),
        }
    }
    Err(ToolError::NoShell)
}

/// What a running command has to do with its call.
pub(super) struct Job {
    pub(super) items: Sender<RunItem>,
    /// Fires when nobody wants the command any more.
    pub(super) stop: CancellationToken,
    pub(super) time: Duration,
    pub(super) output_bytes: usize,
}

enum Cause {
    Exited,
    TimedOut,
    Stopped,
}

impl Job {
    /// Passes the output on until the command has ended, or is no longer wanted and has been killed.
    pub(super) async fn supervise(self, mut child: Child, input: Option<String>, mark: Mark) {
        let started = Instant::now();
        let mut group = Group::of(&child, mark);
        let output = Output::new(self.items, self.output_bytes);
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        // Once nobody wants the command, a caller who is slow to read must not hold up its end.
        let pumped = self.stop.run_until_cancelled(async {
            tokio::join!(
                feed(stdin, input, &output.gone),
                output.pump(RunStream::Stdout, stdout),
                output.pump(RunStream::Stderr, stderr),
            )
        });
        let ended = async {
            let cause = tokio::select! {
                _ = child.wait() => Cause::Exited,
                () = tokio::time::sleep(self.time) => Cause::TimedOut,
                () = self.stop.cancelled() => Cause::Stopped,
            };
            // Also after an exit: what the command left in the background ends with it.
            group.end(&mut child).await;
            output.gone.cancel();
            cause
        };
        // Output is passed on while the group is being ended, and after it for what is still in the pipes.
        let (cause, _) = tokio::join!(ended, pumped);
        let status = child.try_wait().ok().flatten();
        let timed_out = matches!(cause, Cause::TimedOut);
        let end = end_item(status, timed_out, started.elapsed(), output.truncated());
        match cause {
            // The spoke shuts down, and a caller may still be there; or nobody is.
            Cause::Stopped => _ = output.items.try_send(end),
            Cause::Exited | Cause::TimedOut => _ = self.stop.run_until_cancelled(output.items.send(end)).await,
        }
    }
}

/// Writes the input. A command that does not read it is not a fault.
async fn feed(stdin: Option<ChildStdin>, input: Option<String>, gone: &CancellationToken) {
    let (Some(mut stdin), Some(input)) = (stdin, input) else { return };
    tokio::select! {
        _ = stdin.write_all(input.as_bytes()) => {}
        () = gone.cancelled() => {}
    }
}

fn end_item(status: Option<ExitStatus>, timed_out: bool, duration: Duration, truncated: bool) -> RunItem {
    RunItem::End {
        exit_code: status.and_then(|status| status.code()),
        signal: status.and_then(signal),
        timed_out,
        duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
        truncated,
    }
}

#[cfg(unix)]
fn signal(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
const fn signal(_: ExitStatus) -> Option<i32> {
    None
}
