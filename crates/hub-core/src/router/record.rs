use hub_protocol::ops::calls::{CallEventKind, CallStatus};
use hub_protocol::{CallError, CallId, ErrorCode, Json};
use hub_storage::{CallRow, CallUpdate, NewEvent, Stamp};
use serde::{Deserialize, Serialize};

use crate::live::LiveCall;
use crate::redact::Kept;

/// What the event log keeps of a call's event.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Payload {
    pub(crate) call_id: CallId,
    pub(crate) root: CallId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<CallId>,
    pub(crate) operation_id: String,
    pub(crate) principal: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spoke: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) item: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Json>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<CallError>,
}

/// Reads a call event's payload back.
pub(crate) fn payload_of(text: &Json) -> Option<Payload> {
    text.parse().ok()
}

/// How a call ended, as it is recorded.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) status: CallStatus,
    pub(super) output: Kept,
    pub(super) error: Option<CallError>,
    pub(super) items: u64,
    pub(super) at: Stamp,
}

impl LiveCall {
    /// Whether the call leaves a record. Reading the hub's own state changes nothing and would drown the tree.
    pub(super) fn is_recorded(&self, own: bool) -> bool {
        use hub_protocol::OperationType::{Mutation, Query};
        let id = self.definition.id();
        !(own
            && (self.definition.spec().kind == Query
                || id == "hub.heartbeat" && self.definition.spec().kind == Mutation))
    }

    /// The row of a call that has just begun.
    pub(super) fn row(&self, hub: hub_protocol::HubId, status: CallStatus) -> CallRow {
        let spec = self.definition.spec();
        CallRow {
            call_id: self.id,
            request_id: self.request_id.clone(),
            operation_id: self.definition.id().to_owned(),
            version: spec.version.clone(),
            kind: spec.kind.as_str().to_owned(),
            parent: self.parent,
            root: self.root,
            depth: i32::try_from(self.depth).unwrap_or(i32::MAX),
            principal: self.caller.id.clone(),
            spoke: self.spoke().map(|s| s.to_string()),
            hub_id: hub,
            status: status.as_str().to_owned(),
            input: self.input.text.clone(),
            input_size: self.input.size,
            input_hash: self.input.hash.clone(),
            output: None,
            output_size: 0,
            output_hash: None,
            error: None,
            idempotency_key: self.idempotency_key.clone(),
            started_at: self.started_at,
            completed_at: None,
            attempts: self.attempts(),
            items: 0,
            cost: 0,
        }
    }

    /// The update of a call that runs or has ended.
    pub(super) fn update(&self, status: CallStatus, ended: Option<&Ended>) -> CallUpdate {
        let error = ended.and_then(|e| e.error.as_ref());
        CallUpdate {
            call_id: self.id,
            status: status.as_str().to_owned(),
            spoke: self.spoke().map(|s| s.to_string()),
            attempts: self.attempts(),
            output: ended.and_then(|e| e.output.text.clone()),
            output_size: ended.map_or(0, |e| e.output.size),
            output_hash: ended.and_then(|e| e.output.hash.clone()),
            error: error.and_then(|e| Json::from_serialize(&crate::redact::error(e)).ok()),
            completed_at: ended.map(|e| e.at),
            items: ended.map_or(0, |e| i64::try_from(e.items).unwrap_or(i64::MAX)),
            cost: 0,
        }
    }

    /// An event of this call for the log.
    pub(super) fn event(
        &self,
        kind: CallEventKind,
        item: Option<(u64, Option<Json>)>,
        error: Option<&CallError>,
    ) -> NewEvent {
        let (item, data) = item.map_or((None, None), |(n, data)| (Some(n), data));
        let payload = Payload {
            call_id: self.id,
            root: self.root,
            parent: self.parent,
            operation_id: self.definition.id().to_owned(),
            principal: self.caller.id.clone(),
            spoke: self.spoke().map(|s| s.to_string()),
            item,
            data,
            error: error.map(crate::redact::error),
        };
        NewEvent {
            topic: format!("call:{}", self.id),
            kind: kind.as_str().to_owned(),
            at: Stamp::now(),
            payload: Json::from_serialize(&payload).unwrap_or_default(),
            root: Some(self.root),
        }
    }
}

impl Ended {
    /// From what the caller is answered.
    pub(super) fn of(result: &Result<Kept, CallError>, items: u64) -> Self {
        let at = Stamp::now();
        match result {
            Ok(output) => Self { status: CallStatus::Completed, output: output.clone(), error: None, items, at },
            Err(error) => {
                let aborted = error.is(ErrorCode::Aborted);
                let status = if aborted { CallStatus::Aborted } else { CallStatus::Failed };
                Self { status, output: Kept::default(), error: Some(error.clone()), items, at }
            }
        }
    }

    /// The event that tells of it.
    pub(super) fn event_kind(&self) -> CallEventKind {
        match self.status {
            CallStatus::Completed => CallEventKind::Completed,
            CallStatus::Aborted => CallEventKind::Aborted,
            CallStatus::Failed | CallStatus::Pending | CallStatus::Running => CallEventKind::Failed,
        }
    }
}
