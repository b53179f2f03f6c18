//! The door: connections that send too slowly, too much or too many, and upgrades that are no good.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hub_testkit::{TestHub, eventually, http};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Sends `bytes` and waits for the other side to close; answers what it said and after how long.
async fn until_closed(address: SocketAddr, bytes: &[u8]) -> Result<(String, Duration)> {
    let mut stream = TcpStream::connect(address).await?;
    let started = Instant::now();
    stream.write_all(bytes).await?;
    let mut answer = Vec::new();
    match tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut answer)).await {
        Err(_) => bail!("still open after 5 s: {:?}", String::from_utf8_lossy(bytes)),
        Ok(_) => Ok((String::from_utf8_lossy(&answer).into_owned(), started.elapsed())),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_send_too_slowly_are_closed() -> Result<()> {
    let hub = TestHub::start_with(&["--header-timeout-ms", "300", "--body-timeout-ms", "300"]).await?;
    let auth = format!("authorization: Bearer {}\r\n", hub.admin_key());
    for head in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\n", "GET / HTTP/1.1\r\nhost: x\r\nx-long: y"] {
        let (_, took) = until_closed(hub.address(), head.as_bytes()).await?;
        assert!(took < Duration::from_secs(3), "{head:?} {took:?}");
    }
    // A byte now and then does not help.
    let mut drip = TcpStream::connect(hub.address()).await?;
    let started = Instant::now();
    drip.write_all(b"GET / HTTP/1.1\r\nx-drip: ").await?;
    while started.elapsed() < Duration::from_secs(3) && drip.write_all(b"y").await.is_ok() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(started.elapsed() < Duration::from_secs(3), "still taken after 3 s");
    let request =
        format!("POST /api/call HTTP/1.1\r\nhost: x\r\n{auth}content-length: 100\r\nconnection: close\r\n\r\n{{");
    let (answer, _) = until_closed(hub.address(), request.as_bytes()).await?;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");
    // Whoever keeps to the rules is not cut off.
    let mut peer = hub.raw().await?;
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(peer.call("1", "hub.whoami", json!({})).await?["type"], "call.responded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_above_the_limit_is_refused() -> Result<()> {
    let hub = TestHub::start_with(&["--max-message-bytes", "10000"]).await?;
    let body = json!({"operationId": "hub.whoami", "input": {"x": "y".repeat(10_000)}});
    let answer = http(hub.address(), "POST", "/api/call", hub.admin_key(), &body).await?;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.json()?["code"], "PAYLOAD_TOO_LARGE");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_above_the_limit_are_closed_and_places_come_back() -> Result<()> {
    let hub = TestHub::start_with(&["--max-connections", "3"]).await?;
    let mut open = vec![hub.raw().await?, hub.raw().await?, hub.raw().await?];
    let mut fourth = TcpStream::connect(hub.address()).await?;
    let mut nothing = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(2), fourth.read_to_end(&mut nothing)).await?;
    assert!(end.is_err() || nothing.is_empty());
    assert!(hub.raw().await.is_err());
    assert_eq!(open[0].call("1", "hub.whoami", json!({})).await?["type"], "call.responded");
    open.pop();
    let mut again = eventually("a place is free again", || async { Ok(hub.raw().await.ok()) }).await?;
    assert_eq!(again.call("1", "hub.whoami", json!({})).await?["type"], "call.responded");
    Ok(())
}

/// Status of an upgrade with these headers beside the usual ones.
async fn upgrade(address: SocketAddr, path: &str, headers: &[(&'static str, &str)]) -> Result<(u16, Option<String>)> {
    let mut request = format!("ws://{address}{path}").into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse()?);
    }
    let stream = TcpStream::connect(address).await?;
    let response = match tokio_tungstenite::client_async(request, stream).await {
        Ok((_, response)) => response.map(|_| None),
        Err(tokio_tungstenite::tungstenite::Error::Http(response)) => response.map(|body| body),
        Err(error) => return Err(error.into()),
    };
    let protocol =
        response.headers().get("sec-websocket-protocol").map(|v| v.to_str().map(str::to_owned)).transpose()?;
    let status = response.status().as_u16();
    let body: Option<Vec<u8>> = response.into_body();
    Ok((status, protocol.or_else(|| body.map(|b| String::from_utf8_lossy(&b).into_owned()))))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_door_of_the_websocket() -> Result<()> {
    let hub = TestHub::start().await?;
    let (address, key) = (hub.address(), hub.admin_key());
    let bearer = format!("Bearer {key}");
    let auth = ("authorization", bearer.as_str());
    let own = format!("http://{address}");
    let by_protocol = format!("hub.v1, bearer.{key}");
    for (why, path, headers, status) in [
        ("the key in a header", "/ws", vec![auth], 101),
        ("its own origin", "/ws", vec![auth, ("origin", &own)], 101),
        ("another origin", "/ws", vec![auth, ("origin", "http://evil.example")], 403),
        ("the origin of a file", "/ws", vec![auth, ("origin", "null")], 403),
        ("no key", "/ws", vec![], 401),
        ("a wrong key", "/ws", vec![("authorization", "Bearer hub_x_y")], 401),
        ("an unknown subprotocol", "/ws", vec![auth, ("sec-websocket-protocol", "hub.v9")], 400),
        ("another path", "/wss", vec![auth], 404),
    ] {
        let (got, _) = upgrade(address, path, &headers).await.with_context(|| why.to_owned())?;
        assert_eq!(got, status, "{why}");
    }
    let (status, protocol) = upgrade(address, "/ws", &[("sec-websocket-protocol", &by_protocol)]).await?;
    assert_eq!((status, protocol.as_deref()), (101, Some("hub.v1")), "only the version is echoed, never the key");
    for name in ["key", "token", "access_token", "x"] {
        let (status, body) = upgrade(address, &format!("/ws?{name}={key}"), &[auth]).await?;
        assert_eq!(status, 400, "a key in the query string as {name}");
        assert!(!body.unwrap_or_default().contains(key));
        let answer = http(address, "GET", &format!("/api/operations?{name}={key}"), key, &Value::Null).await?;
        assert_eq!(answer.status, 400);
    }
    Ok(())
}
