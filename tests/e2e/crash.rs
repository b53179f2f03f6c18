//! `kill -9` of the hub under load: what was acknowledged is there, once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use hub_protocol::CallError;
use hub_protocol::ops::calls::{CallRecord, CallStatus, GetCall, ListCalls};
use hub_protocol::ops::events::{EventItem, ListEvents, PublishEvent};
use hub_protocol::ops::hub::{ListSpokes, SpokeStatus, WhoAmI};
use hub_protocol::ops::keys::{CreateKey, ListKeys};
use hub_spoke::{Client, Context, RunningSpoke, Spoke};
use hub_testkit::{HubProcess, eventually, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Kills in a row.
const ROUNDS: usize = 3;

/// Clients that write at once.
const CLIENTS: usize = 4;

/// Acknowledged writes in each round before the hub is killed.
const ENOUGH: u64 = 120;

/// Executions by token, with the number that each execution answered.
type Runs = Arc<Mutex<HashMap<String, Vec<u64>>>>;

/// What clients were told is done, by token.
#[derive(Default)]
struct Acked {
    mutations: HashMap<String, u64>,
    keyed: HashMap<String, u64>,
    events: HashMap<String, u64>,
    keys: HashMap<String, String>,
}

#[derive(Clone, Default)]
struct Load {
    acked: Arc<Mutex<Acked>>,
    count: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
}

impl Load {
    fn note(&self, with: impl FnOnce(&mut Acked)) {
        with(&mut self.acked.lock().unwrap_or_else(PoisonError::into_inner));
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    /// Writes until it is over. Only keyed calls are tried again: the others may have happened.
    async fn run(self, client: Client, name: usize) -> Result<()> {
        let mut n = 0u64;
        while !self.over.load(Ordering::Relaxed) {
            n += 1;
            let token = format!("t{name}-{n}");
            if let Ok(answer) = client.call_raw("work.mutate", json!(token)).await {
                let answer = answer.parse()?;
                self.note(|acked| {
                    acked.mutations.insert(token.clone(), answer);
                });
            }
            let answer = persist(&client, "work.keyed", &token).await?;
            self.note(|acked| {
                acked.keyed.insert(token.clone(), answer);
            });
            let topic = "load:crash".to_owned();
            let event = PublishEvent { topic, kind: "note".into(), payload: json!(token).into() };
            if let Ok(published) = client.call(&event).await {
                self.note(|acked| {
                    acked.events.insert(token.clone(), published.seq);
                });
            }
            let (name, scopes) = (token.clone(), vec!["fs:read".to_owned()]);
            let key = CreateKey { name, scopes, ..CreateKey::default() };
            if let Ok(created) = client.call(&key).await {
                self.note(|acked| {
                    acked.keys.insert(token.clone(), created.secret);
                });
            }
        }
        Ok(())
    }
}

/// Calls with the token as its key until it is answered.
async fn persist(client: &Client, operation: &str, token: &str) -> Result<u64> {
    eventually("a keyed call is answered", || async {
        let request = client.request(operation).input(json!(token)).idempotency_key(token);
        match request.deadline(Duration::from_secs(10)).call().await {
            Ok(answer) => Ok(Some(answer.parse()?)),
            // The hub is down, or the spoke has not registered again yet.
            Err(error) if error.retryable => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

async fn worker(url: &str, key: &str, runs: &Runs, gate: &Arc<Semaphore>) -> Result<RunningSpoke> {
    let next = Arc::new(AtomicU64::new(1));
    let run = {
        let runs = Arc::clone(runs);
        move |kind: &str, token: String| {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let mut runs = runs.lock().unwrap_or_else(PoisonError::into_inner);
            runs.entry(format!("{kind} {token}")).or_default().push(n);
            n
        }
    };
    let (mutate, keyed, held) = (run.clone(), run.clone(), run);
    let gate = Arc::clone(gate);
    let spoke = Spoke::builder(url, key, "worker").spoke_type("compute");
    let spoke = spoke.mutation("work.mutate", "Works.", move |_: Context, token: String| {
        let n = mutate("mutate", token);
        async move { Ok::<u64, CallError>(n) }
    });
    let spoke = spoke.mutation("work.keyed", "Works.", move |_: Context, token: String| {
        let n = keyed("keyed", token);
        async move { Ok::<u64, CallError>(n) }
    });
    let spoke = spoke.mutation("work.held", "Works when it is let.", move |_: Context, token: String| {
        let (n, gate) = (held("held", token), Arc::clone(&gate));
        async move {
            gate.acquire().await.map_err(|e| CallError::domain("CLOSED", e.to_string()))?.forget();
            Ok::<u64, CallError>(n)
        }
    });
    Ok(spoke.build()?.start().await?)
}

/// All calls of an operation, page by page.
async fn calls_of(client: &Client, operation: &str) -> Result<Vec<CallRecord>> {
    let (mut calls, mut before) = (Vec::new(), None);
    loop {
        let operation_id = Some(operation.to_owned());
        let page = ListCalls { operation_id, before, limit: Some(500), ..ListCalls::default() };
        let page = client.call(&page).await?;
        calls.extend(page.calls);
        before = page.next_before;
        if before.is_none() {
            return Ok(calls);
        }
    }
}

async fn all_events(client: &Client) -> Result<Vec<EventItem>> {
    let (mut events, mut after) = (Vec::new(), 0);
    loop {
        let page = ListEvents { topics: vec!["load:crash".into()], after: Some(after), limit: Some(1_000) };
        let page = client.call(&page).await?;
        events.extend(page.events);
        after = page.next_after;
        if !page.more {
            return Ok(events);
        }
    }
}

fn by_token<T, F: Fn(&T) -> Option<String>>(items: Vec<T>, token: F) -> HashMap<String, Vec<T>> {
    let mut found: HashMap<String, Vec<T>> = HashMap::new();
    for item in items {
        if let Some(token) = token(&item) {
            found.entry(token).or_default().push(item);
        }
    }
    found
}

fn token_of(record: &CallRecord) -> Option<String> {
    record.input.as_ref()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_of_the_hub_under_load_loses_nothing_acknowledged_and_doubles_nothing() -> Result<()> {
    let folder = TempDir::new()?;
    let port = free_port()?;
    let flags = ["--log", "error"];
    let mut hub = HubProcess::start(folder.path(), port, &flags).await?;
    let (url, key) = (hub.url(), hub.admin_key()?);
    let (runs, gate) = (Runs::default(), Arc::new(Semaphore::new(0)));
    let spoke = worker(&url, &key, &runs, &gate).await?;
    let watcher = Client::connect(&url, &key).await?;
    let load = Load::default();
    let mut writers = JoinSet::new();
    for n in 0..CLIENTS {
        writers.spawn(load.clone().run(Client::connect(&url, &key).await?, n));
    }
    let mut interrupted = Vec::new();
    let mut connections = Vec::new();
    for round in 0..ROUNDS {
        // A keyed and a plain call that are in the middle of their work at the kill.
        let (token, plain) = (format!("h{round}"), format!("p{round}"));
        let held = persist(&watcher, "work.held", &token);
        let lost = watcher.request("work.held").input(json!(plain)).call();
        let crash = async {
            let running = eventually("both held calls are running in the record", || async {
                let calls = calls_of(&watcher, "work.held").await?;
                let calls: Vec<_> = calls.into_iter().filter(|c| c.status == CallStatus::Running).collect();
                Ok((calls.len() == 2).then_some(calls))
            })
            .await?;
            let so_far = load.count.load(Ordering::Relaxed);
            eventually("enough is acknowledged", || async {
                Ok((load.count.load(Ordering::Relaxed) >= so_far + ENOUGH).then_some(()))
            })
            .await?;
            connections.push(spoke.registered().connection_id);
            hub.kill9().await?;
            hub = HubProcess::start(folder.path(), port, &flags).await?;
            eventually("the spoke has registered again by itself", || async {
                let spokes = watcher.call(&ListSpokes::default()).await.map(|s| s.spokes).unwrap_or_default();
                Ok(spokes.iter().any(|s| s.status == SpokeStatus::Connected).then_some(()))
            })
            .await?;
            gate.add_permits(1);
            Ok::<_, anyhow::Error>((hub, running))
        };
        let (answer, lost, crashed) = tokio::join!(held, lost, crash);
        let running;
        (hub, running) = crashed?;
        // The plain call may have had its effect, so its caller is told and nothing is repeated.
        let lost = lost.unwrap_err();
        assert_eq!((lost.code.as_str(), lost.retryable), ("SPOKE_DISCONNECTED", false));
        let runs = runs.lock().unwrap_or_else(PoisonError::into_inner);
        assert_eq!(runs[&format!("held {token}")], [answer?], "a retried keyed call ran once");
        assert_eq!(runs[&format!("held {plain}")].len(), 1);
        interrupted.extend(running.into_iter().map(|c| c.call_id));
    }
    load.over.store(true, Ordering::Relaxed);
    while let Some(ended) = writers.join_next().await {
        ended??;
    }
    connections.push(spoke.registered().connection_id);
    connections.dedup();
    assert_eq!(connections.len(), ROUNDS + 1, "the spoke was registered anew after each kill");

    for call_id in interrupted {
        let record = watcher.call(&GetCall { call_id }).await?;
        let error = record.error.context("an interrupted call has an error")?;
        assert_eq!((record.status, error.code.as_str()), (CallStatus::Failed, "SPOKE_DISCONNECTED"));
        assert!(error.message.contains("hub restarted"), "{error}");
    }
    let acked = std::mem::take(&mut *load.acked.lock().unwrap_or_else(PoisonError::into_inner));
    let runs = runs.lock().unwrap_or_else(PoisonError::into_inner).clone();
    check_calls(&watcher, &acked, &runs).await?;
    check_events(&watcher, &acked).await?;
    check_keys(&url, &watcher, &acked).await?;
    spoke.stop().await?;
    hub.kill9().await
}

async fn check_calls(client: &Client, acked: &Acked, runs: &HashMap<String, Vec<u64>>) -> Result<()> {
    // On Postgres other hubs could still have them, so what a hub left open is closed when its lease has run out.
    eventually("no call runs in the record", || async {
        let running = ListCalls { status: Some(CallStatus::Running), ..ListCalls::default() };
        Ok(client.call(&running).await?.calls.is_empty().then_some(()))
    })
    .await?;
    let records = by_token(calls_of(client, "work.mutate").await?, token_of);
    for (token, answer) in &acked.mutations {
        let found = records.get(token).with_context(|| format!("the record of {token} is lost"))?;
        ensure!(found.len() == 1, "{token} is there {} times", found.len());
        assert_eq!((found[0].status, &found[0].output), (CallStatus::Completed, &Some(json!(answer).into())));
        assert_eq!(runs[&format!("mutate {token}")], [*answer]);
    }
    assert!(records.values().all(|r| r.len() == 1), "a record is doubled");
    let records = by_token(calls_of(client, "work.keyed").await?, token_of);
    for (token, answer) in &acked.keyed {
        assert_eq!(runs[&format!("keyed {token}")], [*answer], "{token} ran more than once");
        assert_eq!(persist(client, "work.keyed", token).await?, *answer, "the stored result of {token}");
        let done = records[token].iter().filter(|r| r.status == CallStatus::Completed);
        let outputs: Vec<Value> = done.filter_map(|r| r.output.as_ref()?.parse().ok()).collect();
        assert!(!outputs.is_empty() && outputs.iter().all(|o| o == answer), "{token}: {outputs:?}");
    }
    assert!(runs.values().all(|r| r.len() == 1), "something ran twice");
    Ok(())
}

async fn check_events(client: &Client, acked: &Acked) -> Result<()> {
    let events = all_events(client).await?;
    assert!(events.windows(2).all(|w| w[0].seq < w[1].seq), "positions are not in order");
    let events = by_token(events, |e| e.payload.parse().ok());
    assert!(events.values().all(|e| e.len() == 1), "an event is doubled");
    for (token, seq) in &acked.events {
        let found = events.get(token).with_context(|| format!("event {token} is lost"))?;
        assert_eq!(found[0].seq, *seq);
    }
    Ok(())
}

async fn check_keys(url: &str, client: &Client, acked: &Acked) -> Result<()> {
    let keys = by_token(client.call(&ListKeys::default()).await?.keys, |k| Some(k.name.clone()));
    assert!(keys.values().all(|k| k.len() == 1), "a key is doubled");
    for (n, (token, secret)) in acked.keys.iter().enumerate() {
        let found = keys.get(token).with_context(|| format!("key {token} is lost"))?;
        if n % 20 == 0 {
            let me = Client::connect(url, secret).await?.call(&WhoAmI {}).await?;
            assert_eq!(me.key.as_ref(), Some(&found[0].public_id));
        }
    }
    Ok(())
}
