//! The cases. Each name is a promise.

use bytes::Bytes;
use tokio::task::JoinSet;

use super::{Bus, message, next, number, parse, publish, subscribe, within};
use crate::{Delivery, EventTarget, MAX_TOPIC_BYTES, Message, TargetError};

/// Queue capacity of the lag case.
pub(super) const SMALL: usize = 4;

pub(super) async fn order_is_kept(bus: Bus) {
    let mut subscription = subscribe(&bus.subscriber, "order:1").await;
    for n in 0..500 {
        publish(&bus.publisher, "order:1", n.to_string()).await;
    }
    for n in 0..500 {
        assert_eq!(number(&mut subscription).await, n);
    }
}

pub(super) async fn everyone_gets_the_same_payload(bus: Bus) {
    let mut subscriptions = Vec::new();
    for topic in ["fan:1", "fan:1", "fan:*", "*"] {
        subscriptions.push(subscribe(&bus.subscriber, topic).await);
    }
    let sent = Message::new("fan:1", r#"{"a":[1,2,"ü"]}"#);
    publish(&bus.publisher, &sent.topic, sent.payload.clone()).await;
    publish(&bus.publisher, "fan:1", "end").await;
    for subscription in &mut subscriptions {
        assert_eq!(message(subscription).await, sent);
        // Once only.
        assert_eq!(message(subscription).await.payload, "end");
    }
}

pub(super) async fn payloads_are_any_bytes(bus: Bus) {
    let mut subscription = subscribe(&bus.subscriber, "bytes:1").await;
    let large: Vec<u8> = (0..4 * 1024 * 1024_u32).map(|n| n.to_le_bytes()[n as usize % 3]).collect();
    let payloads = [Bytes::new(), Bytes::from_static(&[0, 0xff, b'\r', b'\n', 0]), Bytes::from(large)];
    for payload in payloads {
        publish(&bus.publisher, "bytes:1", payload.clone()).await;
        let got = message(&mut subscription).await.payload;
        // Not assert_eq: it would print megabytes.
        assert!(got == payload, "payload of {} bytes came as {} others", payload.len(), got.len());
    }
}

pub(super) async fn exact_topics_are_separate(bus: Bus) {
    let mut subscription = subscribe(&bus.subscriber, "sep:1").await;
    for round in 0..3 {
        for other in ["sep:10", "sep:", "sep", "SEP:1", "xsep:1"] {
            publish(&bus.publisher, other, "no").await;
        }
        publish(&bus.publisher, "sep:1", round.to_string()).await;
        assert_eq!(number(&mut subscription).await, round);
    }
}

pub(super) async fn patterns_match_prefixes(bus: Bus) {
    let mut calls = subscribe(&bus.subscriber, "call:*").await;
    let mut all = subscribe(&bus.subscriber, "*").await;
    for topic in ["call:1", "call:", "call:2:x"] {
        publish(&bus.publisher, "task:1", "no").await;
        publish(&bus.publisher, "call", "no").await;
        publish(&bus.publisher, topic, "yes").await;
        assert_eq!(&*message(&mut calls).await.topic, topic);
        let mut seen = Vec::new();
        for _ in 0..3 {
            seen.push(message(&mut all).await.topic.to_string());
        }
        seen.sort_unstable();
        let mut sent = ["task:1", "call", topic];
        sent.sort_unstable();
        assert_eq!(seen, sent);
    }
}

/// Characters that mean something in some target's own patterns mean nothing here.
pub(super) async fn topics_are_plain_text(bus: Bus) {
    for (pattern, other, topic) in
        [("a?[b]\\*", "axb\\1", "a?[b]\\1"), ("[ab]:*", "a:1", "[ab]:1"), ("ü ?:1", "ü x:1", "ü ?:1")]
    {
        let mut subscription = subscribe(&bus.subscriber, pattern).await;
        publish(&bus.publisher, other, "no").await;
        publish(&bus.publisher, topic, "yes").await;
        assert_eq!(&*message(&mut subscription).await.topic, topic);
    }
}

pub(super) async fn bad_topics_are_refused(bus: Bus) {
    let long = "x".repeat(MAX_TOPIC_BYTES + 1);
    for bad in ["", "a*b", "**", "line\nbreak", &long] {
        let subscribed = bus.subscriber.subscribe(bad).await;
        assert!(matches!(subscribed, Err(TargetError::InvalidTopic(_))), "subscribe {bad:?}: {subscribed:?}");
        let published = bus.publisher.publish(Message::new(bad, "x")).await;
        assert!(matches!(published, Err(TargetError::InvalidTopic(_))), "publish {bad:?}: {published:?}");
    }
    let published = bus.publisher.publish(Message::new("call:*", "x")).await;
    assert!(matches!(published, Err(TargetError::InvalidTopic(_))), "{published:?}");
    let longest = &long[1..];
    let mut subscription = subscribe(&bus.subscriber, longest).await;
    publish(&bus.publisher, longest, "x").await;
    assert_eq!(&*message(&mut subscription).await.topic, longest);
}

pub(super) async fn nobody_listening_is_no_error(bus: Bus) {
    publish(&bus.publisher, "nobody:1", "x").await;
    let mut later = subscribe(&bus.subscriber, "nobody:1").await;
    publish(&bus.publisher, "nobody:1", "y").await;
    assert_eq!(message(&mut later).await.payload, "y");
}

pub(super) async fn dropping_unsubscribes(bus: Bus) {
    let mut stays = subscribe(&bus.subscriber, "drop:1").await;
    let goes = [subscribe(&bus.subscriber, "drop:1").await, subscribe(&bus.subscriber, "drop:*").await];
    assert_eq!(bus.subscriber.subscriptions(), 3);
    publish(&bus.publisher, "drop:1", "0").await;
    drop(goes);
    subscriptions_become(&bus.subscriber, 1).await;
    publish(&bus.publisher, "drop:1", "1").await;
    assert_eq!(number(&mut stays).await, 0);
    assert_eq!(number(&mut stays).await, 1);
    drop(stays);
    subscriptions_become(&bus.subscriber, 0).await;
    publish(&bus.publisher, "drop:1", "2").await;
}

pub(super) async fn a_topic_can_be_subscribed_again(bus: Bus) {
    for round in 0..20 {
        let mut subscription = subscribe(&bus.subscriber, "again:1").await;
        publish(&bus.publisher, "again:1", round.to_string()).await;
        assert_eq!(number(&mut subscription).await, round);
    }
}

pub(super) async fn lag_is_reported_and_hurts_nobody_else(bus: Bus) {
    const SENT: u64 = 200;
    let mut slow = subscribe(&bus.subscriber, "lag:1").await;
    let mut fast = subscribe(&bus.subscriber, "lag:1").await;
    for n in 0..SENT {
        publish(&bus.publisher, "lag:1", n.to_string()).await;
        assert_eq!(number(&mut fast).await, n);
    }
    let (mut expected, mut lags) = (0, 0);
    while expected < SENT {
        let got = match next(&mut slow).await {
            Some(Delivery::Lagged(missed)) => {
                assert!(missed > 0, "a lag of nothing");
                expected += missed;
                lags += 1;
                number(&mut slow).await
            }
            Some(Delivery::Message(message)) => parse(&message),
            Some(Delivery::Interrupted) => panic!("nothing was interrupted"),
            None => panic!("ended"),
        };
        assert_eq!(got, expected, "the count of missed messages is wrong");
        expected += 1;
    }
    assert!(lags > 0, "{SENT} messages fit in a queue of {SMALL}");
    // And is well again.
    publish(&bus.publisher, "lag:1", SENT.to_string()).await;
    assert_eq!(number(&mut slow).await, SENT);
}

pub(super) async fn publishers_keep_their_order(bus: Bus) {
    const PUBLISHERS: usize = 4;
    const EACH: u64 = 200;
    let mut subscriptions = [subscribe(&bus.subscriber, "many:1").await, subscribe(&bus.subscriber, "many:*").await];
    let mut publishers = JoinSet::new();
    for publisher in 0..PUBLISHERS {
        let target = bus.publisher.clone();
        publishers.spawn(async move {
            for n in 0..EACH {
                publish(&target, "many:1", format!("{publisher} {n}")).await;
                tokio::task::yield_now().await;
            }
        });
    }
    for subscription in &mut subscriptions {
        let mut seen = [0; PUBLISHERS];
        for _ in 0..PUBLISHERS as u64 * EACH {
            let got = message(subscription).await;
            let text = std::str::from_utf8(&got.payload).expect("text");
            let (publisher, n) = text.split_once(' ').expect("two numbers");
            let seen = &mut seen[publisher.parse::<usize>().expect("a number")];
            assert_eq!(n, seen.to_string(), "order of publisher {publisher}");
            *seen += 1;
        }
    }
    publishers.join_all().await;
}

pub(super) async fn close_ends_everything(bus: Bus) {
    let target = bus.subscriber;
    let mut subscriptions = [subscribe(&target, "close:1").await, subscribe(&target, "close:*").await];
    publish(&target, "close:1", "0").await;
    let handle = target.clone();
    target.close().await;
    target.close().await;
    for closed in [target, handle] {
        assert_eq!(closed.publish(Message::new("close:1", "1")).await, Err(TargetError::Closed));
        assert!(matches!(closed.subscribe("close:1").await, Err(TargetError::Closed)));
        assert_eq!(closed.subscriptions(), 0);
        closed.close().await;
    }
    for subscription in &mut subscriptions {
        // Whether the last message made it before the close is the target's affair.
        while let Some(delivery) = next(subscription).await {
            assert_eq!(delivery, Delivery::Message(Message::new("close:1", "0")));
        }
        assert_eq!(next(subscription).await, None, "ends once");
    }
}

pub(super) async fn close_wakes_readers(bus: Bus) {
    let mut waiting = subscribe(&bus.subscriber, "close:2").await;
    let mut readers = JoinSet::new();
    readers.spawn(async move { next(&mut waiting).await });
    tokio::task::yield_now().await;
    bus.subscriber.close().await;
    assert_eq!(readers.join_all().await, [None]);
}

/// A target may take a moment to notice.
async fn subscriptions_become(target: &EventTarget, wanted: usize) {
    let noticed = async {
        while target.subscriptions() != wanted {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    };
    within("the new number of subscriptions", noticed).await;
}
