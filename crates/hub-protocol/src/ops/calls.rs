//! `calls.*`: the call tree (protocol §4).

use schemars::JsonSchema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{operation, wire};
use crate::{CallError, CallId, HubId, Json, OperationType};

/// Where a call stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CallStatus {
    /// Accepted, no provider has it yet.
    Pending,
    /// Handed to its handler.
    Running,
    /// Answered.
    Completed,
    /// Ended with an error.
    Failed,
    /// Given up.
    Aborted,
}

impl CallStatus {
    /// The word on the wire and in the store.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
        }
    }

    /// The status with this word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Pending, Self::Running, Self::Completed, Self::Failed, Self::Aborted]
            .into_iter()
            .find(|s| s.as_str() == text)
    }

    /// Whether nothing more can happen to the call.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Aborted)
    }
}

/// How an abort treats what runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortMode {
    /// Answer the caller now and let callees run.
    Skip,
    /// Tell callees, and answer when they have ended or after a grace.
    Kill,
    /// Tell callees and answer at once.
    #[default]
    KillNowait,
}

/// What an abort did to one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AbortOutcome {
    /// Its handler confirmed that it stopped.
    Stopped,
    /// It ended by itself before the abort reached it.
    AlreadyFinished,
    /// Told, not confirmed (yet, with `kill_nowait`).
    NoAnswer,
}

wire! {
    /// What an abort did to one call.
    #[derive(Eq)]
    pub struct Receipt {
        /// The call.
        call_id: CallId,
        /// What it ran.
        operation_id: String,
        /// Where it ran; absent for operations of the hub.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spoke: Option<String>,
        /// What came of it.
        outcome: AbortOutcome,
        /// Milliseconds from the abort to the outcome.
        after_ms: u64,
    }
    /// One call as it is recorded. Secrets are redacted.
    pub struct CallRecord {
        /// The hub's id.
        call_id: CallId,
        /// The caller's id.
        request_id: String,
        /// Operation, by its hub-wide id.
        operation_id: String,
        /// Version that ran.
        version: String,
        /// Query, mutation or subscription.
        #[serde(rename = "type")]
        kind: OperationType,
        /// The call it was made on behalf of.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        parent: Option<CallId>,
        /// First call of the tree.
        root: CallId,
        /// Distance from the root.
        depth: u32,
        /// Who called.
        principal: String,
        /// Spoke that ran it; absent for operations of the hub.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spoke: Option<String>,
        /// Hub that routed it.
        hub: HubId,
        /// Where it stands.
        status: CallStatus,
        /// Redacted; absent above 64 KiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input: Option<Json>,
        /// Bytes before redaction.
        input_size: u64,
        /// SHA-256 in hex, when the input was too large to keep.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        input_hash: Option<String>,
        /// `data` of the (last) response, redacted; absent above 64 KiB.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Json>,
        /// Bytes before redaction.
        output_size: u64,
        /// SHA-256 in hex, when the output was too large to keep.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output_hash: Option<String>,
        /// Why it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<CallError>,
        /// Idempotency key, if it has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<String>,
        /// When the hub took it.
        started_at: u64,
        /// When it ended.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        completed_at: Option<u64>,
        /// Providers it was given to.
        attempts: u32,
        /// Responses of a subscription.
        items: u64,
        /// Micro-dollars.
        cost: i64,
    }
    /// One call by id.
    pub struct GetCall {
        /// Which.
        call_id: CallId,
    }
    /// Calls by filter, newest first. Without the scope `calls:read` only the caller's own.
    #[derive(Default)]
    pub struct ListCalls {
        /// Exact operation id.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operation_id: Option<String>,
        /// Only this status.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        status: Option<CallStatus>,
        /// Only this caller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        principal: Option<String>,
        /// Only calls that ran on this spoke.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spoke: Option<String>,
        /// Only first calls of trees.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        roots: Option<bool>,
        /// Only tasks of MCP hosts: calls whose `requestId` is their `callId`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tasks: Option<bool>,
        /// Only calls started at or after.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        /// Only calls older than this one: the next page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<CallId>,
        /// Page size, 1 to 1,000; default 50.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 1000))]
        limit: Option<u32>,
    }
    /// A page of calls, newest first.
    pub struct CallPage {
        /// Newest first.
        calls: Vec<CallRecord>,
        /// For the next page's `before`; absent on the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_before: Option<CallId>,
    }
    /// The whole tree that a call belongs to, or the part below it.
    pub struct GetTree {
        /// Any call of the tree.
        call_id: CallId,
        /// Only this call and those below it, not the whole tree.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        below: Option<bool>,
    }
    /// A call tree: parents before children, siblings by start.
    pub struct CallTree {
        /// First call.
        root: CallId,
        /// Parents before children.
        calls: Vec<CallRecord>,
        /// `triggered` and `depends_on` relations.
        edges: Vec<CallEdge>,
    }
    /// A relation between two calls.
    pub struct CallEdge {
        /// From.
        source: CallId,
        /// To.
        target: CallId,
        /// `triggered`: source called target. `depends_on`: source needed target's result.
        #[serde(rename = "type")]
        kind: EdgeKind,
    }
    /// Streams what happens to calls, from the log and then live.
    #[derive(Default)]
    pub struct ObserveCalls {
        /// Only the tree of this call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<CallId>,
        /// Only this operation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operation_id: Option<String>,
        /// Only this caller.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        principal: Option<String>,
        /// Continue after this position; 0 is the beginning; absent is from now on (for a `callId`: the beginning).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// End when the tree of `callId` has ended instead of waiting for more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until_done: Option<bool>,
    }
    /// Aborts a call and all below it.
    pub struct AbortCall {
        /// Which.
        call_id: CallId,
        /// How.
        #[serde(default)]
        mode: AbortMode,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Longest wait for confirmations with `kill`, in milliseconds; default 5,000.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(max = 60000))]
        grace_ms: Option<u64>,
    }
    /// What an abort reached, leaves first.
    pub struct AbortedCall {
        /// One per call that was live, leaves first.
        receipts: Vec<Receipt>,
    }
    /// Plays a recorded call tree back.
    pub struct ReplayCall {
        /// Any call of the tree.
        call_id: CallId,
        /// How.
        #[serde(default)]
        mode: ReplayMode,
        /// For `recorded`: 1.0 is original time, 2.0 twice as fast; absent is as fast as the reader.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        speed: Option<f64>,
    }
    /// Follows the stream of a running or just ended subscription call.
    pub struct AttachCall {
        /// Which.
        call_id: CallId,
        /// Continue after this item number; default 0, the beginning.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    }
    /// Streams call records, oldest first: one line of NDJSON each.
    #[derive(Default)]
    pub struct ExportCalls {
        /// Only the tree of this call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        call_id: Option<CallId>,
        /// Only calls started at or after.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        /// Only calls started before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        until: Option<u64>,
    }
    /// Counts and times per operation.
    #[derive(Default)]
    pub struct GetCallStats {
        /// Only calls started at or after; default the last hour.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        since: Option<u64>,
        /// Only this operation.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operation_id: Option<String>,
    }
    /// Counts and times per operation, busiest first.
    pub struct CallStats {
        /// From when.
        since: u64,
        /// Busiest first.
        operations: Vec<OperationStats>,
    }
    /// Counts and times of one operation.
    pub struct OperationStats {
        /// Operation.
        operation_id: String,
        /// Calls in all.
        calls: u64,
        /// Of them running or pending.
        live: u64,
        /// Of them completed.
        completed: u64,
        /// Of them failed.
        failed: u64,
        /// Of them aborted.
        aborted: u64,
        /// Median duration of ended calls, in milliseconds.
        p50_ms: f64,
        /// 99th percentile, in milliseconds.
        p99_ms: f64,
        /// Micro-dollars.
        cost: i64,
    }
}

/// Relation between two calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum EdgeKind {
    /// Source called target.
    Triggered,
    /// Source needed target's result.
    DependsOn,
}

/// How to replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReplayMode {
    /// Stream the recorded events.
    #[default]
    Recorded,
    /// Run the root again, nested calls answered from the record, and report the first divergence.
    Rerun,
}

/// One item of `calls.observe`, and of `calls.replay` in the mode `recorded`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallEvent {
    /// Position in the event log.
    pub seq: u64,
    /// Milliseconds since the epoch.
    pub at: u64,
    /// What happened.
    #[serde(rename = "type")]
    pub kind: CallEventKind,
    /// To which call.
    pub call_id: CallId,
    /// First call of its tree.
    pub root: CallId,
    /// Its caller, if it is nested.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<CallId>,
    /// What it runs.
    pub operation_id: String,
    /// Who called.
    pub principal: String,
    /// Where it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spoke: Option<String>,
    /// With `responded`: number of the response, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub item: Option<u64>,
    /// With `responded`: the value, redacted, if small enough to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Json>,
    /// With `failed` and `aborted`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<CallError>,
    /// With `gap`: first position that is not there, of those up to `seq`; one above `seq` means that the log ends
    /// there, before the position asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gap_from: Option<u64>,
}

/// What happened to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CallEventKind {
    /// It was accepted.
    Requested,
    /// One item of a subscription.
    Responded,
    /// It ended well.
    Completed,
    /// It ended with an error.
    Failed,
    /// It was given up.
    Aborted,
    /// Events before this one are past retention.
    Gap,
}

impl CallEventKind {
    /// The word on the wire and in the event log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Responded => "responded",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Aborted => "aborted",
            Self::Gap => "gap",
        }
    }
}

/// One item of `calls.replay`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum ReplayItem {
    /// A recorded event.
    Event {
        /// As it was recorded.
        event: CallEvent,
    },
    /// The end of a rerun.
    Rerun {
        /// The new call.
        call_id: CallId,
        /// Whether all nested calls and the result were as recorded.
        same: bool,
        /// First difference.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        divergence: Option<Divergence>,
        /// New result.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        output: Option<Json>,
        /// New failure.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<CallError>,
    },
}

/// Where a rerun left the record.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Divergence {
    /// Number of the nested call, from 1; 0 for the root's result.
    pub position: u64,
    /// What the record has there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recorded: Option<String>,
    /// What the rerun did there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub actual: Option<String>,
    /// For people.
    pub message: String,
}

/// One item of `calls.attach`.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum AttachItem {
    /// One response.
    Item {
        /// Number of the response, from 1.
        item: u64,
        /// Its value.
        data: Json,
    },
    /// Items that are no longer held.
    Gap {
        /// First missing.
        from: u64,
        /// Last missing.
        to: u64,
    },
}

// By hand: serde buffers a tagged enum, and a [`Json`] can't be read out of that buffer.
impl<'de> Deserialize<'de> for ReplayItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Members {
            kind: String,
            event: Option<CallEvent>,
            call_id: Option<CallId>,
            same: Option<bool>,
            divergence: Option<Divergence>,
            output: Option<Json>,
            error: Option<CallError>,
        }
        let Members { kind, event, call_id, same, divergence, output, error } = Members::deserialize(deserializer)?;
        match kind.as_str() {
            "event" => Ok(Self::Event { event: member(event, "event")? }),
            "rerun" => Ok(Self::Rerun {
                call_id: member(call_id, "callId")?,
                same: member(same, "same")?,
                divergence,
                output,
                error,
            }),
            other => Err(D::Error::unknown_variant(other, &["event", "rerun"])),
        }
    }
}

impl<'de> Deserialize<'de> for AttachItem {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Members {
            kind: String,
            item: Option<u64>,
            #[serde(default)]
            data: Json,
            from: Option<u64>,
            to: Option<u64>,
        }
        let Members { kind, item, data, from, to } = Members::deserialize(deserializer)?;
        match kind.as_str() {
            "item" => Ok(Self::Item { item: member(item, "item")?, data }),
            "gap" => Ok(Self::Gap { from: member(from, "from")?, to: member(to, "to")? }),
            other => Err(D::Error::unknown_variant(other, &["item", "gap"])),
        }
    }
}

fn member<T, E: serde::de::Error>(value: Option<T>, name: &'static str) -> Result<T, E> {
    value.ok_or_else(|| E::missing_field(name))
}

operation!(GetCall => CallRecord, "calls.get", Query, [], "Get the record of one call.");
operation!(ListCalls => CallPage, "calls.list", Query, [], "List calls, newest first.");
operation!(GetTree => CallTree, "calls.tree", Query, [], "Get a call tree with its records and edges.");
operation!(ObserveCalls => CallEvent, "calls.observe", Subscription, [],
    "Stream what happens to calls, from a position in the log and then live, without gap or duplicate.");
operation!(AbortCall => AbortedCall, "calls.abort", Mutation, [],
    "Abort a call and everything below it; answers with a receipt per call. Calls of others need the scope calls:abort.");
operation!(ReplayCall => ReplayItem, "calls.replay", Subscription, [],
    "Play a recorded call tree back, or run its root again against the record.");
operation!(AttachCall => AttachItem, "calls.attach", Subscription, [],
    "Follow the stream of a running subscription call from any item on.");
operation!(ExportCalls => CallRecord, "calls.export", Subscription, [],
    "Stream call records, oldest first.");
operation!(GetCallStats => CallStats, "calls.stats", Query, ["calls:read"],
    "Count calls and their outcomes and durations per operation.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_with_values_in_them_read_back() {
        let data: Json = serde_json::json!({ "a": [1, null] }).into();
        for item in [AttachItem::Item { item: 3, data: data.clone() }, AttachItem::Gap { from: 1, to: 2 }] {
            let text = serde_json::to_string(&item).unwrap();
            assert_eq!(serde_json::from_str::<AttachItem>(&text).unwrap(), item, "{text}");
        }
        let id = CallId::new();
        let event = CallEvent {
            seq: 1,
            at: 2,
            kind: CallEventKind::Responded,
            call_id: id,
            root: id,
            parent: None,
            operation_id: "a.b".into(),
            principal: "me".into(),
            spoke: None,
            item: Some(1),
            data: Some(data.clone()),
            error: None,
            gap_from: None,
        };
        let rerun = ReplayItem::Rerun { call_id: id, same: true, divergence: None, output: Some(data), error: None };
        for item in [ReplayItem::Event { event }, rerun] {
            let text = serde_json::to_string(&item).unwrap();
            assert_eq!(serde_json::from_str::<ReplayItem>(&text).unwrap(), item, "{text}");
        }
        for bad in [r#"{"kind":"else"}"#, r#"{"kind":"gap","from":1}"#, "{}"] {
            assert!(serde_json::from_str::<AttachItem>(bad).is_err(), "{bad}");
        }
    }
}
