use std::time::Duration;

use hub_protocol::ErrorCode;
use hub_spoke::{Client, ClosedReason, ConnectError, ConnectionState};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::hub::{FakeHub, KEY, soon};

async fn closed(client: &Client) -> ClosedReason {
    let mut state = client.state();
    let state = soon(state.wait_for(|state| matches!(state, ConnectionState::Closed(_)))).await.unwrap();
    match &*state {
        ConnectionState::Closed(reason) => reason.clone(),
        _ => unreachable!(),
    }
}

#[tokio::test]
async fn a_lost_connection_is_made_again_and_calls_wait_for_it() {
    let hub = FakeHub::echo().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    for number in 0..3 {
        hub.connection(number).await.kill();
        let mut state = client.state();
        soon(state.wait_for(|state| matches!(state, ConnectionState::Reconnecting { .. }))).await.unwrap();
        soon(client.call_raw("demo.echo", json!(1))).await.unwrap();
    }
    assert!(matches!(*client.state().borrow(), ConnectionState::Connected { count: 4 }));
}

#[tokio::test]
async fn a_call_waits_for_a_connection_no_longer_than_its_deadline() {
    let hub = FakeHub::echo().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    hub.refuse_upgrades(503);
    hub.connection(0).await.kill();
    hub.until(|hub| hub.upgrades().len() > 1).await;
    let error = soon(client.request("demo.echo").deadline(Duration::from_millis(50)).call()).await.unwrap_err();
    assert!(error.is(ErrorCode::Timeout) && error.retryable, "{error}");
    hub.refuse_upgrades(0);
    soon(client.call_raw("demo.echo", json!(1))).await.unwrap();
}

#[tokio::test]
async fn a_draining_hub_says_when_to_come_back() {
    let hub = FakeHub::echo().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    hub.connection(0).await.close(1001, "draining; retry-after-ms=600");
    let began = Instant::now();
    let mut state = client.state();
    soon(state.wait_for(|state| !matches!(state, ConnectionState::Connected { .. }))).await.unwrap();
    let expected = ConnectionState::Reconnecting { attempt: 1, retry_in: Duration::from_millis(600) };
    assert_eq!(*client.state().borrow(), expected);
    soon(client.call_raw("demo.echo", json!(1))).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(590), "{:?}", began.elapsed());
}

#[tokio::test]
async fn final_close_codes_are_obeyed() {
    for (code, expected) in
        [(4001, ClosedReason::KeyRevoked), (4009, ClosedReason::NameHeld), (4010, ClosedReason::Superseded)]
    {
        let hub = FakeHub::echo().await;
        let client = Client::connect(&hub.url(), KEY).await.unwrap();
        hub.connection(0).await.close(code, "final");
        assert_eq!(closed(&client).await, expected);
        assert_eq!(hub.upgrades().len(), 1, "must not connect again after {code}");
    }
}

#[tokio::test]
async fn a_refused_key_is_final_and_named_nowhere() {
    for status in [401, 403] {
        let hub = FakeHub::echo().await;
        hub.refuse_upgrades(status);
        let error = Client::connect(&hub.url(), KEY).await.unwrap_err();
        assert!(matches!(&error, ConnectError::Unauthorized { status: s, .. } if *s == status), "{error}");
        assert!(error.is_final());
        assert!(error.to_string().contains(&hub.address.to_string()), "{error}");
        assert!(!format!("{error} {error:?}").contains(KEY));
    }
    // Also at a reconnect.
    let hub = FakeHub::echo().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    assert!(!format!("{client:?} {:?}", Client::builder(&hub.url(), KEY)).contains(KEY));
    hub.refuse_upgrades(401);
    hub.connection(0).await.kill();
    assert_eq!(closed(&client).await, ClosedReason::Unauthorized);
}

#[tokio::test]
async fn other_failures_to_connect_are_told_apart() {
    let hub = FakeHub::echo().await;
    hub.refuse_upgrades(502);
    let error = Client::connect(&hub.url(), KEY).await.unwrap_err();
    assert!(matches!(error, ConnectError::NotAHub { status: 502, .. }) && !error.is_final(), "{error}");

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let error = Client::builder(&url, KEY).connect_timeout(Duration::from_millis(50)).connect().await.unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { .. }) && !error.is_final(), "{error}");
    drop(listener);
    let error = Client::connect(&url, KEY).await.unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable { .. }) && error.to_string().contains(&url), "{error}");

    let error = Client::connect("not a url", KEY).await.unwrap_err();
    assert!(matches!(error, ConnectError::InvalidUrl { .. }), "{error}");
}

#[tokio::test]
async fn without_reconnect_a_loss_is_the_end() {
    let hub = FakeHub::echo().await;
    let client = Client::builder(&hub.url(), KEY).reconnect(false).connect().await.unwrap();
    hub.connection(0).await.kill();
    assert!(matches!(closed(&client).await, ClosedReason::Lost(_)));
    let error = client.call_raw("demo.echo", json!(1)).await.unwrap_err();
    assert!(error.is(ErrorCode::SpokeDisconnected), "{error}");
    assert_eq!(hub.upgrades().len(), 1);
}

#[tokio::test]
async fn dropping_the_last_client_closes_the_connection() {
    let hub = FakeHub::echo().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let clone = client.clone();
    drop(client);
    clone.call_raw("demo.echo", json!(1)).await.unwrap();
    let connection = hub.connection(0).await;
    drop(clone);
    soon(connection.peer.gone().cancelled()).await;
}

#[tokio::test]
async fn a_hub_that_falls_silent_counts_as_lost() {
    // Accepts the upgrade and then neither reads nor writes.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let deaf = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let key = head.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Protocol: hub.v1\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        tokio::io::AsyncWriteExt::write_all(&mut stream, answer.as_bytes()).await.unwrap();
        stream
    };
    let builder = Client::builder(&url, KEY).reconnect(false).liveness(Duration::from_millis(40));
    let (client, _open) = soon(async { tokio::join!(builder.connect(), deaf) }).await;
    match closed(&client.unwrap()).await {
        ClosedReason::Lost(reason) => assert!(reason.contains("silent"), "{reason}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_quiet_hub_that_answers_pings_is_not_lost() {
    let hub = FakeHub::echo().await;
    let builder = Client::builder(&hub.url(), KEY).reconnect(false).liveness(Duration::from_millis(20));
    let client = builder.connect().await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    client.call_raw("demo.echo", json!(1)).await.unwrap();
}
