//! The end of a key (revoked, run out, rotated) reaches whatever is open with it, on every face and at once.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hub_operations::now_ms;
use hub_protocol::ops::keys::{CreateKey, CreatedKey, RevokeKey, RotateKey};
use hub_spoke::Client;
use hub_testkit::{RawPeer, TestHub, http};
use serde_json::{Value, json};

async fn key(admin: &Client, expires_at: Option<u64>) -> Result<CreatedKey> {
    let scopes = vec!["*".to_owned()];
    Ok(admin.call(&CreateKey { name: "ends".into(), scopes, expires_at, ..CreateKey::default() }).await?)
}

/// A stream of events, one of a spoke's operation, and a running call, all over HTTP.
fn held_open(hub: &TestHub, key: &str) -> Vec<tokio::task::JoinHandle<Result<(u16, String)>>> {
    let paths =
        [("GET", "/api/events?after=0"), ("POST", "/api/operations/demo.ticks"), ("POST", "/api/operations/demo.wait")];
    let open = |(method, path): (&'static str, &'static str)| {
        let (address, key) = (hub.address(), key.to_owned());
        tokio::spawn(async move {
            let answer = http(address, method, path, &key, &json!({})).await?;
            Ok((answer.status, answer.body))
        })
    };
    paths.map(open).into()
}

async fn ends(held: Vec<tokio::task::JoinHandle<Result<(u16, String)>>>, why: &str) -> Result<()> {
    for (at, held) in held.into_iter().enumerate() {
        let (status, body) = tokio::time::timeout(Duration::from_secs(3), held).await???;
        ensure!(body.contains("ACCESS_DENIED") && body.contains(why), "{at}: {status} {body}");
        match at {
            2 => assert_eq!(status, 403, "{body}"),
            _ => ensure!(status == 200 && body.contains("event: error\ndata: {"), "{at}: {body}"),
        }
    }
    Ok(())
}

/// Answers nothing, so that its calls stay open.
async fn silent_spoke(hub: &TestHub) -> Result<RawPeer> {
    let mut spoke = hub.raw().await?;
    spoke.register("silent", &[("demo.ticks", "subscription"), ("demo.wait", "query")], json!({})).await?;
    Ok(spoke)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_what_it_has_open_over_http() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = silent_spoke(&hub).await?;
    let admin = hub.client().await?;
    let made = key(&admin, None).await?;
    let held = held_open(&hub, &made.secret);
    let mut calls = vec![spoke.requested().await?["requestId"].take(), spoke.requested().await?["requestId"].take()];
    admin.call(&RevokeKey { id: made.key.id }).await?;
    ends(held, "the key was revoked").await?;
    // And the spoke is told to stop.
    for _ in 0..2 {
        let aborted = spoke.next_of("call.aborted").await?["requestId"].take();
        calls.retain(|id| *id != aborted);
    }
    assert_eq!(calls, Vec::<Value>::new());
    // Whoever revokes the very key that it uses still gets its answer.
    let own = key(&admin, None).await?;
    let answer =
        http(hub.address(), "POST", "/api/operations/keys.revoke", &own.secret, &json!({"id": own.key.id})).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_runs_out_ends_listeners_at_once() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = silent_spoke(&hub).await?;
    let admin = hub.client().await?;
    let until = now_ms() + 1_500;
    let made = key(&admin, Some(until)).await?;
    let mut listener = RawPeer::connect(hub.address(), &made.secret).await?;
    let held = held_open(&hub, &made.secret);
    spoke.requested().await?;
    spoke.requested().await?;
    let closed = listener.closed().await?;
    assert_eq!((closed.code, closed.reason.as_str()), (4001, "key expired"));
    let late = now_ms().saturating_sub(until);
    assert!(now_ms() >= until && late < 1_000, "closed {late} ms after the end");
    ends(held, "the key has expired").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_ends_its_connections_with_its_overlap() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = silent_spoke(&hub).await?;
    let admin = hub.client().await?;
    for overlap in [0, 1_000] {
        let made = key(&admin, None).await?;
        let mut peer = RawPeer::connect(hub.address(), &made.secret).await?;
        let held = held_open(&hub, &made.secret);
        spoke.requested().await?;
        spoke.requested().await?;
        let started = Instant::now();
        // By the connection itself: it is answered before it is closed.
        let answer = peer.call("r", "keys.rotate", json!({"id": made.key.id, "overlapMs": overlap})).await?;
        assert_eq!(answer["type"], "call.responded", "{answer}");
        if overlap > 0 {
            assert_eq!(peer.call("w", "hub.whoami", json!({})).await?["type"], "call.responded");
        }
        assert_eq!(peer.closed().await?.code, 4001);
        let took = started.elapsed();
        assert!(took + Duration::from_millis(5) > Duration::from_millis(overlap), "{took:?}");
        assert!(took < Duration::from_millis(overlap + 1_000), "{took:?} for {overlap}");
        ends(held, "the key has expired").await?;
    }
    // Others are not touched, and a rotation with the usual overlap lets the old key go on.
    let made = key(&admin, None).await?;
    let mut peer = RawPeer::connect(hub.address(), &made.secret).await?;
    admin.call(&RotateKey { id: made.key.id, overlap_ms: None }).await?;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(peer.call("w", "hub.whoami", json!({})).await?["type"], "call.responded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expiring_key_is_not_another_admin_key() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let expiring = key(&admin, Some(now_ms() + 60_000)).await?;
    let all: Value = admin.call_raw("keys.list", json!({})).await?.parse()?;
    let first = all["keys"].as_array().into_iter().flatten().find(|k| k["name"] == "admin").cloned();
    let refused = admin.call_raw("keys.revoke", json!({"id": first.map(|k| k["id"].clone())})).await;
    assert_eq!(refused.map_err(|e| e.code), Err("CONFLICT".to_owned()));
    admin.call(&RevokeKey { id: expiring.key.id }).await?;
    Ok(())
}
