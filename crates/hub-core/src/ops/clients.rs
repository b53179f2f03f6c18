mod config;

use std::time::{Duration, Instant};

use hub_operations::RegistryBuilder;
use hub_protocol::ops::clients::{
    ClientItem, ClientState, ClientType, Clients, CreateClient, DeleteClient, DeletedClient, EnableClient, GetClient,
    ListClients, RefreshClient, TestClient, TestedClient, UpdateClient,
};
use hub_protocol::{CallError, Json, check_operation_id};
use hub_storage::{ClientChange, ClientRow, NewEvent, SecretRow, Stamp, StoreError};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{keys, secrets};
use crate::clients::{Tested, brings_operations, import_spoke};
use crate::ctx::Ctx;
use crate::ops::audit;
use crate::{CoreError, Principal};
use config::checked;

/// Most clients.
const MAX_CLIENTS: usize = 500;

/// Longest test.
const TEST_TAKES: Duration = Duration::from_secs(25);

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    let builder = builder.operation(create).operation(update).operation(enable).operation(test).operation(refresh);
    builder.operation(get).operation(list).operation(delete)
}

async fn create(ctx: Ctx, params: CreateClient) -> Result<ClientItem, CallError> {
    let CreateClient { name, r#type: kind, config, enabled, scopes } = params;
    check_free(&ctx, &name)?;
    check_scopes(scopes.as_ref())?;
    let config = checked(kind, &config)?;
    let store = ctx.hub().store();
    if store.clients().list().await.map_err(CoreError::from)?.len() >= MAX_CLIENTS {
        return Err(CoreError::Invalid(format!("a hub has at most {MAX_CLIENTS} clients")).into());
    }
    let now = Stamp::now();
    let enabled = enabled != Some(false);
    let row = ClientRow {
        id: Uuid::now_v7(),
        kind: word(kind),
        config,
        scopes: scopes.as_ref().and_then(|scopes| Json::from_serialize(scopes).ok()),
        enabled,
        revision: 1,
        created_at: now,
        updated_at: now,
        state: "pending".into(),
        reason: None,
        state_at: None,
        operations: 0,
        name,
    };
    let details = json!({ "type": row.kind, "config": shown(&row.config), "scopes": scopes, "enabled": enabled });
    let audit = audit::row(&actor(&ctx), "clients.create", &row.name, details);
    let told = event(&row.name, "created", json!({ "type": row.kind }));
    let stored = store.clients().insert(row.clone(), audit, told).await.map_err(|error| match error {
        StoreError::Conflict { what: "client" } => {
            CoreError::Conflict(format!("there is a client {:?} already", row.name))
        }
        error => error.into(),
    })?;
    ctx.hub().client_changed(stored.seq).await;
    check_still_free(&ctx, &row).await?;
    Ok(item(row, &[]))
}

/// A spoke may have registered below the name meanwhile; of who registers now, the client is seen.
async fn check_still_free(ctx: &Ctx, row: &ClientRow) -> Result<(), CallError> {
    let spokes = ctx.hub().store().spokes();
    let taken = match brings_operations(row) {
        true => spokes.pooled_below(&row.name, &import_spoke(&row.name)).await.map_err(CoreError::from)?,
        false => None,
    };
    let Some(spoke) = taken else { return Ok(()) };
    delete(ctx.clone(), DeleteClient { name: row.name.clone() }).await?;
    Err(taken_by(&row.name, &spoke).into())
}

fn taken_by(client: &str, spoke: &str) -> CoreError {
    CoreError::Conflict(format!("client {client:?} can't be made: spoke {spoke:?} offers operations below {client:?}"))
}

async fn update(ctx: Ctx, params: UpdateClient) -> Result<ClientItem, CallError> {
    let row = existing(&ctx, &params.name).await?;
    check_scopes(params.scopes.as_ref())?;
    let config = params.config.map(|config| checked(kind_of(&row), &config)).transpose()?;
    let details = json!({ "config": config.as_ref().map(shown), "scopes": params.scopes });
    let scopes = params.scopes.as_ref().and_then(|scopes| Json::from_serialize(scopes).ok());
    let same = config.as_ref().is_none_or(|config| aim(kind_of(&row), &row.config) == aim(kind_of(&row), config));
    let same_aim = same.then_some(row.revision);
    change(&ctx, &params.name, ClientChange { config, scopes, same_aim, enabled: None }, "update", details).await
}

/// What of a configuration says where secrets go, and how: all that is not known to have no part in it.
fn aim(kind: ClientType, config: &Json) -> serde_json::Map<String, Value> {
    let mut aim: serde_json::Map<String, Value> = config.parse().unwrap_or_default();
    aim.retain(|_, value| !value.is_null());
    let other: &[&str] = match kind {
        // Without `baseUrl` the document says where requests go.
        ClientType::OpenApi if aim.contains_key("baseUrl") => &["only", "lenient", "refreshMs", "document"],
        ClientType::OpenApi => &["only", "lenient", "refreshMs"],
        ClientType::McpServer => &["stream"],
        ClientType::LlmProvider => &["models"],
        ClientType::Vcs | ClientType::Compute | ClientType::Custom => &[],
    };
    aim.retain(|member, _| !other.contains(&member.as_str()));
    aim
}

async fn enable(ctx: Ctx, params: EnableClient) -> Result<ClientItem, CallError> {
    let enabled = params.enabled != Some(false);
    let (change_to, kind) = (ClientChange { enabled: Some(enabled), ..ClientChange::default() }, "enable");
    change(&ctx, &params.name, change_to, kind, json!({ "enabled": enabled })).await
}

async fn refresh(ctx: Ctx, params: RefreshClient) -> Result<ClientItem, CallError> {
    change(&ctx, &params.name, ClientChange::default(), "refresh", json!({})).await
}

async fn change(
    ctx: &Ctx,
    name: &str,
    change: ClientChange,
    verb: &str,
    details: Value,
) -> Result<ClientItem, CallError> {
    let store = ctx.hub().store();
    let audit = audit::row(&actor(ctx), &format!("clients.{verb}"), name, details);
    let told = event(name, "changed", json!({ "by": format!("clients.{verb}") }));
    let changed = store.clients().update(name, change, Stamp::now(), audit, told).await;
    let (row, stored) = changed.map_err(|error| match error {
        StoreError::Conflict { what: "client's secrets" } => CoreError::Conflict(format!(
            "the secrets of {name:?} would go elsewhere than where they were set for: secrets.delete them first, and set \
             them again"
        )),
        error => error.into(),
    })?;
    ctx.hub().client_changed(stored.seq).await;
    with_secrets(ctx, row).await
}

async fn test(ctx: Ctx, params: TestClient) -> Result<TestedClient, CallError> {
    let row = existing(&ctx, &params.name).await?;
    let opened = ctx.hub().open_client_row(row).await?;
    let began = Instant::now();
    let tested = match ctx.hub().connector() {
        None => Err("this hub connects to no clients".to_owned()),
        Some(connector) => {
            let testing = connector.test(&opened);
            tokio::time::timeout(TEST_TAKES, testing).await.unwrap_or_else(|_| Err("no answer in time".to_owned()))
        }
    };
    let (ok, reason, operations) = match tested {
        Ok(Tested { note, operations }) => (true, note, operations),
        Err(reason) => (false, Some(reason), 0),
    };
    let reason = reason.map(|reason| opened.scrub(&reason));
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(TestedClient { ok, reason, operations, took_ms })
}

async fn get(ctx: Ctx, params: GetClient) -> Result<ClientItem, CallError> {
    let row = existing(&ctx, &params.name).await?;
    with_secrets(&ctx, row).await
}

async fn list(ctx: Ctx, params: ListClients) -> Result<Clients, CallError> {
    let store = ctx.hub().store();
    let rows = store.clients().list().await.map_err(CoreError::from)?;
    let all = store.secrets().list(None).await.map_err(CoreError::from)?;
    let wanted = |row: &ClientRow| {
        params.r#type.is_none_or(|kind| word(kind) == row.kind) && params.enabled.is_none_or(|on| on == row.enabled)
    };
    let clients = rows.into_iter().filter(wanted).map(|row| item(row, &all)).collect();
    Ok(Clients { clients })
}

async fn delete(ctx: Ctx, params: DeleteClient) -> Result<DeletedClient, CallError> {
    let name = params.name;
    let audit = audit::row(&actor(&ctx), "clients.delete", &name, json!({}));
    let told = event(&name, "deleted", json!({}));
    let stored = ctx.hub().store().clients().remove(&name, audit, told).await.map_err(CoreError::from)?;
    ctx.hub().client_changed(stored.seq).await;
    Ok(DeletedClient { name })
}

/// The client of that name.
pub(super) async fn existing(ctx: &Ctx, name: &str) -> Result<ClientRow, CoreError> {
    ctx.hub().store().clients().by_name(name).await?.ok_or(CoreError::NotFound { what: "client" })
}

/// A client's name is the namespace of its operations, so it must be nobody else's.
fn check_free(ctx: &Ctx, name: &str) -> Result<(), CoreError> {
    let own = ctx.hub().registry().iter().any(|entry| entry.definition().id().split('.').next() == Some(name));
    if own || ["dev", "client", "imported"].contains(&name) || check_operation_id(&format!("{name}.x")).is_err() {
        return Err(CoreError::Conflict(format!("the names below {name:?} belong to the hub: choose another name")));
    }
    // The spoke of a client that was deleted just now may not have gone yet.
    match ctx.hub().directory().pooled_below(name, &import_spoke(name)) {
        Some(spoke) => Err(taken_by(name, &spoke)),
        None => Ok(()),
    }
}

/// What nobody could hold.
fn check_scopes(scopes: Option<&Vec<String>>) -> Result<(), CoreError> {
    scopes.into_iter().flatten().try_for_each(|scope| keys::check_scope(scope))
}

/// A configuration for the audit log; a long one by its length.
fn shown(config: &Json) -> Value {
    const MOST: usize = 4096;
    if config.size() > MOST { json!({ "bytes": config.size() }) } else { config.parse().unwrap_or_default() }
}

pub(super) fn actor(ctx: &Ctx) -> Principal {
    let caller = ctx.as_caller();
    Principal { identity: std::sync::Arc::clone(&caller.identity), key: caller.key.clone() }
}

pub(crate) fn event(client: &str, kind: &str, payload: Value) -> NewEvent {
    let (topic, at) = (format!("client:{client}"), Stamp::now());
    NewEvent { topic, kind: kind.to_owned(), at, payload: payload.into(), root: None }
}

fn word(kind: ClientType) -> String {
    serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn kind_of(row: &ClientRow) -> ClientType {
    serde_json::from_value(row.kind.clone().into()).unwrap_or(ClientType::Custom)
}

async fn with_secrets(ctx: &Ctx, row: ClientRow) -> Result<ClientItem, CallError> {
    let secrets = ctx.hub().store().secrets().list(Some(row.id)).await.map_err(CoreError::from)?;
    Ok(item(row, &secrets))
}

fn item(row: ClientRow, secrets: &[SecretRow]) -> ClientItem {
    let kind = kind_of(&row);
    let state = serde_json::from_value(row.state.clone().into()).unwrap_or(ClientState::Pending);
    ClientItem {
        id: row.id,
        r#type: kind,
        scopes: crate::clients::scopes_of(&row),
        secrets: secrets.iter().filter(|secret| secret.client_id == row.id).map(secrets::item).collect(),
        state: if row.enabled { state } else { ClientState::Disabled },
        reason: row.reason.filter(|_| row.enabled),
        state_at: row.state_at.map(Stamp::millis),
        operations: u64::from(row.operations.unsigned_abs()),
        created_at: row.created_at.millis(),
        updated_at: row.updated_at.millis(),
        name: row.name,
        config: row.config,
        enabled: row.enabled,
    }
}
