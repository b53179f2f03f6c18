use std::collections::BTreeMap;

use hub_operations::RegistryBuilder;
use hub_protocol::ops::keys::{CreateKey, CreatedKey, KeyItem, Keys, ListKeys, RevokeKey, RotateKey};
use hub_protocol::{AccountId, CallError, Identity, KeyId};
use hub_storage::{AccountRow, KeyRow, NewEvent, Stamp, Store};
use serde_json::json;

use crate::ctx::Ctx;
use crate::hub::FirstKey;
use crate::key::NewKey;
use crate::ops::audit;
use crate::topics::Pattern;
use crate::{CoreError, Principal, redact};

/// How long a rotated key goes on working unless told otherwise, in milliseconds.
const OVERLAP_MS: u64 = 24 * 3600 * 1000;

/// Longest scope, in bytes.
const MAX_SCOPE: usize = 200;

/// Most scopes and resources of one key.
const MAX_RIGHTS: usize = 200;

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder.operation(create).operation(rotate).operation(revoke).operation(list)
}

/// The admin key of a fresh hub. It counts only once `keep` has put it where its owner finds it.
pub(crate) async fn make_first<E: From<CoreError>>(
    store: &Store,
    account: &AccountRow,
    keep: impl FnOnce(&FirstKey) -> Result<(), E>,
) -> Result<(), E> {
    let key = NewKey::generate()?;
    keep(&FirstKey { text: key.text().to_owned(), public_id: key.public_id.clone() })?;
    let row = KeyRow { name: "admin".into(), scopes: vec!["*".into()], ..new_row(&key, account) };
    let audit = audit::row(&Principal::root(), "keys.create", &row.public_id, json!({ "name": "admin" }));
    let event = event(&row, "created");
    // Readers of the log find the event when they look the next time.
    store.keys().insert(row, audit, event).await.map_err(CoreError::from)?;
    Ok(())
}

async fn create(ctx: Ctx, params: CreateKey) -> Result<CreatedKey, CallError> {
    check_form(&params)?;
    check_rights(ctx.caller(), &params)?;
    let account = account(&ctx, params.account.as_deref()).await?;
    let key = NewKey::generate()?;
    let row = KeyRow {
        // Whoever names a key after another's text must not leave it in lists and events.
        name: redact::keys_in_text(&params.name).into_owned(),
        scopes: params.scopes,
        resources: params.resources,
        tools: params.tools,
        expires_at: params.expires_at.map(Stamp::from_millis),
        ..new_row(&key, &account)
    };
    let details = json!({
        "name": row.name, "scopes": row.scopes, "resources": row.resources, "tools": row.tools, "account": row.account,
    });
    let audit = audit::row(&actor(&ctx), "keys.create", &row.public_id, details);
    let event = event(&row, "created");
    let stored = ctx.hub().store().keys().insert(row.clone(), audit, event).await.map_err(CoreError::from)?;
    ctx.hub().log().announce(Some(stored.seq)).await;
    Ok(CreatedKey { key: item(row), secret: key.text().to_owned() })
}

async fn rotate(ctx: Ctx, params: RotateKey) -> Result<CreatedKey, CallError> {
    let store = ctx.hub().store();
    let old = store.keys().get(params.id).await.map_err(CoreError::from)?.ok_or(CoreError::NotFound { what: "key" })?;
    check_holds(ctx.caller(), &old.scopes, old.resources.as_ref())?;
    let now = Stamp::now();
    let ends_at = now.plus_millis(params.overlap_ms.unwrap_or(OVERLAP_MS));
    let key = NewKey::generate()?;
    let new = KeyRow {
        id: KeyId::new(),
        public_id: key.public_id.clone(),
        hash: key.hash(),
        created_at: now,
        rotated_to: None,
        last_used_at: None,
        ..old.clone()
    };
    let details = json!({ "old": old.public_id, "overlapEndsAt": ends_at.millis() });
    let audit = audit::row(&actor(&ctx), "keys.rotate", &new.public_id, details);
    let event = event(&new, "rotated");
    let stored = store.keys().rotate(old.id, ends_at, new.clone(), audit, event).await.map_err(CoreError::from)?;
    ctx.hub().log().announce(Some(stored.seq)).await;
    // The old key's end is now earlier than its cached row says.
    ctx.hub().doorman().forget(&old.public_id);
    tell_cluster(&ctx, &old).await;
    // So is that of what it has open; after the answer, since the caller may be using the very key.
    let hub = ctx.hub().clone();
    let ended = old.public_id;
    ctx.after_answer("rotate", move || hub.doorman().expire_at(&ended, ends_at));
    Ok(CreatedKey { key: item(new), secret: key.text().to_owned() })
}

async fn revoke(ctx: Ctx, params: RevokeKey) -> Result<KeyItem, CallError> {
    let store = ctx.hub().store();
    let key = store.keys().get(params.id).await.map_err(CoreError::from)?.ok_or(CoreError::NotFound { what: "key" })?;
    check_holds(ctx.caller(), &key.scopes, key.resources.as_ref())?;
    check_not_last(&ctx, &key).await?;
    let audit = audit::row(&actor(&ctx), "keys.revoke", &key.public_id, json!({ "name": key.name }));
    let event = event(&key, "revoked");
    let (row, stored) = store.keys().revoke(params.id, Stamp::now(), audit, event).await.map_err(CoreError::from)?;
    ctx.hub().doorman().forget(&row.public_id);
    ctx.hub().log().announce(Some(stored.seq)).await;
    // After the answer: the caller may be using the very key.
    let (hub, ended) = (ctx.hub().clone(), row.public_id.clone());
    ctx.after_answer("revoke", move || hub.doorman().revoke(&ended));
    tell_cluster(&ctx, &row).await;
    Ok(item(row))
}

/// Lets the other hubs look at the key again.
async fn tell_cluster(ctx: &Ctx, key: &KeyRow) {
    if let Some(cluster) = ctx.hub().cluster() {
        cluster.key_changed(&key.public_id).await;
    }
}

async fn list(ctx: Ctx, params: ListKeys) -> Result<Keys, CallError> {
    let ended = params.include_ended == Some(true);
    let rows = ctx.hub().store().keys().list(ended, Stamp::now()).await.map_err(CoreError::from)?;
    Ok(Keys { keys: rows.into_iter().map(item).collect() })
}

/// Whether a scope is one at all.
pub(super) fn check_scope(scope: &str) -> Result<(), CoreError> {
    if (1..=MAX_SCOPE).contains(&scope.len()) && scope.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(());
    }
    let message = format!("{scope:?} is no scope: 1 to {MAX_SCOPE} ASCII letters without blanks");
    Err(CoreError::Invalid(message))
}

/// What no operation could ever ask for, and a key that opens nothing, are slips of whoever makes the key.
fn check_form(params: &CreateKey) -> Result<(), CoreError> {
    params.scopes.iter().try_for_each(|scope| check_scope(scope))?;
    if let Some(pattern) = params.tools.iter().find(|pattern| Pattern::parse(pattern).is_err()) {
        let message = format!("{pattern:?} in `tools` is no pattern of ids: `*` is one whole segment, `**` the rest");
        return Err(CoreError::Invalid(message));
    }
    if params.expires_at.is_some_and(|at| at <= Stamp::now().millis()) {
        return Err(CoreError::Invalid("expiresAt is not in the future".into()));
    }
    Ok(())
}

/// A key can't grant what its maker lacks.
fn check_rights(caller: &Identity, params: &CreateKey) -> Result<(), CoreError> {
    let count = params.scopes.len() + params.resources.iter().flatten().count();
    if count > MAX_RIGHTS {
        return Err(CoreError::Invalid(format!("a key has at most {MAX_RIGHTS} scopes and resources")));
    }
    check_holds(caller, &params.scopes, params.resources.as_ref())
}

/// Whether the caller holds all of these rights: without them it may not make, replace or end a key that has them.
fn check_holds(
    caller: &Identity,
    scopes: &[String],
    resources: Option<&BTreeMap<String, Vec<String>>>,
) -> Result<(), CoreError> {
    check_within(caller, scopes)?;
    let resources = resources.into_iter().flatten();
    let all = caller.has_scope("*");
    let held = |key: &String, action: &String| {
        caller.resources.as_ref().and_then(|r| r.get(key)).is_some_and(|actions| actions.contains(action))
    };
    let lacking =
        resources.flat_map(|(k, actions)| actions.iter().map(move |a| (k, a))).find(|(k, a)| !all && !held(k, a));
    match lacking {
        Some((key, action)) => Err(CoreError::Denied(format!("you lack {action:?} on {key:?}, which the key has"))),
        None => Ok(()),
    }
}

fn check_within(caller: &Identity, scopes: &[String]) -> Result<(), CoreError> {
    // A wildcard is held only through itself or a wider one, which `has_scope` on its text decides.
    match scopes.iter().find(|scope| scope.is_empty() || !caller.has_scope(scope)) {
        Some(scope) => Err(CoreError::Denied(format!("you lack the scope {scope:?}, which the key has"))),
        None => Ok(()),
    }
}

/// The last key that may do everything can't be ended: nobody could make another.
async fn check_not_last(ctx: &Ctx, key: &KeyRow) -> Result<(), CoreError> {
    let is_admin = |row: &KeyRow| row.scopes.iter().any(|scope| scope == "*");
    if key.revoked_at.is_some() || !is_admin(key) {
        return Ok(());
    }
    let others = ctx.hub().store().keys().list(false, Stamp::now()).await?;
    // One that runs out by itself would leave nobody, a little later.
    let stays = |row: &KeyRow| row.id != key.id && is_admin(row) && row.expires_at.is_none();
    if others.iter().any(stays) {
        return Ok(());
    }
    let message = "without this key none with the scope \"*\" would stay; make one that does not expire first";
    Err(CoreError::Conflict(message.into()))
}

async fn account(ctx: &Ctx, name: Option<&str>) -> Result<AccountRow, CoreError> {
    let accounts = ctx.hub().store().accounts();
    match (name, &ctx.as_caller().key) {
        (Some(name), _) => {
            let row = AccountRow {
                id: AccountId::new(),
                name: redact::keys_in_text(name).into_owned(),
                kind: "service".into(),
                created_at: Stamp::now(),
            };
            Ok(accounts.ensure(row).await?)
        }
        (None, Some(key)) => accounts.get(key.account_id).await?.ok_or(CoreError::NotFound { what: "account" }),
        (None, None) => accounts.by_name("admin").await?.ok_or(CoreError::NotFound { what: "account" }),
    }
}

fn actor(ctx: &Ctx) -> Principal {
    let caller = ctx.as_caller();
    Principal { identity: std::sync::Arc::clone(&caller.identity), key: caller.key.clone() }
}

fn new_row(key: &NewKey, account: &AccountRow) -> KeyRow {
    KeyRow {
        id: KeyId::new(),
        public_id: key.public_id.clone(),
        hash: key.hash(),
        // The first key of a line names the principal; its rotations keep the name.
        principal: format!("key/{}", key.public_id),
        account_id: account.id,
        account: account.name.clone(),
        name: String::new(),
        scopes: Vec::new(),
        resources: None,
        tools: Vec::new(),
        created_at: Stamp::now(),
        expires_at: None,
        revoked_at: None,
        rotated_to: None,
        last_used_at: None,
    }
}

fn event(key: &KeyRow, kind: &str) -> NewEvent {
    NewEvent {
        topic: format!("key:{}", key.public_id),
        kind: kind.to_owned(),
        at: Stamp::now(),
        payload: json!({ "id": key.id, "name": key.name, "principal": key.principal }).into(),
        root: None,
    }
}

fn item(row: KeyRow) -> KeyItem {
    KeyItem {
        id: row.id,
        public_id: row.public_id,
        name: row.name,
        principal: row.principal,
        account: row.account,
        scopes: row.scopes,
        resources: row.resources,
        tools: row.tools,
        created_at: row.created_at.millis(),
        expires_at: row.expires_at.map(Stamp::millis),
        revoked_at: row.revoked_at.map(Stamp::millis),
        rotated_to: row.rotated_to,
        last_used_at: row.last_used_at.map(Stamp::millis),
    }
}
