use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{Stream, unfold};
use hub_operations::{Definition, RegistryBuilder, Reply, access};
use hub_protocol::ops::Operation;
use hub_protocol::ops::hub::{
    CallOperation, CallerIdentity, DrainSpoke, DrainingSpoke, FoundOperations, GetSchemas, GetStatus, HeartbeatSeen,
    HubStatus, ListOperations, ListSpokes, OperationItem, OperationPage, RegisterSpoke, RegisteredSpoke, Schemas,
    SearchOperations, SpokeHeartbeat, SpokeItem, SpokeStatus, Spokes, ToolOperation, ToolOperations,
    UnregisterOperations, UnregisteredOperations, UpdateOperations, UpdatedOperations, WatchTools, WhoAmI,
};
use hub_protocol::{AccessControl, CallError, CallId, CallRequested, Json, OperationSpec, SpokeId};
use hub_storage::{RegistrationRow, SpokeRow, Stamp};

use super::clients::actor;
use crate::ctx::Ctx;
use crate::directory::{SpokeConnection, is_below, item_of};
use crate::{CoreError, Tool};

/// About as many bytes has a page of operations, so that it fits a message however it is escaped.
const PAGE_BYTES: usize = 512 * 1024;

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder
        .operation(register_spoke)
        .operation(unregister)
        .operation(update)
        .operation(drain)
        .operation(heartbeat)
        .operation(list)
        .operation(search)
        .operation(schema)
        .subscription(tools)
        .raw(CallOperation::spec(), call)
        .operation(spokes)
        .operation(status)
        .operation(whoami)
}

async fn register_spoke(ctx: Ctx, params: RegisterSpoke) -> Result<RegisteredSpoke, CallError> {
    let session = ctx.session().ok_or(CoreError::NotASpoke("a spoke registers over its WebSocket connection"))?;
    ctx.hub().register_spoke(session, params).await
}

async fn unregister(ctx: Ctx, params: UnregisterOperations) -> Result<UnregisteredOperations, CallError> {
    let operations = ctx.hub().unregister(&own_spoke(&ctx)?, params.operations).await?;
    Ok(UnregisteredOperations { operations })
}

async fn update(ctx: Ctx, params: UpdateOperations) -> Result<UpdatedOperations, CallError> {
    let operations = ctx.hub().update_spoke(&own_spoke(&ctx)?, &params.operations, params.withdraw).await?;
    Ok(UpdatedOperations { operations })
}

async fn drain(ctx: Ctx, params: DrainSpoke) -> Result<DrainingSpoke, CallError> {
    let spoke = match params.spoke {
        None => own_spoke(&ctx)?,
        Some(_) if !ctx.caller().has_scope("hub:admin") => {
            return Err(CoreError::Denied("draining another spoke needs the scope hub:admin".into()).into());
        }
        Some(name) => ctx.hub().directory().spoke(&name).ok_or(CoreError::NotFound { what: "connected spoke" })?,
    };
    if let (Some(home), Some(cluster)) = (spoke.hub, ctx.hub().cluster()) {
        spoke.set_draining(true);
        return Ok(DrainingSpoke { in_flight: cluster.drain(home, &spoke.name).await? });
    }
    spoke.set_draining(true);
    let now = Stamp::now();
    ctx.hub().store().spokes().heartbeat(spoke.id, None, None, Some(true), now).await.map_err(CoreError::from)?;
    if let Some(cluster) = ctx.hub().cluster() {
        cluster.spoke_changed(&spoke.name, false).await;
    }
    Ok(DrainingSpoke { in_flight: spoke.in_flight() })
}

async fn heartbeat(ctx: Ctx, params: SpokeHeartbeat) -> Result<HeartbeatSeen, CallError> {
    let spoke = own_spoke(&ctx)?;
    let now = Stamp::now();
    if let Some(draining) = params.draining {
        spoke.set_draining(draining);
    }
    spoke.heard(params.load, now.millis());
    let agents = params.agents.as_ref().map(crate::redact::keys_in_json);
    let stored = ctx.hub().store().spokes().heartbeat(spoke.id, params.load, agents, params.draining, now).await;
    stored.map_err(CoreError::from)?;
    if let (Some(cluster), true) = (ctx.hub().cluster(), params.draining.is_some()) {
        cluster.spoke_changed(&spoke.name, false).await;
    }
    Ok(HeartbeatSeen { at: now.millis() })
}

fn own_spoke(ctx: &Ctx) -> Result<Arc<SpokeConnection>, CoreError> {
    let spoke = ctx.session().and_then(|s| s.spoke());
    spoke.ok_or(CoreError::NotASpoke("this connection has not registered as a spoke"))
}

async fn list(ctx: Ctx, params: ListOperations) -> Result<OperationPage, CallError> {
    let limit = params.limit.unwrap_or(100) as usize;
    let tags = params.tags.unwrap_or_default();
    let mut items = visible(&ctx, params.namespace.as_deref());
    items.retain(|item| {
        (item.active || params.include_inactive == Some(true))
            && params.kind.is_none_or(|k| k == item.kind)
            && tags.iter().all(|t| item.tags.contains(t))
            && params.cursor.as_ref().is_none_or(|c| item.id > *c)
    });
    items.sort_by(|a, b| a.id.cmp(&b.id));
    let fitting = items.len().min(limit).min(within(PAGE_BYTES, &items));
    let more = items.len() > fitting;
    items.truncate(fitting);
    let next_cursor = items.last().filter(|_| more).map(|item| item.id.clone());
    Ok(OperationPage { operations: items, next_cursor })
}

/// How many of the items, at least one, have about so many bytes.
fn within(bytes: usize, items: &[OperationItem]) -> usize {
    let size = |item: &OperationItem| 256 + item.id.len() + item.description.len();
    let mut sum = 0;
    let fitting = items.iter().take_while(|item| {
        sum += size(item);
        sum <= bytes
    });
    fitting.count().max(1)
}

async fn search(ctx: Ctx, params: SearchOperations) -> Result<FoundOperations, CallError> {
    let (registry, directory) = (ctx.hub().registry(), ctx.hub().directory());
    let limit = params.limit.unwrap_or(10) as usize;
    let item = |(id, score): (Arc<str>, f32)| {
        let own = registry.get(&id).map(|e| own_item(e.definition()));
        let item = own.or_else(|| directory.get(&id).and_then(|o| o.item()))?;
        Some(OperationItem { score: Some(score.into()), ..item })
    };
    let may = |rule: &AccessControl| access::is_visible(rule, ctx.caller());
    let found = directory.words().find(&params.query, params.namespace.as_deref(), limit, may);
    Ok(FoundOperations { operations: found.into_iter().filter_map(item).collect() })
}

/// All operations that the caller may call.
fn visible(ctx: &Ctx, namespace: Option<&str>) -> Vec<OperationItem> {
    let own = ctx.hub().registry().iter().map(|e| e.definition());
    let own = own.filter(|d| is_below(d.id(), namespace) && d.is_visible_to(ctx.caller()));
    let mut items: Vec<_> = own.map(|d| own_item(d)).collect();
    let offered = ctx.hub().directory().visible(ctx.caller());
    items.extend(offered.iter().filter(|o| is_below(&o.id, namespace)).filter_map(|o| o.item()));
    items
}

fn own_item(definition: &Definition) -> OperationItem {
    item_of(definition.spec(), true, Vec::new())
}

async fn schema(ctx: Ctx, params: GetSchemas) -> Result<Schemas, CallError> {
    let spec = |id: &String| -> Result<OperationSpec, CallError> {
        let own = ctx.hub().registry().get(id).map(|e| Arc::clone(e.definition()));
        let definition = own.or_else(|| ctx.hub().directory().show(id));
        let seen = definition.filter(|d| d.is_visible_to(ctx.caller()));
        seen.map(|d| d.spec().clone()).ok_or_else(|| Definition::not_found(id))
    };
    Ok(Schemas { operations: params.operation_ids.iter().map(spec).collect::<Result<_, _>>()? })
}

/// Pause after a change of what is offered, so that a spoke that registers many is one change.
const SETTLE: Duration = Duration::from_millis(200);

async fn tools(
    ctx: Ctx,
    _: WatchTools,
) -> Result<impl Stream<Item = Result<ToolOperations, CallError>> + Send + 'static, CallError> {
    let (principal, changed) = (actor(&ctx), ctx.hub().offers_changed());
    Ok(unfold((ctx, principal, changed, None), |(ctx, principal, mut changed, told)| async move {
        loop {
            changed.mark_unchanged();
            let operations: Vec<_> = ctx.hub().tools(&principal).iter().map(told_of).collect();
            if told.as_ref() != Some(&operations) {
                let item = ToolOperations { operations: operations.clone() };
                return Some((Ok(item), (ctx, principal, changed, Some(operations))));
            }
            changed.changed().await.ok()?;
            tokio::time::sleep(SETTLE).await;
        }
    }))
}

fn told_of(tool: &Tool) -> ToolOperation {
    let spec = tool.definition.spec();
    ToolOperation { id: spec.id(), version: spec.version.clone(), name: tool.name.clone() }
}

/// Passes the callee's envelope on as it is. Runs in the caller's name: it gives nobody more rights.
async fn call(ctx: Ctx, input: Json) -> Result<Reply, CallError> {
    let params: CallOperation =
        input.read().map_err(|at| CoreError::Invalid(format!("input of hub.call: {}: {}", at.path, at.message)))?;
    let request = CallRequested {
        deadline: params.deadline,
        idempotency_key: params.idempotency_key,
        version: params.version,
        metadata: params.metadata,
        budget: params.budget,
        ..CallRequested::new(CallId::new().to_string(), params.operation_id, params.input)
    };
    ctx.nested(ctx.as_caller().clone(), request).await.map(Reply::Envelope)
}

async fn spokes(ctx: Ctx, params: ListSpokes) -> Result<Spokes, CallError> {
    let rows = ctx.hub().store().spokes().list().await.map_err(CoreError::from)?;
    let mut registered: HashMap<SpokeId, Vec<RegistrationRow>> = HashMap::new();
    for row in ctx.hub().store().spokes().registrations().await.map_err(CoreError::from)? {
        registered.entry(row.spoke_id).or_default().push(row);
    }
    let others = ctx.hub().other_hubs().await?;
    let items = rows.into_iter().map(|row| {
        let registered = registered.remove(&row.id).unwrap_or_default();
        let live = ctx.hub().directory().spoke(&row.name);
        let connected = live.is_some() || row.connected && others.contains(&row.hub_id);
        item(row, registered, live.as_deref(), connected)
    });
    let only_connected = params.connected == Some(true);
    Ok(Spokes { spokes: items.filter(|s| !only_connected || s.status == SpokeStatus::Connected).collect() })
}

/// `live` is what this hub has of it: nothing of one at a hub that it does not reach.
fn item(row: SpokeRow, registered: Vec<RegistrationRow>, live: Option<&SpokeConnection>, connected: bool) -> SpokeItem {
    let stored = || registered.into_iter().filter(|r| r.active || !connected).map(|r| r.operation_id).collect();
    let mut operations = live.map_or_else(stored, SpokeConnection::offered);
    operations.sort();
    operations.dedup();
    let (load, heard) = live.map(SpokeConnection::last_heard).unwrap_or_default();
    SpokeItem {
        spoke_id: row.id,
        name: row.name,
        spoke_type: row.spoke_type,
        status: if connected { SpokeStatus::Connected } else { SpokeStatus::Disconnected },
        draining: live.map_or(connected && row.draining, SpokeConnection::is_draining),
        instance_id: row.instance_id,
        hub_id: row.hub_id,
        version: row.version,
        operations,
        in_flight: live.map_or(0, SpokeConnection::in_flight),
        load: load.or(row.load),
        labels: row.labels.and_then(|l| l.parse().ok()),
        host_info: row.host_info,
        connected_at: row.connected_at.millis(),
        disconnected_at: row.disconnected_at.map(Stamp::millis),
        last_heartbeat_at: heard.or(row.last_heartbeat_at.map(Stamp::millis)),
    }
}

async fn status(ctx: Ctx, _: GetStatus) -> Result<HubStatus, CallError> {
    let status = ctx.hub().status().await?;
    // Without the call that asks.
    Ok(HubStatus { calls_in_flight: status.calls_in_flight.saturating_sub(1), ..status })
}

async fn whoami(ctx: Ctx, _: WhoAmI) -> Result<CallerIdentity, CallError> {
    let key = ctx.as_caller().key.as_ref();
    Ok(CallerIdentity {
        identity: ctx.caller().clone(),
        key: key.map(|k| k.public_id.clone()),
        key_name: key.map(|k| k.name.clone()),
        expires_at: key.and_then(|k| k.expires_at()),
    })
}
