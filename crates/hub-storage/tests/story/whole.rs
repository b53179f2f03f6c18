//! The store as a whole: marked batches, verification, copies.

use std::time::Duration;

use hub_protocol::CallId;
use hub_storage::{BatchMark, CallBatch, CallFilter, Finding, HubRow, Retention, SqliteOptions, Store, StoreError};
use uuid::Uuid;

use super::make::*;
use crate::Backend;

pub(crate) async fn marked_batch_is_written_once<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let mark = Some(BatchMark { writer: Uuid::now_v7(), number: 1 });
    let started = vec![call("a.b", 1)];
    let batch = CallBatch { mark, started, events: vec![event("one"), event("two")], ..CallBatch::default() };
    let written = store.calls().record(batch.clone()).await.unwrap();
    store.events().append(vec![event("between")]).await.unwrap();
    assert_eq!(store.calls().record(batch.clone()).await.unwrap(), written);
    // At once, as by a try whose first commit is still under way.
    let mark = mark.map(|mark| BatchMark { number: 2, ..mark });
    let second = CallBatch { mark, started: vec![call("a.b", 2)], events: vec![event("e")], ..CallBatch::default() };
    let mut tries = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (store, second) = (store.clone(), second.clone());
        tries.spawn(async move { store.calls().record(second).await.unwrap()[0].seq });
    }
    assert_eq!(tries.join_all().await, [4; 8]);
    assert_eq!(store.events().last().await.unwrap(), 4);
    // The first one is late by now.
    assert!(matches!(store.calls().record(batch).await, Err(StoreError::Conflict { what: "batch" })));
    // A batch that failed is not taken for written.
    let mark = mark.map(|mark| BatchMark { number: 3, ..mark });
    let refused = store.calls().record(CallBatch { mark, ..second.clone() }).await;
    assert!(matches!(refused, Err(StoreError::Conflict { what: "call" })));
    let third = CallBatch { mark, started: vec![call("a.b", 3)], ..CallBatch::default() };
    store.calls().record(third.clone()).await.unwrap();
    assert_eq!(store.calls().record(third).await.unwrap(), []);
    assert_eq!(store.calls().list(CallFilter { limit: 9, ..CallFilter::default() }).await.unwrap().len(), 3);
}

pub(crate) async fn verify_finds_what_is_broken<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let root = call("a.b", 1);
    let fine = child(&root, 2);
    record(store, &[root.clone(), fine.clone()]).await;
    store.spokes().register(spoke("files-1", "a"), vec![definition("a.b", "1.0.0", "{}")], event("e")).await.unwrap();
    store.events().append((0..5000).map(|_| event("e")).collect()).await.unwrap();
    let mut seen = Vec::new();
    assert_eq!(store.verify(|progress| seen.push(progress.table)).await.unwrap(), []);
    assert!(["events", "calls", "registrations", "idempotency_keys"].iter().all(|table| seen.contains(table)));
    let lost = call("a.b", 3);
    let orphan = child(&lost, 4);
    record(store, std::slice::from_ref(&orphan)).await;
    let live = HubRow {
        id: hub_protocol::HubId::new(),
        address: String::new(),
        version: String::new(),
        started_at: at(0),
        draining: false,
        renewed_at: at(0),
        remaining_ms: 0,
    };
    store.hubs().renew(live, Duration::from_secs(60)).await.unwrap();
    let found = store.verify(|_| {}).await.unwrap();
    let unfinished = |call: &hub_storage::CallRow| Finding::Unfinished { call: call.call_id, hub: call.hub_id };
    let wanted = [
        unfinished(&root),
        unfinished(&fine),
        Finding::ParentMissing { call: orphan.call_id, parent: lost.call_id },
        Finding::RootMissing { call: orphan.call_id, root: lost.call_id },
        unfinished(&orphan),
    ];
    assert_eq!(found, wanted);
    assert!(found[2].to_string().contains("is missing"));
    // What retention removed is not missing.
    store.calls().close_interrupted(None, at(5), json("{}")).await.unwrap();
    let keep = Retention { events: Some(Duration::from_secs(1)), ..Retention::default() };
    store.sweep(&keep, at(2)).await.unwrap();
    let left = store.verify(|_| {}).await.unwrap();
    assert_eq!(left.len(), 2, "{left:?}");
}

/// Something in every table.
async fn filled(store: &Store) {
    let ada = account(store, "Ада 🦀").await;
    // The successor's id is not always the later one.
    let (mut old, new) = (key(&ada, "old", 1), key(&ada, "new", 2));
    old.id = hub_protocol::KeyId::new();
    store.keys().insert(old.clone(), audit("keys.create", "ada"), event("e")).await.unwrap();
    store.keys().rotate(old.id, at(5), new, audit("keys.rotate", "ada"), event("e")).await.unwrap();
    let specs = vec![definition("files.read", "1.0.0", r#"{"a" : 1}"#), definition("files.list", "1.0.0", "{}")];
    let (spoke, ..) = store.spokes().register(spoke("files-1", "ada"), specs, event("e")).await.unwrap();
    store.spokes().heartbeat(spoke.id, Some(0.1), Some(json("[1.0]")), None, at(7)).await.unwrap();
    let mut batch = CallBatch::default();
    for n in 0..1203 {
        let mut row = call("files.read", n);
        row.input = Some(json(r#"{"z": 1.0, "a":"\u0000 я",  "a": 2}"#));
        batch.edges.push(hub_storage::EdgeRow { source: row.call_id, target: CallId::new(), kind: "triggered".into() });
        batch.events.push(event("e"));
        batch.started.push(row);
    }
    store.calls().record(batch).await.unwrap();
    for n in 0..7 {
        store.idempotency().begin(idempotency(&format!("k{n} ü"), CallId::new(), 100), at(0)).await.unwrap();
    }
    let client = super::clients::client("forge");
    store.clients().insert(client.clone(), audit("clients.create", "ada"), event("e")).await.unwrap();
    let secret = super::clients::secret(&client, "token", 1, 3);
    store.secrets().put("forge", secret, false, audit("secrets.set", "ada"), event("e")).await.unwrap();
    store.settings().set("theme", json(r#"{"dark":  true}"#)).await.unwrap();
    let keep = Retention { events: Some(Duration::from_secs(1)), ..Retention::default() };
    store.events().append(vec![hub_storage::NewEvent { at: at(500), ..event("kept") }]).await.unwrap();
    store.sweep(&keep, at(50)).await.unwrap();
}

pub(crate) async fn copy_is_the_same<B: Backend>() {
    let source = crate::Sqlite::fresh().await;
    filled(&source.store).await;
    let target = B::fresh().await;
    let itself = target.store.copy_from(&target.store, |_| {}).await;
    assert!(matches!(itself, Err(StoreError::Conflict { what: "a store that is copied into itself" })));
    let mut told = 0;
    let copied = target.store.copy_from(&source.store, |_| told += 1).await.unwrap();
    assert!(told >= 22);
    let rows: Vec<_> = copied.iter().map(|table| (table.table, table.rows)).collect();
    let wanted = [
        ("accounts", 1),
        ("api_keys", 2),
        ("audit_entries", 4),
        ("spokes", 1),
        ("definitions", 2),
        ("registrations", 2),
        ("calls", 1203),
        ("call_edges", 1203),
        ("idempotency_keys", 7),
        ("events", 1),
        ("clients", 1),
        ("secrets", 1),
        ("settings", 2),
    ];
    assert_eq!(rows, wanted);
    let (ours, theirs) = (target.store.events(), source.store.events());
    assert_eq!(ours.after(0, None, 9).await.unwrap(), theirs.after(0, None, 9).await.unwrap());
    assert_eq!(ours.trimmed_to().await.unwrap(), theirs.trimmed_to().await.unwrap());
    // Positions go on where they were, and so does everything else.
    let next = theirs.last().await.unwrap() + 1;
    assert_eq!(ours.append(vec![event("next")]).await.unwrap()[0].seq, next);
    assert_eq!(target.store.verify(|_| {}).await.unwrap(), source.store.verify(|_| {}).await.unwrap());
    let again = target.store.copy_from(&source.store, |_| {}).await;
    assert!(matches!(again, Err(StoreError::Conflict { what: "a store that is not empty" })));
}

pub(crate) async fn broken_off_copy_goes_on<B: Backend>() {
    let source = crate::Sqlite::fresh().await;
    filled(&source.store).await;
    let target = B::fresh().await;
    for stop in [1, 5, 8, 9] {
        let mut left = stop;
        let copying = target.store.copy_from(&source.store, |_| {
            left -= 1;
            // As by a kill: the copy's future is never polled again.
            assert!(left > 0, "killed");
        });
        let ended = futures_util::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(copying)).await;
        assert!(ended.is_err());
    }
    let copied = target.store.copy_from(&source.store, |_| {}).await.unwrap();
    assert_eq!(
        copied.iter().map(|table| table.rows).sum::<u64>(),
        1 + 2 + 4 + 1 + 2 + 2 + 1203 + 1203 + 7 + 1 + 1 + 1 + 2
    );
}

pub(crate) async fn copy_of_a_copy_is_equal<B: Backend>() {
    let source = B::fresh().await;
    filled(&source.store).await;
    let folder = tempfile::tempdir().unwrap();
    let target = Store::open_sqlite(&folder.path().join("copy.db"), SqliteOptions::default()).await.unwrap();
    target.copy_from(&source.store, |_| {}).await.unwrap();
    assert_eq!(target.events().last().await.unwrap(), source.store.events().last().await.unwrap());
}
