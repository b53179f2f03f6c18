//! The extension `io.modelcontextprotocol/tasks` of 2026-07-28: the server decides what becomes a task.

use std::time::Duration;

use jiff::Timestamp;
use rmcp::model::{
    CallToolResponse, CallToolResult, CreateTaskResult, DetailedTask, GetTaskResult, ProtocolVersion, TaskPayload,
    TaskStatus,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer};
use serde_json::Value;

use super::{Ended, Entry, POLL, State, TTL, Task, Tasks};
use crate::mcp::face::call::{Asked, Asking};
use crate::mcp::host::Host;
use crate::mcp::http::Owner;

/// A call that has answered by then does not become a task.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Whether the request is of a revision with the extension.
pub(in crate::mcp::face) fn speaks(context: &RequestContext<RoleServer>) -> bool {
    context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28)
}

/// Whether the client takes a task for an answer.
pub(in crate::mcp::face) fn takes(context: &RequestContext<RoleServer>) -> bool {
    speaks(context) && context.client_capabilities().is_some_and(|capabilities| capabilities.supports_tasks())
}

impl Tasks {
    /// Makes a call that becomes a task when it lasts.
    pub(in crate::mcp::face) async fn answer<H: Host>(
        &self,
        host: &H,
        owner: Owner,
        asked: Asked,
        context: &RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let entry = Entry::new(owner);
        self.run(host, &entry, asked, Asking::of(context), None);
        let ended = match tokio::time::timeout(AT_ONCE, ended(&entry, context)).await {
            Ok(ended) => ended,
            Err(_) if !context.ct.is_cancelled() && self.table.keep(&entry) => {
                return Ok(CreateTaskResult::new(shape(&entry.task())).into());
            }
            // Given up, or too many run already: answered when it ends.
            Err(_) => ended(&entry, context).await,
        };
        Ok(tool_result(&ended)?.into())
    }
}

/// The end of a call; a cancelled request aborts it.
async fn ended(entry: &Entry, context: &RequestContext<RoleServer>) -> Ended {
    tokio::select! {
        ended = entry.ended() => ended,
        () = context.ct.cancelled() => {
            entry.cancel.cancel();
            entry.ended().await
        }
    }
}

fn tool_result(ended: &Ended) -> Result<CallToolResult, ErrorData> {
    ended
        .result
        .parse()
        .map_err(|error| ErrorData::internal_error(format!("the result is not readable: {error}"), None))
}

/// The answer to `tasks/get`. A call that failed is a result that says so, as without a task.
pub(in crate::mcp::face) fn detailed(task: &Task) -> GetTaskResult {
    let payload = match (&task.ended, task.state()) {
        (None, _) => TaskPayload::Working,
        (_, State::Cancelled) => TaskPayload::Cancelled,
        (Some(ended), _) => match ended.value() {
            Value::Object(result) => TaskPayload::Completed { result },
            _ => TaskPayload::Working,
        },
    };
    GetTaskResult::new(DetailedTask::new(shape(task), payload))
}

fn shape(task: &Task) -> rmcp::model::Task {
    let [started, changed] = [task.started, task.changed()].map(timestamp);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let shape = rmcp::model::Task::new(task.id.to_string(), TaskStatus::Working, started, changed);
    let shape = shape.with_ttl_ms(ms(TTL)).with_poll_interval_ms(ms(POLL));
    match task.ended.as_ref().and_then(|ended| ended.message.clone()) {
        Some(message) => shape.with_status_message(message),
        None => shape,
    }
}

/// ISO 8601.
pub(super) fn timestamp(ms: u64) -> String {
    let at = i64::try_from(ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}
