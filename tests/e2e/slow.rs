//! A peer that does not read, or not fast enough, hurts only itself (must hold 4).

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use hub_operations::now_ms;
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_protocol::{CallError, ErrorCode, Json};
use hub_spoke::{Client, RunningSpoke, Spoke};
use hub_testkit::{HubProcess, RawPeer, TestHub, eventually, free_port, http};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Bytes of one answer of `demo.big` and of one item of `demo.flood`.
const BIG: usize = 100_000;

/// The hub as a process of its own, with a spoke for the deaf and one for the others: behind megabytes of answers on
/// one connection anybody would wait.
struct Hub {
    process: HubProcess,
    address: SocketAddr,
    key: String,
    _spokes: [RunningSpoke; 2],
    _folder: TempDir,
}

impl Hub {
    async fn start(flags: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let port = free_port()?;
        let flags = [&["--log", "error"], flags].concat();
        let process = HubProcess::start(folder.path(), port, &flags).await?;
        let key = process.admin_key()?;
        // Made once: written anew for each answer, it would keep this process too busy to notice what the hub does.
        let big = Json::from(json!("x".repeat(BIG)));
        let flood = big.clone();
        let spoke = Spoke::builder(&process.url(), &key, "source")
            .spoke_type("compute")
            .query("demo.big", "A large answer.", move |_, _: Value| {
                std::future::ready(Ok::<_, CallError>(big.clone()))
            })
            .query("demo.small", "A short answer.", |_, _: Value| async { Ok::<_, CallError>("x") })
            .stream("demo.flood", "Never ends.", move |_, _: Value| {
                std::future::ready(Ok::<_, CallError>(stream::repeat(Ok::<_, CallError>(flood.clone()))))
            })
            .stream("demo.count", "Counts up to a number as fast as it can.", |_, to: u64| async move {
                Ok::<_, CallError>(stream::iter((0..to).map(Ok::<_, CallError>)))
            })
            .build()?
            .start()
            .await?;
        let quick = Spoke::builder(&process.url(), &key, "quick")
            .spoke_type("compute")
            .query("quick.text", "A short answer.", |_, _: Value| async { Ok::<_, CallError>("x") })
            .stream("quick.ticks", "Counts for ever, ten times a second.", |_, _: Value| async {
                Ok::<_, CallError>(stream::unfold(0_u64, |n| async move {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Some((Ok::<_, CallError>(n), n + 1))
                }))
            })
            .build()?
            .start()
            .await?;
        Ok(Self { process, address: ([127, 0, 0, 1], port).into(), key, _spokes: [spoke, quick], _folder: folder })
    }

    async fn raw(&self) -> Result<RawPeer> {
        RawPeer::connect(self.address, &self.key).await
    }

    async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.process.url(), &self.key).await?)
    }

    /// Resident memory in KiB.
    fn memory(&self) -> Result<u64> {
        let pid = self.process.pid().context("it has ended")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse()?)
    }

    /// Waits until the hub has given a slow consumer up.
    async fn slow_consumer_found(&self) -> Result<()> {
        eventually("the hub has found the slow consumer", || async {
            let metrics = http(self.address, "GET", "/metrics", "", &Value::Null).await?.body;
            Ok(metrics.contains("\nhub_slow_consumers_total 1").then_some(()))
        })
        .await
    }
}

/// Calls and follows a stream while others misbehave; answers the longest time of a call and how many items came.
struct Bystander {
    stop: tokio_util::sync::CancellationToken,
    work: JoinHandle<Result<(Duration, u64)>>,
}

impl Bystander {
    async fn start(hub: &Hub) -> Result<Self> {
        let stop = tokio_util::sync::CancellationToken::new();
        let client = hub.client().await?;
        let mut ticks = client.request("quick.ticks").input(json!({})).subscribe().await?;
        let until = stop.clone();
        let work = tokio::spawn(async move {
            let (mut longest, mut items) = (Duration::ZERO, 0);
            loop {
                tokio::select! {
                    () = until.cancelled() => return Ok((longest, items)),
                    item = ticks.next() => {
                        let item = item.context("the stream has ended")??;
                        ensure!(item.as_str() == items.to_string(), "item {items} is {}", item.as_str());
                        items += 1;
                    }
                    () = tokio::time::sleep(Duration::from_millis(5)) => {
                        let started = Instant::now();
                        client.call_raw("quick.text", json!({})).await?;
                        longest = longest.max(started.elapsed());
                    }
                }
            }
        });
        Ok(Self { stop, work })
    }

    async fn has_noticed_nothing(self) -> Result<()> {
        self.stop.cancel();
        let (longest, items) = self.work.await??;
        println!("a bystander's longest call took {longest:?}; {items} items came");
        // What the hub controls is that nobody waits for the slow one, which would be the stall timeout or longer.
        ensure!(longest < Duration::from_secs(2), "a call took {longest:?}");
        ensure!(items > 0, "no item came");
        Ok(())
    }
}

const STALL: [&str; 4] = ["--stall-timeout-ms", "3000", "--outbound-buffer-bytes", "65536"];

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_reads_no_answers_is_closed_with_1013_and_others_notice_nothing() -> Result<()> {
    let hub = Hub::start(&STALL).await?;
    let bystander = Bystander::start(&hub).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let memory = hub.memory()?;
    let same = hub.client().await?;
    let others_of_the_spoke = tokio::spawn(async move {
        for _ in 0..50 {
            same.call_raw("demo.small", json!({})).await?;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        anyhow::Ok(())
    });
    let mut deaf = hub.raw().await?;
    // 100 MB of answers that it never reads: more than the buffers of both kernels and all that may wait anywhere.
    for i in 0..1_000 {
        if deaf.request(&i.to_string(), "demo.big", json!({})).await.is_err() {
            break;
        }
    }
    hub.slow_consumer_found().await?;
    let grown = hub.memory()?.saturating_sub(memory);
    // Reading on at once is early enough to see how the connection was closed.
    let closed = deaf.closed().await?;
    println!("+{grown} KiB, {closed:?}");
    assert_eq!((closed.code, closed.reason.as_str()), (1013, "slow consumer"));
    assert!(grown < 48 * 1024, "{grown} KiB more");
    others_of_the_spoke.await?.context("a call of the same spoke")?;
    bystander.has_noticed_nothing().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_its_stream_is_closed_with_1013_and_others_notice_nothing() -> Result<()> {
    let hub = Hub::start(&STALL).await?;
    let bystander = Bystander::start(&hub).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let memory = hub.memory()?;
    let mut deaf = hub.raw().await?;
    deaf.request("flood", "demo.flood", json!({})).await?;
    deaf.next_of("call.responded").await?;
    hub.slow_consumer_found().await?;
    let grown = hub.memory()?.saturating_sub(memory);
    let closed = deaf.closed().await?;
    println!("+{grown} KiB, {closed:?}");
    assert_eq!((closed.code, closed.reason.as_str()), (1013, "slow consumer"));
    assert!(grown < 48 * 1024, "{grown} KiB more");
    // The stream has ended at the spoke, too, and the record knows.
    let client = hub.client().await?;
    let ended = ListCalls { operation_id: Some("demo.flood".into()), ..ListCalls::default() };
    eventually("the stream is aborted", || async {
        let calls = client.call(&ended).await?.calls;
        Ok(calls.first().is_some_and(|c| c.status == CallStatus::Aborted).then_some(()))
    })
    .await?;
    bystander.has_noticed_nothing().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_reads_gets_many_large_answers_at_once() -> Result<()> {
    let hub = Hub::start(&[]).await?;
    let client = hub.client().await?;
    let calls = (0..300).map(|_| client.call_raw("demo.big", json!({})));
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer?.size(), BIG + 2);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_gets_every_item_of_a_fast_stream_in_order() -> Result<()> {
    let hub = Hub::start(&[]).await?;
    let client = hub.client().await?;
    let memory = hub.memory()?;
    let mut items = client.request("demo.count").input(json!(200_000)).subscribe().await?;
    let (mut next, mut highest) = (0_u64, 0);
    while let Some(item) = items.next().await {
        assert_eq!(item?.as_str(), next.to_string());
        next += 1;
        if next % 2_000 == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
            highest = highest.max(hub.memory()?);
        }
    }
    assert_eq!(next, 200_000);
    let grown = highest.saturating_sub(memory);
    println!("+{grown} KiB");
    assert!(grown < 64 * 1024, "{grown} KiB more");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_answers_no_ping_is_dropped_after_two_intervals() -> Result<()> {
    let hub = TestHub::start_with(&["--ping-interval-ms", "200"]).await?;
    let lively = hub.client().await?;
    let connected = Instant::now();
    // Nobody polls it, so it answers no ping.
    let dead = hub.raw().await?;
    let open = |count| {
        let hub = &hub;
        move || async move { Ok((hub.hub().status().await?.connections == count).then_some(())) }
    };
    eventually("both are connected", open(2)).await?;
    eventually("the dead peer is dropped", || async { Ok((hub.hub().status().await?.connections == 1).then_some(())) })
        .await?;
    let took = connected.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(dead);
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert_eq!(hub.hub().status().await?.connections, 1);
    lively.call_raw("hub.whoami", json!({})).await?;
    Ok(())
}

/// A raw spoke with one stream, and what the hub asks it.
async fn quiet(hub: &TestHub) -> Result<RawPeer> {
    let mut spoke = hub.raw().await?;
    let answer = spoke.register("quiet", &[("demo.quiet", "subscription")], json!({})).await?;
    ensure!(answer["type"] == "call.responded", "{answer}");
    Ok(spoke)
}

async fn recorded_error(hub: &TestHub) -> Result<CallError> {
    let client = hub.client().await?;
    let ended = ListCalls { operation_id: Some("demo.quiet".into()), ..ListCalls::default() };
    let call = eventually("the record of the end", || async {
        Ok(client.call(&ended).await?.calls.into_iter().find(|c| c.completed_at.is_some()))
    })
    .await?;
    assert_eq!(call.status, CallStatus::Failed);
    call.error.context("an error")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_stays_silent_longer_than_its_idle_timeout_is_ended_on_both_sides() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = quiet(&hub).await?;
    let mut caller = hub.raw().await?;
    let started = Instant::now();
    let request = json!({"requestId": "r", "operationId": "demo.quiet", "input": {}, "idleTimeout": 300});
    caller.event("call.requested", request).await?;
    let asked = spoke.requested().await?;
    assert_eq!(asked["idleTimeout"], 300);
    // Each item gives it another 300 ms.
    for i in 0..4 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        spoke.respond(&asked["requestId"], json!(i)).await?;
        assert_eq!(caller.next_of("call.responded").await?["output"]["data"], i);
    }
    let error = caller.next_of("call.error").await?;
    assert!(started.elapsed() >= Duration::from_millis(900), "{:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    assert_eq!(error["code"], "TIMEOUT");
    assert_eq!(error["details"]["idleTimeout"], 300);
    assert_eq!(spoke.next_of("call.aborted").await?["requestId"], asked["requestId"]);
    assert!(recorded_error(&hub).await?.is(ErrorCode::Timeout));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_at_its_deadline_however_busy_it_is() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = quiet(&hub).await?;
    let mut caller = hub.raw().await?;
    let deadline = now_ms() + 400;
    let request = json!({"requestId": "r", "operationId": "demo.quiet", "input": {}, "deadline": deadline});
    caller.event("call.requested", request).await?;
    let asked = spoke.requested().await?;
    assert_eq!(asked["deadline"], deadline);
    for i in 0..20 {
        spoke.respond(&asked["requestId"], json!(i)).await?;
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let error = caller.next_of("call.error").await?;
    assert_eq!((&error["code"], &error["details"]["deadline"]), (&json!("TIMEOUT"), &json!(deadline)));
    assert_eq!(spoke.next_of("call.aborted").await?["requestId"], asked["requestId"]);
    assert!(recorded_error(&hub).await?.is(ErrorCode::Timeout));
    // A deadline that has passed before the call began is over at once.
    let late = json!({"requestId": "late", "operationId": "demo.quiet", "input": {}, "deadline": 1});
    caller.event("call.requested", late).await?;
    assert_eq!(caller.next_of("call.error").await?["code"], "TIMEOUT");
    Ok(())
}
