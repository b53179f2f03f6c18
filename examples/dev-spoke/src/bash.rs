//! `bash.run`: a command whose output is a stream and which ends with its call.

mod group;
mod output;
mod process;
#[cfg(all(test, target_os = "linux"))]
mod tests;
mod utf8;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{BoxStream, unfold};
use hub_spoke::hub_protocol::OperationType;
use hub_spoke::{CancellationToken, Context, Reply, SpokeBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

use crate::declare::{Tool, encode, parse};
use crate::error::{FILE_NOT_FOUND, NOT_A_FOLDER, OUTSIDE_ROOT, ToolError};
use crate::root::Root;
use process::Job;

const TOOL: Tool = Tool {
    id: "bash.run",
    title: "Run a command",
    description: "Run a shell command in the project folder. Streams items with stream and text as the command writes \
        them; the last item has exitCode or signal instead. The command gets no terminal and no input but stdin. When \
        the call ends (exit, timeout, abort, lost connection) its process group ends too, background processes included \
        (on Windows the command alone), and on Linux also what left the group, by its inherited environment; not what \
        runs with an emptied environment or as another user. Not a sandbox: it has all rights of the user who started \
        the spoke.",
    kind: OperationType::Subscription,
    scope: "dev:run",
    errors: &[FILE_NOT_FOUND, NOT_A_FOLDER, OUTSIDE_ROOT],
};

/// Time of a command when the caller asks for none.
const DEFAULT_TIME: Duration = Duration::from_secs(120);

/// Items that wait for a slow caller; beyond them the command itself waits.
const QUEUE: usize = 16;

/// Input of `bash.run`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RunCommand {
    /// Command line for bash (sh where there is no bash).
    #[schemars(length(min = 1, max = 65536))]
    pub command: String,
    /// Folder to run in, relative to the project folder. Default: the project folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub cwd: Option<String>,
    /// Longest run in milliseconds; the spoke has a limit of its own. Default: 120,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub timeout_ms: Option<u64>,
    /// Text for the command's standard input. Default: none, reading ends at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdin: Option<String>,
    /// Environment variables to add or change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
}

/// One item of `bash.run`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged, rename_all_fields = "camelCase")]
pub enum RunItem {
    /// Output, in the order in which it was written to its stream.
    Output {
        /// Where the command wrote it.
        stream: RunStream,
        /// Whole characters; what is not UTF-8 is replaced by U+FFFD.
        text: String,
    },
    /// The last item.
    End {
        /// Exit code, unless a signal ended the command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exit_code: Option<i32>,
        /// Number of the signal that ended the command.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signal: Option<i32>,
        /// Whether the command was killed because its time was over.
        timed_out: bool,
        /// How long it ran.
        duration_ms: u64,
        /// Whether output was thrown away because there was too much of it.
        truncated: bool,
    },
}

/// Where a command writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum RunStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The running commands of a spoke.
pub(crate) struct Runs {
    root: Arc<Root>,
    /// Variables that hold the spoke's key: a command has no business with it.
    secret: Vec<OsString>,
    slots: Arc<Semaphore>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

pub(crate) fn offer(spoke: SpokeBuilder, runs: &Arc<Runs>) -> SpokeBuilder {
    let runs = Arc::clone(runs);
    spoke.raw(TOOL.spec::<RunCommand, RunItem>(), move |context: Context, input| {
        let runs = Arc::clone(&runs);
        async move {
            // An abort is confirmed once the command is dead, not when its stream is dropped.
            let items = runs.run(parse(&input)?, context.cleanup())?;
            Ok(Reply::Stream(items.map(|item| encode(&item)).boxed()))
        }
    })
}

impl Runs {
    pub(crate) fn new(root: Arc<Root>, key: &str) -> Self {
        let holds_key = |value: &OsString| !key.is_empty() && value.to_string_lossy().contains(key);
        let secret = std::env::vars_os().filter(|(name, value)| name == "HUB_KEY" || holds_key(value));
        Self {
            secret: secret.map(|(name, _)| name).collect(),
            slots: Arc::new(Semaphore::new(root.limits().runs)),
            root,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Starts a command. Dropping the stream kills it; `until_dead` is dropped after that.
    pub(crate) fn run(
        &self,
        params: RunCommand,
        until_dead: impl Send + 'static,
    ) -> Result<BoxStream<'static, RunItem>, ToolError> {
        let limits = self.root.limits();
        let busy = |_| ToolError::Busy { limit: limits.runs };
        let slot = Arc::clone(&self.slots).try_acquire_owned().map_err(busy)?;
        let cwd = params.cwd.as_deref().filter(|p| !p.is_empty()).unwrap_or(".");
        let cwd = self.root.path().join(self.root.folder(cwd)?);
        let time = params.timeout_ms.map_or(DEFAULT_TIME, Duration::from_millis).min(limits.run_time);
        let stop = self.stop.child_token();
        let (items, queue) = mpsc::channel(QUEUE);
        let job = Job { items, stop: stop.clone(), time, output_bytes: limits.run_output_bytes };
        let mark = group::Mark::new();
        let child = process::spawn(&params, &cwd, &self.secret, &mark)?;
        self.tasks.spawn(async move {
            job.supervise(child, params.stdin, mark).await;
            drop((slot, until_dead));
        });
        // The guard lives as long as the stream: whichever way a call ends, its stream is dropped.
        let state = (queue, stop.drop_guard());
        Ok(unfold(state, |(mut queue, guard)| async move { Some((queue.recv().await?, (queue, guard))) }).boxed())
    }

    pub(crate) async fn shutdown(&self) {
        self.slots.close();
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}
