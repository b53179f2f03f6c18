use diesel::prelude::{AsChangeset, ExpressionMethods, Insertable, Queryable, Selectable};
use hub_protocol::{CallId, HubId, Json};
use uuid::Uuid;

use crate::schema::{call_edges, calls};
use crate::types::{BindDoc, BindId};
use crate::{NewEvent, Stamp};

/// The record of one call.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = calls, treat_none_as_default_value = false)]
pub struct CallRow {
    /// Id of the call (UUIDv7, so it sorts by start).
    #[diesel(serialize_as = BindId)]
    pub call_id: CallId,
    /// The caller's own id of it.
    pub request_id: String,
    /// Hub-wide operation id.
    pub operation_id: String,
    /// Version of the operation.
    pub version: String,
    /// Query, mutation or subscription.
    pub kind: String,
    /// The call that made it.
    #[diesel(serialize_as = BindId)]
    pub parent: Option<CallId>,
    /// First call of its tree; itself for a root.
    #[diesel(serialize_as = BindId)]
    pub root: CallId,
    /// Calls above it.
    pub depth: i32,
    /// Who called.
    pub principal: String,
    /// Spoke that serves it; `None` for the hub's own operations.
    pub spoke: Option<String>,
    /// Hub that took it.
    #[diesel(serialize_as = BindId)]
    pub hub_id: HubId,
    /// `pending`, `running`, `completed`, `failed` or `aborted`.
    pub status: String,
    /// What it was called with; `None` when only size and hash are kept.
    #[diesel(serialize_as = BindDoc)]
    pub input: Option<Json>,
    /// Size of the input in bytes.
    pub input_size: i64,
    /// Hash of the input.
    pub input_hash: Option<String>,
    /// What it answered; `None` when only size and hash are kept.
    #[diesel(serialize_as = BindDoc)]
    pub output: Option<Json>,
    /// Size of the output in bytes.
    pub output_size: i64,
    /// Hash of the output.
    pub output_hash: Option<String>,
    /// Why it failed.
    #[diesel(serialize_as = BindDoc)]
    pub error: Option<Json>,
    /// The caller's idempotency key.
    pub idempotency_key: Option<String>,
    /// When it started.
    pub started_at: Stamp,
    /// When it ended; `None` while it is pending or running.
    pub completed_at: Option<Stamp>,
    /// Times it was sent to a spoke.
    pub attempts: i32,
    /// Items a subscription answered.
    pub items: i64,
    /// Cost in micro-dollars.
    pub cost: i64,
}

/// New values of a call's columns; each overwrites, `None` included.
#[derive(Debug, Clone, PartialEq, Eq, AsChangeset)]
#[diesel(table_name = calls, primary_key(call_id), treat_none_as_null = true)]
pub struct CallUpdate {
    /// The call; an unknown one is passed over.
    #[diesel(serialize_as = BindId)]
    pub call_id: CallId,
    /// `pending`, `running`, `completed`, `failed` or `aborted`.
    pub status: String,
    /// Spoke that serves it.
    pub spoke: Option<String>,
    /// Times it was sent to a spoke.
    pub attempts: i32,
    /// What it answered.
    #[diesel(serialize_as = BindDoc)]
    pub output: Option<Json>,
    /// Size of the output in bytes.
    pub output_size: i64,
    /// Hash of the output.
    pub output_hash: Option<String>,
    /// Why it failed.
    #[diesel(serialize_as = BindDoc)]
    pub error: Option<Json>,
    /// When it ended.
    pub completed_at: Option<Stamp>,
    /// Items a subscription answered.
    pub items: i64,
    /// Cost in micro-dollars.
    pub cost: i64,
}

/// A relation of two calls; writing one again changes nothing.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = call_edges)]
pub struct EdgeRow {
    /// From this call.
    #[diesel(serialize_as = BindId)]
    pub source: CallId,
    /// To this call.
    #[diesel(serialize_as = BindId)]
    pub target: CallId,
    /// `triggered` or `depends_on`.
    pub kind: String,
}

/// How the call under an idempotency key ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedOutcome {
    /// Who called.
    pub principal: String,
    /// What was called.
    pub operation_id: String,
    /// The caller's key; an unknown one is passed over.
    pub key: String,
    /// What a repeat is answered with.
    pub outcome: Json,
}

/// The number of a batch among those of its writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchMark {
    /// Who writes: an id made anew by each process that writes batches one after the other.
    pub writer: Uuid,
    /// Number of the batch: greater than that of the writer's batch before.
    pub number: i64,
}

/// What [`Calls::record`](crate::Calls::record) writes in one transaction, in this order.
#[derive(Debug, Clone, Default)]
pub struct CallBatch {
    /// Tells the batch from all others, so that it is written once however often it is tried.
    pub mark: Option<BatchMark>,
    /// New calls.
    pub started: Vec<CallRow>,
    /// Changes, also of calls in `started`; of several for one call the last counts.
    pub updates: Vec<CallUpdate>,
    /// Relations.
    pub edges: Vec<EdgeRow>,
    /// Ends of calls with idempotency keys.
    pub outcomes: Vec<KeyedOutcome>,
    /// Events, in order.
    pub events: Vec<NewEvent>,
}

/// Which calls to list.
#[derive(Debug, Clone, Default)]
pub struct CallFilter {
    /// Only of this operation.
    pub operation_id: Option<String>,
    /// Only in this status.
    pub status: Option<String>,
    /// Only of this principal.
    pub principal: Option<String>,
    /// Only served by this spoke.
    pub spoke: Option<String>,
    /// Only calls without a parent.
    pub roots: bool,
    /// Only calls whose `request_id` is their id: the tasks of MCP hosts.
    pub tasks: bool,
    /// Only started at this time or later.
    pub since: Option<Stamp>,
    /// Only with an id below this one.
    pub before: Option<CallId>,
    /// Most calls to return.
    pub limit: u32,
}

/// Which calls to export.
#[derive(Debug, Clone, Default)]
pub struct ExportFilter {
    /// Only with an id above this one: the last of the page before.
    pub after: Option<CallId>,
    /// Only of this tree.
    pub root: Option<CallId>,
    /// Only started at this time or later.
    pub since: Option<Stamp>,
    /// Only started before this time.
    pub until: Option<Stamp>,
    /// Only of this principal.
    pub principal: Option<String>,
    /// Most calls to return.
    pub limit: u32,
}

/// Figures of one operation.
#[derive(Debug, Clone, PartialEq)]
pub struct StatRow {
    /// Hub-wide operation id.
    pub operation_id: String,
    /// Calls started.
    pub calls: u64,
    /// Of those, pending or running.
    pub live: u64,
    /// Of those, completed.
    pub completed: u64,
    /// Of those, failed.
    pub failed: u64,
    /// Of those, aborted.
    pub aborted: u64,
    /// Median duration in milliseconds; 0 when none has ended.
    pub p50_ms: f64,
    /// Duration in milliseconds that 99 of 100 stay within.
    pub p99_ms: f64,
    /// Cost in micro-dollars.
    pub cost: i64,
}
