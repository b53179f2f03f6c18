//! Tool calls that outlive the request that made them.
//!
//! A task is a call of the hub, and its id is the call's. What it answered is kept here while there is room, and read
//! from the call's record otherwise: by another hub, or after a restart.

pub(super) mod extension;
pub(in crate::mcp) mod first;
mod record;
mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hub_operations::now_ms;
use hub_protocol::{CallError, CallId, ErrorCode, Json};
use rmcp::model::CallToolResult;
use rmcp::service::Peer;
use rmcp::{ErrorData, RoleServer};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::call::{self, Asked, Asking, CANCELLED};
use super::result;
use crate::mcp::host::{Host, HostCall};
use crate::mcp::http::Owner;
use table::Table;

/// How long a task is known from its beginning, which is also the most time that its call gets.
pub(super) const TTL: Duration = Duration::from_secs(24 * 3600);

/// Time of a task's call when the caller does not say.
const USUAL: Duration = Duration::from_secs(3600);

/// How often a client should ask, and how often a record is looked at by who waits for it.
const POLL: Duration = Duration::from_secs(1);

/// How long a cancelled call is waited for.
const CANCELLING: Duration = Duration::from_secs(2);

/// Characters of a failure in a task's status.
const MESSAGE: usize = 200;

/// The tasks of one hub process.
#[derive(Clone)]
pub(in crate::mcp) struct Tasks {
    table: Arc<Table>,
    running: TaskTracker,
}

/// A task that runs or ran here.
pub(super) struct Entry {
    id: CallId,
    owner: Owner,
    started: u64,
    cancel: CancellationToken,
    ended: watch::Sender<Option<Ended>>,
}

/// A task as it stands.
pub(super) struct Task {
    pub(super) id: CallId,
    /// Milliseconds since the epoch.
    pub(super) started: u64,
    pub(super) ended: Option<Ended>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Working,
    Completed,
    Failed,
    Cancelled,
}

/// What a task has come to.
#[derive(Clone)]
pub(super) struct Ended {
    pub(super) at: u64,
    state: State,
    /// Why it failed, in a line.
    pub(super) message: Option<String>,
    /// The tool's result.
    pub(super) result: Json,
}

impl Ended {
    fn of(result: &CallToolResult, at: u64) -> Self {
        let failed = result.is_error == Some(true);
        let words = result.content.iter().find_map(|block| block.as_text()).filter(|_| failed);
        let code = result.structured_content.as_ref().and_then(|value| value.get("code")?.as_str());
        // Tools of their own say it in words alone.
        let code = code.or_else(|| words?.text.split_once(": ").map(|(code, _)| code));
        let state = match code {
            _ if !failed => State::Completed,
            Some(code) if code == ErrorCode::Aborted.as_str() => State::Cancelled,
            _ => State::Failed,
        };
        let message = words.and_then(|words| Some(words.text.lines().next()?.chars().take(MESSAGE).collect()));
        Self { at, state, message, result: Json::from_serialize(result).unwrap_or_default() }
    }

    pub(super) fn value(&self) -> Value {
        self.result.parse().unwrap_or_default()
    }
}

impl Task {
    pub(super) fn state(&self) -> State {
        self.ended.as_ref().map_or(State::Working, |ended| ended.state)
    }

    /// When it last changed, in milliseconds since the epoch.
    pub(super) fn changed(&self) -> u64 {
        self.ended.as_ref().map_or(self.started, |ended| ended.at)
    }
}

impl Entry {
    fn new(owner: Owner) -> Arc<Self> {
        let (id, cancel, ended) = (CallId::new(), CancellationToken::new(), watch::Sender::default());
        Arc::new(Self { id, owner, started: now_ms(), cancel, ended })
    }

    fn task(&self) -> Task {
        Task { id: self.id, started: self.started, ended: self.ended.borrow().clone() }
    }

    /// Ends the task, unless it has ended.
    fn end(&self, result: &CallToolResult) {
        self.ended.send_if_modified(|ended| {
            let first = ended.is_none();
            ended.get_or_insert_with(|| Ended::of(result, now_ms()));
            first
        });
    }

    async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        loop {
            if let Some(ended) = ended.borrow_and_update().clone() {
                return ended;
            }
            // It does not fail: the sender is in `self`.
            let _changed = ended.changed().await;
        }
    }
}

impl Tasks {
    pub(in crate::mcp) fn new(running: TaskTracker) -> Self {
        Self { table: Arc::default(), running }
    }

    /// Makes the call of a task, in the background. `told` hears of its end.
    fn run<H: Host>(
        &self,
        host: &H,
        entry: &Arc<Entry>,
        asked: Asked,
        mut asking: Asking,
        told: Option<Peer<RoleServer>>,
    ) {
        let (host, entry, table) = (host.clone(), Arc::clone(entry), Arc::clone(&self.table));
        let asked = asked.for_task(entry.id, USUAL, TTL);
        asking.cancelled = entry.cancel.clone();
        self.running.spawn(async move {
            entry.end(&call::run(&host, asked, asking).await);
            table.make_room();
            if let Some(peer) = told {
                // Whoever has gone asks when it is back.
                let _gone = peer.send_notification(first::status_notification(&entry.task())).await;
            }
        });
    }

    /// The caller's task; others' do not exist.
    pub(super) async fn find<H: Host>(&self, host: &H, owner: &Owner, id: &str) -> Result<Task, ErrorData> {
        let unknown = || ErrorData::invalid_params("unknown task: it is not yours, or its time is over", None);
        let id: CallId = id.parse().map_err(|_| unknown())?;
        let task = match self.table.get(id) {
            Some(entry) => Some(entry.task()).filter(|_| entry.owner == *owner),
            None => record::task(host, owner, id).await,
        };
        task.filter(|task| !is_over(task.started)).ok_or_else(unknown)
    }

    /// A page of the caller's tasks, newest first, and where the next one begins: those of all hubs by their records, and
    /// those of this one as they stand, which may have no record (yet).
    async fn page<H: Host>(
        &self,
        host: &H,
        owner: &Owner,
        before: Option<CallId>,
    ) -> Result<(Vec<Task>, Option<CallId>), ErrorData> {
        let failed = |error: CallError| ErrorData::internal_error(error.message, None);
        let (recorded, next) = record::page(host, owner, before).await.map_err(failed)?;
        let here = self.table.list(owner).into_iter();
        let here = here.filter(|task| before.is_none_or(|before| task.id < before));
        let here = here.filter(|task| next.is_none_or(|next| task.id >= next));
        let mut tasks: BTreeMap<CallId, Task> = recorded.into_iter().map(|task| (task.id, task)).collect();
        tasks.extend(here.map(|task| (task.id, task)));
        Ok((tasks.into_values().rev().collect(), next))
    }

    /// The caller's task once it has ended; `None` when the request was cancelled before.
    async fn wait<H: Host>(
        &self,
        host: &H,
        owner: &Owner,
        id: &str,
        cancelled: &CancellationToken,
    ) -> Result<Option<(Task, Ended)>, ErrorData> {
        loop {
            let task = self.find(host, owner, id).await?;
            if let Some(ended) = task.ended.clone() {
                return Ok(Some((task, ended)));
            }
            let entry = self.table.get(task.id);
            let moves = async {
                match entry {
                    Some(entry) => drop(entry.ended().await),
                    None => tokio::time::sleep(POLL).await,
                }
            };
            tokio::select! {
                () = moves => {}
                () = cancelled.cancelled() => return Ok(None),
            }
        }
    }

    /// Aborts the call of a caller's task and all below it; answers how it then stands.
    pub(super) async fn cancel<H: Host>(&self, host: &H, owner: &Owner, task: Task) -> Result<Task, ErrorData> {
        let id = task.id;
        match self.table.get(id) {
            _ if task.ended.is_some() => return Ok(task),
            Some(entry) => {
                entry.cancel.cancel();
                if tokio::time::timeout(CANCELLING, entry.ended()).await.is_err() {
                    let error = CallError::new(ErrorCode::Aborted, CANCELLED);
                    entry.end(&result::failed(&error, Some(&id.to_string()), None));
                }
            }
            None => {
                let input = Json::from(json!({ "callId": id, "mode": "kill", "reason": CANCELLED }));
                let abort = HostCall { operation_id: "calls.abort".to_owned(), input, ..HostCall::default() };
                let failed = |error: CallError| ErrorData::internal_error(error.message, None);
                call::data(host, abort).await.map_err(failed)?;
            }
        }
        self.find(host, owner, &id.to_string()).await
    }
}

fn is_over(started: u64) -> bool {
    started.saturating_add(u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX)) <= now_ms()
}

#[cfg(test)]
mod tests {
    use rmcp::model::ContentBlock;

    use super::*;

    #[test]
    fn what_was_aborted_is_cancelled_however_it_is_told() {
        let told = |text: &str| CallToolResult::error(vec![ContentBlock::text(text)]);
        assert!(Ended::of(&told("ABORTED: by its host"), 1).state == State::Cancelled);
        assert!(Ended::of(&told("EXECUTION_ERROR: ABORTED: no"), 1).state == State::Failed);
        assert!(Ended::of(&told("ABORTED"), 1).state == State::Failed);
        let ended = CallToolResult::success(vec![ContentBlock::text("ABORTED: says a tool that succeeds")]);
        assert!(Ended::of(&ended, 1).state == State::Completed);
    }
}
