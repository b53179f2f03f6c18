use hub_operations::RegistryBuilder;
use hub_protocol::CallError;
use hub_protocol::ops::secrets::{DeleteSecret, DeletedSecret, RotateSecret, SecretItem, SecretText, SetSecret};
use hub_storage::{ClientRow, SecretRow, Stamp, StoreError};
use serde_json::json;
use uuid::Uuid;

use super::clients::{actor, event, existing};
use crate::CoreError;
use crate::ctx::Ctx;
use crate::keyring::{Sealed, SecretOf};
use crate::ops::audit;

/// Most secrets of one client.
const MAX_SECRETS: usize = 50;

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder.operation(set).operation(rotate).operation(delete)
}

async fn set(ctx: Ctx, params: SetSecret) -> Result<SecretItem, CallError> {
    let client = existing(&ctx, &params.client).await?;
    let others = ctx.hub().store().secrets().list(Some(client.id)).await.map_err(CoreError::from)?;
    if others.len() >= MAX_SECRETS && others.iter().all(|other| other.name != params.name) {
        return Err(CoreError::Invalid(format!("a client has at most {MAX_SECRETS} secrets")).into());
    }
    put(&ctx, &client, params.name, &params.value, false).await
}

async fn rotate(ctx: Ctx, params: RotateSecret) -> Result<SecretItem, CallError> {
    let client = existing(&ctx, &params.client).await?;
    put(&ctx, &client, params.name, &params.value, true).await
}

async fn put(
    ctx: &Ctx,
    client: &ClientRow,
    name: String,
    value: &SecretText,
    replaces: bool,
) -> Result<SecretItem, CallError> {
    if value.0.as_bytes().contains(&b'\n') && value.0.trim_end_matches(['\r', '\n']).lines().count() <= 1 {
        return Err(CoreError::Invalid("the value ends with a line break: leave it out".into()).into());
    }
    let verb = if replaces { "secrets.rotate" } else { "secrets.set" };
    let store = ctx.hub().store();
    for last in [false, true] {
        let row = encrypted(ctx, client, &name, value).await?;
        let audit = audit::row(&actor(ctx), verb, &client.name, json!({ "secret": name, "keyVersion": row.version }));
        let event = event(&client.name, "secretSet", json!({ "secret": name }));
        match store.secrets().put(&client.name, row, replaces, audit, event).await {
            Ok((row, stored)) => {
                ctx.hub().client_changed(stored.seq).await;
                return Ok(item(&row));
            }
            // Rotated, and the old version dropped, since the keyring was read: once more with the new one.
            Err(StoreError::Conflict { what: "version of the keyring" }) if !last => {}
            Err(error) => return Err(CoreError::from(error).into()),
        }
    }
    Err(CoreError::Conflict("the keyring is being rotated: try again".into()).into())
}

async fn encrypted(ctx: &Ctx, client: &ClientRow, name: &str, value: &SecretText) -> Result<SecretRow, CoreError> {
    let id = Uuid::now_v7();
    let of = SecretOf { id, client: client.id, name };
    let sealed = ctx.hub().vault().seal(ctx.hub().store(), &of, value.0.as_bytes()).await?;
    let Sealed { version, salt, nonce, ciphertext } = sealed;
    let name = name.to_owned();
    let created_at = Stamp::now();
    Ok(SecretRow { id, client_id: client.id, name, version, salt, nonce, ciphertext, created_at, rotated_at: None })
}

async fn delete(ctx: Ctx, params: DeleteSecret) -> Result<DeletedSecret, CallError> {
    let DeleteSecret { client, name } = params;
    let audit = audit::row(&actor(&ctx), "secrets.delete", &client, json!({ "secret": name }));
    let event = event(&client, "secretDeleted", json!({ "secret": name }));
    let stored = ctx.hub().store().secrets().remove(&client, &name, audit, event).await.map_err(CoreError::from)?;
    ctx.hub().client_changed(stored.seq).await;
    Ok(DeletedSecret { client, name })
}

pub(super) fn item(row: &SecretRow) -> SecretItem {
    SecretItem {
        name: row.name.clone(),
        key_version: row.version.unsigned_abs(),
        created_at: row.created_at.millis(),
        rotated_at: row.rotated_at.map(Stamp::millis),
    }
}
