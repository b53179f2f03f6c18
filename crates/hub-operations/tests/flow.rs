//! Two peers wired back to back: streams whose reader is slow, and the bounds that hold meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use hub_operations::{Answer, End, Incoming, Outbox, OutboxReader, Peer, PeerConfig, Pending, Responder};
use hub_protocol::{CallError, CallRequested, ErrorCode, Event, Fault, Json};
use tokio_util::task::TaskTracker;

/// Answers `items.N` with N small items, `large.N` with N items of 500 kB, `big.x` with 100 kB, and everything else with
/// null.
#[derive(Default)]
struct Streams {
    made: Arc<AtomicU64>,
}

impl Responder for Streams {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let made = Arc::clone(&self.made);
        async move {
            let (kind, count) = incoming.request.operation_id.split_once('.').unwrap();
            let text: Json = match kind {
                "items" => Json::from_text(r#"{"data":"a line","meta":{"source":"local"}}"#).unwrap(),
                "large" => serde_json::Value::from("x".repeat(500_000)).into(),
                "big" => return Ok(Answer::One(serde_json::Value::from("x".repeat(100_000)).into())),
                _ => return Ok(Answer::One(Json::null())),
            };
            let items = stream::iter(0..count.parse::<u64>().unwrap()).map(move |_| {
                made.fetch_add(1, Ordering::Relaxed);
                Ok(text.clone())
            });
            Ok(Answer::Many(items.boxed().into()))
        }
        .boxed()
    }

    fn other(&self, _event: Event) -> Result<(), Fault> {
        Ok(())
    }
}

/// Carries all messages of one side to the other.
async fn carry(mut from: OutboxReader, to: Peer) {
    let mut batch = Vec::new();
    while from.next_batch(&mut batch, 64 * 1024).await.is_none() {
        for frame in batch.drain(..) {
            to.receive(&frame).unwrap();
        }
        tokio::task::yield_now().await;
    }
}

/// The caller's side, and the count of items that the callee has made.
fn pair(config: PeerConfig) -> (Peer, Arc<AtomicU64>, TaskTracker) {
    let tasks = TaskTracker::new();
    let responder = Streams::default();
    let made = Arc::clone(&responder.made);
    let ((near_box, near_queue), (far_box, far_queue)) = (Outbox::new(1024 * 1024), Outbox::new(1024 * 1024));
    let near = Peer::new(config, near_box, Arc::new(Streams::default()), tasks.clone());
    let far = Peer::new(PeerConfig::default(), far_box, Arc::new(responder), tasks.clone());
    tasks.spawn(carry(near_queue, far.clone()));
    tasks.spawn(carry(far_queue, near.clone()));
    (near, made, tasks)
}

async fn open(peer: &Peer, operation: &str) -> Pending {
    peer.start(&CallRequested::new(operation, operation, Json::null()), false).await.unwrap()
}

async fn read(pending: &mut Pending) -> (u64, End) {
    let mut items = 0;
    loop {
        match tokio::time::timeout(Duration::from_secs(20), pending.next()).await.unwrap() {
            Ok(_) => items += 1,
            Err(end) => return (items, end),
        }
    }
}

#[tokio::test]
async fn a_slow_reader_pauses_the_sender_and_loses_nothing() {
    let (peer, made, _tasks) = pair(PeerConfig::default());
    for (operation, count, ahead) in [("items.100000", 100_000, 60_000), ("large.50", 50, 20)] {
        made.store(0, Ordering::Relaxed);
        let mut pending = open(&peer, operation).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let so_far = made.load(Ordering::Relaxed);
        assert!(so_far <= ahead, "{operation}: {so_far} items were made for a reader that takes none");
        assert_eq!(read(&mut pending).await, (count, End::Completed), "{operation}");
    }
}

#[tokio::test]
async fn a_stream_that_is_always_ready_does_not_delay_calls() {
    let (peer, _, _tasks) = pair(PeerConfig::default());
    let mut endless = open(&peer, "items.2000000").await;
    let calls = async {
        for n in 0..50 {
            let request = CallRequested::new(format!("c{n}"), "one.x", Json::null());
            peer.start(&request, true).await.unwrap().next().await.unwrap();
        }
    };
    tokio::time::timeout(Duration::from_secs(10), calls).await.unwrap();
    assert!(endless.next().await.is_ok());
}

#[tokio::test]
async fn all_streams_of_a_connection_share_one_bound() {
    let config = PeerConfig { held_bytes: 2_000_000, ..PeerConfig::default() };
    let (peer, made, tasks) = pair(config);
    let mut streams = Vec::new();
    for n in 4..10 {
        streams.push(open(&peer, &format!("large.{n}")).await);
    }
    stands_still(&made, &tasks).await;
    let mut overloaded = 0;
    for pending in &mut streams {
        overloaded += u32::from(matches!(read(pending).await.1, End::Failed(e) if e.is(ErrorCode::Overloaded)));
    }
    assert!(overloaded > 0);
    // What the streams held is given back with them.
    drop(streams);
    assert_eq!(read(&mut open(&peer, "large.3").await).await, (3, End::Completed));
}

/// Waits until the senders are done, paused or cut off: nothing is made any more for a while.
async fn stands_still(made: &AtomicU64, tasks: &TaskTracker) {
    let (mut before, mut calm) = (0, 0);
    while calm < 5 && !tasks.is_empty() {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = made.load(Ordering::Relaxed);
        calm = if now == before && now > 0 { calm + 1 } else { 0 };
        before = now;
    }
}

#[tokio::test]
async fn answers_that_find_no_room_fail_their_own_calls_and_the_connection_goes_on() {
    let (peer, _, _tasks) = pair(PeerConfig::default());
    // 100 MB of answers are ready before the first is written: more than may wait.
    let mut calls = Vec::new();
    for n in 0..1_000 {
        calls.push(peer.start(&CallRequested::new(format!("c{n}"), "big.x", Json::null()), true).await.unwrap());
    }
    let (mut answered, mut refused) = (0, 0);
    for call in &mut calls {
        match tokio::time::timeout(Duration::from_secs(20), call.next()).await.unwrap() {
            Ok(_) => answered += 1,
            Err(End::Failed(e)) if e.is(ErrorCode::Overloaded) && e.retryable => refused += 1,
            Err(end) => panic!("{end:?}"),
        }
    }
    assert!(answered > 500 && refused > 0, "{answered} answered, {refused} refused");
    let after = CallRequested::new("after", "one.x", Json::null());
    assert!(peer.start(&after, true).await.unwrap().next().await.is_ok());
}
