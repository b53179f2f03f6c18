//! Servers that can't be used, and readers that are too slow.

use std::time::{Duration, Instant};

use hub_pubsub::{Connectivity, Delivery, EventTarget, Message, RedisOptions, TargetError};
use hub_testkit::servers::{Redis, RedisServerOptions};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::{FIXTURES, options, shared_url, trusted, within};

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

/// A server that answers with these bytes, if any, and ends the connection.
async fn strange(tasks: &mut JoinSet<()>, answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("address").port();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _told = stream.write_all(answer).await;
            let _ended = stream.shutdown().await;
        }
    });
    port
}

#[tokio::test]
async fn a_server_that_can_not_be_used_is_told_with_the_reason_and_without_the_password() {
    const LOGIN: &str = "wrong username or password";
    const ENDED: &str = "the connection is ended at once: the server is away or wants TLS";
    let options =
        RedisServerOptions { password: Some("right-pw".into()), tls: Some(FIXTURES.into()), ..Default::default() };
    let server = Redis::start_with(&options).expect("redis");
    let target = EventTarget::redis(&server.url(), RedisOptions::default()).expect("a URL");
    assert_eq!(target.check().await, Ok(()));
    assert!(!format!("{target:?}").contains("right-pw"));
    let (port, tls, mut tasks) = (server.port(), server.tls_port(), JoinSet::new());
    let http = strange(&mut tasks, b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
    let hasty = strange(&mut tasks, b"").await;
    let on_tls = EventTarget::redis(&trusted(&format!("rediss://:right-pw@localhost:{tls}")), RedisOptions::default());
    assert_eq!(on_tls.expect("a URL").check().await, Ok(()));
    for (url, says, lasts) in [
        (format!("redis://:wrong-pw@127.0.0.1:{port}"), LOGIN, true),
        (format!("redis://127.0.0.1:{port}"), LOGIN, true),
        (format!("redis://nobody:right-pw@127.0.0.1:{port}"), LOGIN, true),
        (format!("redis://:right-pw@127.0.0.1:{port}/99"), "the server has no database of that number", true),
        (format!("redis://:right-pw@127.0.0.1:{http}"), "not a redis server", true),
        (format!("rediss://:right-pw@127.0.0.1:{http}"), "the server knows no TLS", true),
        (format!("rediss://:right-pw@localhost:{tls}"), "the server's certificate is not valid", true),
        (trusted(&format!("rediss://:right-pw@127.0.0.1:{tls}")), "the server's certificate is not valid", true),
        (format!("redis://:right-pw@127.0.0.1:{tls}"), ENDED, false),
        (format!("redis://:right-pw@127.0.0.1:{hasty}"), ENDED, false),
        ("redis://:right-pw@127.0.0.1:1".to_owned(), "connection refused", false),
        ("redis://:right-pw@no-such-host.invalid".to_owned(), "the name of the host is not known", false),
    ] {
        assert_eq!(reason(&url).await, says, "{url}");
        let error = TargetError::Unavailable(says);
        assert_eq!((error.remedy().is_some(), error.may_pass()), (lasts, !lasts), "{says}");
    }
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
    // It answers to a TLS hello with silence or an error, as that happens to hold an end of line or not.
    let reason = reason(&format!("rediss://127.0.0.1:{}", server.port())).await;
    let told = ["the server knows no TLS", "no answer in time: the server is away or knows no TLS"];
    assert!(told.contains(&reason), "{reason}");
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
