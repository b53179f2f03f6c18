//! Accounts, keys, audit trail, settings.

use hub_protocol::{AccountId, KeyId};
use hub_storage::{AccountRow, AuditFilter, StoreError};

use super::make::*;
use crate::Backend;

pub(crate) async fn ensure_keeps_the_first<B: Backend>() {
    let fresh = B::fresh().await;
    let accounts = fresh.store.accounts();
    let first = account(&fresh.store, "Ада 🦀").await;
    let again = AccountRow { id: AccountId::new(), name: first.name.clone(), kind: "admin".into(), created_at: at(9) };
    assert_eq!(accounts.ensure(again).await.unwrap(), first);
    assert_eq!(accounts.by_name("Ада 🦀").await.unwrap(), Some(first.clone()));
    assert_eq!(accounts.get(first.id).await.unwrap(), Some(first.clone()));
    assert_eq!(accounts.by_name("ada").await.unwrap(), None);
    assert_eq!(accounts.get(AccountId::new()).await.unwrap(), None);
    let same_id = AccountRow { name: "other".into(), ..first };
    assert!(matches!(accounts.ensure(same_id).await, Err(StoreError::Conflict { what: "account" })));
}

pub(crate) async fn keys_are_read_as_written<B: Backend>() {
    let fresh = B::fresh().await;
    let owner = account(&fresh.store, "ada").await;
    let row = key(&owner, "one", 1);
    let event = fresh.store.keys().insert(row.clone(), audit("keys.create", "ada"), event("created")).await.unwrap();
    assert_eq!((event.seq, event.kind.as_str()), (1, "created"));
    assert_eq!(fresh.store.keys().get(row.id).await.unwrap(), Some(row.clone()));
    assert_eq!(fresh.store.keys().by_public_id("pub-one").await.unwrap(), Some(row));
    assert_eq!(fresh.store.keys().by_public_id("pub-two").await.unwrap(), None);
    assert_eq!(fresh.store.audit().list(AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap().len(), 1);
}

pub(crate) async fn key_needs_account_and_free_name<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.keys();
    let owner = account(&fresh.store, "ada").await;
    let mut orphan = key(&owner, "orphan", 1);
    orphan.account_id = AccountId::new();
    let refused = keys.insert(orphan, audit("a", "b"), event("e")).await;
    assert!(matches!(refused, Err(StoreError::NotFound { what: "account" })), "{refused:?}");
    keys.insert(key(&owner, "one", 1), audit("a", "b"), event("e")).await.unwrap();
    let refused = keys.insert(key(&owner, "one", 1), audit("a", "b"), event("e")).await;
    assert!(matches!(refused, Err(StoreError::Conflict { what: "key" })));
    // What failed left neither audit entry nor event.
    assert_eq!(fresh.store.audit().list(AuditFilter { limit: 9, ..AuditFilter::default() }).await.unwrap().len(), 1);
    assert_eq!(fresh.store.events().last().await.unwrap(), 1);
}

pub(crate) async fn rotation_links_and_happens_once<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.keys();
    let owner = account(&fresh.store, "ada").await;
    let (old, new) = (key(&owner, "old", 1), key(&owner, "new", 2));
    keys.insert(old.clone(), audit("a", "b"), event("e")).await.unwrap();
    keys.rotate(old.id, at(50), new.clone(), audit("keys.rotate", "b"), event("rotated")).await.unwrap();
    let stored = keys.get(old.id).await.unwrap().unwrap();
    assert_eq!((stored.rotated_to, stored.expires_at), (Some(new.id), Some(at(50))));
    assert_eq!(keys.get(new.id).await.unwrap(), Some(new.clone()));

    let twice = keys.rotate(old.id, at(50), key(&owner, "third", 3), audit("a", "b"), event("e")).await;
    assert!(matches!(twice, Err(StoreError::Conflict { what: "key" })));
    assert_eq!(keys.by_public_id("pub-third").await.unwrap(), None);

    keys.revoke(new.id, at(3), audit("a", "b"), event("e")).await.unwrap();
    let revoked = keys.rotate(new.id, at(50), key(&owner, "third", 3), audit("a", "b"), event("e")).await;
    assert!(matches!(revoked, Err(StoreError::Conflict { what: "key" })));
    let missing = keys.rotate(KeyId::new(), at(50), key(&owner, "third", 3), audit("a", "b"), event("e")).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "key" })));
}

pub(crate) async fn rotation_keeps_the_earlier_end<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.keys();
    let owner = account(&fresh.store, "ada").await;
    let mut old = key(&owner, "old", 1);
    old.expires_at = Some(at(10));
    keys.insert(old.clone(), audit("a", "b"), event("e")).await.unwrap();
    keys.rotate(old.id, at(50), key(&owner, "new", 2), audit("a", "b"), event("e")).await.unwrap();
    assert_eq!(keys.get(old.id).await.unwrap().unwrap().expires_at, Some(at(10)));
}

pub(crate) async fn revoking_twice_keeps_the_first_time<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.keys();
    let owner = account(&fresh.store, "ada").await;
    let row = key(&owner, "one", 1);
    keys.insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    let (first, _) = keys.revoke(row.id, at(5), audit("a", "b"), event("e")).await.unwrap();
    assert_eq!((first.revoked_at, first.account.as_str()), (Some(at(5)), "ada"));
    let (second, event_row) = keys.revoke(row.id, at(6), audit("a", "b"), event("e")).await.unwrap();
    assert_eq!((second.revoked_at, event_row.seq), (Some(at(5)), 3));
    let missing = keys.revoke(KeyId::new(), at(6), audit("a", "b"), event("e")).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "key" })));
}

pub(crate) async fn ended_keys_are_listed_on_request<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.keys();
    let owner = account(&fresh.store, "ada").await;
    let live = key(&owner, "live", 1);
    let mut expired = key(&owner, "expired", 2);
    expired.expires_at = Some(at(10));
    let revoked = key(&owner, "revoked", 3);
    for row in [&live, &expired, &revoked] {
        keys.insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    }
    keys.revoke(revoked.id, at(5), audit("a", "b"), event("e")).await.unwrap();
    let names = |rows: Vec<hub_storage::KeyRow>| rows.into_iter().map(|row| row.name).collect::<Vec<_>>();
    assert_eq!(names(keys.list(true, at(10)).await.unwrap()), ["revoked", "expired", "live"]);
    assert_eq!(names(keys.list(false, at(10)).await.unwrap()), ["live"]);
    assert_eq!(names(keys.list(false, at(9)).await.unwrap()), ["expired", "live"]);
}

pub(crate) async fn touch_never_goes_back<B: Backend>() {
    let fresh = B::fresh().await;
    let keys = fresh.store.keys();
    let owner = account(&fresh.store, "ada").await;
    let row = key(&owner, "one", 1);
    keys.insert(row.clone(), audit("a", "b"), event("e")).await.unwrap();
    keys.touch(row.id, at(9)).await.unwrap();
    keys.touch(row.id, at(7)).await.unwrap();
    keys.touch(KeyId::new(), at(7)).await.unwrap();
    assert_eq!(keys.get(row.id).await.unwrap().unwrap().last_used_at, Some(at(9)));
}

pub(crate) async fn debug_hides_the_hash<B: Backend>() {
    let fresh = B::fresh().await;
    let owner = account(&fresh.store, "ada").await;
    let shown = format!("{:?}", key(&owner, "one", 1));
    assert!(!shown.contains("hash") && !shown.contains("171"), "{shown}");
}

pub(crate) async fn audit_is_paged_and_filtered<B: Backend>() {
    let fresh = B::fresh().await;
    let trail = fresh.store.audit();
    let rows: Vec<_> = (0..6).map(|n| audit(if n % 2 == 0 { "even" } else { "odd" }, ["ada", "bob"][n / 3])).collect();
    for row in &rows {
        trail.append(row.clone()).await.unwrap();
    }
    assert!(matches!(trail.append(rows[0].clone()).await, Err(StoreError::Conflict { .. })));
    let all = AuditFilter { limit: 4, ..AuditFilter::default() };
    let page = trail.list(all.clone()).await.unwrap();
    assert_eq!(page, rows.iter().rev().take(4).cloned().collect::<Vec<_>>());
    let rest = trail.list(AuditFilter { before: Some(page[3].id), ..all.clone() }).await.unwrap();
    assert_eq!(rest, [rows[1].clone(), rows[0].clone()]);
    let odd = trail.list(AuditFilter { action: Some("odd".into()), actor: Some("bob".into()), ..all }).await.unwrap();
    assert_eq!(odd, [rows[5].clone(), rows[3].clone()]);
}

pub(crate) async fn settings_are_replaced<B: Backend>() {
    let fresh = B::fresh().await;
    let settings = fresh.store.settings();
    assert_eq!(settings.get("hub").await.unwrap(), None);
    settings.set("hub", json(r#"{"a":1}"#)).await.unwrap();
    settings.set("hub", json(r#"[ "ü" ]"#)).await.unwrap();
    assert_eq!(settings.get("hub").await.unwrap(), Some(json(r#"[ "ü" ]"#)));
}
