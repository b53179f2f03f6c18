//! The event log.

use std::time::Duration;

use hub_protocol::CallId;
use hub_storage::{NewEvent, Retention};

use super::make::*;
use crate::Backend;

pub(crate) async fn positions_grow_and_survive_trimming<B: Backend>() {
    let fresh = B::fresh().await;
    let events = fresh.store.events();
    assert_eq!((events.last().await.unwrap(), events.trimmed_to().await.unwrap()), (0, 0));
    let dated = |second| NewEvent { at: at(second), ..event("e") };
    // One late clock in the middle: a prefix goes, never a hole.
    events.append(vec![dated(1), dated(2), dated(90), dated(3), dated(100)]).await.unwrap();
    let keep = Retention { events: Some(Duration::from_secs(50)), ..Retention::default() };
    assert_eq!(fresh.store.sweep(&keep, at(100)).await.unwrap().events, 2);
    assert_eq!((events.last().await.unwrap(), events.trimmed_to().await.unwrap()), (5, 2));
    let left: Vec<_> = events.after(0, None, 9).await.unwrap().into_iter().map(|row| row.seq).collect();
    assert_eq!(left, [3, 4, 5]);
    assert_eq!(fresh.store.sweep(&keep, at(1000)).await.unwrap().events, 3);
    assert_eq!((events.last().await.unwrap(), events.trimmed_to().await.unwrap()), (5, 5));
    assert_eq!(fresh.store.sweep(&keep, at(1000)).await.unwrap().events, 0);
    assert_eq!(events.trimmed_to().await.unwrap(), 5);
    assert_eq!(events.append(vec![dated(2000)]).await.unwrap()[0].seq, 6);
}

pub(crate) async fn pages_and_trees<B: Backend>() {
    let fresh = B::fresh().await;
    let events = fresh.store.events();
    let root = CallId::new();
    let new = (0..10).map(|n| NewEvent { root: (n % 3 == 0).then_some(root), ..event(&n.to_string()) }).collect();
    let written = events.append(new).await.unwrap();
    assert_eq!(events.after(4, None, 3).await.unwrap(), written[4..7]);
    let of_tree: Vec<_> = events.after(1, Some(root), 2).await.unwrap().into_iter().map(|row| row.seq).collect();
    assert_eq!(of_tree, [4, 7]);
    assert_eq!(events.after(10, None, 9).await.unwrap(), []);
    assert_eq!(events.after(u64::MAX, None, 9).await.unwrap(), []);
}
