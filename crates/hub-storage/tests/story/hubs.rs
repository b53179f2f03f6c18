//! Hubs, their leases, and who may hold a spoke.

use std::time::Duration;

use hub_protocol::HubId;
use hub_storage::{HubRow, PreviousHolder, StoreError};

use super::make::*;
use crate::Backend;

const LONG: Duration = Duration::from_secs(600);

fn hub() -> HubRow {
    HubRow {
        id: HubId::new(),
        address: "10.0.0.1:7777".into(),
        version: "1.2.3".into(),
        started_at: at(0),
        draining: false,
        renewed_at: at(0),
        remaining_ms: 0,
    }
}

pub(crate) async fn lease_lives_as_long_as_renewed<B: Backend>() {
    let fresh = B::fresh().await;
    let hubs = fresh.store.hubs();
    let (one, two) = (hub(), hub());
    hubs.renew(one.clone(), LONG).await.unwrap();
    let mut renewed = hubs.renew(HubRow { draining: true, ..two.clone() }, LONG).await.unwrap();
    assert_eq!(
        renewed.hubs.iter().map(|row| (row.id, row.draining)).collect::<Vec<_>>(),
        [(one.id, false), (two.id, true)]
    );
    assert!(renewed.hubs.iter().all(|row| (590_000..=600_000).contains(&row.remaining_ms)), "{renewed:?}");
    let first = renewed.hubs.remove(0);
    assert_eq!((first.address, first.version, first.started_at), (one.address.clone(), one.version.clone(), at(0)));
    hubs.renew(one.clone(), Duration::ZERO).await.unwrap();
    assert_eq!(hubs.list().await.unwrap().len(), 1);
    assert_eq!(hubs.dead().await.unwrap(), [one.id]);
    hubs.leave(one.id).await.unwrap();
    hubs.leave(two.id).await.unwrap();
    hubs.leave(two.id).await.unwrap();
    assert_eq!((hubs.list().await.unwrap(), hubs.dead().await.unwrap()), (vec![], vec![]));
}

pub(crate) async fn renewing_tells_what_is_held<B: Backend>() {
    let fresh = B::fresh().await;
    let row = hub();
    let mut mine = spoke("files-1", "a");
    mine.hub_id = row.id;
    let (mine, ..) = fresh.store.spokes().register(mine, vec![], event("e")).await.unwrap();
    fresh.store.spokes().register(spoke("files-2", "a"), vec![], event("e")).await.unwrap();
    let held = fresh.store.hubs().renew(row.clone(), LONG).await.unwrap().held;
    assert_eq!(held.len(), 1);
    assert_eq!(
        (held[0].spoke_id, held[0].connection_id, held[0].name.as_str()),
        (mine.id, mine.connection_id, "files-1")
    );
    fresh.store.spokes().disconnect(mine.id, mine.connection_id, at(1), event("e")).await.unwrap();
    assert_eq!(fresh.store.hubs().renew(row, LONG).await.unwrap().held, []);
}

pub(crate) async fn dead_hubs_are_cleaned_up_once<B: Backend>() {
    let fresh = B::fresh().await;
    let store = &fresh.store;
    let (live, dead) = (hub(), HubId::new());
    store.hubs().renew(live.clone(), LONG).await.unwrap();
    let mut rows: Vec<_> = (0..1100).map(|n| call("a.b", n)).collect();
    rows.iter_mut().for_each(|row| row.hub_id = dead);
    rows[0].hub_id = live.id;
    record(store, &rows).await;
    let mut held = spoke("files-1", "a");
    held.hub_id = dead;
    store.spokes().register(held, vec![], event("e")).await.unwrap();
    assert_eq!(store.hubs().dead().await.unwrap(), [dead]);
    let clean = || async {
        let closed = store.calls().close_interrupted(Some(dead), at(9), json("{}")).await.unwrap();
        (closed, store.spokes().disconnect_all(Some(dead), at(9)).await.unwrap())
    };
    let (a, b, c) = tokio::join!(clean(), clean(), clean());
    assert_eq!((a.0 + b.0 + c.0, a.1 + b.1 + c.1), (1099, 1));
    assert_eq!(store.hubs().dead().await.unwrap(), []);
    // One event for each call, and that of the spoke.
    assert_eq!(store.events().after(0, None, 9999).await.unwrap().len(), 1100);
    assert_eq!(store.calls().get(rows[0].call_id).await.unwrap().unwrap().status, "running");
}

pub(crate) async fn spoke_moves_to_the_newer_instance<B: Backend>() {
    let fresh = B::fresh().await;
    let spokes = fresh.store.spokes();
    let here = hub();
    fresh.store.hubs().renew(here.clone(), LONG).await.unwrap();
    let mut first = spoke("files-1", "a");
    (first.hub_id, first.started_at) = (here.id, at(5));
    let (first, _, previous) = spokes.register(first, vec![], event("e")).await.unwrap();
    assert_eq!(previous, None);
    // Neither an older nor an equally old one gets the name while its hub lives.
    for started in [4, 5] {
        let mut late = spoke("files-1", "a");
        late.started_at = at(started);
        let refused = spokes.register(late, vec![], event("e")).await.unwrap_err();
        assert!(matches!(refused, StoreError::NewerInstance { hub_id } if hub_id == here.id), "{refused}");
    }
    let mut stranger = spoke("files-1", "b");
    stranger.started_at = at(99);
    let refused = spokes.register(stranger, vec![], event("e")).await.unwrap_err();
    assert!(matches!(refused, StoreError::HeldByOther { .. }), "{refused}");
    // The same instance that came back elsewhere, and a newer one.
    let mut same = spoke("files-1", "a");
    (same.instance_id, same.started_at) = (first.instance_id, at(5));
    let (same, _, previous) = spokes.register(same, vec![], event("e")).await.unwrap();
    let previous = previous.unwrap();
    assert!((1..=600_000).contains(&previous.lease_remaining_ms));
    let wanted = PreviousHolder {
        hub_id: here.id,
        connection_id: first.connection_id,
        lease_remaining_ms: previous.lease_remaining_ms,
        instance_id: first.instance_id,
        started_at: at(5),
    };
    assert_eq!(previous, wanted);
    let mut newer = spoke("files-1", "a");
    newer.started_at = at(6);
    let (newer, _, previous) = spokes.register(newer, vec![], event("e")).await.unwrap();
    assert_eq!(previous.map(|row| (row.hub_id, row.lease_remaining_ms)), Some((same.hub_id, 0)));
    // The hub of that one is dead: anybody of the same owner may have the name.
    let (older, _, previous) = spokes.register(spoke("files-1", "a"), vec![], event("e")).await.unwrap();
    assert_eq!(previous.map(|row| row.connection_id), Some(newer.connection_id));
    spokes.disconnect(older.id, older.connection_id, at(9), event("e")).await.unwrap();
    let (_, _, previous) = spokes.register(spoke("files-1", "a"), vec![], event("e")).await.unwrap();
    assert_eq!(previous, None);
}

pub(crate) async fn racing_hubs_leave_one_holder<B: Backend>() {
    let fresh = B::fresh().await;
    let mut racing = tokio::task::JoinSet::new();
    for n in 0..16 {
        let store = fresh.store.clone();
        racing.spawn(async move {
            let row = hub();
            store.hubs().renew(row.clone(), LONG).await.unwrap();
            let mut new = spoke("files-1", "a");
            (new.hub_id, new.started_at) = (row.id, at(n % 4));
            store.spokes().register(new, vec![], event("e")).await
        });
    }
    let outcomes = racing.join_all().await;
    let won: Vec<_> = outcomes.iter().filter_map(|outcome| outcome.as_ref().ok()).collect();
    for outcome in &outcomes {
        assert!(matches!(outcome, Ok(_) | Err(StoreError::NewerInstance { .. })), "{outcome:?}");
    }
    let stored = fresh.store.spokes().by_name("files-1").await.unwrap().unwrap();
    assert_eq!(stored.started_at, at(3));
    // Each winner but the first replaced another, and the last one is what is stored.
    let replaced: Vec<_> = won.iter().filter_map(|row| row.2.as_ref().map(|previous| previous.connection_id)).collect();
    assert_eq!(replaced.len() + 1, won.len());
    assert!(!replaced.contains(&stored.connection_id));
    assert_eq!(fresh.store.events().last().await.unwrap(), won.len() as u64);
}

pub(crate) async fn named_lease_has_one_holder<B: Backend>() {
    let fresh = B::fresh().await;
    let leases = fresh.store.leases();
    let (one, two) = (HubId::new(), HubId::new());
    assert!(leases.hold("retention", one, LONG).await.unwrap());
    assert!(leases.hold("retention", one, LONG).await.unwrap());
    assert!(!leases.hold("retention", two, LONG).await.unwrap());
    assert!(leases.hold("other", two, LONG).await.unwrap());
    leases.release("retention", two).await.unwrap();
    assert!(!leases.hold("retention", two, LONG).await.unwrap());
    leases.release("retention", one).await.unwrap();
    assert!(leases.hold("retention", two, Duration::ZERO).await.unwrap());
    assert!(leases.hold("retention", one, LONG).await.unwrap());
    // All of one holder's, and nobody else's.
    leases.release_all(one).await.unwrap();
    assert!(leases.hold("retention", two, LONG).await.unwrap());
    assert!(!leases.hold("other", one, LONG).await.unwrap());
    let mut racing = tokio::task::JoinSet::new();
    for _ in 0..16 {
        let store = fresh.store.clone();
        racing.spawn(async move { store.leases().hold("race", HubId::new(), LONG).await.unwrap() });
    }
    assert_eq!(racing.join_all().await.into_iter().filter(|held| *held).count(), 1);
}
