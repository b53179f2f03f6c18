//! Spokes: names, versions, choice among providers, instances that take each other's place (protocol §5).

mod changes;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures_util::stream::FuturesUnordered;
use hub_protocol::CallError;
use hub_protocol::ops::audit::ListAudit;
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_protocol::ops::events::ListEvents;
use hub_protocol::ops::hub::{
    Exposure, GetSchemas, GetStatus, ListOperations, ListSpokes, Policy, SearchOperations, SpokeItem, SpokeStatus,
};
use hub_protocol::ops::keys::{CreateKey, RotateKey};
use hub_spoke::{Client, ClosedReason, Context, RunningSpoke, Spoke, SpokeBuilder, SpokeError};
use hub_testkit::{RawPeer, TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use uuid::Uuid;

/// Answers its own local name.
fn named(spoke: SpokeBuilder, operation: &str) -> SpokeBuilder {
    let name = |ctx: Context, _: Value| async move { Ok::<String, CallError>(ctx.operation_id().to_owned()) };
    spoke.query(operation, "Tells its name.", name)
}

/// Answers a text.
fn saying(spoke: SpokeBuilder, operation: &str, text: &str) -> SpokeBuilder {
    let text = text.to_owned();
    spoke.query(operation, "Says it.", move |_: Context, _: Value| {
        let text = text.clone();
        async move { Ok::<String, CallError>(text) }
    })
}

async fn text(client: &Client, operation: &str) -> Result<String, CallError> {
    Ok(client.call_raw(operation, json!({})).await?.parse().unwrap_or_default())
}

async fn code(client: &Client, operation: &str) -> Result<String> {
    match client.call_raw(operation, json!({})).await {
        Ok(answer) => anyhow::bail!("{operation} answered {}", answer.as_str()),
        Err(error) => Ok(error.code),
    }
}

async fn spoke_item(client: &Client, name: &str) -> Result<SpokeItem> {
    let spokes = client.call(&ListSpokes::default()).await?.spokes;
    spokes.into_iter().find(|s| s.name == name).context("the spoke is listed")
}

fn closed(error: SpokeError) -> Option<ClosedReason> {
    match error {
        SpokeError::Closed(reason) => Some(reason),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_instance_takes_over_without_an_offline_blink_or_a_lost_call() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let start = async |n: u64| -> Result<RunningSpoke> {
        let spoke = hub.spoke("s").started_at_ms(n).max_in_flight(2);
        Ok(saying(spoke, "echo.run", &n.to_string()).build()?.start().await?)
    };
    let mut current = start(1).await?;
    let (over, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut watchers = JoinSet::new();
    for _ in 0..4 {
        let (client, over, calls) = (hub.client().await?, Arc::clone(&over), Arc::clone(&calls));
        watchers.spawn(async move {
            let mut failed = Vec::new();
            while !over.load(Ordering::Relaxed) {
                calls.fetch_add(1, Ordering::Relaxed);
                failed.extend(text(&client, "dev.s.echo.run").await.err());
            }
            Ok::<_, anyhow::Error>(failed)
        });
    }
    let poller = (hub.client().await?, Arc::clone(&over));
    watchers.spawn(async move {
        while !poller.1.load(Ordering::Relaxed) {
            let spoke = spoke_item(&poller.0, "s").await?;
            ensure!(spoke.status == SpokeStatus::Connected, "an offline blink");
            ensure!(spoke.disconnected_at.is_none(), "an offline blink in the store");
        }
        Ok(Vec::new())
    });
    let rounds = 6;
    for n in 2..2 + rounds {
        let before = calls.load(Ordering::Relaxed);
        eventually("calls go on", || async { Ok((calls.load(Ordering::Relaxed) > before + 20).then_some(())) }).await?;
        let mut older = std::mem::replace(&mut current, start(n).await?);
        assert!(current.registered().superseded);
        assert_eq!(text(&client, "dev.s.echo.run").await?, n.to_string(), "the newer one has the name");
        assert_eq!(closed(older.ended().await.unwrap_err()), Some(ClosedReason::Superseded));
    }
    over.store(true, Ordering::Relaxed);
    let mut failed = Vec::new();
    while let Some(watcher) = watchers.join_next().await {
        failed.extend(watcher??);
    }
    // At most what ran on the old instance: two at a time. Calls that waited go to the new one.
    assert!(failed.iter().all(|e| e.code == "SPOKE_DISCONNECTED"), "{failed:?}");
    assert!(failed.len() as u64 <= 2 * rounds, "{} calls failed: {failed:?}", failed.len());
    let log = ListEvents { topics: vec!["spoke:s".into()], after: Some(0), limit: None };
    let kinds: Vec<String> = client.call(&log).await?.events.into_iter().map(|e| e.kind).collect();
    assert!(!kinds.iter().any(|k| k == "disconnected"), "{kinds:?}");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_instance_is_refused_with_4009_and_another_key_with_access_denied() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let instance = Uuid::new_v4();
    let first = saying(hub.spoke("s").started_at_ms(1_000).instance_id(instance), "echo.run", "first");
    let mut first = first.build()?.start().await?;
    for older in [1_000, 999, 0] {
        let refused = saying(hub.spoke("s").started_at_ms(older), "echo.run", "older").build()?.start().await;
        assert_eq!(closed(refused.err().context("refused")?), Some(ClosedReason::NameHeld), "{older}");
    }
    let mut raw = hub.raw().await?;
    let register = json!({ "name": "s", "spokeType": "dev-env", "operations": [], "instanceId": Uuid::new_v4(),
        "startedAt": 5 });
    raw.request("r1", "hub.register", register).await?;
    assert_eq!(raw.closed().await?.code, 4009);
    // The same process again, for example after a lost network: whatever the clock says.
    let again = saying(hub.spoke("s").started_at_ms(1).instance_id(instance), "echo.run", "again");
    let again = again.build()?.start().await?;
    assert_eq!(closed(first.ended().await.unwrap_err()), Some(ClosedReason::Superseded));
    // Another key, newer as it may be, also when the holder is away.
    let thief_key = hub.new_key(&["spoke"]).await?;
    let thief = || saying(Spoke::builder(&hub.url(), &thief_key, "s"), "echo.run", "thief").build();
    for away in [false, true] {
        match thief()?.start().await.err().context("refused")? {
            SpokeError::Refused(error) => assert_eq!(error.code, "ACCESS_DENIED"),
            other => return Err(other.into()),
        }
        if !away {
            assert_eq!(text(&client, "dev.s.echo.run").await?, "again");
            again.client().close().await;
            eventually("it is away", || async {
                Ok((spoke_item(&client, "s").await?.status == SpokeStatus::Disconnected).then_some(()))
            })
            .await?;
        }
    }
    let audit = client.call(&ListAudit { action: Some("spoke.refused".into()), ..ListAudit::default() }).await?;
    assert_eq!((audit.entries.len(), audit.entries[0].target.as_str()), (2, "s"));
    // Without the scope there is no registration at all.
    let plain = hub.new_key(&[]).await?;
    let refused = saying(Spoke::builder(&hub.url(), &plain, "mine"), "echo.run", "x").build()?.start().await;
    assert!(matches!(refused.err(), Some(SpokeError::Refused(e)) if e.code == "OPERATION_NOT_FOUND"));
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_keeps_the_name_of_its_spoke() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let (name, scopes) = ("host".to_owned(), vec!["spoke".to_owned()]);
    let made = client.call(&CreateKey { name, scopes, ..CreateKey::default() }).await?;
    let build = |key: &str, at: u64| saying(Spoke::builder(&hub.url(), key, "s").started_at_ms(at), "echo.run", "x");
    let mut old = build(&made.secret, 1).build()?.start().await?;
    let new = client.call(&RotateKey { id: made.key.id, overlap_ms: Some(60_000) }).await?;
    assert_eq!(new.key.principal, made.key.principal);
    let fresh = build(&new.secret, 2).build()?.start().await?;
    assert_eq!(fresh.registered().spoke_id, old.registered().spoke_id);
    assert_eq!(closed(old.ended().await.unwrap_err()), Some(ClosedReason::Superseded));
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_qualified_or_pooled_and_translated_back() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let mut spokes = Vec::new();
    for (name, kind, exposure, id) in [
        ("laptop", "dev-env", None, "dev.laptop.fs.read"),
        ("phone", "client", None, "client.phone.fs.read"),
        ("arm", "robot", None, "robot.arm.fs.read"),
        ("gpu-1", "compute", None, "fs.read"),
        ("gpu-2", "compute", None, "fs.read"),
        ("lonely", "compute", Some(Exposure::Qualified), "compute.lonely.fs.read"),
    ] {
        let mut spoke = named(hub.spoke(name).spoke_type(kind), "fs.read");
        if let Some(exposure) = exposure {
            spoke = spoke.exposure(exposure);
        }
        let spoke = spoke.build()?.start().await?;
        assert_eq!(spoke.registered().operations[0].id, id);
        assert_eq!(text(&client, id).await?, "fs.read", "the local name at the spoke");
        spokes.push(spoke);
    }
    // One provider of a pooled operation by name.
    for (n, name) in ["gpu-1", "gpu-2", "gpu-1"].into_iter().enumerate() {
        client.call_raw(&format!("fs.read@{name}"), json!({ "n": n })).await?;
        let record = eventually("it is recorded", || async {
            let filter = ListCalls { operation_id: Some("fs.read".into()), ..ListCalls::default() };
            let calls = client.call(&filter).await?.calls;
            Ok(calls.into_iter().find(|c| c.status.is_final() && c.input == Some(json!({ "n": n }).into())))
        })
        .await?;
        assert_eq!(record.spoke.as_deref(), Some(name));
    }
    assert_eq!(code(&client, "fs.read@nobody").await?, "OPERATION_UNAVAILABLE");
    let list = client.call(&ListOperations { namespace: Some("fs".into()), ..ListOperations::default() }).await?;
    assert_eq!(list.operations[0].providers, ["gpu-1", "gpu-2"]);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_and_malformed_names_are_refused() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let _qualified = named(hub.spoke("arm").spoke_type("robot"), "fs.read").build()?.start().await?;
    let taken = ["hub.evil", "calls.get", "keys.create2", "events.x", "audit.x", "dev.laptop.fs.read", "client.a.b"];
    for id in taken.into_iter().chain(["robot.arm.fs.read"]) {
        let answer = hub.raw().await?.register("evil", &[(id, "query")], json!({})).await?;
        assert_eq!(answer["payload"]["code"], "CONFLICT", "{id}: {answer}");
    }
    let answer = hub.raw().await?.register("evil", &[("x.y", "query")], json!({ "spokeType": "hub" })).await?;
    assert_eq!(answer["payload"]["code"], "CONFLICT", "a spoke type must not lead into the hub's names: {answer}");
    for id in ["nodots", "a..b", "a.b@c", "a.b c", "a.\u{e9}", ".a"] {
        let answer = hub.raw().await?.register("evil", &[(id, "query")], json!({})).await?;
        assert_eq!(answer["payload"]["code"], "VALIDATION_ERROR", "{id}: {answer}");
    }
    for name in ["", "a.b", "a b", "a@b", "é", &"x".repeat(65)] {
        let answer = hub.raw().await?.register(name, &[("x.y", "query")], json!({})).await?;
        assert_eq!(answer["payload"]["code"], "VALIDATION_ERROR", "{name}: {answer}");
    }
    let twice = hub.raw().await?.register("evil", &[("x.y", "query"), ("x.y", "query")], json!({})).await?;
    assert_eq!(twice["payload"]["code"], "VALIDATION_ERROR");
    // A refused registration leaves nothing behind.
    assert_eq!(code(&client, "x.y").await?, "OPERATION_NOT_FOUND");
    assert_eq!(client.call(&ListSpokes::default()).await?.spokes.len(), 1);
    hub.settled().await
}

/// A raw spoke with one operation in some version, which answers each call with that version.
async fn versioned(
    hub: &TestHub,
    tasks: &mut JoinSet<()>,
    name: &str,
    version: &str,
) -> Result<tokio::task::AbortHandle> {
    let mut raw = hub.raw().await?;
    let mut spec = RawPeer::spec("calc.run", "query");
    spec["version"] = json!(version);
    let answer = raw.register(name, &[], json!({ "operations": [spec] })).await?;
    ensure!(answer["type"] == "call.responded", "{answer}");
    let version = version.to_owned();
    Ok(tasks.spawn(async move {
        while let Ok(request) = raw.requested().await {
            if raw.respond(&request["requestId"], json!(version)).await.is_err() {
                return;
            }
        }
    }))
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_live_side_by_side_and_the_highest_active_release_is_called() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let mut tasks = JoinSet::new();
    let _one = versioned(&hub, &mut tasks, "one", "1.4.0").await?;
    let two = versioned(&hub, &mut tasks, "two", "2.0.1").await?;
    let _beta = versioned(&hub, &mut tasks, "beta", "3.0.0-beta.2").await?;
    let call = async |range: Option<&str>| {
        let mut request = client.request("calc.run").input(json!({}));
        if let Some(range) = range {
            request = request.version(range);
        }
        request.call().await.map(|v| v.parse::<String>().unwrap_or_default()).map_err(|e| e.code)
    };
    let ok = |version: &str| Ok::<String, String>(version.to_owned());
    assert_eq!(call(None).await, ok("2.0.1"), "a pre-release is not called without being named");
    for (range, version) in [("^1", "1.4.0"), ("1", "1.4.0"), (">=1, <3", "2.0.1"), ("=3.0.0-beta.2", "3.0.0-beta.2")] {
        assert_eq!(call(Some(range)).await, ok(version), "{range}");
    }
    assert_eq!(call(Some("^9")).await, Err("OPERATION_NOT_FOUND".into()));
    assert_eq!(call(Some("newest")).await, Err("VALIDATION_ERROR".into()));
    two.abort();
    eventually("its provider is gone", || async {
        Ok((spoke_item(&client, "two").await?.status == SpokeStatus::Disconnected).then_some(()))
    })
    .await?;
    assert_eq!(call(None).await, ok("1.4.0"), "the highest with an active provider");
    assert_eq!(call(Some("^2")).await, Err("OPERATION_UNAVAILABLE".into()));
    let list = client.call(&ListOperations { namespace: Some("calc".into()), ..ListOperations::default() }).await?;
    assert_eq!((list.operations[0].version.as_str(), list.operations[0].active), ("1.4.0", true));
    // The same version with another schema: the first difference is named, and nothing of it is registered.
    let mut other = RawPeer::spec("calc.run", "query");
    other["version"] = json!("1.4.0");
    other["inputSchema"] = json!({ "type": "object", "required": ["x"] });
    let answer = hub.raw().await?.register("liar", &[], json!({ "operations": [other] })).await?;
    assert_eq!(answer["payload"]["code"], "CONFLICT");
    assert_eq!(answer["payload"]["details"]["path"], "/inputSchema", "{answer}");
    assert_eq!(call(Some("^1")).await, ok("1.4.0"));
    hub.settled().await
}

/// Three spokes that answer their names; with `{"hold": true}` only after a permit.
async fn pool(hub: &TestHub, policy: Policy, gate: &Arc<Semaphore>) -> Result<Vec<RunningSpoke>> {
    let mut spokes = Vec::new();
    for name in ["p1", "p2", "p3"] {
        let gate = Arc::clone(gate);
        let answer = move |_: Context, input: Value| {
            let gate = Arc::clone(&gate);
            async move {
                if input["hold"] == true {
                    gate.acquire().await.map_err(|e| CallError::domain("CLOSED", e.to_string()))?.forget();
                }
                Ok::<String, CallError>(name.to_owned())
            }
        };
        let spoke = hub.spoke(name).spoke_type("compute").policy(policy).query("pool.run", "Tells who.", answer);
        spokes.push(spoke.build()?.start().await?);
    }
    Ok(spokes)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_policy_chooses_as_it_says() -> Result<()> {
    let policies =
        [Policy::First, Policy::Last, Policy::RoundRobin, Policy::Random, Policy::LeastPending, Policy::Sticky];
    for policy in policies {
        let hub = TestHub::start().await?;
        let client = hub.client().await?;
        let gate = Arc::new(Semaphore::new(0));
        let mut spokes = pool(&hub, policy, &gate).await?;
        let mut seen = Vec::new();
        for _ in 0..30 {
            seen.push(text(&client, "pool.run").await?);
        }
        let count = |name: &str| seen.iter().filter(|s| *s == name).count();
        match policy {
            Policy::First => assert_eq!(count("p1"), 30),
            Policy::Last => assert_eq!(count("p3"), 30),
            Policy::RoundRobin => {
                assert_eq!(seen[..6], ["p1", "p2", "p3", "p1", "p2", "p3"]);
                assert_eq!([count("p1"), count("p2"), count("p3")], [10; 3]);
            }
            // 30 draws miss one of three once in 64,000 runs.
            Policy::Random => assert!(["p1", "p2", "p3"].into_iter().all(|p| count(p) > 0), "{seen:?}"),
            Policy::LeastPending => least_pending(&hub, &client, &gate).await?,
            Policy::Sticky => sticky(&client, &mut spokes).await?,
        }
        gate.add_permits(100);
        hub.settled().await?;
    }
    Ok(())
}

async fn least_pending(hub: &TestHub, client: &Client, gate: &Semaphore) -> Result<()> {
    let held = FuturesUnordered::new();
    for n in 0..6 {
        held.push(client.request("pool.run").input(json!({ "hold": true })).start().await?);
        eventually("it runs", || async {
            let spokes = client.call(&ListSpokes::default()).await?.spokes;
            Ok((spokes.iter().map(|s| s.in_flight).sum::<u64>() == n + 1).then_some(()))
        })
        .await?;
    }
    let spokes = client.call(&ListSpokes::default()).await?.spokes;
    assert!(spokes.iter().all(|s| s.in_flight == 2), "{spokes:?}");
    gate.add_permits(6);
    let mut seen: HashMap<String, u64> = HashMap::new();
    for mut call in held {
        *seen.entry(call.next().await.context("an answer")??.parse()?).or_default() += 1;
    }
    assert_eq!(seen.len(), 3, "{seen:?}");
    hub.settled().await
}

async fn sticky(client: &Client, spokes: &mut Vec<RunningSpoke>) -> Result<()> {
    let ask = async |key: usize| -> Result<String> {
        let request = client.request("pool.run").input(json!({}));
        Ok(request.metadata(json!({ "stickyKey": format!("k{key}") })).call().await?.parse()?)
    };
    let mut home = Vec::new();
    for key in 0..30 {
        home.push(ask(key).await?);
    }
    let used: std::collections::HashSet<&String> = home.iter().collect();
    assert_eq!(used.len(), 3, "{home:?}");
    for (key, home) in home.iter().enumerate() {
        assert_eq!(&ask(key).await?, home, "the same key goes to the same provider");
    }
    // When one goes, only its own keys move.
    spokes.remove(1).stop().await?;
    for (key, home) in home.iter().enumerate() {
        let now = ask(key).await?;
        assert!(now != "p2" && (home == "p2" || *home == now), "k{key}: {home} → {now}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_max_in_flight_wait_and_too_many_are_refused() -> Result<()> {
    let hub = TestHub::start_with(&["--max-in-flight", "3000"]).await?;
    let client = hub.client().await?;
    let mut spoke = hub.raw().await?;
    spoke.register("s", &[("slow.run", "query")], json!({ "maxInFlight": 1 })).await?;
    let mut caller = hub.raw().await?;
    caller.request("r0", "slow.run", json!({})).await?;
    let running = spoke.requested().await?;
    caller.request("r1", "slow.run", json!({})).await?;
    eventually("the second is on record as waiting", || async {
        let filter = ListCalls { operation_id: Some("slow.run".into()), ..ListCalls::default() };
        let calls = client.call(&filter).await?.calls;
        Ok(calls.iter().any(|c| c.status == CallStatus::Pending && c.attempts == 0).then_some(()))
    })
    .await?;
    assert_eq!(spoke_item(&client, "s").await?.in_flight, 1);
    for n in 2..=1_024 {
        caller.request(&format!("r{n}"), "slow.run", json!({})).await?;
    }
    eventually("the queue is full", || async {
        Ok((client.call(&GetStatus {}).await?.calls_in_flight == 1_025).then_some(()))
    })
    .await?;
    caller.request("over", "slow.run", json!({})).await?;
    let refused = caller.next_of("call.error").await?;
    // Which one it is depends on who came first to the queue.
    assert_eq!(refused["code"], "OVERLOADED");
    assert!(refused["retryable"] == true && refused["details"]["retryAfterMs"].is_u64(), "{refused}");
    // The place that is given back goes to one that waits. A deadline ends the wait.
    spoke.respond(&running["requestId"], json!(0)).await?;
    let next = spoke.requested().await?;
    assert_ne!(next["requestId"], running["requestId"]);
    let late = client.request("slow.run").input(json!({})).deadline(Duration::from_millis(200)).call().await;
    assert_eq!(late.unwrap_err().code, "TIMEOUT");
    drop(caller);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_spoke_finishes_what_runs_and_takes_no_more() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let mut spoke = hub.raw().await?;
    spoke.register("s", &[("slow.run", "query")], json!({ "maxInFlight": 1 })).await?;
    let mut running = client.request("slow.run").input(json!({})).start().await?;
    let first = spoke.requested().await?;
    let mut waiting = client.request("slow.run").input(json!({})).start().await?;
    eventually("the second waits", || async {
        Ok((client.call(&GetStatus {}).await?.calls_in_flight == 2).then_some(()))
    })
    .await?;
    let drained = spoke.call("d", "hub.drain", json!({})).await?;
    assert_eq!(drained["payload"]["output"]["data"]["inFlight"], 1);
    assert_eq!(code(&client, "slow.run").await?, "OPERATION_UNAVAILABLE");
    let item = spoke_item(&client, "s").await?;
    assert!(item.draining && item.status == SpokeStatus::Connected);
    spoke.respond(&first["requestId"], json!("done")).await?;
    assert_eq!(running.next().await.context("an answer")??.as_str(), "\"done\"");
    let error = waiting.next().await.context("an end")?.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), ("OPERATION_UNAVAILABLE", true));
    // A heartbeat that says so opens it again, and tells of its load.
    let beat = json!({ "load": 0.5, "agents": [{ "id": "a1" }], "draining": false });
    assert!(spoke.call("h", "hub.heartbeat", beat).await?["payload"]["output"]["data"]["at"].is_u64());
    let item = spoke_item(&client, "s").await?;
    assert!(!item.draining && item.load == Some(0.5) && item.last_heartbeat_at.is_some());
    let mut call = client.request("slow.run").input(json!({})).start().await?;
    let got = spoke.requested().await?;
    spoke.respond(&got["requestId"], json!(1)).await?;
    call.next().await.context("an answer")??;
    // Operators may drain any spoke, other spokes may not, and no connection that is none.
    let mut other = RawPeer::connect(hub.address(), &hub.new_key(&["spoke"]).await?).await?;
    assert_eq!(other.call("d", "hub.drain", json!({ "spoke": "s" })).await?["payload"]["code"], "ACCESS_DENIED");
    let own = other.call("d", "hub.heartbeat", json!({})).await?;
    assert_eq!(own["type"], "call.error", "{own}");
    client.call_raw("hub.drain", json!({ "spoke": "s" })).await?;
    assert_eq!(code(&client, "slow.run").await?, "OPERATION_UNAVAILABLE");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn definitions_outlive_their_spoke_and_a_restart() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let mut spoke = hub.raw().await?;
    spoke.register("s", &[("a.run", "query")], json!({})).await?;
    drop(spoke);
    let item = eventually("it is shown as disconnected", || async {
        let item = spoke_item(&client, "s").await?;
        Ok((item.status == SpokeStatus::Disconnected && item.disconnected_at.is_some()).then_some(item))
    })
    .await?;
    assert_eq!(item.operations, ["a.run"]);
    let check = async |client: &Client| -> Result<()> {
        assert_eq!(code(client, "a.run").await?, "OPERATION_UNAVAILABLE");
        assert_eq!(code(client, "b.run").await?, "OPERATION_NOT_FOUND");
        let schemas = client.call(&GetSchemas { operation_ids: vec!["a.run".into()] }).await?;
        assert_eq!(schemas.operations[0].id(), "a.run");
        let list = |all| ListOperations { namespace: Some("a".into()), include_inactive: all, ..Default::default() };
        assert!(client.call(&list(None)).await?.operations.is_empty());
        let all = client.call(&list(Some(true))).await?.operations;
        assert_eq!((all.len(), all[0].active, all[0].providers.len()), (1, false, 0));
        Ok(())
    };
    check(&client).await?;
    client.close().await;
    let (clean, folder) = hub.stop().await;
    assert!(clean);
    let hub = TestHub::start_in(folder, &[]).await?;
    let client = hub.client().await?;
    check(&client).await?;
    assert_eq!(spoke_item(&client, "s").await?.status, SpokeStatus::Disconnected);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_operations_are_listed_and_found_and_one_spoke_may_not_offer_them_all() -> Result<()> {
    let hub = TestHub::start_with(&["--max-message-bytes", "4194304"]).await?;
    let client = hub.client().await?;
    let specs = |spoke: usize, count: usize| -> Vec<Value> {
        (0..count).map(|n| RawPeer::spec(&format!("bulk{spoke}.n{n}"), "query")).collect()
    };
    let all = hub.raw().await?.register("greedy", &[], json!({ "operations": specs(9, 10_000) })).await?;
    assert_eq!(all["payload"]["code"], "PAYLOAD_TOO_LARGE");
    let limit = all["payload"]["details"]["limit"].as_u64().context("the limit is named")?;
    let limit = usize::try_from(limit)?;
    let mut spokes = Vec::new();
    for n in 0..10_000 / limit {
        let mut raw = hub.raw().await?;
        let answer = raw.register(&format!("s{n}"), &[], json!({ "operations": specs(n, limit) })).await?;
        ensure!(answer["type"] == "call.responded", "{answer}");
        // Nor little by little.
        let more = json!({ "operations": [RawPeer::spec(&format!("bulk{n}.more"), "query")] });
        assert_eq!(raw.call("u", "hub.update", more).await?["payload"]["code"], "PAYLOAD_TOO_LARGE");
        spokes.push(raw);
    }
    let (mut found, mut cursor) = (std::collections::HashSet::new(), None);
    loop {
        let page = ListOperations { limit: Some(1_000), cursor, ..ListOperations::default() };
        let page = client.call(&page).await?;
        found.extend(page.operations.into_iter().filter(|o| o.id.starts_with("bulk")).map(|o| o.id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(found.len(), 10_000);
    let search = SearchOperations { query: "bulk3.n777".into(), namespace: None, limit: Some(1) };
    assert_eq!(client.call(&search).await?.operations[0].id, "bulk3.n777");
    let mut call = client.request("bulk3.n777").input(json!({})).start().await?;
    let got = spokes[3].requested().await?;
    spokes[3].respond(&got["requestId"], json!(1)).await?;
    call.next().await.context("an answer")??;
    hub.settled().await
}
