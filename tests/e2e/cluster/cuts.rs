//! A hub cut off from the bus, from the store, from both (must hold 4); hubs that are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use hub_protocol::ops::calls::{CallStatus, GetCall, ListCalls};
use hub_protocol::ops::hub::{GetStatus, ListSpokes};
use hub_protocol::ops::keys::CreateKey;
use hub_protocol::{CallError, ErrorCode};
use hub_spoke::{Client, RunningSpoke};
use hub_testkit::{eventually, http, psql};
use serde_json::{Value, json};

use super::bed::{Bed, known};
use super::proxy::Wire;

/// A spoke with one query that says where it is.
async fn where_is(bed: &Bed, hub: usize, name: &'static str, operation: &str) -> Result<RunningSpoke> {
    let answer = move |_, _: Value| async move { Ok::<_, CallError>(name) };
    Ok(bed.spoke(hub, name).query(operation, "Says its name.", answer).build()?.start().await?)
}

async fn asks(client: &Client, operation: &str) -> Result<String, CallError> {
    let asked = client.request(operation).input(json!({})).deadline(Duration::from_secs(8));
    asked.call().await.map(|answer| answer.as_str().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_the_bus_serves_what_is_local_and_says_so() -> Result<()> {
    for wire in [Wire::Down, Wire::Silent] {
        let bed = Bed::start(2).await?;
        let (_here, _there) =
            (where_is(&bed, 0, "here", "at.here").await?, where_is(&bed, 1, "there", "at.there").await?);
        let client = bed.client(0).await?;
        eventually("both are known", || async {
            Ok((asks(&client, "at.here").await.is_ok() && asks(&client, "at.there").await.is_ok()).then_some(()))
        })
        .await?;
        bed.hubs[0].to_redis.set(wire);
        let cut = Instant::now();
        eventually("the hub says that the bus is away", || async {
            let (status, body) = bed.ready(0).await?;
            let bus = body["steps"].as_array().into_iter().flatten().find(|s| s["name"] == "bus").cloned();
            ensure!(status == 200, "not ready without the bus: {body}");
            Ok(bus.is_some_and(|b| b["ok"] == false).then_some(()))
        })
        .await?;
        println!("{wire:?}: noticed after {:?}", cut.elapsed());
        ensure!(asks(&client, "at.here").await.as_deref() == Ok("\"here\""), "the local spoke does not answer");
        // Nobody is heard, and the other hub still lives.
        eventually("the other hub is shown as one that can't be reached", || async {
            let status = client.call(&GetStatus {}).await?;
            let linked: Vec<bool> = status.hubs.iter().map(|hub| hub.linked).collect();
            ensure!(linked.len() == 2, "a hub is missing: {status:?}");
            Ok((linked == [true, false]).then_some(()))
        })
        .await?;
        // Neither hub hears the other, and each shows the spoke that the other has.
        for (n, name) in [(0, "there"), (1, "here")] {
            let client = bed.client(n).await?;
            // A hub that is late with its lease is not shown until it has it again.
            eventually("the other hub can't be reached, and its spoke is shown", || async {
                let hubs = client.call(&GetStatus {}).await?.hubs;
                let spokes = client.call(&ListSpokes { connected: Some(true) }).await?.spokes;
                let spoke = spokes.iter().find(|spoke| spoke.name == name);
                let shown = spoke.is_some_and(|spoke| {
                    spoke.operations == [format!("at.{name}")]
                        && spoke.disconnected_at.is_none()
                        && hubs.iter().any(|hub| hub.hub_id == spoke.hub_id)
                });
                Ok((shown && hubs.iter().any(|hub| !hub.linked)).then_some(()))
            })
            .await
            .with_context(|| format!("seen from hub {n}"))?;
        }
        // The other hub's spoke can't be reached; that is said within the time in which it might come back.
        let error = asks(&client, "at.there").await.unwrap_err();
        ensure!(error.retryable, "{error:?}");
        bed.hubs[0].to_redis.set(Wire::Whole);
        let mended = Instant::now();
        eventually("the other hub's spoke is back", || async {
            Ok(asks(&client, "at.there").await.is_ok().then_some(()))
        })
        .await?;
        println!("{wire:?}: whole again after {:?}", mended.elapsed());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_the_store_is_not_ready_and_does_not_hang() -> Result<()> {
    for wire in [Wire::Down, Wire::Silent] {
        let bed = Bed::start(2).await?;
        let _here = where_is(&bed, 0, "here", "at.here").await?;
        let client = bed.client(0).await?;
        eventually("it is known", || async { Ok(asks(&client, "at.here").await.is_ok().then_some(())) }).await?;
        bed.hubs[0].to_postgres.set(wire);
        eventually("the hub says that the store is away", || async {
            let (status, body) = bed.ready(0).await?;
            let store = body["steps"].as_array().into_iter().flatten().find(|s| s["name"] == "store").cloned();
            Ok((status == 503 && store.is_some_and(|s| s["ok"] == false)).then_some(()))
        })
        .await?;
        // Once its lease may have run out, it uses its spokes no more: another hub may have them.
        tokio::time::sleep(Duration::from_secs(2)).await;
        let asked = Instant::now();
        let error = asks(&client, "at.here").await.unwrap_err();
        println!("{wire:?}: {} after {:?}", error.code, asked.elapsed());
        ensure!(error.retryable, "{error:?}");
        ensure!(asked.elapsed() < Duration::from_secs(9), "it hung for {:?}", asked.elapsed());
        // What needs no store still answers.
        client.call_raw("hub.whoami", json!({})).await?;
        bed.hubs[0].to_postgres.set(Wire::Whole);
        eventually("it serves again", || async { Ok(asks(&client, "at.here").await.is_ok().then_some(())) }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_for_a_spoke_whose_hub_gets_its_store_back_waits_for_it() -> Result<()> {
    let bed = Bed::start(2).await?;
    let _there = where_is(&bed, 1, "there", "at.there").await?;
    let client = bed.client(0).await?;
    eventually("it is known", || async { Ok(asks(&client, "at.there").await.is_ok().then_some(())) }).await?;
    bed.hubs.iter().for_each(|hub| hub.to_postgres.set(Wire::Down));
    // It may use its spokes no more, whoever asks.
    let error =
        eventually("the other hub's lease has run out", || async { Ok(asks(&client, "at.there").await.err()) }).await?;
    ensure!(error.is(ErrorCode::OperationUnavailable) && error.retryable, "{error:?}");
    ensure!(error.message.contains("the hub of the spoke can't reach the store"), "{error:?}");
    let waits = tokio::spawn(async move { asks(&client, "at.there").await });
    bed.hubs.iter().for_each(|hub| hub.to_postgres.set(Wire::Whole));
    let answer = waits.await?;
    ensure!(answer.as_deref() == Ok("\"there\""), "{answer:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_record_of_a_call_says_that_the_hub_of_its_caller_was_lost() -> Result<()> {
    let mut bed = Bed::start(2).await?;
    let held = |_, _: Value| std::future::pending::<Result<(), CallError>>();
    let _worker = bed.spoke(1, "worker").mutation("work.held", "Never ends.", held).build()?.start().await?;
    let (caller, other) = (bed.client(0).await?, bed.client(1).await?);
    known(&caller, "work.held").await?;
    let hub_id = bed.status(0).await?["hubId"].take();
    let _call = caller.request("work.held").input(json!({})).start_one().await?;
    let filter = ListCalls { operation_id: Some("work.held".into()), ..ListCalls::default() };
    let find = async |status| Ok(other.call(&filter).await?.calls.into_iter().find(|call| call.status == status));
    eventually("the call runs", || find(CallStatus::Running)).await?;
    bed.kill_hub(0).await?;
    let record = eventually("the call is closed", || find(CallStatus::Failed)).await?;
    let error = other.call(&GetCall { call_id: record.call_id }).await?.error.context("an error")?;
    ensure!(error.message.contains("the caller's hub") && error.message.contains("was lost"), "{error:?}");
    let details: Value = error.details.context("details")?.parse()?;
    ensure!(details == json!({ "reason": "hub lost", "hubId": hub_id }), "{details}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_cut_off_from_all_can_not_answer_for_a_spoke_that_has_moved() -> Result<()> {
    let bed = Bed::start(2).await?;
    let old = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&old);
    let mut stale = bed
        .spoke(0, "worker")
        .started_at_ms(1_000)
        .query("work.where", "Says which one.", move |_, _: Value| {
            counted.fetch_add(1, Ordering::SeqCst);
            async { Ok::<_, CallError>("old") }
        })
        .build()?
        .start()
        .await?;
    let (cut, whole) = (bed.client(0).await?, bed.client(1).await?);
    eventually("it is known", || async { Ok(asks(&whole, "work.where").await.is_ok().then_some(())) }).await?;
    bed.hubs[0].to_postgres.set(Wire::Silent);
    bed.hubs[0].to_redis.set(Wire::Silent);
    let asked = Instant::now();
    let _moved = bed
        .spoke(1, "worker")
        .started_at_ms(2_000)
        .query("work.where", "Says which one.", |_, _: Value| async { Ok::<_, CallError>("new") })
        .build()?
        .start()
        .await?;
    println!("taken over from a hub that can't be reached in {:?}", asked.elapsed());
    // From the moment on at which the new one is served, the old one is not, whoever asks whichever hub.
    let before = old.load(Ordering::SeqCst);
    for _ in 0..50 {
        ensure!(asks(&whole, "work.where").await.as_deref() == Ok("\"new\""), "not the new one");
        let stale = cut.request("work.where").input(json!({})).deadline(Duration::from_millis(200)).call().await;
        ensure!(stale.is_err(), "the hub that was cut off has answered {stale:?}");
    }
    ensure!(old.load(Ordering::SeqCst) == before, "the old connection was given calls");
    bed.hubs[0].to_postgres.set(Wire::Whole);
    bed.hubs[0].to_redis.set(Wire::Whole);
    let closed = tokio::time::timeout(Duration::from_secs(15), stale.ended()).await.context("the old one is closed")?;
    ensure!(closed.is_err(), "superseded");
    eventually("the hub that was cut off knows the new one", || async {
        Ok(asks(&cut, "work.where").await.is_ok_and(|a| a == "\"new\"").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_loss_of_a_hub_is_seen_within_two_seconds() -> Result<()> {
    let mut bed = Bed::start(2).await?;
    let _there = bed
        .balanced_spoke("there")
        .query("at.there", "Sleeps if asked to.", |_, input: Value| async move {
            if input["sleep"] == true {
                std::future::pending::<()>().await;
            }
            Ok::<_, CallError>("there")
        })
        .build()?
        .start()
        .await?;
    let (zero, one) = (bed.status(0).await?["spokes"].clone(), bed.status(1).await?["spokes"].clone());
    println!("{zero} {one}");
    let holder = {
        let mut holder = 0;
        for n in 0..2 {
            let page = bed.status(n).await?;
            let own = page["hubs"].as_array().and_then(|hubs| hubs.first().cloned()).unwrap_or_default();
            if own["connections"].as_u64() > Some(0) {
                holder = n;
            }
        }
        holder
    };
    let client = bed.client(1 - holder).await?;
    eventually("it is known", || async { Ok(asks(&client, "at.there").await.is_ok().then_some(())) }).await?;
    let running = client.request("at.there").input(json!({ "sleep": true })).start_one().await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    bed.kill_hub(holder).await?;
    let killed = Instant::now();
    let mut running = running;
    drop(running.next());
    let seen = eventually("the other hub is alone", || async {
        let hubs = bed.status(1 - holder).await?["hubs"].as_array().map_or(0, Vec::len);
        Ok((hubs == 1).then(|| killed.elapsed()))
    })
    .await?;
    println!("the loss was seen after {seen:?}");
    ensure!(seen < Duration::from_millis(2_200), "{seen:?}");
    // The spoke has found the hub that is left.
    eventually("it answers again", || async {
        match client.call_raw("at.there", json!({})).await {
            Ok(_) => Ok(Some(())),
            Err(error) if error.is(ErrorCode::OperationUnavailable) => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await?;
    println!("its spoke was callable again after {:?}", killed.elapsed());
    ensure!(killed.elapsed() < Duration::from_secs(6), "{:?}", killed.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_connections_to_the_store_are_all_busy_keeps_its_spokes() -> Result<()> {
    let bed = Bed::start(2).await?;
    let _worker = where_is(&bed, 0, "worker", "work.where").await?;
    let (here, there) = (bed.client(0).await?, bed.client(1).await?);
    eventually("it is known", || async { Ok(asks(&there, "work.where").await.is_ok().then_some(())) }).await?;
    let url = format!("postgres://postgres@127.0.0.1:{}/postgres", bed.postgres.port());
    let locked = tokio::task::spawn_blocking(move || {
        psql(&url, "BEGIN; LOCK TABLE calls IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(5); COMMIT")
    });
    // Each of them waits with a connection in its hand.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..32 {
        let here = here.clone();
        waiting.spawn(async move { here.call(&ListCalls::default()).await });
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    while !locked.is_finished() {
        let asked = Instant::now();
        for client in [&here, &there] {
            let answer = asks(client, "work.where").await;
            ensure!(answer.is_ok(), "{answer:?} after {:?}", asked.elapsed());
        }
        ensure!(asked.elapsed() < Duration::from_secs(1), "two calls took {:?}", asked.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    locked.await??;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_run_while_the_store_went_away_is_told_as_it_is() -> Result<()> {
    let bed = Bed::start(1).await?;
    let slow = |_, _: Value| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok::<_, CallError>("done")
    };
    let _worker = bed.spoke(0, "worker").mutation("work.slow", "Takes a second.", slow).build()?.start().await?;
    let client = bed.client(0).await?;
    // A key that the hub has not seen yet.
    let made = client.call(&CreateKey { name: "new".into(), scopes: vec![], ..CreateKey::default() }).await?;
    let asked = Instant::now();
    let calls = [None, Some("k")].map(|key| {
        let request = client.request("work.slow").input(json!({})).deadline(Duration::from_secs(20));
        let request = if let Some(key) = key { request.idempotency_key(key) } else { request };
        tokio::spawn(async move { (request.call().await, asked.elapsed()) })
    });
    eventually("both run", || async {
        let running = ListCalls { status: Some(CallStatus::Running), ..ListCalls::default() };
        Ok((client.call(&running).await?.calls.len() == 2).then_some(()))
    })
    .await?;
    bed.hubs[0].to_postgres.set(Wire::Down);
    let at = ([127, 0, 0, 1], bed.hubs[0].port).into();
    let refused = http(at, "POST", "/api/operations/hub.whoami", &made.secret, &json!({})).await?;
    ensure!(refused.status == 503, "{refused:?}");
    let [plain, keyed] = calls;
    // It has had its effect, so nobody is invited to have it twice.
    let (error, took) = plain.await?;
    let error = error.unwrap_err();
    ensure!(error.code == "EXECUTION_ERROR" && !error.retryable, "{error:?}");
    ensure!(took < Duration::from_secs(10), "it took {took:?}");
    // With a key the SDK asks again until the store is back, and gets the answer of the one execution.
    bed.hubs[0].to_postgres.set(Wire::Whole);
    let (answer, _) = keyed.await?;
    ensure!(answer?.as_str() == "\"done\"", "another answer");
    Ok(())
}
