use hub_protocol::OperationType;
use hub_protocol::ops::calls::{CallEvent, CallEventKind, CallRecord, CallStatus};
use hub_storage::{CallRow, EventRow, Stamp};

use crate::router::payload_of;

/// A stored row as the wire shows it.
pub(super) fn record(row: CallRow) -> CallRecord {
    CallRecord {
        call_id: row.call_id,
        request_id: row.request_id,
        operation_id: row.operation_id,
        version: row.version,
        kind: match row.kind.as_str() {
            "mutation" => OperationType::Mutation,
            "subscription" => OperationType::Subscription,
            _ => OperationType::Query,
        },
        parent: row.parent,
        root: row.root,
        depth: u32::try_from(row.depth).unwrap_or_default(),
        principal: row.principal,
        spoke: row.spoke,
        hub: row.hub_id,
        status: CallStatus::parse(&row.status).unwrap_or(CallStatus::Failed),
        input: row.input,
        input_size: u64::try_from(row.input_size).unwrap_or_default(),
        input_hash: row.input_hash,
        output: row.output,
        output_size: u64::try_from(row.output_size).unwrap_or_default(),
        output_hash: row.output_hash,
        error: row.error.and_then(|e| e.parse().ok()),
        idempotency_key: row.idempotency_key,
        started_at: row.started_at.millis(),
        completed_at: row.completed_at.map(Stamp::millis),
        attempts: u32::try_from(row.attempts).unwrap_or_default(),
        items: u64::try_from(row.items).unwrap_or_default(),
        cost: row.cost,
    }
}

/// A row of the event log as an event of a call; `None` when it tells of something else.
pub(super) fn event(row: &EventRow) -> Option<CallEvent> {
    if !row.topic.starts_with("call:") {
        return None;
    }
    let kind = match row.kind.as_str() {
        "requested" => CallEventKind::Requested,
        "responded" => CallEventKind::Responded,
        "completed" => CallEventKind::Completed,
        "failed" => CallEventKind::Failed,
        "aborted" => CallEventKind::Aborted,
        _ => return None,
    };
    let payload = payload_of(&row.payload)?;
    Some(CallEvent {
        seq: row.seq,
        at: row.at.millis(),
        kind,
        call_id: payload.call_id,
        root: payload.root,
        parent: payload.parent,
        operation_id: payload.operation_id,
        principal: payload.principal,
        spoke: payload.spoke,
        item: payload.item,
        data: payload.data,
        error: payload.error,
        gap_from: None,
    })
}

/// The notice that events from `from` on are not there; reading goes on behind `seq`.
pub(super) fn gap(seq: u64, from: u64, call_id: hub_protocol::CallId) -> CallEvent {
    CallEvent {
        seq,
        at: Stamp::now().millis(),
        kind: CallEventKind::Gap,
        call_id,
        root: call_id,
        parent: None,
        operation_id: String::new(),
        principal: String::new(),
        spoke: None,
        item: None,
        data: None,
        error: None,
        gap_from: Some(from),
    }
}
