//! Registering, updating and losing spokes (protocol §5).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hub_operations::Definition;
use hub_protocol::ops::hub::{Exposure, Policy, RegisterSpoke, RegisteredOperation, RegisteredSpoke};
use hub_protocol::{CallError, ConnectionId, ErrorCode, Json, OperationSpec, SpokeId, close};
use hub_storage::{DefinitionRow, NewEvent, PreviousHolder, SpokeRow, Stamp, StoreError};
use serde_json::{Value, json};

use crate::clients::{brings_operations, importer, is_reserved};
use crate::directory::{Offer, SpokeConnection, SpokeFacts, order_of};
use crate::error::{chain, put_off};
use crate::hub::Hub;
use crate::session::Session;
use crate::{CoreError, ops, redact, tools};

/// Operations that one spoke may offer.
const MAX_OPERATIONS: usize = 2_000;

/// First segments that only qualified operations of these spoke types may have.
const QUALIFIED: [&str; 2] = ["dev", "client"];

impl Hub {
    /// Takes a spoke in, in place of an older instance of the same name and key.
    pub(crate) async fn register_spoke(
        &self,
        session: &Arc<Session>,
        params: RegisterSpoke,
    ) -> Result<RegisteredSpoke, CallError> {
        check_name("name", &params.name)?;
        check_name("spokeType", &params.spoke_type)?;
        let pooled = exposure_of(&params) == Exposure::Pooled;
        if session.spoke().is_some_and(|s| *s.name != *params.name) {
            return Err(CoreError::Conflict("this connection has registered under another name".into()).into());
        }
        // One registration of a name at a time; other names go on.
        let _turn = self.directory().turn(&params.name).await;
        self.check_holder(session, &params).await?;
        self.check_clients(&session.principal().identity.id, &params.name, &params.operations, pooled).await?;
        let offers = self.offers(&params.operations, pooled, &params.spoke_type, &params.name)?;
        let peer = session.peer().cloned().ok_or(CoreError::NotASpoke("only a connection can register"))?;
        let (stored, holder) = self.store_spoke(session, &params, pooled, &offers).await?;
        // A client may have got the name meanwhile; of who makes one now, this registration is seen.
        let clash = self.check_clients(&stored.owner, &params.name, &params.operations, pooled).await;
        if let Err(error) = clash {
            self.forget_in_store(stored.id, session.id(), &params.name).await;
            return Err(error);
        }
        let spoke = SpokeConnection::new(facts(&params, &stored), peer);
        if !session.set_spoke(Arc::clone(&spoke)) {
            self.forget_in_store(stored.id, session.id(), &params.name).await;
            return Err(CallError::new(ErrorCode::SpokeDisconnected, "the connection was lost"));
        }
        if let (Some(holder), Some(cluster)) = (&holder, self.cluster()) {
            let lease = Duration::from_millis(holder.lease_remaining_ms);
            cluster.release(holder.hub_id, &params.name, holder.connection_id, lease).await;
        }
        let older = self.directory().connect(&spoke, &offers, pooled);
        self.tell_cluster(&params.name).await;
        if session.is_ended() {
            // The connection was lost before the directory knew of it, so its end has found nothing to take out.
            self.spoke_lost(&spoke).await;
        }
        let superseded = older.filter(|o| o.is_local() && o.connection != session.id());
        if let Some(older) = &superseded {
            let reason = "superseded by a newer instance".to_owned();
            older.peer.outbox().close(hub_operations::Close { code: close::SUPERSEDED, reason, flush: true });
        }
        Ok(RegisteredSpoke {
            spoke_id: stored.id,
            connection_id: session.id(),
            hub_id: self.id(),
            heartbeat_ms: self.settings().heartbeat_ms,
            operations: names_of(&offers),
            superseded: superseded.is_some() || holder.is_some(),
        })
    }

    /// Adds operations of a registered spoke, and takes those of `withdraw` back, but for the versions just added.
    pub(crate) async fn update_spoke(
        &self,
        spoke: &Arc<SpokeConnection>,
        specs: &[OperationSpec],
        withdraw: Vec<String>,
    ) -> Result<Vec<RegisteredOperation>, CallError> {
        let _turn = self.directory().turn(&spoke.name).await;
        let stored = self.store().spokes().by_name(&spoke.name).await.map_err(CoreError::from)?;
        let stored = stored.ok_or(CoreError::NotFound { what: "spoke" })?;
        let pooled = stored.exposure == "pooled";
        self.check_clients(&stored.owner, &spoke.name, specs, pooled).await?;
        let offers = self.offers(specs, pooled, &stored.spoke_type, &spoke.name)?;
        let mut names = spoke.names();
        let withdrawn = taken(&mut names, &withdraw)?;
        let offered: HashSet<&str> = names.keys().map(String::as_str).chain(offers.iter().map(|o| &*o.local)).collect();
        if offered.len() > MAX_OPERATIONS {
            return Err(too_many());
        }
        let told = event(&spoke.name, "updated", json!({ "operations": ids_of(&offers), "withdrawn": withdrawn }));
        let written = self.store().spokes().update_operations(spoke.id, rows_of(&offers), withdraw, told).await;
        let row = written.map_err(|e| conflict_or(e, &offers))?;
        self.log().announce(Some(row.seq)).await;
        if let Err(error) = self.check_clients(&stored.owner, &spoke.name, specs, pooled).await {
            let told = event(&spoke.name, "unregistered", json!({ "operations": ids_of(&offers) }));
            let locals = offers.iter().map(|offer| offer.local.to_string()).collect();
            self.store().spokes().unregister(spoke.id, locals, told).await.map_err(CoreError::from)?;
            return Err(error);
        }
        self.directory().update(spoke, &offers, &withdrawn, pooled);
        self.tell_cluster(&spoke.name).await;
        Ok(spoke.names().into_iter().map(|(local, id)| RegisteredOperation { local, id }).collect())
    }

    /// Takes operations of a registered spoke back; all when none is named.
    pub(crate) async fn unregister(
        &self,
        spoke: &Arc<SpokeConnection>,
        locals: Option<Vec<String>>,
    ) -> Result<Vec<String>, CallError> {
        let _turn = self.directory().turn(&spoke.name).await;
        let mut names = spoke.names();
        let locals = locals.unwrap_or_else(|| names.keys().cloned().collect());
        let ids = taken(&mut names, &locals)?;
        let event = event(&spoke.name, "unregistered", json!({ "operations": ids }));
        let row = self.store().spokes().unregister(spoke.id, locals.clone(), event).await.map_err(CoreError::from)?;
        self.log().announce(Some(row.seq)).await;
        self.directory().update(spoke, &[], &ids, false);
        self.tell_cluster(&spoke.name).await;
        Ok(locals)
    }

    /// A spoke's connection is lost.
    pub(crate) async fn spoke_lost(&self, spoke: &Arc<SpokeConnection>) {
        let moves = self.is_draining();
        if moves {
            self.directory().expect_back(&spoke.name);
        }
        self.directory().disconnect(spoke);
        self.forget_in_store(spoke.id, spoke.connection, &spoke.name).await;
        if let Some(cluster) = self.cluster() {
            cluster.spoke_changed(&spoke.name, moves).await;
        }
    }

    /// Lets the other hubs look at a spoke.
    async fn tell_cluster(&self, spoke: &str) {
        if let Some(cluster) = self.cluster() {
            cluster.spoke_changed(spoke, false).await;
        }
    }

    async fn forget_in_store(&self, id: SpokeId, connection: ConnectionId, name: &str) {
        let event = event(name, "disconnected", json!({ "connectionId": connection }));
        match self.store().spokes().disconnect(id, connection, Stamp::now(), event).await {
            Ok(row) => self.log().announce(row.map(|r| r.seq)).await,
            Err(error) => put_off(&error.into(), &format!("the end of the spoke {name:?} was not stored")),
        }
    }

    /// Whether the name is free for this key and instance.
    async fn check_holder(&self, session: &Arc<Session>, params: &RegisterSpoke) -> Result<(), CallError> {
        let principal = &session.principal().identity.id;
        if is_reserved(&params.name, principal) {
            let why = format!("{:?} is a name for a client's import: take one that does not begin so", params.name);
            return Err(CoreError::Denied(why).into());
        }
        let stored = self.store().spokes().by_name(&params.name).await.map_err(CoreError::from)?;
        if stored.is_some_and(|s| s.owner != *principal) {
            let details = json!({ "name": params.name });
            ops::audit::note(self, session.principal(), "spoke.refused", &params.name, details).await?;
            return Err(CoreError::Denied(format!("the spoke name {:?} belongs to another key", params.name)).into());
        }
        let Some(current) = self.directory().spoke(&params.name) else { return Ok(()) };
        let same = current.instance == params.instance_id || current.connection == session.id();
        if same || params.started_at > current.started_at {
            return Ok(());
        }
        Err(self.refuse_older(session, &params.name))
    }

    fn refuse_older(&self, session: &Arc<Session>, name: &str) -> CallError {
        let refused = Arc::clone(session);
        self.after_answer("name held", move || {
            refused.close(close::NAME_HELD, "a newer instance holds this name", true);
        });
        CoreError::Conflict(format!("a newer instance holds the spoke name {name:?}")).into()
    }

    /// Whether none of the pooled ids is below the name of a client that is imported: those are the import's alone.
    async fn check_clients(
        &self,
        owner: &str,
        spoke: &str,
        specs: &[OperationSpec],
        pooled: bool,
    ) -> Result<(), CallError> {
        let firsts: HashSet<&str> = specs.iter().filter_map(|spec| spec.namespace.split('.').next()).collect();
        for first in firsts.into_iter().filter(|first| pooled && owner != importer(first)) {
            let client = self.store().clients().by_name(first).await.map_err(CoreError::from)?;
            if client.is_some_and(|client| brings_operations(&client)) {
                return Err(CoreError::Conflict(format!(
                    "spoke {spoke:?} can't offer operations below {first:?}: they belong to the imported client {first:?}"
                ))
                .into());
            }
        }
        Ok(())
    }

    async fn store_spoke(
        &self,
        session: &Arc<Session>,
        params: &RegisterSpoke,
        pooled: bool,
        offers: &[Offer],
    ) -> Result<(SpokeRow, Option<PreviousHolder>), CallError> {
        let now = Stamp::now();
        let row = SpokeRow {
            id: SpokeId::new(),
            name: params.name.clone(),
            owner: session.principal().identity.id.clone(),
            spoke_type: params.spoke_type.clone(),
            instance_id: params.instance_id,
            started_at: Stamp::from_millis(params.started_at),
            connection_id: session.id(),
            hub_id: self.id(),
            connected: true,
            draining: false,
            version: params.version.as_deref().map(|v| redact::keys_in_text(v).into_owned()),
            project_id: params.project_id.as_deref().map(|p| redact::keys_in_text(p).into_owned()),
            host_info: params.host_info.as_ref().map(redact::keys_in_json),
            labels: params.labels.as_ref().and_then(|l| Json::from_serialize(l).ok()).map(|l| redact::keys_in_json(&l)),
            load: None,
            agents: None,
            exposure: if pooled { "pooled" } else { "qualified" }.to_owned(),
            policy: policy_word(params.policy.unwrap_or_default()),
            max_in_flight: params.max_in_flight.map(|n| i32::try_from(n).unwrap_or(i32::MAX)),
            connected_at: now,
            disconnected_at: None,
            last_heartbeat_at: None,
        };
        let event =
            event(&params.name, "connected", json!({ "connectionId": session.id(), "operations": ids_of(offers) }));
        let written = self.store().spokes().register(row, rows_of(offers), event).await;
        if matches!(written, Err(StoreError::NewerInstance { .. })) {
            // Another hub has it, and this one has not heard of that yet.
            return Err(self.refuse_older(session, &params.name));
        }
        let (stored, event, holder) = written.map_err(|e| conflict_or(e, offers))?;
        self.log().announce(Some(event.seq)).await;
        Ok((stored, holder))
    }

    /// Checks and compiles what a spoke offers, under the names it gets here.
    fn offers(
        &self,
        specs: &[OperationSpec],
        pooled: bool,
        spoke_type: &str,
        spoke: &str,
    ) -> Result<Vec<Offer>, CallError> {
        if specs.len() > MAX_OPERATIONS {
            return Err(too_many());
        }
        let mut seen = HashSet::new();
        let mut offers = Vec::with_capacity(specs.len());
        for spec in specs {
            let local = spec.id();
            let id = if pooled { local.clone() } else { qualified(spoke_type, spoke, &local) };
            if !seen.insert((id.clone(), spec.version.clone())) {
                return Err(CoreError::Invalid(format!("operation {local:?} is listed twice")).into());
            }
            self.check_free(&id, pooled)?;
            let spec = spec.clone().with_id(&id);
            let version = semver::Version::parse(&spec.version).ok();
            // Known definitions are compiled already, which matters when ten thousand spokes come back at once.
            let known = version.and_then(|v| self.directory().definition(&id, &v)).filter(|d| *d.spec() == spec);
            let definition = match known {
                Some(known) => known,
                None => checked(spec)?,
            };
            offers.push(Offer { definition, local: local.into() });
        }
        Ok(offers)
    }

    /// Whether spokes may use the id in this way.
    fn check_free(&self, id: &str, pooled: bool) -> Result<(), CoreError> {
        let first = id.split('.').next().unwrap_or_default();
        let own = self.registry().iter().any(|e| e.definition().id().split('.').next() == Some(first));
        if own || pooled && QUALIFIED.contains(&first) {
            return Err(CoreError::Conflict(format!("the names below {first:?} belong to the hub")));
        }
        if self.directory().exposed_otherwise(id, pooled) {
            return Err(CoreError::Conflict(format!(
                "{id:?} is already exposed in the other way (pooled or qualified)"
            )));
        }
        Ok(())
    }
}

/// The hub-wide id of a qualified operation.
fn qualified(spoke_type: &str, spoke: &str, local: &str) -> String {
    let prefix = if spoke_type == "dev-env" { "dev" } else { spoke_type };
    format!("{prefix}.{spoke}.{local}")
}

/// Takes these local names out; answers their hub-wide ids.
fn taken(names: &mut BTreeMap<String, String>, locals: &[String]) -> Result<Vec<String>, CoreError> {
    let ids = locals.iter().map(|local| names.remove(local));
    ids.collect::<Option<_>>().ok_or(CoreError::NotFound { what: "one of the named operations" })
}

fn exposure_of(params: &RegisterSpoke) -> Exposure {
    let usual = if params.spoke_type == "compute" { Exposure::Pooled } else { Exposure::Qualified };
    params.exposure.unwrap_or(usual)
}

fn check_name(member: &str, name: &str) -> Result<(), CoreError> {
    let fits =
        (1..=64).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits { Ok(()) } else { Err(CoreError::Invalid(format!("{member} must be 1 to 64 of A-Z a-z 0-9 _ -"))) }
}

fn checked(spec: OperationSpec) -> Result<Arc<Definition>, CoreError> {
    let definition = Definition::new(spec).map_err(|e| CoreError::Invalid(chain(&e)))?;
    if tools::asks(definition.spec()) && !definition.input().takes_objects() {
        tracing::warn!(
            operation = definition.id(),
            "asks to be an MCP tool and is none: no object fits its inputSchema"
        );
    }
    Ok(Arc::new(definition))
}

fn facts(params: &RegisterSpoke, stored: &SpokeRow) -> SpokeFacts {
    SpokeFacts {
        id: stored.id,
        name: params.name.clone(),
        owner: stored.owner.clone(),
        connection: stored.connection_id,
        instance: params.instance_id,
        started_at: params.started_at,
        policy: params.policy.unwrap_or_default(),
        max_in_flight: params.max_in_flight,
        order: order_of(stored.connected_at),
    }
}

fn names_of(offers: &[Offer]) -> Vec<RegisteredOperation> {
    let name = |o: &Offer| RegisteredOperation { local: o.local.to_string(), id: o.definition.id().to_owned() };
    offers.iter().map(name).collect()
}

fn ids_of(offers: &[Offer]) -> Vec<&str> {
    offers.iter().map(|o| o.definition.id()).collect()
}

fn rows_of(offers: &[Offer]) -> Vec<DefinitionRow> {
    let row = |o: &Offer| DefinitionRow {
        operation_id: o.definition.id().to_owned(),
        version: o.definition.version().to_string(),
        spec: canonical(o.definition.spec()),
        local: o.local.to_string(),
    };
    offers.iter().map(row).collect()
}

/// The same spec always gives the same text: members sorted.
fn canonical(spec: &OperationSpec) -> Json {
    serde_json::to_value(spec).unwrap_or_default().into()
}

fn policy_word(policy: Policy) -> String {
    serde_json::to_value(policy).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

fn event(spoke: &str, kind: &str, payload: Value) -> NewEvent {
    NewEvent {
        topic: format!("spoke:{spoke}"),
        kind: kind.to_owned(),
        at: Stamp::now(),
        payload: payload.into(),
        root: None,
    }
}

fn too_many() -> CallError {
    CallError::new(ErrorCode::PayloadTooLarge, format!("a spoke offers at most {MAX_OPERATIONS} operations"))
        .with_details(&json!({ "limit": MAX_OPERATIONS, "of": "operations" }))
}

/// Names the first difference when a definition conflicts with the stored one.
fn conflict_or(error: StoreError, offers: &[Offer]) -> CallError {
    let StoreError::DefinitionConflict { operation, version, stored } = error else {
        return CoreError::from(error).into();
    };
    let offered =
        offers.iter().find(|o| o.definition.id() == operation && o.definition.version().to_string() == version);
    let place = match (offered, stored.parse::<Value>()) {
        (Some(offered), Ok(stored)) => {
            let new = serde_json::to_value(offered.definition.spec()).unwrap_or_default();
            first_difference(&stored, &new, String::new()).unwrap_or_default()
        }
        _ => String::new(),
    };
    CallError::new(
        ErrorCode::Conflict,
        format!("{operation} {version} is known with another definition; the first difference is at {place:?}: register a new version"),
    )
    .with_details(&json!({ "operationId": operation, "version": version, "path": place }))
}

/// JSON Pointer of the first place where two values differ.
fn first_difference(a: &Value, b: &Value, at: String) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys()).collect();
            keys.sort();
            keys.dedup();
            keys.into_iter().find_map(|key| match (a.get(key), b.get(key)) {
                (Some(x), Some(y)) => first_difference(x, y, format!("{at}/{key}")),
                _ => Some(format!("{at}/{key}")),
            })
        }
        (Value::Array(a), Value::Array(b)) => {
            let pairs = a.iter().zip(b).enumerate();
            let inside = pairs.into_iter().find_map(|(i, (x, y))| first_difference(x, y, format!("{at}/{i}")));
            inside.or_else(|| (a.len() != b.len()).then(|| format!("{at}/{}", a.len().min(b.len()))))
        }
        _ => (a != b).then_some(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_named() {
        let a = json!({"x": {"y": [1, 2]}, "z": 1});
        for (b, place) in [
            (json!({"x": {"y": [1, 3]}, "z": 1}), Some("/x/y/1")),
            (json!({"x": {"y": [1]}, "z": 1}), Some("/x/y/1")),
            (json!({"x": {"y": [1, 2]}}), Some("/z")),
            (a.clone(), None),
        ] {
            assert_eq!(first_difference(&a, &b, String::new()).as_deref(), place);
        }
    }
}
