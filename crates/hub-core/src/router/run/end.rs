//! The end of a call: into the record, out of the tree, once.

use std::time::Duration;

use hub_operations::until;
use hub_protocol::ops::calls::{AbortOutcome, CallEventKind};
use hub_protocol::{CallError, ErrorCode, Json, OperationType};

use super::{Run, Source};
use crate::error::put_off;
use crate::live::LiveCall;
use crate::recorder::Change;
use crate::redact::Kept;
use crate::router::record::Ended;

/// How long the record of a call may take that ends just before its deadline.
const RECORD: Duration = Duration::from_secs(1);

/// How long anybody waits for a store that is away.
const AWAY: Duration = Duration::from_secs(5);

impl Run {
    /// Ends the call once: out of the tree, into the record.
    pub(super) async fn finish(&mut self, result: Result<(Json, Kept), CallError>, outcome: AbortOutcome) {
        if std::mem::replace(&mut self.finished, true) {
            return;
        }
        self.source = Source::Ended;
        let keyed = self.key.take();
        let for_key = result.as_ref().map(|(envelope, _)| envelope.clone()).map_err(Clone::clone);
        let kept = result.map(|(_, kept)| kept);
        let stored = keyed.as_deref().map(|key| (key.to_owned(), self.keyed_outcome(key, &for_key)));
        let ended = Ended::of(&kept, self.items);
        metrics::counter!("hub_calls_total", "status" => ended.status.as_str()).increment(1);
        if let (Some((_, None)), Err(error)) = (&stored, &for_key) {
            self.live.failed(error.clone());
        }
        // In a box, see `Hub::call`.
        Box::pin(self.write_end(ended, stored)).await;
        if self.orphaned {
            self.hub.keep_detached(&self.live, self.terms.on_disconnect);
        }
        self.hub.calls().remove(self.live.id);
        self.live.ended(outcome);
    }

    async fn write_end(&mut self, ended: Ended, stored: Option<(String, Option<hub_storage::KeyedOutcome>)>) {
        // One that a spoke may have begun keeps its key, so that a retry finds out which spoke to ask.
        if let (Some((key, None)), None) = (&stored, self.live.spoke()) {
            let (principal, operation) = (&self.live.caller.id, self.live.definition.id());
            if let Err(error) = self.hub.store().idempotency().release(principal, operation, key, self.live.id).await {
                put_off(&error.into(), "an idempotency key was not released");
            }
        }
        if !self.recording.is_on() {
            return;
        }
        let live = &self.live;
        if self.recording.claim_start() {
            // It ended before any handler had it.
            let row = Box::new(live.row(self.hub.id(), hub_protocol::ops::calls::CallStatus::Pending));
            let start = Change::Started(row, live.event(CallEventKind::Requested, None, None));
            if self.hub.recorder().write(start).await.is_err() {
                return;
            }
        }
        let event = live.event(ended.event_kind(), None, ended.error.as_ref());
        let update = Box::new(live.update(ended.status, Some(&ended)));
        let keyed = stored.is_some();
        let change = Change::Moved(update, Some(event), stored.and_then(|(_, outcome)| outcome).map(Box::new));
        // What acknowledges an effect is stored before it is said.
        let acknowledges = keyed || self.kind() == OperationType::Mutation;
        let written = if acknowledges {
            // Nobody hangs on a store that is away: its caller is told that nothing is known.
            let patience = live.deadline.map_or(AWAY, until).clamp(RECORD, AWAY);
            match self.hub.recorder().committed_within(change, patience, self.hub.tasks()).await {
                Some(written) => written,
                None => {
                    self.unrecorded = true;
                    return;
                }
            }
        } else {
            self.hub.recorder().write(change).await
        };
        if written.is_err() {
            tracing::warn!(call.id = %live.id, "the end of a call was not recorded: the hub is closing");
        }
    }
}

/// The call has run, and may be told of only when that is stored. With a key it is safe to ask again.
pub(super) fn unrecorded(live: &LiveCall) -> CallError {
    let keyed = live.idempotency_key.is_some();
    let code = if keyed { ErrorCode::Overloaded } else { ErrorCode::ExecutionError };
    CallError::new(code, "the call has ended, but the hub can't reach its store to record it")
        .with_retryable(keyed)
        .with_details(&serde_json::json!({ "callId": live.id }))
}
