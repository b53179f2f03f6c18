use hub_operations::RegistryBuilder;
use hub_protocol::ops::audit::{AuditEntry, AuditPage, ListAudit};
use hub_protocol::{CallError, Json};
use hub_storage::{AuditFilter, AuditRow, Stamp};
use serde_json::Value;
use uuid::Uuid;

use crate::ctx::Ctx;
use crate::hub::Hub;
use crate::{CoreError, Principal};

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder.operation(list)
}

async fn list(ctx: Ctx, params: ListAudit) -> Result<AuditPage, CallError> {
    let filter = AuditFilter {
        action: params.action,
        actor: params.actor,
        before: params.before,
        limit: params.limit.unwrap_or(100),
    };
    let rows = ctx.hub().store().audit().list(filter).await.map_err(CoreError::from)?;
    let entry = |row: AuditRow| AuditEntry {
        id: row.id,
        at: row.at.millis(),
        actor: row.actor,
        action: row.action,
        target: row.target,
        details: row.details,
    };
    Ok(AuditPage { entries: rows.into_iter().map(entry).collect() })
}

/// An audit row of something that `actor` does now.
pub(crate) fn row(actor: &Principal, action: &str, target: &str, details: Value) -> AuditRow {
    AuditRow {
        id: Uuid::now_v7(),
        at: Stamp::now(),
        actor: actor.identity.id.clone(),
        key_id: actor.key.as_ref().map(|k| k.id),
        action: action.to_owned(),
        target: target.to_owned(),
        details: crate::redact::keys_in_json(&Json::from(details)),
    }
}

/// Writes an audit row that goes with no other change.
pub(crate) async fn note(
    hub: &Hub,
    actor: &Principal,
    action: &str,
    target: &str,
    details: Value,
) -> Result<(), CoreError> {
    Ok(hub.store().audit().append(row(actor, action, target, details)).await?)
}
