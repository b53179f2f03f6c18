//! Retention, backup, closing.

use std::time::Duration;

use hub_protocol::CallId;
use hub_storage::{
    AuditFilter, CallBatch, CallFilter, EdgeRow, NewEvent, Retention, SqliteOptions, Store, StoreError, Swept,
};

use super::make::*;
use crate::Backend;

pub(crate) async fn sweep_by_age<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let (mut old, mut slow, live) = (call("a.b", 1), call("a.b", 2), call("a.b", 3));
    (old.status, old.completed_at) = ("completed".into(), Some(at(5)));
    (slow.status, slow.completed_at) = ("completed".into(), Some(at(95)));
    let edge = |source, target| EdgeRow { source, target, kind: "triggered".into() };
    let edges =
        vec![edge(old.call_id, slow.call_id), edge(slow.call_id, live.call_id), edge(live.call_id, old.call_id)];
    let started = vec![old.clone(), slow.clone(), live.clone()];
    store.calls().record(CallBatch { started, edges, ..CallBatch::default() }).await.unwrap();
    store.audit().append(audit("a", "b")).await.unwrap();
    store.idempotency().begin(idempotency("gone", CallId::new(), 100), at(0)).await.unwrap();
    store.idempotency().begin(idempotency("kept", CallId::new(), 101), at(0)).await.unwrap();
    store.events().append(vec![event("e")]).await.unwrap();

    let nothing = store.sweep(&Retention::default(), at(50)).await.unwrap();
    assert_eq!(nothing, Swept::default());
    let age = Some(Duration::from_secs(10));
    let swept = store.sweep(&Retention { calls: age, events: age, audit: age }, at(100)).await.unwrap();
    assert_eq!(swept, Swept { calls: 1, events: 1, audit: 1, idempotency: 1 });
    let left = store.calls().list(CallFilter { limit: 9, ..CallFilter::default() }).await.unwrap();
    assert_eq!(left, [live.clone(), slow.clone()]);
    assert_eq!(store.calls().tree(slow.call_id).await.unwrap().1, [edge(slow.call_id, live.call_id)]);
    assert_eq!(store.audit().list(AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap(), []);
}

pub(crate) async fn sweep_in_many_chunks<B: Backend>() {
    let fresh = B::fresh().await;
    for _ in 0..3 {
        let events = (0..4000).map(|_| NewEvent { payload: json("0"), ..event("e") }).collect();
        fresh.store.events().append(events).await.unwrap();
    }
    let mut started: Vec<_> = (0..5001).map(|n| call("a.b", n)).collect();
    for row in &mut started {
        (row.status, row.completed_at) = ("completed".into(), Some(row.started_at));
    }
    fresh.store.calls().record(CallBatch { started, ..CallBatch::default() }).await.unwrap();
    let age = Some(Duration::from_secs(1));
    let swept = fresh.store.sweep(&Retention { calls: age, events: age, audit: age }, at(100_000)).await.unwrap();
    assert_eq!((swept.calls, swept.events), (5001, 12_000));
    assert_eq!(fresh.store.events().trimmed_to().await.unwrap(), 12_000);
}

pub(crate) async fn ping_and_close<B: Backend>() {
    let fresh = B::fresh().await;
    fresh.store.ping().await.unwrap();
    let mut queued = tokio::task::JoinSet::new();
    for n in 0..50 {
        let store = fresh.store.clone();
        queued.spawn(async move { store.settings().set(&format!("k{n}"), json("1")).await });
    }
    assert!(queued.join_all().await.iter().all(Result::is_ok));
    let other = fresh.store.clone();
    tokio::join!(fresh.store.close(), other.close());
    assert!(matches!(fresh.store.ping().await, Err(StoreError::Closed)));
    assert!(matches!(other.settings().get("k1").await, Err(StoreError::Closed)));
    assert!(matches!(other.settings().set("k1", json("2")).await, Err(StoreError::Closed)));
    other.close().await;
}

pub(crate) async fn backup_while_writing<B: Backend>() {
    let fresh = B::fresh().await;
    let store = fresh.store.clone();
    store.events().append((0..100).map(|n| event(&n.to_string())).collect()).await.unwrap();
    let writer = async {
        for n in 0..200 {
            store.events().append(vec![event(&n.to_string())]).await.unwrap();
        }
    };
    let target = fresh.path("backup.db");
    let ((), bytes) = tokio::join!(writer, fresh.store.backup_to(&target));
    assert_eq!(bytes.unwrap(), std::fs::metadata(&target).unwrap().len());
    let copy = Store::open_sqlite(&target, SqliteOptions::default()).await.unwrap();
    let events = copy.events().after(0, None, 1000).await.unwrap();
    assert!(events.len() >= 100);
    assert_eq!(copy.events().last().await.unwrap(), events.last().unwrap().seq);
    assert_eq!(events, fresh.store.events().after(0, None, u32::try_from(events.len()).unwrap()).await.unwrap());
    let again = fresh.store.backup_to(&target).await;
    assert!(matches!(again, Err(StoreError::Conflict { what: "backup file" })));
    let nowhere = fresh.store.backup_to(&fresh.path("no/such/folder.db")).await;
    assert!(matches!(nowhere, Err(StoreError::Io(_))));
}
