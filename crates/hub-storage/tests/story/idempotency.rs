//! Idempotency keys.

use hub_protocol::CallId;
use hub_storage::{Begun, CallBatch, KeyedOutcome};

use super::make::*;
use crate::Backend;

pub(crate) async fn second_begin_finds_the_first<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.idempotency();
    let first = idempotency("ключ", CallId::new(), 100);
    assert_eq!(keys.begin(first.clone(), at(0)).await.unwrap(), Begun::New);
    let second = idempotency("ключ", CallId::new(), 100);
    assert_eq!(keys.begin(second, at(1)).await.unwrap(), Begun::Existing(first.clone()));
    let mut elsewhere = idempotency("ключ", CallId::new(), 100);
    elsewhere.principal = "bob".into();
    assert_eq!(keys.begin(elsewhere, at(1)).await.unwrap(), Begun::New);
}

pub(crate) async fn concurrent_begins_make_one_new<B: Backend>() {
    let fresh = B::fresh().await;
    for round in 0..5 {
        let mut begins = tokio::task::JoinSet::new();
        for _ in 0..32 {
            let store = fresh.store.clone();
            let row = idempotency(&format!("k{round}"), CallId::new(), 100);
            begins.spawn(async move { (row.call_id, store.idempotency().begin(row, at(0)).await.unwrap()) });
        }
        let begun = begins.join_all().await;
        let winners: Vec<_> = begun.iter().filter(|(_, begun)| *begun == Begun::New).map(|(id, _)| *id).collect();
        assert_eq!(winners.len(), 1);
        for (_, begun) in begun {
            assert!(matches!(begun, Begun::New) || matches!(&begun, Begun::Existing(row) if row.call_id == winners[0]));
        }
    }
}

pub(crate) async fn expired_key_is_replaced<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.idempotency();
    let old = idempotency("k", CallId::new(), 10);
    keys.begin(old.clone(), at(0)).await.unwrap();
    let outcome = KeyedOutcome {
        principal: old.principal.clone(),
        operation_id: old.operation_id.clone(),
        key: old.key.clone(),
        outcome: json("1"),
    };
    let batch = CallBatch { outcomes: vec![outcome], ..CallBatch::default() };
    fresh.store.calls().record(batch).await.unwrap();
    let new = idempotency("k", CallId::new(), 50);
    assert!(matches!(keys.begin(new.clone(), at(9)).await.unwrap(), Begun::Existing(_)));
    assert_eq!(keys.begin(new.clone(), at(10)).await.unwrap(), Begun::New);
    // The old outcome went with the old row.
    let third = idempotency("k", CallId::new(), 50);
    assert_eq!(keys.begin(third, at(11)).await.unwrap(), Begun::Existing(new));
}

pub(crate) async fn release_frees_only_unfinished<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.idempotency();
    let row = idempotency("k", CallId::new(), 100);
    keys.begin(row.clone(), at(0)).await.unwrap();
    keys.release("ada", "files.write", "k", CallId::new()).await.unwrap();
    assert!(matches!(keys.begin(row.clone(), at(1)).await.unwrap(), Begun::Existing(_)), "only its holder frees it");
    keys.release("ada", "files.write", "k", row.call_id).await.unwrap();
    keys.release("ada", "files.write", "k", row.call_id).await.unwrap();
    assert_eq!(keys.begin(row.clone(), at(1)).await.unwrap(), Begun::New);
    let outcome = KeyedOutcome {
        principal: "ada".into(),
        operation_id: "files.write".into(),
        key: "k".into(),
        outcome: json("null"),
    };
    let batch = CallBatch { outcomes: vec![outcome], ..CallBatch::default() };
    fresh.store.calls().record(batch).await.unwrap();
    keys.release("ada", "files.write", "k", row.call_id).await.unwrap();
    assert!(matches!(keys.begin(row, at(2)).await.unwrap(), Begun::Existing(_)));
}
