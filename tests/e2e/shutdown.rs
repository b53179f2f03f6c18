//! Going down (must hold 8): the whole by SIGTERM under load, and a test for each step of its order.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::stream;
use hub_protocol::ops::calls::{CallRecord, CallStatus, ListCalls};
use hub_protocol::ops::events::{ListEvents, PublishEvent};
use hub_spoke::{CallError, Client, RunningSpoke, SpokeBuilder};
use hub_testkit::{Closed, HubProcess, RawPeer, TestHub, eventually, free_port, http};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// What the handlers of [`worker`] and a test share.
#[derive(Clone)]
struct Work {
    /// `work.gated` mutations that have begun.
    begun: Arc<AtomicU64>,
    /// Lets a `work.gated` end.
    gate: Arc<Semaphore>,
    /// Queries that wait for ever were dropped.
    dropped: Arc<AtomicBool>,
}

impl Default for Work {
    fn default() -> Self {
        Self { begun: Arc::default(), gate: Arc::new(Semaphore::new(0)), dropped: Arc::default() }
    }
}

impl Work {
    async fn begun(&self, calls: u64) -> Result<()> {
        eventually("the mutations have begun", || async {
            Ok((self.begun.load(Ordering::SeqCst) >= calls).then_some(()))
        })
        .await
    }
}

/// Mutations that take their time, queries, and streams.
async fn worker(spoke: SpokeBuilder, work: &Work) -> Result<RunningSpoke> {
    let (gated, slow, waiting) = (work.clone(), work.clone(), work.clone());
    let spoke = spoke
        .spoke_type("compute")
        .mutation("work.gated", "Ends when the test lets it.", move |_, n: u64| {
            let work = gated.clone();
            async move {
                work.begun.fetch_add(1, Ordering::SeqCst);
                work.gate.acquire().await.expect("never closed").forget();
                Ok::<_, CallError>(n)
            }
        })
        .mutation("work.slow", "Takes 1.5 s.", move |_, n: u64| {
            let work = slow.clone();
            async move {
                work.begun.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(1_500)).await;
                Ok::<_, CallError>(n)
            }
        })
        .mutation("work.note", "Answers at once.", |_, n: u64| async move { Ok::<_, CallError>(n) })
        .query("work.wait", "Never answers.", move |_, _: Value| {
            let guard = CallOnDrop(Arc::clone(&waiting.dropped));
            async move {
                let _guard = guard;
                std::future::pending::<Result<u64, CallError>>().await
            }
        })
        .stream("work.ticks", "Counts for ever.", |_, _: Value| async move {
            Ok::<_, CallError>(stream::unfold(0_u64, |n| async move {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Some((Ok(n), n + 1))
            }))
        });
    Ok(spoke.build()?.start().await?)
}

struct CallOnDrop(Arc<AtomicBool>);

impl Drop for CallOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[track_caller]
fn sent_away(closed: &Closed) {
    assert_eq!(closed.code, 1001, "{closed:?}");
    let wait = closed.reason.strip_prefix("retry-after-ms=").and_then(|ms| ms.parse::<u64>().ok());
    assert!(wait.is_some_and(|ms| ms <= 1_000), "{closed:?}");
}

/// Everything that still comes, and how the connection is closed.
async fn rest(peer: &mut RawPeer) -> Result<(Vec<Value>, Closed)> {
    let mut messages = Vec::new();
    loop {
        match peer.next_or_close().await? {
            Ok(message) => messages.push(message),
            Err(closed) => return Ok((messages, closed)),
        }
    }
}

async fn records(client: &Client, operation: &str) -> Result<Vec<CallRecord>> {
    let mut records = Vec::new();
    let mut page = ListCalls { operation_id: Some(operation.into()), limit: Some(1_000), ..ListCalls::default() };
    loop {
        let got = client.call(&page).await?;
        records.extend(got.calls);
        page.before = got.next_before;
        if page.before.is_none() {
            return Ok(records);
        }
    }
}

/// A hub process whose log can be read.
async fn logged(folder: &Path, port: u16, flags: &[&str]) -> Result<(HubProcess, impl Fn() -> String + use<>)> {
    let file = folder.join("log.txt");
    let mut command = HubProcess::command(folder, port, flags)?;
    command.stderr(Stdio::from(std::fs::File::create(&file)?));
    let hub = HubProcess::start_from(&mut command, folder, port).await?;
    Ok((hub, move || std::fs::read_to_string(&file).unwrap_or_default()))
}

async fn raw(hub: &HubProcess, port: u16) -> Result<RawPeer> {
    RawPeer::connect(([127, 0, 0, 1], port).into(), &hub.admin_key()?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_under_load_lets_mutations_finish_tells_readers_1001_and_exits_0() -> Result<()> {
    let folder = TempDir::new()?;
    let port = free_port()?;
    let (mut hub, log) = logged(folder.path(), port, &["--shutdown-grace-ms", "20000"]).await?;
    let key = hub.admin_key()?;
    let work = Work::default();
    let spoke = worker(hub_spoke::Spoke::builder(&hub.url(), &key, "worker"), &work).await?;

    // Readers: streams, a query that never answers, a peer that does nothing.
    let mut readers = Vec::new();
    for _ in 0..4 {
        let mut reader = raw(&hub, port).await?;
        reader.request("s", "work.ticks", Value::Null).await?;
        assert_eq!(reader.next().await?["type"], "call.responded");
        readers.push(reader);
    }
    let mut waits = raw(&hub, port).await?;
    waits.request("q", "work.wait", Value::Null).await?;
    let mut idle = raw(&hub, port).await?;
    idle.call("1", "hub.whoami", json!({})).await?;
    // Writers that note one number after the other until they are refused.
    let noted = Arc::new(std::sync::Mutex::new(Vec::new()));
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4_u64 {
        let client = Client::builder(&hub.url(), &key).reconnect(false).connect().await?;
        let noted = Arc::clone(&noted);
        writers.spawn(async move {
            for n in writer * 1_000_000.. {
                match client.call_raw("work.note", json!(n)).await {
                    Ok(_) => noted.lock().expect("no panic").push(n),
                    Err(error) => return error,
                }
            }
            CallError::new(hub_spoke::ErrorCode::UnknownError, "never refused")
        });
    }
    eventually("the load runs", || async { Ok((noted.lock().expect("no panic").len() > 50).then_some(())) }).await?;
    // Mutations that are running when the signal comes.
    let mut slow = tokio::task::JoinSet::new();
    for n in 0..3_u64 {
        let client = Client::connect(&hub.url(), &key).await?;
        slow.spawn(async move { (client.call_raw("work.slow", json!(n)).await, Instant::now()) });
    }
    work.begun(3).await?;

    let told = Instant::now();
    hub.signal("TERM").await?;
    let (_, closed) = rest(&mut idle).await?;
    sent_away(&closed);
    assert!(slow.try_join_next().is_none(), "the idle peer was told only after a mutation had ended");
    for reader in &mut readers {
        let (messages, closed) = rest(reader).await?;
        let last = messages.last().context("a last message")?;
        assert_eq!((&last["type"], &last["payload"]["code"]), (&json!("call.error"), &json!("ABORTED")), "{last}");
        sent_away(&closed);
    }
    let (messages, closed) = rest(&mut waits).await?;
    assert_eq!(messages.last().context("an answer")?["payload"]["code"], "ABORTED");
    sent_away(&closed);
    assert!(work.dropped.load(Ordering::SeqCst), "the query's handler was not told");
    while let Some(answer) = slow.join_next().await {
        let (answer, at) = answer?;
        answer.context("a mutation that was running did not finish")?;
        assert!(at > told);
    }
    let status = tokio::time::timeout(Duration::from_secs(20), hub.wait()).await.context("it ends in its grace")??;
    assert_eq!(status.code(), Some(0), "{}", log());
    while let Some(error) = writers.join_next().await {
        let error = error?;
        let known = ["OVERLOADED", "SPOKE_DISCONNECTED", "OPERATION_UNAVAILABLE"];
        assert!(known.contains(&error.code.as_str()), "{error:?}");
    }
    let left: Vec<_> =
        std::fs::read_dir(folder.path())?.filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    assert!(!left.iter().any(|name| name.ends_with("-wal")), "{left:?}");
    drop(spoke);

    let hub = HubProcess::start(folder.path(), port, &[]).await?;
    let client = Client::connect(&hub.url(), &key).await?;
    let slow = records(&client, "work.slow").await?;
    assert_eq!(slow.len(), 3);
    assert!(slow.iter().all(|call| call.status == CallStatus::Completed), "{slow:?}");
    for read in ["work.ticks", "work.wait"] {
        let reads = records(&client, read).await?;
        assert!(!reads.is_empty() && reads.iter().all(|call| call.status == CallStatus::Aborted), "{reads:?}");
    }
    let notes = records(&client, "work.note").await?;
    let unfinished: Vec<_> = notes.iter().filter(|call| !call.status.is_final()).collect();
    assert!(unfinished.is_empty(), "{unfinished:?}");
    let completed: Vec<u64> = notes
        .iter()
        .filter(|call| call.status == CallStatus::Completed)
        .filter_map(|call| call.output.as_ref()?.parse().ok())
        .collect();
    let noted = noted.lock().expect("no panic").clone();
    assert!(noted.iter().all(|n| completed.contains(n)), "acknowledged and not recorded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_sigterm_ends_the_process_at_once() -> Result<()> {
    let folder = TempDir::new()?;
    let port = free_port()?;
    let (mut hub, log) = logged(folder.path(), port, &["--shutdown-grace-ms", "60000"]).await?;
    let work = Work::default();
    let _spoke = worker(hub_spoke::Spoke::builder(&hub.url(), &hub.admin_key()?, "worker"), &work).await?;
    let mut caller = raw(&hub, port).await?;
    caller.request("1", "work.gated", json!(1)).await?;
    work.begun(1).await?;
    let mut idle = raw(&hub, port).await?;
    idle.call("1", "hub.whoami", json!({})).await?;
    hub.signal("TERM").await?;
    sent_away(&rest(&mut idle).await?.1);
    // It waits for the mutation.
    assert!(tokio::time::timeout(Duration::from_millis(300), hub.wait()).await.is_err(), "it did not wait");
    hub.signal("TERM").await?;
    let second = Instant::now();
    let status =
        tokio::time::timeout(Duration::from_secs(5), hub.wait()).await.context("the second signal counts")??;
    assert!(second.elapsed() < Duration::from_secs(1), "{:?}", second.elapsed());
    assert!(!status.success(), "{status}");
    assert!(log().contains("stopping at once"), "{}", log());
    // As after a crash: the mutation is closed as failed, and nothing is locked.
    let hub = HubProcess::start(folder.path(), port, &[]).await?;
    let client = Client::connect(&hub.url(), &hub.admin_key()?).await?;
    let calls = records(&client, "work.gated").await?;
    assert_eq!(calls[0].status, CallStatus::Failed, "{calls:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_it_starts_is_an_orderly_end_too() -> Result<()> {
    // At several moments of a start, from its first file on.
    for file in ["hub.lock", "hub.db", "admin.key"] {
        let folder = TempDir::new()?;
        let port = free_port()?;
        let mut child = HubProcess::command(folder.path(), port, &[])?.spawn()?;
        let pid = child.id().context("it runs")?.to_string();
        eventually(file, || async { Ok(folder.path().join(file).exists().then_some(())) }).await?;
        tokio::process::Command::new("kill").args(["-TERM", &pid]).status().await?;
        let status = tokio::time::timeout(Duration::from_secs(15), child.wait()).await.context("it ends")??;
        assert_eq!(status.code(), Some(0), "{file}: {status}");
        // What was begun is whole: a key was made if and only if its file was.
        let hub = HubProcess::start(folder.path(), port, &[]).await?;
        Client::connect(&hub.url(), &hub.admin_key()?).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn over_its_grace_it_cuts_off_says_so_and_does_not_exit_0() -> Result<()> {
    let folder = TempDir::new()?;
    let port = free_port()?;
    let (mut hub, log) = logged(folder.path(), port, &["--shutdown-grace-ms", "300"]).await?;
    let work = Work::default();
    let _spoke = worker(hub_spoke::Spoke::builder(&hub.url(), &hub.admin_key()?, "worker"), &work).await?;
    let mut caller = raw(&hub, port).await?;
    caller.request("1", "work.gated", json!(1)).await?;
    work.begun(1).await?;
    let told = Instant::now();
    hub.signal("TERM").await?;
    let (messages, closed) = rest(&mut caller).await?;
    // Nobody is left without an answer.
    assert_eq!(messages.last().context("an answer")?["payload"]["code"], "ABORTED", "{messages:?}");
    sent_away(&closed);
    let status = tokio::time::timeout(Duration::from_secs(10), hub.wait()).await.context("it ends")??;
    assert!(told.elapsed() >= Duration::from_millis(300), "{:?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_secs(3), "{:?}", told.elapsed());
    assert_eq!(status.code(), Some(1), "{}", log());
    assert!(log().contains("calls were cut off"), "{}", log());
    let hub = HubProcess::start(folder.path(), port, &[]).await?;
    let client = Client::connect(&hub.url(), &hub.admin_key()?).await?;
    let calls = records(&client, "work.gated").await?;
    assert_eq!(calls[0].status, CallStatus::Aborted, "{calls:?}");
    Ok(())
}

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

#[tokio::test(flavor = "multi_thread")]
async fn calls_that_were_cut_off_leave_nothing_running_behind() -> Result<()> {
    let hub = TestHub::start_with(&["--shutdown-grace-ms", "100"]).await?;
    let work = Work::default();
    let _spoke = worker(hub.spoke("worker"), &work).await?;
    let mut callers = Vec::new();
    for n in 0..3 {
        let mut caller = hub.raw().await?;
        caller.request("m", "work.gated", json!(n)).await?;
        callers.push(caller);
    }
    work.begun(3).await?;
    // One of them has gone; its mutation runs on (`finish`).
    drop(callers.pop());
    let core = hub.hub().clone();
    let started = Instant::now();
    let (clean, folder) = hub.stop().await;
    assert!(!clean, "a cut-off is no clean end");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    for caller in &mut callers {
        let (messages, closed) = rest(caller).await?;
        assert_eq!(messages.last().context("an answer")?["payload"]["code"], "ABORTED", "{messages:?}");
        sent_away(&closed);
    }
    drop(core);
    let hub = TestHub::start_in(folder, &[]).await?;
    let calls = records(&hub.client().await?, "work.gated").await?;
    assert_eq!(calls.len(), 3);
    assert!(calls.iter().all(|call| call.status == CallStatus::Aborted), "{calls:?}");
    Ok(())
}
