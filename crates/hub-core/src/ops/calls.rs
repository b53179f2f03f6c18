mod convert;
mod observe;
mod replay;

use futures_util::stream::{self, BoxStream, Stream, StreamExt};
use hub_operations::RegistryBuilder;
use hub_protocol::ops::calls::{
    AbortCall, AbortedCall, AttachCall, AttachItem, CallEdge, CallPage, CallRecord, CallStats, CallTree, EdgeKind,
    ExportCalls, GetCall, GetCallStats, GetTree, ListCalls, OperationStats,
};
use hub_protocol::{CallError, CallId, ResponseEnvelope};
use hub_storage::{CallFilter, CallRow, ExportFilter, Stamp, StatRow};
use serde_json::json;

use crate::abort::{self, Abort};
use crate::ctx::Ctx;
use crate::hub::Hub;
use crate::live::Next;
use crate::ops::audit;
use crate::{CoreError, Principal};

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder
        .operation(get)
        .operation(list)
        .operation(tree)
        .subscription(observe::observe)
        .operation(abort_call)
        .subscription(replay::replay)
        .subscription(attach)
        .subscription(export)
        .operation(stats)
}

/// Scope to see calls of others.
const READ: &str = "calls:read";

/// Scope to abort calls of others.
const ABORT: &str = "calls:abort";

/// Rows read at once by an export.
const PAGE: u32 = 500;

/// How far back statistics go unless told otherwise, in milliseconds.
const STATS_MS: u64 = 3_600_000;

async fn get(ctx: Ctx, params: GetCall) -> Result<CallRecord, CallError> {
    Ok(convert::record(visible_row(&ctx, params.call_id).await?))
}

/// The row of a call that the caller may see: its own, or one in a tree that it started. All others do not exist.
async fn visible_row(ctx: &Ctx, id: CallId) -> Result<CallRow, CoreError> {
    let missing = CoreError::NotFound { what: "call" };
    let Some(row) = ctx.hub().store().calls().get(id).await? else { return Err(missing) };
    let me = &ctx.caller().id;
    if ctx.caller().has_scope(READ) || row.principal == *me {
        return Ok(row);
    }
    let root = if row.root == id { None } else { ctx.hub().store().calls().get(row.root).await? };
    if root.is_some_and(|r| r.principal == *me) { Ok(row) } else { Err(missing) }
}

async fn list(ctx: Ctx, params: ListCalls) -> Result<CallPage, CallError> {
    let limit = params.limit.unwrap_or(50);
    let filter = CallFilter {
        operation_id: params.operation_id,
        status: params.status.map(|s| s.as_str().to_owned()),
        principal: own_only(&ctx, params.principal)?,
        spoke: params.spoke,
        roots: params.roots == Some(true),
        tasks: params.tasks == Some(true),
        since: params.since.map(Stamp::from_millis),
        before: params.before,
        limit,
    };
    let rows = ctx.hub().store().calls().list(filter).await.map_err(CoreError::from)?;
    let next_before = rows.last().filter(|_| rows.len() == limit as usize).map(|r| r.call_id);
    Ok(CallPage { calls: rows.into_iter().map(convert::record).collect(), next_before })
}

/// Whose calls a list may show.
fn own_only(ctx: &Ctx, asked: Option<String>) -> Result<Option<String>, CoreError> {
    let me = &ctx.caller().id;
    match asked {
        asked if ctx.caller().has_scope(READ) => Ok(asked),
        Some(other) if other != *me => Err(CoreError::Denied(format!("seeing calls of others needs the scope {READ}"))),
        _ => Ok(Some(me.clone())),
    }
}

async fn tree(ctx: Ctx, params: GetTree) -> Result<CallTree, CallError> {
    let row = visible_row(&ctx, params.call_id).await?;
    let (mut calls, edges) = ctx.hub().store().calls().tree(row.root).await.map_err(CoreError::from)?;
    let me = ctx.caller().id.clone();
    let all = ctx.caller().has_scope(READ) || calls.first().is_some_and(|c| c.principal == me);
    if params.below == Some(true) || !all {
        keep_below(&mut calls, params.call_id);
    }
    let kept: std::collections::HashSet<CallId> = calls.iter().map(|c| c.call_id).collect();
    let edge = |e: hub_storage::EdgeRow| CallEdge {
        source: e.source,
        target: e.target,
        kind: if e.kind == "depends_on" { EdgeKind::DependsOn } else { EdgeKind::Triggered },
    };
    // What a call depends on is by its nature in another tree, and of the same caller.
    let shown = |e: &hub_storage::EdgeRow| {
        let ends = (kept.contains(&e.source), kept.contains(&e.target));
        if e.kind == "depends_on" { ends.0 || ends.1 } else { ends.0 && ends.1 }
    };
    let edges = edges.into_iter().filter(shown).map(edge).collect();
    Ok(CallTree { root: row.root, calls: calls.into_iter().map(convert::record).collect(), edges })
}

/// Keeps a call and what is below it; rows come with parents before children.
fn keep_below(calls: &mut Vec<CallRow>, top: CallId) {
    let mut kept = std::collections::HashSet::from([top]);
    calls.retain(|c| {
        let keep = c.call_id == top || c.parent.is_some_and(|p| kept.contains(&p));
        keep && {
            kept.insert(c.call_id);
            true
        }
    });
}

async fn abort_call(ctx: Ctx, params: AbortCall) -> Result<AbortedCall, CallError> {
    let Some(live) = ctx.hub().calls().get(params.call_id) else {
        return abort_elsewhere(&ctx, params).await;
    };
    let me = &ctx.caller().id;
    let own = live.caller.id == *me || live.caller.chain.contains(me);
    if !own && !ctx.caller().has_scope(ABORT) {
        return Err(CoreError::NotFound { what: "call" }.into());
    }
    if !own {
        note_abort(&ctx, &params, live.definition.id(), &live.caller.id).await?;
    }
    let id = params.call_id;
    Ok(AbortedCall { receipts: abort::tree(ctx.hub().calls(), id, plan_of(params)).await })
}

/// Notes that somebody aborts the call of another.
async fn note_abort(ctx: &Ctx, params: &AbortCall, operation: &str, principal: &str) -> Result<(), CoreError> {
    let actor = Principal { identity: ctx.as_caller().identity.clone(), key: ctx.as_caller().key.clone() };
    let details = json!({ "operationId": operation, "principal": principal, "reason": params.reason });
    audit::note(ctx.hub(), &actor, "calls.abort", &params.call_id.to_string(), details).await
}

fn plan_of(params: AbortCall) -> Abort {
    let grace = params.grace_ms.map_or(abort::GRACE, std::time::Duration::from_millis);
    Abort { mode: params.mode, reason: params.reason, grace }
}

/// Aborts a call that does not run here: it has ended, or it runs on another hub.
async fn abort_elsewhere(ctx: &Ctx, params: AbortCall) -> Result<AbortedCall, CallError> {
    // Ended calls have nothing to abort; unknown ones do not exist.
    let row = visible_row(ctx, params.call_id).await?;
    let Some((home, cluster)) = home_of(ctx, &row).zip(ctx.hub().cluster()) else {
        return Ok(AbortedCall { receipts: Vec::new() });
    };
    let me = &ctx.caller().id;
    let own = row.principal == *me || row.root != row.call_id && visible_root(ctx, &row).await?;
    if !own && !ctx.caller().has_scope(ABORT) {
        return Err(CoreError::NotFound { what: "call" }.into());
    }
    if !own {
        note_abort(ctx, &params, &row.operation_id, &row.principal).await?;
    }
    Ok(AbortedCall { receipts: cluster.abort(home, row.call_id, plan_of(params)).await? })
}

/// Whether the caller is the root caller of the call's tree.
async fn visible_root(ctx: &Ctx, row: &CallRow) -> Result<bool, CoreError> {
    let root = ctx.hub().store().calls().get(row.root).await?;
    Ok(root.is_some_and(|root| root.principal == ctx.caller().id))
}

/// The other hub that runs a call, by its record.
fn home_of(ctx: &Ctx, row: &CallRow) -> Option<hub_protocol::HubId> {
    (row.completed_at.is_none() && row.hub_id != ctx.hub().id()).then_some(row.hub_id)
}

async fn attach(ctx: Ctx, params: AttachCall) -> Result<BoxStream<'static, Result<AttachItem, CallError>>, CallError> {
    let after = params.after.unwrap_or(0);
    let Some(live) = ctx.hub().attachable(params.call_id) else {
        let missing = CoreError::NotFound { what: "running stream" };
        let cluster = ctx.hub().cluster().ok_or(missing)?;
        let row = visible_row(&ctx, params.call_id).await?;
        // Also of an ended call: its hub may still hold its stream.
        return cluster.attach(row.hub_id, row.call_id, after).await;
    };
    let own = live.caller.id == ctx.caller().id || live.caller.chain.contains(&ctx.caller().id);
    if !own && !ctx.caller().has_scope(READ) {
        return Err(CoreError::NotFound { what: "running stream" }.into());
    }
    held_items(ctx.hub(), params.call_id, after)
}

/// The stream of a call of this hub from an item on; rights have been checked.
pub(crate) fn held_items(
    hub: &Hub,
    call_id: CallId,
    after: u64,
) -> Result<BoxStream<'static, Result<AttachItem, CallError>>, CallError> {
    let live = hub.attachable(call_id).ok_or(CoreError::NotFound { what: "running stream" })?;
    let items = stream::unfold((live, after), |(live, after)| async move {
        loop {
            match live.held.after(after) {
                Next::Item(item, envelope) => {
                    let data = ResponseEnvelope::data_of(&envelope).unwrap_or_default();
                    return Some((Ok(AttachItem::Item { item, data }), (live, item)));
                }
                Next::Gap(from, to) => return Some((Ok(AttachItem::Gap { from, to }), (live, to))),
                Next::Wait => live.held.more(after).await,
                Next::End => return None,
            }
        }
    });
    Ok(items.boxed())
}

async fn export(
    ctx: Ctx,
    params: ExportCalls,
) -> Result<impl Stream<Item = Result<CallRecord, CallError>> + Send + 'static, CallError> {
    let root = match params.call_id {
        Some(id) => Some(visible_row(&ctx, id).await?.root),
        None => None,
    };
    let filter = ExportFilter {
        after: None,
        root,
        since: params.since.map(Stamp::from_millis),
        until: params.until.map(Stamp::from_millis),
        principal: own_only(&ctx, None)?,
        limit: PAGE,
    };
    let pages = stream::try_unfold(Some(filter), move |filter| {
        let ctx = ctx.clone();
        async move {
            let Some(filter) = filter else { return Ok(None) };
            let rows = ctx.hub().store().calls().export(filter.clone()).await.map_err(CoreError::from)?;
            let more = rows.len() == PAGE as usize;
            let next = rows.last().filter(|_| more).map(|r| ExportFilter { after: Some(r.call_id), ..filter });
            let records: Vec<Result<CallRecord, CallError>> =
                rows.into_iter().map(|r| Ok(convert::record(r))).collect();
            Ok::<_, CallError>(Some((stream::iter(records), next)))
        }
    });
    Ok(futures_util::TryStreamExt::try_flatten(pages))
}

async fn stats(ctx: Ctx, params: GetCallStats) -> Result<CallStats, CallError> {
    let since = params.since.unwrap_or_else(|| Stamp::now().millis().saturating_sub(STATS_MS));
    let rows = ctx.hub().store().calls().stats(Stamp::from_millis(since), params.operation_id).await;
    let row = |r: StatRow| OperationStats {
        operation_id: r.operation_id,
        calls: r.calls,
        live: r.live,
        completed: r.completed,
        failed: r.failed,
        aborted: r.aborted,
        p50_ms: r.p50_ms,
        p99_ms: r.p99_ms,
        cost: r.cost,
    };
    let mut operations: Vec<OperationStats> = rows.map_err(CoreError::from)?.into_iter().map(row).collect();
    operations.sort_by(|a, b| b.calls.cmp(&a.calls).then_with(|| a.operation_id.cmp(&b.operation_id)));
    Ok(CallStats { since, operations })
}
