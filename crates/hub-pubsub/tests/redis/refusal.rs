//! Servers that can't be used, and readers that are too slow.

use std::time::{Duration, Instant};

use hub_pubsub::{Connectivity, Delivery, EventTarget, Message, RedisOptions, TargetError};
use hub_testkit::servers::{Redis, RedisServerOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{options, shared_url, within};

async fn reason(url: &str) -> &'static str {
    let options = RedisOptions::default().with_timeout(Duration::from_millis(500));
    let target = EventTarget::redis(url, options).expect("a URL");
    let refused = within("a refusal", target.check()).await;
    let Err(TargetError::Unavailable(reason)) = refused else { panic!("{refused:?}") };
    assert!(matches!(*target.watch().borrow(), Connectivity::Away(_) | Connectivity::Connecting));
    let published = within("a refusal", target.publish(Message::new("t", "x"))).await;
    assert!(matches!(published, Err(TargetError::Unavailable(_))), "{published:?}");
    reason
}

#[tokio::test]
async fn passwords_are_checked_and_not_shown() {
    let options = RedisServerOptions { password: Some("right-pw".into()), ..Default::default() };
    let server = Redis::start_with(&options).expect("redis");
    let port = server.port();
    let target = EventTarget::redis(&server.url(), RedisOptions::default()).expect("a URL");
    assert_eq!(target.check().await, Ok(()));
    assert!(!format!("{target:?}").contains("right-pw"));
    for url in [format!("redis://:wrong-pw@127.0.0.1:{port}"), format!("redis://127.0.0.1:{port}")] {
        assert_eq!(reason(&url).await, "wrong username or password", "{url}");
    }
}

#[tokio::test]
async fn another_server_is_told_apart() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await.expect("write");
            stream.shutdown().await.ok();
        }
    });
    assert_eq!(reason(&format!("redis://127.0.0.1:{port}")).await, "not a redis server");
}

#[tokio::test]
async fn a_cluster_must_be_one_and_be_up() {
    let node = Redis::start_with(&RedisServerOptions { cluster: true, ..Default::default() }).expect("redis");
    let told = reason(&format!("redis+cluster://127.0.0.1:{}", node.port())).await;
    assert_eq!(told, "the cluster is down, or most of it not reached");
    let told = reason(&shared_url().replace("redis://", "redis+cluster://")).await;
    assert_eq!(told, "the server is not a node of a cluster");
}

#[tokio::test]
async fn tls_is_not_given_up_for_plain_text() {
    let server = Redis::start().expect("redis");
    // It answers to a TLS hello with silence or an error.
    let reason = reason(&format!("rediss://127.0.0.1:{}", server.port())).await;
    assert!(["no connection", "no answer in time"].contains(&reason), "{reason}");
}

#[tokio::test]
async fn a_silent_server_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    let asked = Instant::now();
    assert_eq!(reason(&format!("redis://127.0.0.1:{port}")).await, "no answer in time");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    drop(listener);
}

#[tokio::test]
async fn a_slow_subscriber_holds_up_nobody() {
    const SENT: usize = 20_000;
    let target = EventTarget::redis(&shared_url(), options().with_capacity(100)).expect("a URL");
    let mut slow = target.subscribe("t:1").await.expect("subscribe");
    let mut senders = JoinSet::new();
    for _ in 0..20 {
        let target = target.clone();
        senders.spawn(async move {
            for _ in 0..SENT / 20 {
                target.publish(Message::new("t:1", vec![0; 1000])).await.expect("publish");
            }
        });
    }
    within("the end of publishing", senders.join_all()).await;
    // Another topic on the same connection, so behind all of that.
    let mut fast = target.subscribe("t:2").await.expect("subscribe");
    target.publish(Message::new("t:2", "x")).await.expect("publish");
    within("a message", fast.recv()).await.expect("a message");
    assert_eq!(slow.recv().await, Some(Delivery::Lagged((SENT - 100) as u64)));
    assert!(target.is_connected());
}
