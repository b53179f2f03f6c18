use hub_protocol::ops::calls::{CallRecord, CallStatus};
use hub_protocol::{CallError, CallId, ErrorCode, Json, OperationType, ResponseEnvelope};
use rmcp::model::CallToolResult;
use serde_json::json;

use super::{Ended, Task};
use crate::mcp::face::call;
use crate::mcp::face::result::{self, Collected};
use crate::mcp::host::{Host, HostCall};
use crate::mcp::http::Owner;

/// The owner's task, by the record of its call.
pub(super) async fn task<H: Host>(host: &H, owner: &Owner, id: CallId) -> Option<Task> {
    let input = Json::from(json!({ "callId": id }));
    let get = HostCall { operation_id: "calls.get".to_owned(), input, ..HostCall::default() };
    let record: CallRecord = call::data(host, get).await.ok()?.parse().ok()?;
    // The caller may see calls of others too, and has made calls that are no tasks.
    let its = record.principal == owner.0 && record.request_id == id.to_string();
    its.then(|| Task { id, started: record.started_at, ended: ended(record) })
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
