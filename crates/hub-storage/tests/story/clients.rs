//! External services and their encrypted secrets.

use std::collections::BTreeMap;

use hub_storage::{Agreement, AuditFilter, ClientChange, ClientRow, ClientState, SecretRow, Store, StoreError};
use uuid::Uuid;

use super::make::*;
use crate::Backend;

pub(crate) async fn clients_are_changed_and_counted<B: Backend>() {
    let fresh = B::fresh().await;
    let clients = fresh.store.clients();
    let row = client("forge");
    clients.insert(row.clone(), audit("clients.create", "ada"), event("created")).await.unwrap();
    assert_eq!(clients.by_name("forge").await.unwrap(), Some(row.clone()));
    let taken = clients.insert(client("forge"), audit("a", "b"), event("e")).await;
    assert!(matches!(taken, Err(StoreError::Conflict { what: "client" })));
    let change = ClientChange { config: Some(json(r#"{"b":2}"#)), enabled: Some(false), ..ClientChange::default() };
    let (changed, told) = clients.update("forge", change, at(5), audit("a", "b"), event("e")).await.unwrap();
    let wanted = ClientRow {
        config: json(r#"{"b":2}"#),
        enabled: false,
        revision: row.revision + 1,
        updated_at: at(5),
        ..row.clone()
    };
    assert_eq!((changed, told.seq), (wanted.clone(), 2));
    let scopes = ClientChange { scopes: Some(json(r#"["a"]"#)), ..ClientChange::default() };
    let (changed, _) = clients.update("forge", scopes, at(6), audit("a", "b"), event("e")).await.unwrap();
    assert_eq!((changed.scopes, changed.config, changed.enabled), (Some(json(r#"["a"]"#)), wanted.config, false));
    let missing = clients.update("nobody", ClientChange::default(), at(6), audit("a", "b"), event("e")).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "client" })));
    // What failed left neither audit entry nor event.
    assert_eq!(fresh.store.audit().list(AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap().len(), 3);
    assert_eq!(fresh.store.events().last().await.unwrap(), 3);
}

pub(crate) async fn state_is_noted_once_and_for_its_revision<B: Backend>() {
    let fresh = B::fresh().await;
    let clients = fresh.store.clients();
    let row = client("forge");
    clients.insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    let ready = ClientState { state: "ready".into(), reason: None, operations: 3 };
    let degraded = ClientState { state: "degraded".into(), reason: Some("gone".into()), operations: 0 };
    let set = async |state: &ClientState, revision| {
        fresh.store.clients().set_state(row.id, revision, state.clone(), at(7), event("s")).await.unwrap()
    };
    assert!(set(&ready, 1).await.is_some());
    assert!(set(&ready, 1).await.is_none());
    assert!(set(&degraded, 1).await.is_some());
    assert!(set(&degraded, 1).await.is_none());
    assert!(set(&ready, 0).await.is_none());
    let stored = clients.by_name("forge").await.unwrap().unwrap();
    assert_eq!((stored.state.as_str(), stored.reason.as_deref(), stored.operations), ("degraded", Some("gone"), 0));
    assert_eq!((stored.state_at, stored.revision), (Some(at(7)), 1));
    // Of what it has become nobody knows yet how it fares.
    clients.update("forge", ClientChange::default(), at(8), audit("a", "b"), event("e")).await.unwrap();
    let changed = clients.by_name("forge").await.unwrap().unwrap();
    assert_eq!((changed.state.as_str(), changed.reason, changed.state_at), ("pending", None, None));
}

pub(crate) async fn secrets_are_replaced_and_go_with_their_client<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let row = client("forge");
    store.clients().insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    let first = secret(&row, "token", 1, 1);
    let missing = store.secrets().put("forge", first.clone(), true, audit("a", "b"), event("e")).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "secret" })));
    put(store, &first).await;
    assert_eq!(store.secrets().list(Some(row.id)).await.unwrap(), std::slice::from_ref(&first));
    let second = secret(&row, "token", 1, 2);
    let (stored, _) = store.secrets().put("forge", second, true, audit("a", "b"), event("e")).await.unwrap();
    assert_eq!((stored.created_at, stored.rotated_at), (at(1), Some(at(2))));
    assert_eq!(store.secrets().list(None).await.unwrap(), [stored]);
    assert_eq!(store.clients().by_name("forge").await.unwrap().unwrap().revision, 3);
    let gone = store.secrets().remove("forge", "other", audit("a", "b"), event("e")).await;
    assert!(matches!(gone, Err(StoreError::NotFound { what: "secret" })));
    store.clients().remove("forge", audit("a", "b"), event("e")).await.unwrap();
    assert_eq!(store.secrets().list(None).await.unwrap(), []);
    assert_eq!(store.clients().list().await.unwrap(), []);
    // Of the client that was here under that name before.
    store.clients().insert(client("forge"), audit("a", "b"), event("e")).await.unwrap();
    let late = store.secrets().put("forge", first, false, audit("a", "b"), event("e")).await;
    assert!(matches!(late, Err(StoreError::Conflict { what: "client" })), "{late:?}");
}

pub(crate) async fn reencryption_spares_what_was_set_meanwhile<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let row = client("forge");
    store.clients().insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    for name in ["a", "b", "c"] {
        put(store, &secret(&row, name, 1, 1)).await;
    }
    let old = store.secrets().of_other_versions(2, None, 10).await.unwrap();
    assert_eq!(old.len(), 3);
    assert_eq!(store.secrets().of_other_versions(2, Some(old[0].id), 1).await.unwrap(), old[1..2]);
    let pairs: Vec<_> =
        old.iter().map(|row| (row.clone(), SecretRow { version: 2, salt: vec![9], ..row.clone() })).collect();
    let meanwhile = SecretRow { id: old[0].id, salt: vec![7], ..secret(&row, "a", 1, 3) };
    put(store, &meanwhile).await;
    assert_eq!(store.secrets().reencrypt(pairs).await.unwrap(), 2);
    assert_eq!(store.secrets().versions().await.unwrap(), [(1, 1), (2, 2)]);
}

pub(crate) async fn keyrings_agree_by_version<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let ring = |versions: &[(i32, &str)]| -> BTreeMap<i32, String> {
        versions.iter().map(|(version, check)| (*version, (*check).to_owned())).collect()
    };
    let agree = async |versions: &[(i32, &str)]| store.secrets().agree(ring(versions)).await.unwrap();
    assert!(agree(&[(1, "x")]).await.holds());
    assert_eq!(agree(&[(1, "y")]).await, Agreement { differing: vec![1], ..Agreement::default() });
    // What does not agree is not noted.
    assert_eq!(agree(&[(2, "z")]).await, Agreement { lacking: vec![1], ..Agreement::default() });
    assert!(agree(&[(1, "x"), (2, "z")]).await.holds());
    assert_eq!(agree(&[(1, "x")]).await, Agreement { lacking: vec![2], ..Agreement::default() });
    let row = client("forge");
    store.clients().insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    put(store, &secret(&row, "a", 1, 1)).await;
    let used = store.secrets().drop_versions_below(2).await;
    assert!(matches!(used, Err(StoreError::Conflict { what: "version of the keyring" })));
    put(store, &secret(&row, "a", 2, 2)).await;
    store.secrets().drop_versions_below(2).await.unwrap();
    assert!(agree(&[(2, "z")]).await.holds());
    assert!(agree(&[(1, "old"), (2, "z")]).await.holds());
    let late = store.secrets().put("forge", secret(&row, "b", 1, 3), false, audit("a", "b"), event("e")).await;
    assert!(matches!(late, Err(StoreError::Conflict { what: "version of the keyring" })));
}

pub(crate) async fn a_keyring_begins_anew_where_no_secret_needs_the_old_one<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let ring = |version: i32| BTreeMap::from([(version, format!("key {version}"))]);
    let begins = async |version: i32| store.secrets().begin_anew(ring(version)).await.unwrap();
    assert!(store.secrets().agree(ring(37)).await.unwrap().holds());
    let row = client("forge");
    store.clients().insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    put(store, &secret(&row, "a", 37, 1)).await;
    assert!(!begins(38).await, "a secret needs the one before");
    store.secrets().remove("forge", "a", audit("a", "b"), event("e")).await.unwrap();
    assert!(!begins(37).await && !begins(1).await, "a version has one key for ever");
    assert!(begins(38).await);
    assert!(store.secrets().agree(ring(38)).await.unwrap().holds());
    // Nor does who has the old one write with it.
    let late = store.secrets().put("forge", secret(&row, "b", 37, 3), false, audit("a", "b"), event("e")).await;
    assert!(matches!(late, Err(StoreError::Conflict { what: "version of the keyring" })));
}

async fn put(store: &Store, row: &SecretRow) {
    store.secrets().put("forge", row.clone(), false, audit("secrets.set", "ada"), event("e")).await.unwrap();
}

pub(crate) fn client(name: &str) -> ClientRow {
    ClientRow {
        id: Uuid::now_v7(),
        name: name.into(),
        kind: "openapi".into(),
        config: json(r#"{"a" : 1}"#),
        scopes: None,
        enabled: true,
        revision: 1,
        created_at: at(0),
        updated_at: at(0),
        state: "pending".into(),
        reason: None,
        state_at: None,
        operations: 0,
    }
}

pub(crate) fn secret(client: &ClientRow, name: &str, version: i32, second: i64) -> SecretRow {
    SecretRow {
        id: Uuid::now_v7(),
        client_id: client.id,
        name: name.into(),
        version,
        salt: vec![1, 2, u8::try_from(second).unwrap()],
        nonce: vec![0; 12],
        ciphertext: vec![0xAB; 40],
        created_at: at(second),
        rotated_at: None,
    }
}
