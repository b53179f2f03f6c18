//! Rows to write in stories.

use hub_protocol::{AccountId, CallId, ConnectionId, HubId, Json, KeyId, SpokeId};
use hub_storage::{
    AccountRow, AuditRow, CallBatch, CallRow, CallUpdate, DefinitionRow, IdempotencyRow, KeyRow, NewEvent, SpokeRow,
    Stamp, Store,
};
use uuid::Uuid;

/// A moment on the stories' clock.
pub(crate) fn at(second: i64) -> Stamp {
    Stamp(1_700_000_000_000_000 + second * 1_000_000)
}

pub(crate) fn json(text: &str) -> Json {
    Json::from_text(text).unwrap()
}

pub(crate) async fn account(store: &Store, name: &str) -> AccountRow {
    let row = AccountRow { id: AccountId::new(), name: name.into(), kind: "user".into(), created_at: at(0) };
    store.accounts().ensure(row).await.unwrap()
}

pub(crate) fn key(account: &AccountRow, name: &str, second: i64) -> KeyRow {
    let id = KeyId::new();
    KeyRow {
        id,
        public_id: format!("pub-{name}"),
        hash: vec![0xAB; 32],
        principal: account.name.clone(),
        account_id: account.id,
        account: account.name.clone(),
        name: name.into(),
        scopes: vec!["files:*".into(), "ключ".into()],
        resources: Some([("repo:*".to_owned(), vec!["read".to_owned()])].into()),
        tools: vec!["files.*".into()],
        created_at: at(second),
        expires_at: None,
        revoked_at: None,
        rotated_to: None,
        last_used_at: None,
    }
}

pub(crate) fn audit(action: &str, actor: &str) -> AuditRow {
    AuditRow {
        id: Uuid::now_v7(),
        at: at(0),
        actor: actor.into(),
        key_id: None,
        action: action.into(),
        target: "it".into(),
        details: json("{}"),
    }
}

pub(crate) fn event(kind: &str) -> NewEvent {
    NewEvent { topic: "hub".into(), kind: kind.into(), at: at(0), payload: json(r#"{"n": 1}"#), root: None }
}

pub(crate) fn spoke(name: &str, owner: &str) -> SpokeRow {
    SpokeRow {
        id: SpokeId::new(),
        name: name.into(),
        owner: owner.into(),
        spoke_type: "files".into(),
        instance_id: Uuid::now_v7(),
        started_at: at(0),
        connection_id: ConnectionId::new(),
        hub_id: HubId::new(),
        connected: true,
        draining: false,
        version: Some("1.2.3".into()),
        project_id: None,
        host_info: Some(json(r#"{"os":"linux"}"#)),
        labels: None,
        load: None,
        agents: None,
        exposure: "shared".into(),
        policy: "any".into(),
        max_in_flight: Some(8),
        connected_at: at(0),
        disconnected_at: None,
        last_heartbeat_at: None,
    }
}

pub(crate) fn definition(operation: &str, version: &str, spec: &str) -> DefinitionRow {
    let local = operation.rsplit('.').next().unwrap().to_owned();
    DefinitionRow { operation_id: operation.into(), version: version.into(), spec: json(spec), local }
}

pub(crate) fn call(operation: &str, second: i64) -> CallRow {
    let call_id = CallId::new();
    CallRow {
        call_id,
        request_id: "r1".into(),
        operation_id: operation.into(),
        version: "1.0.0".into(),
        kind: "query".into(),
        parent: None,
        root: call_id,
        depth: 0,
        principal: "ada".into(),
        spoke: Some("files-1".into()),
        hub_id: HubId(Uuid::nil()),
        status: "running".into(),
        input: Some(json(r#"{"path": "a.txt"}"#)),
        input_size: 17,
        input_hash: Some("abc".into()),
        output: None,
        output_size: 0,
        output_hash: None,
        error: None,
        idempotency_key: None,
        started_at: at(second),
        completed_at: None,
        attempts: 1,
        items: 0,
        cost: 0,
    }
}

pub(crate) fn child(parent: &CallRow, second: i64) -> CallRow {
    let mut row = call(&parent.operation_id, second);
    (row.parent, row.root, row.depth) = (Some(parent.call_id), parent.root, parent.depth + 1);
    row
}

pub(crate) fn ended(row: &CallRow, status: &str, millis: u64) -> CallUpdate {
    CallUpdate {
        call_id: row.call_id,
        status: status.into(),
        spoke: Some("files-2".into()),
        attempts: 2,
        output: Some(json("[1,2]")),
        output_size: 5,
        output_hash: None,
        error: None,
        completed_at: Some(row.started_at.plus_millis(millis)),
        items: 2,
        cost: 7,
    }
}

/// The row as it is after `update`.
pub(crate) fn updated(mut row: CallRow, update: &CallUpdate) -> CallRow {
    let update = update.clone();
    row.status = update.status;
    row.spoke = update.spoke;
    row.attempts = update.attempts;
    row.output = update.output;
    row.output_size = update.output_size;
    row.output_hash = update.output_hash;
    row.error = update.error;
    row.completed_at = update.completed_at;
    row.items = update.items;
    row.cost = update.cost;
    row
}

pub(crate) async fn record(store: &Store, rows: &[CallRow]) {
    let batch = CallBatch { started: rows.to_vec(), ..CallBatch::default() };
    store.calls().record(batch).await.unwrap();
}

pub(crate) fn idempotency(key: &str, call_id: CallId, expires: i64) -> IdempotencyRow {
    IdempotencyRow {
        principal: "ada".into(),
        operation_id: "files.write".into(),
        key: key.into(),
        call_id,
        input_hash: vec![1, 2, 3],
        outcome: None,
        created_at: at(0),
        expires_at: at(expires),
    }
}
