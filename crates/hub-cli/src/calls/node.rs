//! A call as pictures of calls need it, from its record or from its events.

use hub_protocol::CallId;
use hub_protocol::ops::calls::{CallEvent, CallEventKind, CallRecord, CallStatus};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) id: CallId,
    pub(super) parent: Option<CallId>,
    pub(super) operation: String,
    pub(super) spoke: Option<String>,
    pub(super) status: CallStatus,
    pub(super) started_at: u64,
    pub(super) ended_at: Option<u64>,
    /// Code of its error.
    pub(super) code: Option<String>,
    pub(super) items: u64,
}

impl Node {
    pub(super) fn of(record: &CallRecord) -> Self {
        Self {
            id: record.call_id,
            parent: record.parent,
            operation: record.operation_id.clone(),
            spoke: record.spoke.clone(),
            status: record.status,
            started_at: record.started_at,
            ended_at: record.completed_at,
            code: record.error.as_ref().map(|error| error.code.clone()),
            items: record.items,
        }
    }

    /// A call that an event is the first to tell of.
    pub(super) fn begin(event: &CallEvent) -> Self {
        Self {
            id: event.call_id,
            parent: event.parent,
            operation: event.operation_id.clone(),
            spoke: event.spoke.clone(),
            status: CallStatus::Running,
            started_at: event.at,
            ended_at: None,
            code: None,
            items: 0,
        }
    }

    pub(super) fn note(&mut self, event: &CallEvent) {
        let end = match event.kind {
            CallEventKind::Responded => {
                self.items = event.item.unwrap_or(self.items + 1);
                return;
            }
            CallEventKind::Requested | CallEventKind::Gap => return,
            CallEventKind::Completed => CallStatus::Completed,
            CallEventKind::Failed => CallStatus::Failed,
            CallEventKind::Aborted => CallStatus::Aborted,
        };
        self.status = end;
        self.ended_at = Some(event.at);
        self.code = event.error.as_ref().map(|error| error.code.clone());
        if event.spoke.is_some() {
            self.spoke.clone_from(&event.spoke);
        }
    }

    pub(super) fn duration(&self, now: u64) -> u64 {
        self.ended_at.unwrap_or(now).saturating_sub(self.started_at)
    }

    /// What the status alone does not say: the code of a failure.
    pub(super) fn detail(&self) -> &str {
        match (&self.code, self.status) {
            // An aborted call's code is that it was aborted.
            (Some(code), CallStatus::Failed) => code,
            _ => "",
        }
    }
}
