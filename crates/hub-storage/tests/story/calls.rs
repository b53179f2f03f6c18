//! Call records.

use std::collections::BTreeSet;

use hub_protocol::{CallId, HubId};
use hub_storage::{CallBatch, CallFilter, CallRow, EdgeRow, ExportFilter, KeyedOutcome, NewEvent, StoreError};

use super::make::*;
use crate::Backend;

fn ids(rows: &[CallRow]) -> Vec<CallId> {
    rows.iter().map(|row| row.call_id).collect()
}

pub(crate) async fn batch_is_written_whole<B: Backend>() {
    let fresh = B::fresh().await;
    let calls = fresh.store.calls();
    let (first, second) = (call("files.read", 1), call("files.write", 2));
    let key = idempotency("k1", second.call_id, 100);
    fresh.store.idempotency().begin(key.clone(), at(0)).await.unwrap();
    let edge = EdgeRow { source: first.call_id, target: second.call_id, kind: "triggered".into() };
    let batch = CallBatch {
        mark: None,
        started: vec![first.clone(), second.clone()],
        updates: vec![],
        edges: vec![edge.clone(), edge.clone()],
        outcomes: vec![KeyedOutcome {
            principal: "ada".into(),
            operation_id: "files.write".into(),
            key: "k1".into(),
            outcome: json(r#"{"ok":true}"#),
        }],
        events: vec![event("a"), NewEvent { root: Some(first.call_id), ..event("b") }],
    };
    let events = calls.record(batch).await.unwrap();
    assert_eq!(events.iter().map(|row| (row.seq, row.kind.as_str())).collect::<Vec<_>>(), [(1, "a"), (2, "b")]);
    assert_eq!(fresh.store.events().after(0, None, 9).await.unwrap(), events);
    assert_eq!(calls.get(first.call_id).await.unwrap(), Some(first.clone()));
    assert_eq!(calls.get(second.call_id).await.unwrap(), Some(second));
    assert_eq!(calls.get(CallId::new()).await.unwrap(), None);
    assert_eq!(calls.tree(first.call_id).await.unwrap().1, [edge]);
    let hub_storage::Begun::Existing(stored) = fresh.store.idempotency().begin(key, at(1)).await.unwrap() else {
        panic!("the key is held")
    };
    assert_eq!(stored.outcome, Some(json(r#"{"ok":true}"#)));
}

pub(crate) async fn update_in_the_same_batch_and_later<B: Backend>() {
    let fresh = B::fresh().await;
    let calls = fresh.store.calls();
    let (now, later) = (call("files.read", 1), call("files.read", 2));
    let (end_now, mut end_later) = (ended(&now, "completed", 5), ended(&later, "failed", 7));
    end_later.error = Some(json(r#"{"code":"INTERNAL"}"#));
    end_later.spoke = None;
    let unknown = ended(&call("files.read", 3), "completed", 1);
    let started = vec![now.clone(), later.clone()];
    let mut running = end_now.clone();
    running.status = "running".into();
    let updates = vec![running, end_now.clone(), unknown];
    calls.record(CallBatch { started, updates, ..CallBatch::default() }).await.unwrap();
    assert_eq!(calls.get(later.call_id).await.unwrap(), Some(later.clone()));
    calls.record(CallBatch { updates: vec![end_later.clone()], ..CallBatch::default() }).await.unwrap();
    assert_eq!(calls.get(now.call_id).await.unwrap(), Some(updated(now, &end_now)));
    assert_eq!(calls.get(later.call_id).await.unwrap(), Some(updated(later, &end_later)));
}

pub(crate) async fn large_batch_and_odd_sizes<B: Backend>() {
    let fresh = B::fresh().await;
    let mut total = 0;
    for size in [1, 31, 32, 33, 65, 129, 1000] {
        let started: Vec<_> = (0..size).map(|n| call("files.read", n)).collect();
        let events: Vec<_> = (0..size).map(|n| event(&n.to_string())).collect();
        let wanted = ids(&started);
        let rows = fresh.store.calls().record(CallBatch { started, events, ..CallBatch::default() }).await.unwrap();
        let seqs: Vec<_> = rows.iter().map(|row| row.seq).collect();
        assert_eq!(seqs, (total + 1..=total + size as u64).collect::<Vec<_>>());
        assert_eq!(fresh.store.events().after(total, None, 2000).await.unwrap(), rows);
        total += size as u64;
        let filter = CallFilter { limit: u32::try_from(size).unwrap(), ..CallFilter::default() };
        let mut stored = ids(&fresh.store.calls().list(filter).await.unwrap());
        stored.reverse();
        assert_eq!(stored, wanted);
    }
}

pub(crate) async fn empty_batch<B: Backend>() {
    let fresh = B::fresh().await;
    assert_eq!(fresh.store.calls().record(CallBatch::default()).await.unwrap(), []);
    assert_eq!(fresh.store.events().append(vec![]).await.unwrap(), []);
    assert_eq!(fresh.store.events().last().await.unwrap(), 0);
}

pub(crate) async fn failed_batch_leaves_nothing<B: Backend>() {
    let fresh = B::fresh().await;
    let row = call("files.read", 1);
    record(&fresh.store, std::slice::from_ref(&row)).await;
    let fine = call("files.read", 2);
    let batch = CallBatch { started: vec![fine.clone(), row], events: vec![event("e")], ..CallBatch::default() };
    let refused = fresh.store.calls().record(batch).await;
    assert!(matches!(refused, Err(StoreError::Conflict { what: "call" })));
    assert_eq!(fresh.store.calls().get(fine.call_id).await.unwrap(), None);
    assert_eq!(fresh.store.events().last().await.unwrap(), 0);
}

pub(crate) async fn unicode_and_huge_payloads<B: Backend>() {
    let fresh = B::fresh().await;
    let mut row = call("файлы.読む", 1);
    row.principal = "o'Brien \"; DROP TABLE calls; -- 🦀".into();
    row.input = Some(json(r#"{"z": 1.0, "a":"\u0000 \ud83e\udd80 é",  "a": 2}"#));
    row.output = Some(json(&format!("\"{}\"", "я".repeat(4 << 20))));
    record(&fresh.store, std::slice::from_ref(&row)).await;
    assert_eq!(fresh.store.calls().get(row.call_id).await.unwrap(), Some(row.clone()));
    let found = CallFilter { principal: Some(row.principal.clone()), limit: 1, ..CallFilter::default() };
    assert_eq!(fresh.store.calls().list(found).await.unwrap(), [row]);
}

pub(crate) async fn list_filters<B: Backend>() {
    let fresh = B::fresh().await;
    let mut rows: Vec<_> = (0..8).map(|n| call("files.read", n)).collect();
    rows[1].operation_id = "files.write".into();
    rows[2].principal = "bob".into();
    rows[3].spoke = None;
    rows[4].status = "pending".into();
    rows[5].status = "failed".into();
    rows[6].status = "completed".into();
    rows[6].request_id = rows[6].call_id.to_string();
    rows[7] = child(&rows[0], 7);
    record(&fresh.store, &rows).await;
    let all = CallFilter { limit: 99, ..CallFilter::default() };
    let cases = [
        (CallFilter { operation_id: Some("files.write".into()), ..all.clone() }, vec![1]),
        (CallFilter { principal: Some("bob".into()), ..all.clone() }, vec![2]),
        (CallFilter { spoke: Some("files-1".into()), ..all.clone() }, vec![7, 6, 5, 4, 2, 1, 0]),
        (CallFilter { status: Some("pending".into()), ..all.clone() }, vec![4]),
        (CallFilter { status: Some("running".into()), ..all.clone() }, vec![7, 3, 2, 1, 0]),
        (CallFilter { status: Some("failed".into()), ..all.clone() }, vec![5]),
        (CallFilter { status: Some("aborted".into()), ..all.clone() }, vec![]),
        (CallFilter { status: Some("completed".into()), ..all.clone() }, vec![6]),
        (CallFilter { roots: true, ..all.clone() }, vec![6, 5, 4, 3, 2, 1, 0]),
        (CallFilter { tasks: true, since: Some(at(2)), principal: Some("ada".into()), ..all.clone() }, vec![6]),
        (CallFilter { tasks: true, principal: Some("bob".into()), ..all.clone() }, vec![]),
        (CallFilter { since: Some(at(6)), ..all.clone() }, vec![7, 6]),
        (CallFilter { since: Some(at(99)), ..all.clone() }, vec![]),
        (CallFilter { since: Some(at(2)), principal: Some("ada".into()), limit: 2, ..all.clone() }, vec![7, 6]),
        (CallFilter { limit: 0, ..all }, vec![]),
    ];
    for (filter, wanted) in cases {
        let wanted: Vec<_> = wanted.into_iter().map(|n: usize| rows[n].clone()).collect();
        assert_eq!(fresh.store.calls().list(filter.clone()).await.unwrap(), wanted, "{filter:?}");
    }
}

pub(crate) async fn list_pages<B: Backend>() {
    let fresh = B::fresh().await;
    let rows: Vec<_> = (0..10).map(|n| call("files.read", n)).collect();
    record(&fresh.store, &rows).await;
    let mut before = None;
    let mut seen = Vec::new();
    loop {
        let filter = CallFilter { before, limit: 3, ..CallFilter::default() };
        let page = fresh.store.calls().list(filter).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.call_id);
        seen.extend(page);
    }
    seen.reverse();
    assert_eq!(seen, rows);
}

pub(crate) async fn tree_is_ordered<B: Backend>() {
    let fresh = B::fresh().await;
    let root = call("files.read", 0);
    let deep = child(&child(&root, 1), 1);
    let (left, right) = (child(&root, 2), child(&root, 3));
    let stranger = call("files.read", 4);
    record(&fresh.store, &[deep.clone(), right.clone(), left.clone(), root.clone(), stranger.clone()]).await;
    let edge = |source: &CallRow, target: &CallRow, kind: &str| EdgeRow {
        source: source.call_id,
        target: target.call_id,
        kind: kind.into(),
    };
    let inside = edge(&root, &left, "triggered");
    let from_outside = edge(&stranger, &right, "depends_on");
    let elsewhere = edge(&stranger, &stranger, "depends_on");
    let edges = vec![inside.clone(), from_outside.clone(), elsewhere];
    fresh.store.calls().record(CallBatch { edges, ..CallBatch::default() }).await.unwrap();
    let (rows, edges) = fresh.store.calls().tree(root.call_id).await.unwrap();
    // `left` and `right` were made after `deep`, but are above it.
    assert_eq!(rows, [root, left, right, deep]);
    assert_eq!(edges, [inside, from_outside]);
    assert_eq!(fresh.store.calls().tree(CallId::new()).await.unwrap(), (vec![], vec![]));
}

pub(crate) async fn export_pages<B: Backend>() {
    let fresh = B::fresh().await;
    let mut rows: Vec<_> = (0..5).map(|n| call("files.read", n)).collect();
    rows[4].principal = "bob".into();
    rows.push(child(&rows[0], 5));
    rows.extend((6..10).map(|n| call("files.read", n)));
    record(&fresh.store, &rows).await;
    let calls = fresh.store.calls();
    let all = ExportFilter { limit: 99, ..ExportFilter::default() };
    let page = calls.export(ExportFilter { since: Some(at(2)), until: Some(at(8)), limit: 4, ..all.clone() }).await;
    assert_eq!(page.unwrap(), rows[2..6]);
    let after = Some(rows[5].call_id);
    let page = calls.export(ExportFilter { after, since: Some(at(2)), until: Some(at(8)), ..all.clone() }).await;
    assert_eq!(page.unwrap(), rows[6..8]);
    let tree = calls.export(ExportFilter { root: Some(rows[0].call_id), ..all.clone() }).await.unwrap();
    assert_eq!(tree, [rows[0].clone(), rows[5].clone()]);
    let bob = calls.export(ExportFilter { principal: Some("bob".into()), ..all.clone() }).await.unwrap();
    assert_eq!(bob, [rows[4].clone()]);
    assert_eq!(calls.export(ExportFilter { since: Some(at(50)), ..all }).await.unwrap(), []);
}

pub(crate) async fn stats_count_and_rank<B: Backend>() {
    let fresh = B::fresh().await;
    let calls = fresh.store.calls();
    assert_eq!(calls.stats(at(0), None).await.unwrap(), []);
    let mut batch = CallBatch::default();
    for n in 1..=100 {
        let row = call("files.read", n);
        batch.updates.push(ended(&row, if n <= 90 { "completed" } else { "failed" }, n as u64));
        batch.started.push(row);
    }
    let aborted = call("files.write", 1);
    batch.updates.push(ended(&aborted, "aborted", 3));
    batch.started.extend([aborted, call("files.write", 2), call("files.old", -5)]);
    calls.record(batch).await.unwrap();
    let stats = calls.stats(at(0), None).await.unwrap();
    assert_eq!(stats.iter().map(|row| row.operation_id.as_str()).collect::<Vec<_>>(), ["files.read", "files.write"]);
    let read = &stats[0];
    assert_eq!((read.calls, read.live, read.completed, read.failed, read.aborted), (100, 0, 90, 10, 0));
    assert_eq!((read.p50_ms, read.p99_ms, read.cost), (50.0, 99.0, 700));
    let write = &stats[1];
    assert_eq!((write.calls, write.live, write.aborted, write.cost), (2, 1, 1, 7));
    assert_eq!((write.p50_ms, write.p99_ms), (3.0, 3.0));
    assert_eq!(calls.stats(at(0), Some("files.write".into())).await.unwrap(), stats[1..]);
}

pub(crate) async fn interrupted_calls_are_closed<B: Backend>() {
    let fresh = B::fresh().await;
    let calls = fresh.store.calls();
    let mine = HubId::new();
    let mut root = call("files.read", 1);
    root.hub_id = mine;
    let mut leaf = child(&root, 2);
    (leaf.hub_id, leaf.status, leaf.spoke) = (mine, "pending".into(), None);
    let other = call("files.read", 3);
    let mut done = call("files.read", 4);
    (done.hub_id, done.status) = (mine, "completed".into());
    record(&fresh.store, &[root.clone(), leaf.clone(), other.clone(), done.clone()]).await;
    let keys = fresh.store.idempotency();
    keys.begin(idempotency("open", root.call_id, 100), at(0)).await.unwrap();
    keys.begin(idempotency("other", other.call_id, 100), at(0)).await.unwrap();

    let error = json(r#"{"code":"HUB_RESTARTED"}"#);
    assert_eq!(calls.close_interrupted(Some(mine), at(9), error.clone()).await.unwrap(), 2);
    let stored = calls.get(root.call_id).await.unwrap().unwrap();
    assert_eq!((stored.status.as_str(), stored.completed_at), ("failed", Some(at(9))));
    assert_eq!((stored.error, stored.input), (Some(error.clone()), root.input.clone()));
    assert_eq!(calls.get(other.call_id).await.unwrap(), Some(other.clone()));
    assert_eq!(calls.get(done.call_id).await.unwrap(), Some(done));

    let events = fresh.store.events().after(0, None, 9).await.unwrap();
    assert_eq!(events.len(), 2);
    let of_leaf = events.iter().find(|row| row.topic == format!("call:{}", leaf.call_id)).unwrap();
    assert_eq!((of_leaf.kind.as_str(), of_leaf.root, of_leaf.at), ("failed", Some(root.call_id), at(9)));
    let wanted = format!(
        r#"{{"callId":"{}","root":"{}","parent":"{}","operationId":"files.read","principal":"ada","error":{error}}}"#,
        leaf.call_id,
        root.call_id,
        root.call_id,
        error = error.as_str()
    );
    assert_eq!(of_leaf.payload.as_str(), wanted);
    let of_root = events.iter().find(|row| row.topic == format!("call:{}", root.call_id)).unwrap();
    assert!(of_root.payload.as_str().contains(r#""spoke":"files-1""#) && !of_root.payload.as_str().contains("parent"));

    // Both keys still lead to their calls, and by them to the spokes that may have begun the work.
    for (key, of) in [("open", root.call_id), ("other", other.call_id)] {
        let begun = keys.begin(idempotency(key, CallId::new(), 100), at(10)).await.unwrap();
        let hub_storage::Begun::Existing(found) = begun else { panic!("{key} was freed") };
        assert_eq!((found.call_id, found.outcome), (of, None), "{key}");
    }
    assert_eq!(calls.close_interrupted(None, at(10), error.clone()).await.unwrap(), 1);
    assert_eq!(calls.close_interrupted(None, at(11), error).await.unwrap(), 0);
}

pub(crate) async fn many_interrupted_calls_are_closed<B: Backend>() {
    let fresh = B::fresh().await;
    let rows: Vec<_> = (0..1200).map(|n| call("files.read", n)).collect();
    record(&fresh.store, &rows).await;
    assert_eq!(fresh.store.calls().close_interrupted(None, at(1), json("{}")).await.unwrap(), 1200);
    let events = fresh.store.events().after(0, None, 5000).await.unwrap();
    let topics: BTreeSet<_> = events.iter().map(|row| row.topic.as_str()).collect();
    assert_eq!(topics.len(), 1200);
}
