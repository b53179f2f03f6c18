//! Going down (must hold 8): the whole by SIGTERM under load, and a test for each step of its order.

mod steps;

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_protocol::ops::calls::{CallRecord, CallStatus, ListCalls};
use hub_protocol::ops::events::{ListEvents, PublishEvent};
use hub_spoke::{CallError, Client, RunningSpoke, SpokeBuilder};
use hub_testkit::{Closed, HubProcess, RawPeer, TestHub, TestStore, database_of, eventually, free_port, http, psql};
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
    // On a database that hubs share, once the first one's lease of 2 s has run out.
    eventually("the mutation is closed as failed", || async {
        let calls = records(&client, "work.gated").await?;
        ensure!([CallStatus::Running, CallStatus::Failed].contains(&calls[0].status), "{calls:?}");
        Ok((calls[0].status == CallStatus::Failed).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_while_it_starts_is_an_orderly_end_too() -> Result<()> {
    // At several moments of a start, from its first file on.
    for file in ["hub.lock", "hub.db", "admin.key"] {
        let folder = TempDir::new()?;
        let port = free_port()?;
        let mut child = HubProcess::command(folder.path(), port, &[])?.spawn()?;
        let pid = child.id().context("it runs")?.to_string();
        let reached = || match TestStore::of_run()? {
            // The moment at which SQLite's file would appear.
            TestStore::Postgres if file == "hub.db" => {
                let others =
                    "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
                Ok(!psql(&database_of(folder.path())?, others)?.is_empty())
            }
            _ => anyhow::Ok(folder.path().join(file).exists()),
        };
        eventually(file, || async { Ok(reached()?.then_some(())) }).await?;
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
