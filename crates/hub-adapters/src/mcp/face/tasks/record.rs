use hub_operations::now_ms;
use hub_protocol::ops::calls::{CallPage, CallRecord, CallStatus, ListCalls};
use hub_protocol::{CallError, CallId, ErrorCode, Json, OperationType, ResponseEnvelope};
use rmcp::model::CallToolResult;
use serde_json::json;

use super::{Ended, TTL, Task};
use crate::mcp::face::call;
use crate::mcp::face::result::{self, Collected};
use crate::mcp::host::{Host, HostCall};
use crate::mcp::http::Owner;

/// Tasks in a page.
const PAGE: u32 = 100;

/// The owner's task, by the record of its call.
pub(super) async fn task<H: Host>(host: &H, owner: &Owner, id: CallId) -> Option<Task> {
    let input = Json::from(json!({ "callId": id }));
    let get = HostCall { operation_id: "calls.get".to_owned(), input, ..HostCall::default() };
    let record: CallRecord = call::data(host, get).await.ok()?.parse().ok()?;
    // The caller may see calls of others too, and has made calls that are no tasks.
    let its = record.principal == owner.0 && record.request_id == id.to_string();
    its.then(|| Task { id, started: record.started_at, ended: ended(record) })
}

/// A page of the owner's tasks, newest first, by the records of their calls; and where the next one begins.
pub(super) async fn page<H: Host>(
    host: &H,
    owner: &Owner,
    before: Option<CallId>,
) -> Result<(Vec<Task>, Option<CallId>), CallError> {
    let since = now_ms().saturating_sub(u64::try_from(TTL.as_millis()).unwrap_or(u64::MAX));
    let list = ListCalls {
        principal: Some(owner.0.clone()),
        tasks: Some(true),
        since: Some(since),
        before,
        limit: Some(PAGE),
        ..ListCalls::default()
    };
    let input = Json::from_serialize(&list).unwrap_or_default();
    let list = HostCall { operation_id: "calls.list".to_owned(), input, ..HostCall::default() };
    let unreadable = |_| CallError::new(ErrorCode::ExecutionError, "the response is not readable");
    let page: CallPage = call::data(host, list).await?.parse().map_err(unreadable)?;
    let tasks = page.calls.into_iter().map(|record| Task {
        id: record.call_id,
        started: record.started_at,
        ended: ended(record),
    });
    Ok((tasks.collect(), page.next_before))
}

fn ended(record: CallRecord) -> Option<Ended> {
    let at = record.completed_at.filter(|_| record.status.is_final())?;
    let call_id = record.call_id.to_string();
    let result = answer(record, at).unwrap_or_else(|error| result::failed(&error, Some(&call_id), None));
    Some(Ended::of(&result, at))
}

fn answer(record: CallRecord, at: u64) -> Result<CallToolResult, CallError> {
    let call_id = record.call_id.to_string();
    if record.status != CallStatus::Completed {
        let code = if record.status == CallStatus::Aborted { ErrorCode::Aborted } else { ErrorCode::UnknownError };
        return Err(record.error.unwrap_or_else(|| CallError::new(code, "the call did not end well")));
    }
    if record.kind == OperationType::Subscription {
        let items = record.output.and_then(|last| last.parse().ok()).into_iter().collect();
        let stopped = format!("of {} items only the last is in the call's record", record.items);
        return Ok(result::collected(Collected { items, stopped: Some(stopped) }, Some(&call_id)));
    }
    let Some(output) = record.output else {
        let lost =
            format!("the call completed; its output of {} bytes is too large for its record", record.output_size);
        return Err(CallError::new(ErrorCode::PayloadTooLarge, lost));
    };
    let envelope = ResponseEnvelope::local(&record.operation_id, at, output);
    result::answered(&envelope.to_json(), Some(&call_id), false)
}
