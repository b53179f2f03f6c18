//! Spokes, definitions, registrations.

use hub_protocol::{ConnectionId, HubId, SpokeId};
use hub_storage::{RegistrationRow, Store, StoreError};

use super::make::*;
use crate::Backend;

/// `operation@version` of the registrations, with `-` before the inactive ones.
async fn registered(store: &Store) -> Vec<String> {
    let mark = |row: RegistrationRow| {
        format!("{}{}@{} {}", if row.active { "" } else { "-" }, row.operation_id, row.version, row.spoke)
    };
    store.spokes().registrations().await.unwrap().into_iter().map(mark).collect()
}

pub(crate) async fn registering_again_keeps_id_and_owner<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let first = spoke("files-1", "ada");
    let (stored, event_row, _) = spokes.register(first.clone(), vec![], event("connected")).await.unwrap();
    assert_eq!((stored, event_row.seq), (first.clone(), 1));
    let stranger = spokes.register(spoke("files-1", "mallory"), vec![], event("connected")).await.unwrap_err();
    assert!(matches!(&stranger, StoreError::HeldByOther { owner } if owner == "ada"), "{stranger}");
    let mut second = spoke("files-1", "ada");
    second.labels = Some(json(r#"["gpu"]"#));
    second.host_info = None;
    let (stored, ..) = spokes.register(second.clone(), vec![], event("connected")).await.unwrap();
    second.id = first.id;
    assert_eq!(stored, second);
    assert_eq!(spokes.by_name("files-1").await.unwrap(), Some(second.clone()));
    let other = spoke("alpha", "ada");
    spokes.register(other.clone(), vec![], event("connected")).await.unwrap();
    assert_eq!(spokes.list().await.unwrap(), [other, second]);
    assert_eq!(spokes.by_name("nobody").await.unwrap(), None);
}

pub(crate) async fn missing_operations_become_inactive<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let (read, write) = (definition("files.read", "1.0.0", "{}"), definition("files.write", "1.0.0", r#"{"w":1}"#));
    spokes.register(spoke("files-1", "a"), vec![read.clone(), write.clone()], event("e")).await.unwrap();
    spokes.register(spoke("files-2", "a"), vec![write.clone()], event("e")).await.unwrap();
    spokes.register(spoke("files-1", "a"), vec![read.clone()], event("e")).await.unwrap();
    let want = ["files.read@1.0.0 files-1", "-files.write@1.0.0 files-1", "files.write@1.0.0 files-2"];
    assert_eq!(registered(&fresh.store).await, want);
    spokes.register(spoke("files-1", "a"), vec![write, read], event("e")).await.unwrap();
    assert!(spokes.registrations().await.unwrap().iter().all(|row| row.active));
    let row = &spokes.registrations().await.unwrap()[1];
    assert_eq!((row.local.as_str(), row.spec.as_str(), row.exposure.as_str()), ("write", r#"{"w":1}"#, "shared"));
}

pub(crate) async fn conflicting_definition_changes_nothing<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let good = definition("files.read", "1.0.0", r#"{"a":1}"#);
    spokes.register(spoke("files-1", "a"), vec![good.clone()], event("e")).await.unwrap();
    let other = definition("files.read", "1.0.0", r#"{"a": 1}"#);
    let wanted = vec![definition("files.list", "1.0.0", "{}"), other.clone()];
    let refused = spokes.register(spoke("files-2", "a"), wanted, event("e")).await.unwrap_err();
    assert!(!refused.to_string().contains("\"a\""));
    let StoreError::DefinitionConflict { operation, version, stored } = refused else { panic!("{refused}") };
    assert_eq!((operation.as_str(), version.as_str(), stored), ("files.read", "1.0.0", good.spec.clone()));
    assert_eq!(spokes.by_name("files-2").await.unwrap(), None);
    assert_eq!(spokes.definition("files.list", "1.0.0").await.unwrap(), None);
    assert_eq!(fresh.store.events().last().await.unwrap(), 1);
    // Also against the spoke's own earlier definition, and where only operations are added.
    let own = spokes.register(spoke("files-1", "a"), vec![other.clone()], event("e")).await;
    assert!(matches!(own, Err(StoreError::DefinitionConflict { .. })));
    let id = spokes.by_name("files-1").await.unwrap().unwrap().id;
    let added = spokes.update_operations(id, vec![other], vec![], event("e")).await;
    assert!(matches!(added, Err(StoreError::DefinitionConflict { .. })));
    assert_eq!(registered(&fresh.store).await, ["files.read@1.0.0 files-1"]);
}

pub(crate) async fn conflict_inside_one_registration<B: Backend>() {
    let fresh = B::fresh().await;
    let twice = vec![definition("files.read", "1.0.0", "1"), definition("files.read", "1.0.0", "2")];
    let refused = fresh.store.spokes().register(spoke("files-1", "a"), twice, event("e")).await;
    assert!(matches!(refused, Err(StoreError::DefinitionConflict { .. })));
    let same = vec![definition("files.read", "1.0.0", "1"), definition("files.read", "1.0.0", "1")];
    fresh.store.spokes().register(spoke("files-1", "a"), same, event("e")).await.unwrap();
    assert_eq!(registered(&fresh.store).await, ["files.read@1.0.0 files-1"]);
}

pub(crate) async fn operations_are_added_and_removed<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let v1 = definition("files.read", "1.0.0", "{}");
    let (stored, ..) = spokes.register(spoke("files-1", "a"), vec![v1], event("e")).await.unwrap();
    let v2 = definition("files.read", "2.0.0", "{}");
    spokes.update_operations(stored.id, vec![v2.clone()], vec![], event("e")).await.unwrap();
    assert_eq!(registered(&fresh.store).await, ["files.read@1.0.0 files-1", "files.read@2.0.0 files-1"]);
    let gone = vec!["read".to_owned(), "nothing".to_owned()];
    spokes.unregister(stored.id, gone, event("e")).await.unwrap();
    assert_eq!(registered(&fresh.store).await, ["-files.read@1.0.0 files-1", "-files.read@2.0.0 files-1"]);
    spokes.update_operations(stored.id, vec![v2.clone()], vec![], event("e")).await.unwrap();
    assert_eq!(registered(&fresh.store).await, ["-files.read@1.0.0 files-1", "files.read@2.0.0 files-1"]);
    // A version in the place of another, in one step.
    let v3 = definition("files.read", "3.0.0", "{}");
    spokes.update_operations(stored.id, vec![v3], vec!["read".to_owned()], event("e")).await.unwrap();
    let now = ["-files.read@1.0.0 files-1", "-files.read@2.0.0 files-1", "files.read@3.0.0 files-1"];
    assert_eq!(registered(&fresh.store).await, now);
    assert_eq!(spokes.definition("files.read", "2.0.0").await.unwrap(), Some(v2.spec.clone()));
    assert_eq!(spokes.definition("files.read", "4.0.0").await.unwrap(), None);
    let nobody = SpokeId::new();
    let missing = spokes.update_operations(nobody, vec![v2], vec![], event("e")).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "spoke" })));
    assert!(matches!(spokes.unregister(nobody, vec![], event("e")).await, Err(StoreError::NotFound { .. })));
}

pub(crate) async fn late_disconnect_of_an_old_connection<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let (old, ..) = spokes.register(spoke("files-1", "a"), vec![], event("e")).await.unwrap();
    let (new, ..) = spokes.register(spoke("files-1", "a"), vec![], event("e")).await.unwrap();
    let late = spokes.disconnect(old.id, old.connection_id, at(5), event("gone")).await.unwrap();
    assert_eq!(late, None);
    assert_eq!(spokes.by_name("files-1").await.unwrap(), Some(new.clone()));
    let ended = spokes.disconnect(new.id, new.connection_id, at(6), event("gone")).await.unwrap();
    assert_eq!(ended.map(|row| row.seq), Some(3));
    let stored = spokes.by_name("files-1").await.unwrap().unwrap();
    assert_eq!((stored.connected, stored.disconnected_at), (false, Some(at(6))));
    assert_eq!(spokes.disconnect(new.id, new.connection_id, at(7), event("gone")).await.unwrap(), None);
    assert_eq!(spokes.disconnect(SpokeId::new(), ConnectionId::new(), at(7), event("gone")).await.unwrap(), None);
}

pub(crate) async fn heartbeat_changes_what_it_names<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let (row, ..) = spokes.register(spoke("files-1", "a"), vec![], event("e")).await.unwrap();
    spokes.heartbeat(row.id, Some(0.5), Some(json("[1]")), Some(true), at(1)).await.unwrap();
    spokes.heartbeat(row.id, None, None, None, at(2)).await.unwrap();
    let stored = spokes.by_name("files-1").await.unwrap().unwrap();
    assert_eq!((stored.load, stored.agents, stored.draining), (Some(0.5), Some(json("[1]")), true));
    assert_eq!(stored.last_heartbeat_at, Some(at(2)));
    let missing = spokes.heartbeat(SpokeId::new(), None, None, None, at(2)).await;
    assert!(matches!(missing, Err(StoreError::NotFound { what: "spoke" })));
}

pub(crate) async fn crash_disconnects_the_hubs_spokes<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let hub = HubId::new();
    for n in 0..4 {
        let mut row = spoke(&format!("files-{n}"), "a");
        if n < 2 {
            row.hub_id = hub;
        }
        spokes.register(row, vec![], event("e")).await.unwrap();
    }
    assert_eq!(spokes.disconnect_all(Some(hub), at(3)).await.unwrap(), 2);
    assert_eq!(spokes.disconnect_all(Some(hub), at(4)).await.unwrap(), 0);
    assert_eq!(spokes.disconnect_all(None, at(5)).await.unwrap(), 2);
    let rows = spokes.list().await.unwrap();
    assert!(rows.iter().all(|row| !row.connected));
    assert_eq!((rows[0].disconnected_at, rows[3].disconnected_at), (Some(at(3)), Some(at(5))));
}
