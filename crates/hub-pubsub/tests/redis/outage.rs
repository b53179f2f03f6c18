//! The server dies and comes back.

use std::time::{Duration, Instant};

use hub_pubsub::{Bus, BusDelivery, Connectivity, Delivery, EventTarget, Message, RedisOptions, TargetError};
use hub_testkit::servers::{Redis, Sentinel};

use crate::within;

fn target(server: &Redis) -> EventTarget {
    EventTarget::redis(&server.url(), RedisOptions::default()).expect("a URL")
}

async fn becomes(target: &EventTarget, connected: bool) {
    let mut watch = target.watch();
    let wanted = |state: &Connectivity| (*state == Connectivity::Connected) == connected;
    within("the new state", watch.wait_for(wanted)).await.expect("a state");
}

#[tokio::test]
async fn a_gap_is_marked_for_everyone_before_what_comes_after_it() {
    let mut server = Redis::start().expect("redis");
    let (publisher, subscriber) = (target(&server), target(&server));
    let mut subscriptions = Vec::new();
    for topic in ["t:1", "t:*", "t:1"] {
        subscriptions.push(subscriber.subscribe(topic).await.expect("subscribe"));
    }
    publisher.publish(Message::new("t:1", "before")).await.expect("publish");
    for subscription in &mut subscriptions {
        let got = within("a message", subscription.recv()).await;
        assert_eq!(got, Some(Delivery::Message(Message::new("t:1", "before"))));
    }
    for round in 0..2 {
        server.kill().expect("kill");
        becomes(&publisher, false).await;
        becomes(&subscriber, false).await;
        assert!(!subscriber.is_connected());
        assert!(matches!(subscriber.check().await, Err(TargetError::Unavailable(_))));
        let asked = Instant::now();
        let refused = publisher.publish(Message::new("t:1", "lost")).await;
        assert!(matches!(refused, Err(TargetError::Unavailable(_))), "{refused:?}");
        assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
        server.start_again().expect("start");
        becomes(&publisher, true).await;
        becomes(&subscriber, true).await;
        assert_eq!(subscriber.check().await, Ok(()));
        publisher.publish(Message::new("t:1", format!("after {round}"))).await.expect("publish");
        for subscription in &mut subscriptions {
            assert_eq!(within("the mark", subscription.recv()).await, Some(Delivery::Interrupted));
            // One more, as the publisher says that it lost something.
            let mut next = within("a message", subscription.recv()).await;
            if next == Some(Delivery::Interrupted) {
                next = within("a message", subscription.recv()).await;
            }
            assert_eq!(next, Some(Delivery::Message(Message::new("t:1", format!("after {round}")))));
        }
    }
}

#[tokio::test]
async fn subscribing_during_an_outage_begins_with_the_mark() {
    let mut server = Redis::start().expect("redis");
    server.kill().expect("kill");
    let target = target(&server);
    becomes(&target, false).await;
    let mut subscription = within("subscribe", target.subscribe("t:*")).await.expect("subscribe");
    // This process hears itself all the same.
    let refused = target.publish(Message::new("t:1", "local")).await;
    assert!(matches!(refused, Err(TargetError::Unavailable(_))), "{refused:?}");
    let got = within("a message", subscription.recv()).await;
    assert_eq!(got, Some(Delivery::Message(Message::new("t:1", "local"))));
    server.start_again().expect("start");
    becomes(&target, true).await;
    assert_eq!(within("the mark", subscription.recv()).await, Some(Delivery::Interrupted));
    // Subscriptions made now begin without one.
    let mut fresh = target.subscribe("t:1").await.expect("subscribe");
    while let Some(Delivery::Interrupted) = {
        target.publish(Message::new("t:1", "x")).await.expect("publish");
        within("a message", fresh.recv()).await
    } {}
}

/// Only the publisher was cut off, so no subscriber's own connection tells of the gap.
#[tokio::test]
async fn who_failed_to_publish_says_so_to_the_others() {
    let server = Redis::start().expect("redis");
    let (publisher, subscriber) = (target(&server), target(&server));
    let mut subscription = subscriber.subscribe("t:1").await.expect("subscribe");
    publisher.publish(Message::new("t:1", "x")).await.expect("publish");
    within("a message", subscription.recv()).await.expect("a message");
    server.command(&["CLIENT", "PAUSE", "200", "WRITE"]).expect("pause");
    // The pause holds PUBLISH back while the connections are killed, so it can't have been carried out.
    let publish = publisher.publish(Message::new("t:1", "lost"));
    let kill = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).expect("kill");
    };
    let (published, ()) = tokio::join!(publish, kill);
    assert!(matches!(published, Err(TargetError::Unavailable(_))), "{published:?}");
    assert_eq!(within("the mark", subscription.recv()).await, Some(Delivery::Interrupted));
}

#[tokio::test]
async fn a_bus_marks_the_gap_and_goes_on() {
    let mut server = Redis::start().expect("redis");
    let [sender, listener] = [(); 2].map(|()| Bus::redis(&server.url(), RedisOptions::default()).expect("a URL"));
    let mut inbox = listener.listen("a").await.expect("listen");
    sender.send("a", "before").await.expect("send");
    assert_eq!(within("a frame", inbox.recv()).await, Some(BusDelivery::Frame("before".into())));
    server.kill().expect("kill");
    let refused = within("an error", sender.send("a", "lost")).await;
    assert!(matches!(refused, Err(TargetError::Unavailable(_))), "{refused:?}");
    let asked = Instant::now();
    assert!(sender.send("a", "lost").await.is_err());
    assert!(asked.elapsed() < Duration::from_millis(100), "{:?}", asked.elapsed());
    let mut early = within("listen", listener.listen("b")).await.expect("listen");
    server.start_again().expect("start");
    for inbox in [&mut inbox, &mut early] {
        assert_eq!(within("the mark", inbox.recv()).await, Some(BusDelivery::Interrupted));
    }
    let sent = async {
        while let Err(error) = sender.send("a", "after").await {
            assert!(matches!(error, TargetError::Unavailable(_)), "{error}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the server", sent).await;
    assert_eq!(within("a frame", inbox.recv()).await, Some(BusDelivery::Frame("after".into())));
}

#[tokio::test]
async fn the_replica_that_sentinels_put_in_place_of_a_lost_master_is_found() {
    let mut master = Redis::start().expect("redis");
    let replica = Redis::start().expect("redis");
    replica.command(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]).expect("a replica");
    let sentinel = Sentinel::watch(&master).expect("a sentinel");
    // Of two, one that is not there.
    let url = sentinel.url().replace("://", "://127.0.0.1:1,");
    let target = || EventTarget::redis(&url, RedisOptions::default()).expect("a URL");
    let (publisher, subscriber) = (target(), target());
    let mut subscription = subscriber.subscribe("t:1").await.expect("subscribe");
    let before = Message::new("t:1", "before");
    publisher.publish(before.clone()).await.expect("publish");
    while within("a message", subscription.recv()).await != Some(Delivery::Message(before.clone())) {}

    master.kill().expect("kill");
    becomes(&publisher, false).await;
    becomes(&publisher, true).await;
    becomes(&subscriber, true).await;
    assert!(replica.command(&["ROLE"]).expect("a role").contains("master"));
    let after = Message::new("t:1", "after");
    publisher.publish(after.clone()).await.expect("publish");
    assert_eq!(within("the mark", subscription.recv()).await, Some(Delivery::Interrupted));
    while within("a message", subscription.recv()).await != Some(Delivery::Message(after.clone())) {}

    let unknown = EventTarget::redis(&sentinel.url().replace("/main", "/other"), RedisOptions::default());
    let unknown = unknown.expect("a URL");
    becomes(&unknown, false).await;
    let told = unknown.check().await.expect_err("no master").to_string();
    assert!(told.contains("no Sentinel knows a master of this name"), "{told}");
}
