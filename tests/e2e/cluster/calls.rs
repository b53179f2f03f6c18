//! Calls, streams, trees and names across hubs.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::{StreamExt, stream};
use hub_protocol::ops::calls::{AbortCall, AbortMode, AttachCall, AttachItem, CallStatus, GetTree, ListCalls};
use hub_protocol::ops::hub::{DrainSpoke, ListSpokes};
use hub_protocol::ops::keys::{CreateKey, RevokeKey};
use hub_protocol::{CallError, ErrorCode, OnDisconnect};
use hub_spoke::{Client, Context};
use hub_testkit::{binary, command, eventually, http, run};
use serde_json::{Value, json};

use super::bed::{Bed, known};

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_on_one_hub_serves_callers_of_all() -> Result<()> {
    let bed = Bed::start(3).await?;
    let _spoke = bed
        .spoke(0, "worker")
        .query("work.echo", "Answers its input.", |_, input: Value| async move { Ok::<_, CallError>(input) })
        .query("work.fail", "Fails.", |_, _: Value| async {
            Err::<Value, _>(CallError::new(ErrorCode::NotFound, "no such thing"))
        })
        .stream("work.count", "Counts.", |_, to: u64| async move {
            Ok::<_, CallError>(stream::iter((0..to).map(Ok::<_, CallError>)))
        })
        .build()?
        .start()
        .await?;
    let observer = bed.client(2).await?;
    let mut events = observer.follow_events(vec!["**".to_owned()], Some(0));
    for n in 0..3 {
        let client = bed.client(n).await?;
        known(&client, "work.echo").await?;
        let answer = client.call_raw("work.echo", json!({ "n": n })).await?;
        ensure!(answer.as_str() == format!(r#"{{"n":{n}}}"#), "{}", answer.as_str());
        let error = client.call_raw("work.fail", json!({})).await.unwrap_err();
        ensure!(error.is(ErrorCode::NotFound) && error.message == "no such thing", "{error:?}");
        let mut items = client.request("work.count").input(json!(10_000)).subscribe().await?;
        let mut next = 0_u64;
        while let Some(item) = items.next().await {
            ensure!(item?.as_str() == next.to_string(), "item {next}");
            next += 1;
        }
        ensure!(next == 10_000, "{next} items");
    }
    let mut listing = command(binary("hub")?, bed.folder());
    listing.args(["spokes", "--url", &format!("ws://127.0.0.1:{}", bed.hubs[2].port)]).env("HUB_KEY", &bed.key);
    let listed = run(&mut listing).await?;
    ensure!(listed.out.contains(&format!("http://127.0.0.1:{}", bed.hubs[0].port)), "not where it is: {listed:?}");
    // Each hub counts its own spokes, so that their sum is the cluster's.
    for n in 0..3 {
        let metrics = http(([127, 0, 0, 1], bed.hubs[n].port).into(), "GET", "/metrics", "", &Value::Null).await?;
        let spokes = format!("\nhub_spokes {}\n", u8::from(n == 0));
        ensure!(metrics.body.contains(&spokes), "hub {n}: {}", metrics.body);
    }
    // The third hub's reader of the log has seen all of it, in order.
    let (mut last, mut ended) = (0, 0);
    while ended < 9 {
        let event = tokio::time::timeout(Duration::from_secs(10), events.next()).await;
        let event =
            event.with_context(|| format!("{ended} calls have ended up to {last}"))?.context("the log goes on")??;
        ensure!(last == 0 || event.seq == last + 1, "{} after {last}", event.seq);
        last = event.seq;
        ended += u32::from(event.topic.starts_with("call:") && ["completed", "failed"].contains(&event.kind.as_str()));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_over_three_hubs_is_one_tree_and_aborts_at_once() -> Result<()> {
    let bed = Bed::start(3).await?;
    let stopped = Arc::new(AtomicU64::new(0));
    struct Stop(Arc<AtomicU64>);
    impl Drop for Stop {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let guard = |stopped: &Arc<AtomicU64>| {
        let stopped = Arc::clone(stopped);
        move || Stop(Arc::clone(&stopped))
    };
    let (a, b, c) = (guard(&stopped), guard(&stopped), guard(&stopped));
    let _first = bed
        .spoke(0, "first")
        .query("tree.first", "Calls the second.", move |ctx: Context, input: Value| {
            let guard = a();
            async move {
                let _guard = guard;
                ctx.call_raw("tree.second", input).await
            }
        })
        .build()?
        .start()
        .await?;
    let _second = bed
        .spoke(1, "second")
        .query("tree.second", "Calls the third.", move |ctx: Context, input: Value| {
            let guard = b();
            async move {
                let _guard = guard;
                ctx.call_raw("tree.third", input).await
            }
        })
        .build()?
        .start()
        .await?;
    let _third = bed
        .spoke(2, "third")
        .query("tree.third", "Answers, or sleeps.", move |_, input: Value| {
            let guard = c();
            async move {
                let _guard = guard;
                if input["sleep"] == true {
                    std::future::pending::<()>().await;
                }
                Ok::<_, CallError>(input)
            }
        })
        .build()?
        .start()
        .await?;
    let client = bed.client(1).await?;
    for operation in ["tree.first", "tree.second", "tree.third"] {
        for n in 0..3 {
            known(&bed.client(n).await?, operation).await?;
        }
    }
    let answer = client.call_raw("tree.first", json!({ "x": 1 })).await?;
    ensure!(answer.as_str() == r#"{"x":1}"#, "{}", answer.as_str());
    let filter = ListCalls { operation_id: Some("tree.third".into()), ..ListCalls::default() };
    let leaf = eventually("the leaf is recorded", || async {
        let calls = bed.client(2).await?.call(&filter).await?.calls;
        Ok(calls.into_iter().find(|c| c.completed_at.is_some()))
    })
    .await?;
    let tree = bed.client(0).await?.call(&GetTree { call_id: leaf.call_id, below: None }).await?;
    ensure!(tree.calls.len() == 3 && tree.edges.len() == 2, "{tree:?}");
    stopped.store(0, Ordering::SeqCst);

    // Aborted by its caller, and by somebody on a hub that does not run it.
    for by_operation in [false, true] {
        stopped.store(0, Ordering::SeqCst);
        let call = client.request("tree.first").input(json!({ "sleep": true })).start_one().await?;
        let running = ListCalls { status: Some(CallStatus::Running), ..filter.clone() };
        eventually("the leaf runs", || async { Ok(client.call(&running).await?.calls.into_iter().next()) }).await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let roots = ListCalls { operation_id: Some("tree.first".into()), ..running.clone() };
        let root = client.call(&roots).await?.calls.into_iter().next().context("the root runs")?;
        let other = bed.client(2).await?;
        let asked = Instant::now();
        let receipts = if by_operation {
            let abort = AbortCall { call_id: root.call_id, mode: AbortMode::Kill, reason: None, grace_ms: None };
            other.call(&abort).await?.receipts
        } else {
            call.abort(None, AbortMode::Kill, Duration::from_secs(5)).await
        };
        let took = asked.elapsed();
        println!("aborted in {took:?}: {receipts:?}");
        ensure!(took < Duration::from_millis(500), "{took:?}");
        let mut spokes: Vec<_> = receipts.iter().filter_map(|r| r.spoke.clone()).collect();
        spokes.sort();
        ensure!(spokes == ["first", "second", "third"], "{receipts:?}");
        ensure!(stopped.load(Ordering::SeqCst) == 3, "{} handlers have stopped", stopped.load(Ordering::SeqCst));
        // The next round finds its own calls by their records.
        eventually("the records have ended", || async {
            let recorded = [client.call(&running).await?.calls, client.call(&roots).await?.calls];
            Ok(recorded.iter().all(Vec::is_empty).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_runs_once_whichever_hubs_are_asked() -> Result<()> {
    let bed = Bed::start(3).await?;
    let runs = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&runs);
    let _spoke = bed
        .spoke(0, "worker")
        .mutation("work.once", "Takes a while.", move |_, input: Value| {
            let runs = Arc::clone(&counted);
            async move {
                runs.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(300)).await;
                Ok::<_, CallError>(input)
            }
        })
        .build()?
        .start()
        .await?;
    let clients = [bed.client(0).await?, bed.client(1).await?, bed.client(2).await?];
    for client in &clients {
        known(client, "work.once").await?;
    }
    let calls = (0..15).map(|n| {
        let client = &clients[n % 3];
        client.request("work.once").input(json!({ "v": 1 })).idempotency_key("k").call()
    });
    for answer in futures_util::future::join_all(calls).await {
        ensure!(answer?.as_str() == r#"{"v":1}"#, "another answer");
    }
    ensure!(runs.load(Ordering::SeqCst) == 1, "{} runs", runs.load(Ordering::SeqCst));
    let other = clients[2].request("work.once").input(json!({ "v": 2 })).idempotency_key("k").call().await;
    ensure!(other.unwrap_err().is(ErrorCode::Conflict), "another input");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_has_one_connection_over_all_hubs() -> Result<()> {
    let bed = Bed::start(2).await?;
    let make = |hub: usize, started: u64| {
        bed.spoke(hub, "worker")
            .started_at_ms(started)
            .query("work.where", "Says which hub.", move |_, _: Value| async move { Ok::<_, CallError>(hub) })
            .build()
    };
    let mut older = make(0, 1_000)?.start().await?;
    let client = bed.client(1).await?;
    known(&client, "work.where").await?;
    ensure!(client.call_raw("work.where", json!({})).await?.as_str() == "0", "the first");
    let asked = Instant::now();
    let newer = make(1, 2_000)?.start().await?;
    println!("superseded across hubs in {:?}", asked.elapsed());
    let closed = tokio::time::timeout(Duration::from_secs(5), older.ended()).await?.unwrap_err();
    ensure!(closed.to_string().contains("newer"), "{closed}");
    for n in 0..2 {
        let client = bed.client(n).await?;
        eventually("the newer one answers", || async {
            Ok(client.call_raw("work.where", json!({})).await.is_ok_and(|a| a.as_str() == "1").then_some(()))
        })
        .await?;
    }
    let refused = make(0, 1_500)?.start().await;
    ensure!(refused.is_err(), "an older instance was taken in");
    newer.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn draining_revoking_and_attaching_reach_the_other_hub() -> Result<()> {
    let bed = Bed::start(2).await?;
    let _spoke = bed
        .spoke(0, "worker")
        .query("work.echo", "Answers its input.", |_, input: Value| async move { Ok::<_, CallError>(input) })
        .stream("work.ticks", "Ticks.", |_, _: Value| async {
            Ok::<_, CallError>(stream::unfold(0_u64, |n| async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                Some((Ok::<_, CallError>(n), n + 1))
            }))
        })
        .build()?
        .start()
        .await?;
    let (here, there) = (bed.client(0).await?, bed.client(1).await?);
    known(&there, "work.ticks").await?;
    // A stream that was begun through one hub is read on through the other.
    let mut ticks =
        there.request("work.ticks").input(json!({})).on_disconnect(OnDisconnect::Detach).subscribe().await?;
    ticks.next().await.context("an item")??;
    let filter = ListCalls { operation_id: Some("work.ticks".into()), ..ListCalls::default() };
    let call =
        eventually("the stream is recorded", || async { Ok(here.call(&filter).await?.calls.into_iter().next()) })
            .await?;
    let mut attached = here.subscribe(&AttachCall { call_id: call.call_id, after: Some(0) }).await?;
    for n in 1..=5 {
        let item = attached.next().await.context("an item")??;
        ensure!(matches!(item, AttachItem::Item { item, .. } if item == n), "{item:?}");
    }
    drop((attached, ticks));
    // A key that is revoked at one hub opens no door of the other.
    let params = CreateKey { name: "short".into(), scopes: vec!["*".into()], ..CreateKey::default() };
    let key = here.call(&params).await?;
    let guest = Client::connect(&bed.url(1), &key.secret).await?;
    guest.call_raw("hub.whoami", json!({})).await?;
    here.call(&RevokeKey { id: key.key.id }).await?;
    let mut state = guest.state();
    let closed = state.wait_for(|s| matches!(s, hub_spoke::ConnectionState::Closed(_)));
    tokio::time::timeout(Duration::from_secs(2), closed).await.context("the connection is closed")??;
    ensure!(Client::connect(&bed.url(1), &key.secret).await.is_err(), "the door is open");
    // A spoke can be told to drain from anywhere.
    there.call(&DrainSpoke { spoke: Some("worker".into()) }).await?;
    for client in [&here, &there] {
        let error = client.call_raw("work.echo", json!({})).await.unwrap_err();
        ensure!(error.is(ErrorCode::OperationUnavailable), "{error:?}");
        let spokes = client.call(&ListSpokes::default()).await?.spokes;
        ensure!(spokes.iter().any(|s| s.name == "worker" && s.draining), "{spokes:?}");
    }
    Ok(())
}
