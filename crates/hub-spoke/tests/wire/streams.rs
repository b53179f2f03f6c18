use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, iter, pending, unfold};
use hub_operations::Answer;
use hub_protocol::ops::calls::{CallEvent, CallEventKind, ObserveCalls};
use hub_protocol::ops::events::{EventItem, SubscribeEvents};
use hub_protocol::ops::hub::HubStatus;
use hub_protocol::{CallError, CallId, ErrorCode, HubId, Json};
use hub_spoke::Client;
use serde_json::json;

use crate::hub::{FakeHub, KEY, envelope, one, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_sender_back_and_loses_nothing() {
    const ITEMS: u64 = 100_000;
    let made = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&made);
    let hub = FakeHub::start(move |_, _| {
        let count = Arc::clone(&count);
        let items = iter(0..ITEMS).map(move |n| {
            count.store(n, Ordering::Relaxed);
            Ok(envelope(&json!({"n": n, "text": "some words of a log line"})))
        });
        async move { Ok(Answer::Many(items.boxed().into())) }
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let mut stream = client.request("demo.count").subscribe().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ahead = made.load(Ordering::Relaxed);
    assert!(ahead < ITEMS * 3 / 4, "the sender was not held back: {ahead}");
    for n in 0..ITEMS {
        let item: serde_json::Value = soon(stream.next()).await.unwrap().unwrap().parse().unwrap();
        assert_eq!(item["n"], n);
        if n % 20_000 == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    assert!(soon(stream.next()).await.is_none());
}

#[tokio::test]
async fn a_stalled_stream_does_not_delay_other_calls() {
    let hub = FakeHub::start(|incoming, _| async move {
        match incoming.request.operation_id.as_str() {
            "demo.count" => Ok(Answer::Many(stream::repeat_with(|| Ok(envelope(&"x".repeat(1000)))).boxed().into())),
            _ => Ok(one(&1)),
        }
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let _unread = client.request("demo.count").subscribe().await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..20 {
        soon(client.call_raw("demo.one", json!(1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_stream_ends_as_the_hub_ends_it() {
    let hub = FakeHub::start(|incoming, _| async move {
        let items = iter((1..=3).map(|n| Ok(envelope(&n))));
        let refusal = CallError::domain("BROKEN", "no more");
        match incoming.request.operation_id.as_str() {
            "demo.ends" => Ok(Answer::Many(items.boxed().into())),
            "demo.breaks" => Ok(Answer::Many(items.chain(iter([Err(refusal)])).boxed().into())),
            _ => Err(refusal),
        }
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let read = async |operation: &str| {
        let stream = client.request(operation).subscribe().await.unwrap();
        let items: Vec<Result<Json, CallError>> = soon(stream.collect()).await;
        items.into_iter().map(|item| item.map_or_else(|e| e.code, |j| j.as_str().to_owned())).collect::<Vec<_>>()
    };
    assert_eq!(read("demo.ends").await, ["1", "2", "3"]);
    assert_eq!(read("demo.breaks").await, ["1", "2", "3", "BROKEN"]);
    assert_eq!(read("demo.refused").await, ["BROKEN"]);
}

fn event(seq: u64) -> EventItem {
    EventItem { seq, topic: "task:1".into(), kind: "changed".into(), at: 1, payload: Json::null() }
}

/// Streams the events after `after`, `burst` of them per connection and one too early, then waits.
fn events(after: Option<u64>, burst: u64) -> Answer {
    let from = after.unwrap_or(100);
    Answer::Many(iter((from..=from + burst).map(|seq| Ok(envelope(&event(seq))))).chain(pending()).boxed().into())
}

#[tokio::test]
async fn following_events_survives_reconnects_without_gap_or_duplicate() {
    let hub = FakeHub::start(|incoming, _| async move {
        let params: SubscribeEvents = incoming.request.input.parse().unwrap();
        Ok(events(params.after, 5))
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let mut stream = client.follow_events(vec!["task.*".into()], Some(10));
    for seq in 11..=40 {
        assert_eq!(soon(stream.next()).await.unwrap().unwrap().seq, seq);
        if seq % 5 == 0 {
            hub.connection(usize::try_from(seq / 5 - 3).unwrap()).await.kill();
        }
    }
    assert!(hub.seen("events.subscribe").len() >= 6);
    client.close().await;
    assert!(soon(stream.next()).await.unwrap().is_err());
    assert!(stream.next().await.is_none());
}

#[tokio::test]
async fn from_now_on_has_a_position_before_the_first_event() {
    let lost = Arc::new(AtomicBool::new(false));
    let hub = FakeHub::start(move |incoming, connection| {
        let lost = Arc::clone(&lost);
        async move {
            if incoming.request.operation_id == "hub.status" {
                return Ok(one(&status(70)));
            }
            let params: SubscribeEvents = incoming.request.input.parse().unwrap();
            // The event 71 happens while nobody is connected.
            if connection == 0 && !lost.swap(true, Ordering::SeqCst) {
                return Ok(Answer::Many(pending().boxed().into()));
            }
            Ok(events(params.after, 1))
        }
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let mut stream = client.follow_events(vec!["**".into()], None);
    let lose = async {
        hub.until(|hub| hub.seen("events.subscribe").len() == 1).await;
        hub.connection(0).await.kill();
    };
    let (first, ()) = soon(async { tokio::join!(stream.next(), lose) }).await;
    assert_eq!(first.unwrap().unwrap().seq, 71);
}

fn status(last_event: u64) -> HubStatus {
    HubStatus {
        hub_id: HubId::new(),
        version: "1".into(),
        started_at: 1,
        draining: false,
        connections: 1,
        spokes: 0,
        operations: 1,
        calls_in_flight: 0,
        recorder_backlog: 0,
        last_event,
        hubs: Vec::new(),
    }
}

fn call_event(seq: u64, call_id: CallId) -> CallEvent {
    CallEvent {
        seq,
        at: 1,
        kind: CallEventKind::Requested,
        call_id,
        root: call_id,
        parent: None,
        operation_id: "demo.x".into(),
        principal: "ann".into(),
        spoke: None,
        item: None,
        data: None,
        error: None,
        gap_from: None,
    }
}

#[tokio::test]
async fn observing_a_tree_goes_on_where_it_was_and_ends_when_it_is_done() {
    let hub = FakeHub::start(|incoming, connection| async move {
        let params: ObserveCalls = incoming.request.input.parse().unwrap();
        let id = params.call_id.unwrap();
        let from = params.after.unwrap_or(0) + 1;
        let items = iter((from..=10).map(move |seq| Ok(envelope(&call_event(seq, id)))));
        // The first connection gives four and then breaks the stream off in a way that may pass.
        match connection {
            0 if params.after.is_none() => {
                let failed = CallError::new(ErrorCode::OperationUnavailable, "draining");
                Ok(Answer::Many(items.take(4).chain(iter([Err(failed)])).boxed().into()))
            }
            _ => Ok(Answer::Many(items.boxed().into())),
        }
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let params = ObserveCalls { call_id: Some(CallId::new()), until_done: Some(true), ..ObserveCalls::default() };
    let seen: Vec<u64> = soon(client.observe_calls(params).map(|item| item.unwrap().seq).collect()).await;
    assert_eq!(seen, (1..=10).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_refused_follower_ends_with_the_error() {
    let hub = FakeHub::start(|_, _| async { Err(CallError::new(ErrorCode::AccessDenied, "not yours")) }).await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let items: Vec<_> = soon(client.follow_events(vec!["x:*".into()], None).collect()).await;
    assert_eq!(items.len(), 1);
    assert!(items[0].as_ref().unwrap_err().is(ErrorCode::AccessDenied));
}

#[tokio::test]
async fn a_paused_reader_of_large_items_is_not_overrun() {
    let hub = FakeHub::start(|_, _| async {
        let items = unfold(0_u32, |n| async move { (n < 60).then(|| (Ok(envelope(&"x".repeat(500_000))), n + 1)) });
        Ok(Answer::Many(items.boxed().into()))
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let mut stream = client.request("demo.large").subscribe().await.unwrap();
    let mut count = 0;
    while let Some(item) = soon(stream.next()).await {
        item.unwrap();
        count += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(count, 60);
}
