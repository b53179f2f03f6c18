//! Writes that share a commit.

use hub_storage::{CallBatch, CallFilter, StoreError};

use super::make::*;
use crate::Backend;

pub(crate) async fn failing_job_fails_alone<B: Backend>() {
    let fresh = B::fresh().await;
    let taken = call("a.b", 0);
    record(&fresh.store, std::slice::from_ref(&taken)).await;
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..100 {
        let (store, taken) = (fresh.store.clone(), taken.clone());
        writes.spawn(async move {
            // Each tenth one writes a good row first and then fails.
            let mut started = vec![call("a.b", n)];
            if n % 10 == 0 {
                started.push(taken);
            }
            let events = vec![event("e")];
            (n, store.calls().record(CallBatch { started, events, ..CallBatch::default() }).await)
        });
    }
    for (n, result) in writes.join_all().await {
        match result {
            Ok(_) => assert_ne!(n % 10, 0),
            Err(error) => assert!(n % 10 == 0 && matches!(error, StoreError::Conflict { .. }), "{n}: {error}"),
        }
    }
    let rows = fresh.store.calls().list(CallFilter { limit: 999, ..CallFilter::default() }).await.unwrap();
    assert_eq!(rows.len(), 91);
    let seqs: Vec<_> = fresh.store.events().after(0, None, 999).await.unwrap().iter().map(|row| row.seq).collect();
    assert_eq!(seqs, (1..=90).collect::<Vec<_>>());
}

pub(crate) async fn dropped_caller_breaks_nothing<B: Backend>() {
    let fresh = B::fresh().await;
    for _ in 0..50 {
        let events = fresh.store.events();
        let write = events.append(vec![event("dropped"), event("dropped")]);
        // Polled once, so that it is queued, and dropped.
        let mut write = std::pin::pin!(write);
        std::future::poll_fn(|cx| std::task::Poll::Ready(write.as_mut().poll(cx).is_ready())).await;
    }
    fresh.store.events().append(vec![event("kept")]).await.unwrap();
    let rows = fresh.store.events().after(0, None, 999).await.unwrap();
    assert_eq!(rows.last().unwrap().kind, "kept");
    // Each write is there as a whole: two events or none.
    assert_eq!(rows.len() % 2, 1);
    fresh.store.ping().await.unwrap();
}

pub(crate) async fn many_writers<B: Backend>() {
    let fresh = B::fresh().await;
    let mut writes = tokio::task::JoinSet::new();
    for n in 0..2000 {
        let store = fresh.store.clone();
        writes.spawn(async move { store.events().append(vec![event(&n.to_string())]).await.unwrap()[0].seq });
    }
    let mut seqs = writes.join_all().await;
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=2000).collect::<Vec<_>>());
}
