//! Aborts: what they reach, how fast, and what their receipts say.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use hub_protocol::ops::calls::{AbortCall, AbortMode, AbortOutcome, CallStatus};
use hub_protocol::{CallError, CallId, Json};
use hub_spoke::{Context, RunningSpoke};
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::{Probe, WAIT, call_id, ended, raw_spoke, reached, relay, sleeper};

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_cancels_the_grandchild_within_100_ms_and_its_receipts_name_all_three() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let _parent = relay(&hub, "a", "one.run", "two.run").await?;
    let _child = relay(&hub, "b", "two.run", "three.run").await?;
    let _grandchild = sleeper(&hub, "c", "three.run", &probe).await?;
    let client = hub.client().await?;
    for (round, mode) in (1u64..).zip([AbortMode::Kill, AbortMode::KillNowait]) {
        let call = client.request("one.run").input(json!({})).start().await?;
        probe.begun(round).await?;
        let at = Instant::now();
        let receipts = call.abort(Some("enough".into()), mode, WAIT).await;
        let took = probe.gone(round).await?.duration_since(at);
        assert!(took < Duration::from_millis(100), "{mode:?}: {took:?}");
        let named: Vec<_> = receipts.iter().map(|r| (r.operation_id.as_str(), r.spoke.as_deref())).collect();
        assert_eq!(named, [("three.run", Some("c")), ("two.run", Some("b")), ("one.run", Some("a"))]);
        // Without waiting some may not have confirmed yet, but none has ended by itself.
        let fits = |outcome| match mode {
            AbortMode::Kill => outcome == AbortOutcome::Stopped,
            _ => outcome != AbortOutcome::AlreadyFinished,
        };
        assert!(receipts.iter().all(|r| fits(r.outcome)), "{receipts:?}");
        for receipt in &receipts {
            assert_eq!(ended(&client, receipt.call_id).await?.status, CallStatus::Aborted);
        }
    }
    hub.settled().await
}

/// `one.run` passes on what `two.run` streams without pause while it waits for a nested `three.run`.
async fn flood(hub: &TestHub, produced: &Arc<AtomicU64>) -> Result<(RunningSpoke, RunningSpoke)> {
    let pass = |ctx: Context, _: Value| async move { ctx.request("two.run").input(json!({})).subscribe().await };
    let parent = hub.spoke("a").spoke_type("compute").stream("one.run", "Passes on.", pass).build()?.start().await?;
    let produced = Arc::clone(produced);
    let pour = move |ctx: Context, _: Value| {
        let produced = Arc::clone(&produced);
        async move {
            let below = stream::once(async move { ctx.call_raw("three.run", json!({})).await });
            let flood = stream::repeat_with(move || {
                let n = produced.fetch_add(1, Ordering::Relaxed);
                Ok::<Json, CallError>(Json::from(json!({ "n": n, "pad": "x".repeat(200) })))
            });
            Ok::<_, CallError>(stream::select(flood, below))
        }
    };
    let child = hub.spoke("b").spoke_type("compute").stream("two.run", "Pours.", pour).build()?.start().await?;
    Ok((parent, child))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_pause_does_not_delay_an_abort() -> Result<()> {
    let hub = TestHub::start().await?;
    let (probe, produced) = (Probe::new(), Arc::default());
    let _spokes = flood(&hub, &produced).await?;
    let _grandchild = sleeper(&hub, "c", "three.run", &probe).await?;
    let client = hub.client().await?;
    // The 100 ms of the promise are the hub's; three processes' worth of flood share two cores with it here. A delay
    // of its own would show in every round, so one round has to keep them; a reader that stalls would cost 10 s.
    let mut fastest = Duration::MAX;
    for round in 1..=20 {
        let mut items = client.request("one.run").input(json!({})).subscribe().await?;
        probe.begun(round).await?;
        for _ in 0..500 {
            items.next().await.context("an item")??;
        }
        let at = Instant::now();
        let receipts = items.abort(None, AbortMode::Kill, WAIT).await;
        let took = probe.gone(round).await?.duration_since(at);
        assert!(took < Duration::from_secs(5), "{took:?}");
        fastest = fastest.min(took);
        let mut spokes: Vec<_> = receipts.iter().map(|r| (r.spoke.as_deref().unwrap_or_default(), r.outcome)).collect();
        spokes.sort_by_key(|s| s.0);
        assert_eq!(spokes, ["a", "b", "c"].map(|s| (s, AbortOutcome::Stopped)));
        hub.settled().await?;
        if fastest < Duration::from_millis(100) {
            return Ok(());
        }
    }
    anyhow::bail!("the fastest of twenty aborts took {fastest:?}")
}

/// Waits until a stream is held back: nothing new for a while.
async fn held_back(produced: &AtomicU64) -> Result<()> {
    let seen = std::sync::Mutex::new((0, Instant::now()));
    eventually("the stream is held back", || async {
        let now = produced.load(Ordering::Relaxed);
        let mut seen = seen.lock().map_err(|_| anyhow::anyhow!("poisoned"))?;
        if now != seen.0 || now == 0 {
            *seen = (now, Instant::now());
        }
        Ok((seen.1.elapsed() > Duration::from_millis(300)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_does_not_read_its_stream_can_still_abort_it_at_once() -> Result<()> {
    let hub = TestHub::start().await?;
    let (probe, produced) = (Probe::new(), Arc::<AtomicU64>::default());
    let _spokes = flood(&hub, &produced).await?;
    let _grandchild = sleeper(&hub, "c", "three.run", &probe).await?;
    // As above: what the hub itself adds would show in every round.
    let mut fastest = Duration::MAX;
    for round in 1..=5 {
        let mut caller = hub.raw().await?;
        caller.request("r1", "one.run", json!({})).await?;
        probe.begun(round).await?;
        held_back(&produced).await?;
        let at = Instant::now();
        caller.event("call.aborted", json!({ "requestId": "r1" })).await?;
        let took = probe.gone(round).await?.duration_since(at);
        assert!(took < Duration::from_secs(5), "{took:?}");
        let aborted = caller.next_of("call.aborted").await?;
        assert_eq!(aborted["receipts"].as_array().map(Vec::len), Some(3), "{aborted}");
        hub.settled().await?;
        fastest = fastest.min(took);
        if fastest < Duration::from_millis(100) {
            return Ok(());
        }
    }
    anyhow::bail!("the fastest of five aborts took {fastest:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_vanishes_while_its_stream_is_held_back_leaves_nothing_running() -> Result<()> {
    let hub = TestHub::start().await?;
    let (probe, produced) = (Probe::new(), Arc::<AtomicU64>::default());
    let (_parent, child) = flood(&hub, &produced).await?;
    let _grandchild = sleeper(&hub, "c", "three.run", &probe).await?;
    // A peer that pauses its stream by itself, and one that just does not read.
    for round in 1..=2 {
        let mut caller = hub.raw().await?;
        caller.request("r1", "one.run", json!({})).await?;
        probe.begun(round).await?;
        if round == 1 {
            caller.event("__pause", json!({ "requestId": "r1" })).await?;
        }
        held_back(&produced).await?;
        drop(caller);
        probe.gone(round).await?;
        hub.settled().await?;
    }
    // The other end of a held back stream is lost: the spoke that streams must not keep it either.
    let mut caller = hub.raw().await?;
    caller.request("r1", "one.run", json!({})).await?;
    probe.begun(3).await?;
    held_back(&produced).await?;
    drop(child);
    probe.gone(3).await?;
    drop(caller);
    hub.settled().await
}

/// Ten levels, each on a spoke of its own, 100 calls wide; every other level is a mutation.
async fn levels(hub: &TestHub, probe: &Probe) -> Result<Vec<RunningSpoke>> {
    let mut spokes = Vec::new();
    for level in 1..=10u32 {
        let (probe, id) = (probe.clone(), format!("level.n{level}"));
        let work = move |ctx: Context, input: Value| {
            let guard = (level == 10).then(|| probe.enter());
            async move {
                let _guard = guard;
                match level {
                    10 => std::future::pending::<Result<Json, CallError>>().await,
                    level => ctx.call_raw(&format!("level.n{}", level + 1), input).await,
                }
            }
        };
        let spoke = hub.spoke(&format!("level-{level}")).spoke_type("compute");
        let spoke =
            if level % 2 == 0 { spoke.mutation(&id, "A level.", work) } else { spoke.query(&id, "A level.", work) };
        spokes.push(spoke.build()?.start().await?);
    }
    let fan = |ctx: Context, _: Value| async move {
        let calls = (0..100).map(|n| ctx.call_raw("level.n1", json!({ "n": n })));
        join_all(calls).await.into_iter().collect::<Result<Vec<Json>, CallError>>()
    };
    spokes.push(hub.spoke("fan").spoke_type("compute").query("level.root", "Fans out.", fan).build()?.start().await?);
    Ok(spokes)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tree_of_depth_10_and_fan_out_100_is_aborted_in_under_a_second() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let _spokes = levels(&hub, &probe).await?;
    let client = hub.client().await?;
    // The second of the promise is the hub's; twelve peers share two cores with it here, in a debug build. So one
    // round has to keep it, with all confirmations, and the rounds end once one has.
    let mut fastest = Duration::MAX;
    for round in 1..=5 {
        let call = client.request("level.root").input(json!({})).start().await?;
        probe.begun(100 * round).await?;
        let at = Instant::now();
        let receipts = call.abort(None, AbortMode::Kill, WAIT).await;
        let confirmed = at.elapsed();
        let took = probe.gone(100 * round).await?.duration_since(at);
        assert_eq!(receipts.len(), 1 + 10 * 100);
        assert!(took < Duration::from_secs(5), "{took:?}");
        hub.settled().await?;
        fastest = fastest.min(confirmed.max(took));
        if fastest < Duration::from_secs(1) {
            assert!(receipts.iter().all(|r| r.outcome == AbortOutcome::Stopped));
            return Ok(());
        }
    }
    anyhow::bail!("the fastest of five aborts took {fastest:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_while_the_tree_still_grows_leaves_nothing_running() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let _spokes = levels(&hub, &probe).await?;
    let client = hub.client().await?;
    for round in 0..4u64 {
        let call = client.request("level.root").input(json!({})).start().await?;
        let so_far = probe.0.borrow().0;
        probe.begun(so_far + 1 + 7 * round).await?;
        call.abort(None, if round % 2 == 0 { AbortMode::Kill } else { AbortMode::KillNowait }, WAIT).await;
        hub.settled().await?;
        eventually("no handler runs", || async { Ok((probe.running() == 0).then_some(())) }).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_made_below_a_call_that_is_being_aborted_is_refused() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let mut raw = raw_spoke(&hub, "stubborn", &[("raw.run", "query")]).await?;
    let _below = sleeper(&hub, "below", "below.run", &probe).await?;
    let client = hub.client().await?;
    let _call = client.request("raw.run").input(json!({})).start().await?;
    let requested = raw.requested().await?;
    let abort = AbortCall { call_id: call_id(&requested)?, mode: AbortMode::Kill, reason: None, grace_ms: Some(1_000) };
    let late = async {
        raw.next_of("call.aborted").await?;
        let nested = json!({ "requestId": "n1", "operationId": "below.run", "input": {},
            "parentRequestId": requested["requestId"] });
        raw.event("call.requested", nested).await?;
        raw.next_of("call.error").await
    };
    let (aborted, late) = tokio::join!(client.call(&abort), late);
    assert_eq!(late?["code"], "ABORTED");
    assert_eq!(aborted?.receipts.len(), 1);
    assert_eq!(probe.0.borrow().0, 0, "the handler of a refused call ran");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_tell_the_truth_about_stopped_finished_and_silent_calls() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut silent = raw_spoke(&hub, "silent", &[("silent.run", "query")]).await?;
    let mut quick = raw_spoke(&hub, "quick", &[("quick.run", "query")]).await?;
    let client = hub.client().await?;
    let abort = |call_id, mode| AbortCall { call_id, mode, reason: Some("test".into()), grace_ms: Some(300) };

    // Told and never answering: `kill` waits for the grace, `kill_nowait` does not.
    for (mode, waits) in [(AbortMode::Kill, true), (AbortMode::KillNowait, false)] {
        let mut call = client.request("silent.run").input(json!({})).start().await?;
        let requested = silent.requested().await?;
        let at = Instant::now();
        let receipts = client.call(&abort(call_id(&requested)?, mode)).await?.receipts;
        assert_eq!(reached(&receipts), [("silent.run", Some("silent"), AbortOutcome::NoAnswer)]);
        assert_eq!(at.elapsed() >= Duration::from_millis(300), waits, "{mode:?} took {:?}", at.elapsed());
        assert_eq!(silent.next_of("call.aborted").await?["reason"], "test");
        assert_eq!(call.next().await.context("an end")?.unwrap_err().code, "ABORTED");
        // Its late answer changes nothing any more.
        silent.respond(&requested["requestId"], json!("late")).await?;
        assert_eq!(ended(&client, call_id(&requested)?).await?.status, CallStatus::Aborted);
    }

    // Its answer was on its way when the abort came.
    let mut call = client.request("quick.run").input(json!({})).start().await?;
    let requested = quick.requested().await?;
    let plan = abort(call_id(&requested)?, AbortMode::Kill);
    let answer = async {
        quick.next_of("call.aborted").await?;
        quick.respond(&requested["requestId"], json!(1)).await
    };
    let (receipts, answered) = tokio::join!(client.call(&plan), answer);
    answered?;
    assert_eq!(reached(&receipts?.receipts), [("quick.run", Some("quick"), AbortOutcome::AlreadyFinished)]);
    assert_eq!(call.next().await.context("an end")?.unwrap_err().code, "ABORTED");

    // An ended call has nothing left to abort, an unknown one does not exist.
    assert!(client.call(&abort(call_id(&requested)?, AbortMode::Kill)).await?.receipts.is_empty());
    assert_eq!(client.call(&abort(CallId::new(), AbortMode::Kill)).await.unwrap_err().code, "NOT_FOUND");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn skip_answers_the_caller_and_lets_the_callee_run_to_its_end() -> Result<()> {
    let hub = TestHub::start().await?;
    let (probe, gate) = (Probe::new(), Arc::new(Semaphore::new(0)));
    let work = {
        let (probe, gate) = (probe.clone(), Arc::clone(&gate));
        move |_: Context, _: Value| {
            let (guard, gate) = (probe.enter(), Arc::clone(&gate));
            async move {
                let _guard = guard;
                gate.acquire().await.map_err(|e| CallError::domain("CLOSED", e.to_string()))?.forget();
                Ok::<Value, CallError>(json!("done"))
            }
        }
    };
    let _child = hub.spoke("b").spoke_type("compute").query("two.run", "Waits.", work).build()?.start().await?;
    let _parent = relay(&hub, "a", "one.run", "two.run").await?;
    let client = hub.client().await?;
    let call = client.request("one.run").input(json!({})).start().await?;
    probe.begun(1).await?;
    let receipts = call.abort(None, AbortMode::Skip, WAIT).await;
    let running = [("two.run", Some("b"), AbortOutcome::NoAnswer), ("one.run", Some("a"), AbortOutcome::NoAnswer)];
    assert_eq!(reached(&receipts), running);
    assert_eq!(probe.running(), 1, "skip stopped the callee");
    gate.add_permits(1);
    for receipt in receipts {
        let record = ended(&client, receipt.call_id).await?;
        assert_eq!((record.status, record.output), (CallStatus::Completed, Some(json!("done").into())));
    }
    hub.settled().await
}

/// A request that the hub has not sent yet when the abort comes must not reach the spoke after it.
#[tokio::test(flavor = "multi_thread")]
async fn an_abort_never_overtakes_the_request_that_it_is_about() -> Result<()> {
    let hub = TestHub::start().await?;
    let probe = Probe::new();
    let _spoke = sleeper(&hub, "s", "sleep.run", &probe).await?;
    let mut caller = hub.raw().await?;
    for n in 0..2_000 {
        let id = format!("r{n}");
        caller.request(&id, "sleep.run", json!({})).await?;
        // From at once to well after it was sent.
        for _ in 0..n % 40 {
            tokio::task::yield_now().await;
        }
        caller.event("call.aborted", json!({ "requestId": id })).await?;
        caller.next().await?;
    }
    hub.settled().await?;
    eventually("no handler runs", || async { Ok((probe.running() == 0).then_some(())) }).await
}
