//! A test for each step of going down: it stops accepting, tells peers, finishes writes, cancels reads, flushes, closes.

use super::*;

/// A hub in this process with one `work.gated` running, so that it stays in the step that waits for mutations.
struct Stopping {
    hub: TestHub,
    work: Work,
    _spoke: RunningSpoke,
    caller: RawPeer,
}

impl Stopping {
    async fn prepared() -> Result<Self> {
        let hub = TestHub::start().await?;
        let work = Work::default();
        let spoke = worker(hub.spoke("worker"), &work).await?;
        let mut caller = hub.raw().await?;
        caller.request("m", "work.gated", json!(7)).await?;
        work.begun(1).await?;
        Ok(Self { hub, work, _spoke: spoke, caller })
    }

    /// Stops the hub; `during` runs while it waits for the mutation, which is let go afterwards.
    async fn stop<F: Future<Output = Result<()>>>(
        self,
        during: impl FnOnce(std::net::SocketAddr, String) -> F,
    ) -> Result<(TempDir, Vec<Value>, Closed)> {
        let Self { hub, work, _spoke, mut caller } = self;
        let (address, key) = (hub.address(), hub.admin_key().to_owned());
        let stopped = CancellationToken::new();
        let stopping = async {
            let stopped = stopped.drop_guard_ref();
            let ended = hub.stop().await;
            drop(stopped);
            ended
        };
        let meanwhile = async {
            let done = during(address, key).await;
            assert!(!stopped.is_cancelled(), "the hub did not wait for the mutation");
            work.gate.add_permits(1);
            let rest = rest(&mut caller).await;
            done.and(rest)
        };
        let ((clean, folder), rest) = tokio::join!(stopping, meanwhile);
        let (messages, closed) = rest?;
        assert!(clean, "not clean");
        Ok((folder, messages, closed))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn step_1_it_stops_accepting() -> Result<()> {
    let (_, _, closed) = Stopping::prepared()
        .await?
        .stop(|address, _| async move {
            eventually("connections are refused", || async {
                Ok(tokio::net::TcpStream::connect(address).await.is_err().then_some(()))
            })
            .await
        })
        .await?;
    sent_away(&closed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn step_1_new_calls_on_old_connections_are_refused() -> Result<()> {
    let prepared = Stopping::prepared().await?;
    // Busy with a mutation of its own, so that it is not sent away yet.
    let mut busy = prepared.hub.raw().await?;
    busy.request("m", "work.gated", json!(8)).await?;
    prepared.work.begun(2).await?;
    let mut idle = prepared.hub.raw().await?;
    let work = prepared.work.clone();
    let mut spoke = prepared.hub.raw().await?;
    spoke.register("other", &[("other.do", "mutation")], json!({})).await?;
    let mut by_spoke = prepared.hub.raw().await?;
    by_spoke.request("m", "other.do", json!({})).await?;
    let served = spoke.requested().await?;
    prepared
        .stop(|_, _| async move {
            rest(&mut idle).await?;
            let answer = busy.call("2", "work.note", json!(1)).await?;
            assert_eq!(answer["payload"]["code"], "OVERLOADED", "{answer}");
            assert_eq!(answer["payload"]["retryable"], true, "{answer}");
            // A spoke's own calls are new work too; those on behalf of what it still serves are not.
            let own = spoke.call("own", "work.note", json!(1)).await?;
            assert_eq!(own["payload"]["code"], "OVERLOADED", "{own}");
            let nested = json!({ "requestId": "n", "operationId": "hub.status", "input": {},
                "parentRequestId": served["requestId"] });
            spoke.event("call.requested", nested).await?;
            let nested = spoke.next().await?;
            assert_eq!(nested["type"], "call.responded", "{nested}");
            spoke.respond(&served["requestId"], json!(1)).await?;
            assert_eq!(by_spoke.next().await?["type"], "call.responded");
            // The other `work.gated` is let go by the caller of this.
            work.gate.add_permits(1);
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn step_2_it_tells_idle_peers_at_once() -> Result<()> {
    let prepared = Stopping::prepared().await?;
    let mut idle = prepared.hub.raw().await?;
    idle.call("1", "hub.whoami", json!({})).await?;
    let (.., busy) = prepared
        .stop(|_, _| async move {
            sent_away(&rest(&mut idle).await?.1);
            Ok(())
        })
        .await?;
    sent_away(&busy);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn step_2_an_idle_spoke_stays_for_the_mutations_that_call_it() -> Result<()> {
    let prepared = Stopping::prepared().await?;
    let mut below = prepared.hub.raw().await?;
    below.register("below", &[("below.do", "mutation")], json!({})).await?;
    let mut above = prepared.hub.raw().await?;
    above.register("above", &[("above.do", "mutation")], json!({})).await?;
    let mut caller = prepared.hub.raw().await?;
    caller.request("m", "above.do", json!({})).await?;
    let served = above.requested().await?;
    let mut idle = prepared.hub.raw().await?;
    idle.call("1", "hub.whoami", json!({})).await?;
    prepared
        .stop(|_, _| async move {
            rest(&mut idle).await?;
            let nested = json!({ "requestId": "n", "operationId": "below.do", "input": {},
                "parentRequestId": served["requestId"] });
            above.event("call.requested", nested).await?;
            let asked = below.requested().await.context("the idle spoke was sent away")?;
            below.respond(&asked["requestId"], json!("below")).await?;
            assert_eq!(above.next().await?["payload"]["output"]["data"], "below");
            above.respond(&served["requestId"], json!("above")).await?;
            let (messages, closed) = rest(&mut caller).await?;
            assert_eq!(messages[0]["payload"]["output"]["data"], "above");
            sent_away(&closed);
            Ok(())
        })
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn step_3_running_mutations_finish_and_then_their_callers_are_told() -> Result<()> {
    let (folder, messages, closed) = Stopping::prepared().await?.stop(|_, _| async { Ok(()) }).await?;
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert_eq!(messages[0]["payload"]["output"]["data"], 7);
    sent_away(&closed);
    let hub = TestHub::start_in(folder, &[]).await?;
    let calls = records(&hub.client().await?, "work.gated").await?;
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].status, CallStatus::Completed);
    Ok(())
}

/// Peers are sent away as soon as they have their answers, and not a moment before.
#[tokio::test(flavor = "multi_thread")]
async fn step_3_no_answer_is_lost_to_the_goodbye() -> Result<()> {
    const CALLERS: u64 = 60;
    let prepared = Stopping::prepared().await?;
    let mut callers = tokio::task::JoinSet::new();
    for n in 0..CALLERS {
        let mut caller = prepared.hub.raw().await?;
        caller.request("m", "work.gated", json!(n)).await?;
        callers.spawn(async move { (n, rest(&mut caller).await) });
    }
    prepared.work.begun(CALLERS + 1).await?;
    let gate = Arc::clone(&prepared.work.gate);
    prepared
        .stop(|_, _| async move {
            // Spread over the moments at which the hub looks who is idle.
            for _ in 0..CALLERS {
                tokio::time::sleep(Duration::from_micros(700)).await;
                gate.add_permits(1);
            }
            Ok(())
        })
        .await?;
    while let Some(ended) = callers.join_next().await {
        let (n, ended) = ended?;
        let (messages, closed) = ended?;
        assert_eq!(messages.len(), 1, "{n}: {messages:?}");
        assert_eq!(messages[0]["payload"]["output"]["data"], n);
        sent_away(&closed);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn step_3_a_mutation_by_http_finishes_too() -> Result<()> {
    let prepared = Stopping::prepared().await?;
    let (address, key) = (prepared.hub.address(), prepared.hub.admin_key().to_owned());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move { http(address, "POST", "/api/operations/work.slow", &key, &json!(9)).await });
    prepared.work.begun(2).await?;
    prepared
        .stop(|_, _| async move {
            let answer = tasks.join_next().await.context("a task")???;
            assert_eq!((answer.status, &answer.json()?["data"]), (200, &json!(9)), "{answer:?}");
            Ok(())
        })
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn step_4_reads_are_cancelled_without_waiting_for_mutations() -> Result<()> {
    let prepared = Stopping::prepared().await?;
    let mut reader = prepared.hub.raw().await?;
    reader.request("s", "work.ticks", Value::Null).await?;
    reader.next().await?;
    let mut query = prepared.hub.raw().await?;
    query.request("q", "work.wait", Value::Null).await?;
    let (address, key) = (prepared.hub.address(), prepared.hub.admin_key().to_owned());
    let mut by_http = tokio::task::JoinSet::new();
    by_http.spawn(async move { http(address, "POST", "/api/operations/work.ticks", &key, &Value::Null).await });
    eventually("all three run", || async {
        Ok((prepared.hub.hub().status().await?.calls_in_flight == 4).then_some(()))
    })
    .await?;
    prepared
        .stop(|_, _| async move {
            for peer in [&mut reader, &mut query] {
                let (messages, closed) = rest(peer).await?;
                assert_eq!(messages.last().context("an end")?["payload"]["code"], "ABORTED");
                sent_away(&closed);
            }
            let sse = by_http.join_next().await.context("a task")???;
            let end = sse.body.rsplit("event: ").next().unwrap_or_default();
            assert!(end.starts_with("error") && end.contains("ABORTED"), "{end}");
            Ok(())
        })
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn step_5_records_and_events_are_flushed() -> Result<()> {
    let prepared = Stopping::prepared().await?;
    let client = prepared.hub.client().await?;
    // Queries: answered before their record is committed, so that shutdown has something to flush.
    let spoke = prepared.hub.spoke("fast").spoke_type("compute");
    let spoke = spoke.query("fast.echo", "Echoes.", |_, n: u64| async move { Ok::<_, CallError>(n) });
    let _spoke = spoke.build()?.start().await?;
    let publish =
        (0..20).map(|n| PublishEvent { topic: format!("task:{n}"), kind: "made".into(), payload: json!(n).into() });
    for event in publish {
        client.call(&event).await?;
    }
    let calls = (0..200_u64).map(|n| client.call_raw("fast.echo", json!(n)));
    for answer in futures_util::future::join_all(calls).await {
        answer?;
    }
    let (folder, ..) = prepared.stop(|_, _| async { Ok(()) }).await?;
    let hub = TestHub::start_in(folder, &[]).await?;
    let client = hub.client().await?;
    let echoes = records(&client, "fast.echo").await?;
    assert_eq!(echoes.len(), 200);
    assert!(echoes.iter().all(|call| call.status == CallStatus::Completed));
    let events = client.call(&ListEvents { topics: vec!["task.**".into()], after: None, limit: Some(1_000) }).await?;
    assert_eq!(events.events.len(), 20);
    let all = ListEvents { topics: vec!["**".into()], after: None, limit: Some(1_000) };
    let mut ends = 0;
    let mut page = all.clone();
    loop {
        let got = client.call(&page).await?;
        let of_calls = got.events.iter().filter(|event| event.topic.starts_with("call:"));
        ends += of_calls.filter(|event| event.payload.as_str().contains("fast.echo")).count();
        if !got.more {
            break;
        }
        page.after = Some(got.next_after);
    }
    assert_eq!(ends, 400, "a start and an end of each call");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn step_6_the_store_is_closed_and_the_folder_free() -> Result<()> {
    let (folder, ..) = Stopping::prepared().await?.stop(|_, _| async { Ok(()) }).await?;
    let left: Vec<_> =
        std::fs::read_dir(folder.path())?.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    assert!(!left.iter().any(|name| name.ends_with("-wal") || name.ends_with("-shm")), "{left:?}");
    // Another process gets the folder at once, and finds nothing to mend.
    let (_hub, log) = logged(folder.path(), free_port()?, &[]).await?;
    assert!(!log().contains("unclean"), "{}", log());
    Ok(())
}
