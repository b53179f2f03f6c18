//! Hubs, bus and store are killed again and again under keyed calls (must hold 2).

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use futures_util::StreamExt;
use hub_operations::now_ms;
use hub_protocol::ops::calls::{CallRecord, CallStatus, ExportCalls, ListCalls};
use hub_protocol::{CallError, Json};
use hub_spoke::{Client, RunningSpoke};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::bed::Bed;

const HUBS: usize = 3;
const SPOKES: usize = 30;
const CALLERS: usize = 12;

/// How long it goes on.
const LASTS: Duration = Duration::from_secs(60);

/// How often something is killed.
const EVERY: Duration = Duration::from_secs(5);

/// How long one call may take, its retries included.
const DEADLINE: Duration = Duration::from_secs(30);

/// Who has done the work under a key to its end, and when, by key.
type Done = Arc<Mutex<HashMap<String, Vec<(usize, u64)>>>>;

/// What the callers were told.
#[derive(Default)]
struct Told {
    keys: Mutex<Vec<String>>,
    refused: AtomicU64,
    slowest_ms: AtomicU64,
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_doubled_or_hung_while_everything_is_killed_in_turn() -> Result<()> {
    let mut bed = Bed::start(HUBS).await?;
    let done = Done::default();
    let _spokes = spokes(&bed, &done).await?;
    let told = Arc::new(Told::default());
    let stop = Arc::new(AtomicBool::new(false));
    let mut callers = JoinSet::new();
    for n in 0..CALLERS {
        let client = bed.balanced().await?;
        callers.spawn(call_on(client, n, Arc::clone(&told), Arc::clone(&stop)));
    }
    let observer = bed.balanced().await?;
    let (ended, seen) = observe(observer);
    kill_in_turn(&mut bed).await?;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    bed.all_linked().await?;
    let records = check_records(&bed, &told).await?;
    let doubled: HashMap<_, _> = done.lock().unwrap().clone().into_iter().filter(|(_, by)| by.len() > 1).collect();
    for (key, by) in &doubled {
        let under = records.iter().filter(|r| r.idempotency_key.as_ref() == Some(key));
        println!("{key} was done by {by:?}: {:#?}", under.collect::<Vec<_>>());
    }
    let keys = told.keys.lock().unwrap().clone();
    println!(
        "{} keyed calls acknowledged, {} refused, slowest {} ms",
        keys.len(),
        told.refused.load(Ordering::SeqCst),
        told.slowest_ms.load(Ordering::SeqCst)
    );
    ensure!(doubled.is_empty(), "{} of {} were done more than once", doubled.len(), keys.len());
    ensure!(keys.len() > 200, "only {} calls", keys.len());
    ensure!(told.slowest_ms.load(Ordering::SeqCst) <= DEADLINE.as_millis() as u64 + 2_000, "a call hung");
    // The observer gets every event that the log has, each once and in order.
    let last = bed.status(0).await?["lastEvent"].as_u64().context("a position")?;
    let until = Instant::now() + Duration::from_secs(20);
    while seen.last.load(Ordering::SeqCst) < last {
        ensure!(Instant::now() < until, "the observer is at {} of {last}", seen.last.load(Ordering::SeqCst));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ended.abort();
    let fault = seen.fault.lock().unwrap().clone();
    ensure!(fault.is_none(), "{}", fault.unwrap_or_default());
    Ok(())
}

/// Spokes whose work takes a moment, and is counted when it is done.
async fn spokes(bed: &Bed, done: &Done) -> Result<Vec<RunningSpoke>> {
    let mut spokes = Vec::new();
    for n in 0..SPOKES {
        let done = Arc::clone(done);
        let spoke = bed
            .balanced_spoke(&format!("worker{n}"))
            .mutation("work.do", "Does a piece of work.", move |_, input: Value| {
                let done = Arc::clone(&done);
                async move {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    let key = input["key"].as_str().unwrap_or_default().to_owned();
                    done.lock().unwrap().entry(key).or_default().push((n, now_ms()));
                    Ok::<_, CallError>(input)
                }
            })
            .build()?
            .start()
            .await?;
        spokes.push(spoke);
    }
    Ok(spokes)
}

async fn call_on(client: Client, caller: usize, told: Arc<Told>, stop: Arc<AtomicBool>) -> Result<()> {
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        number += 1;
        let key = format!("{caller}-{number}");
        let input = json!({ "key": key });
        let started = Instant::now();
        let answer =
            client.request("work.do").input(input.clone()).idempotency_key(&key).deadline(DEADLINE).call().await;
        let took = u64::try_from(started.elapsed().as_millis())?;
        told.slowest_ms.fetch_max(took, Ordering::SeqCst);
        match answer {
            Ok(answer) => {
                ensure!(answer.parse::<Value>()? == input, "{key}: {}", answer.as_str());
                told.keys.lock().unwrap().push(key);
            }
            Err(error) => {
                println!("{key} failed after {took} ms: {error}");
                ensure!(error.retryable, "{key}: {error:?}");
                told.refused.fetch_add(1, Ordering::SeqCst);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// What an observer has seen.
#[derive(Default)]
struct Seen {
    last: AtomicU64,
    fault: Mutex<Option<String>>,
}

fn observe(client: Client) -> (tokio::task::JoinHandle<()>, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let noting = Arc::clone(&seen);
    let work = tokio::spawn(async move {
        let mut events = client.follow_events(vec!["**".to_owned()], Some(0));
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    let last = noting.last.swap(event.seq, Ordering::SeqCst);
                    // The admin sees all topics, so positions have no holes.
                    if event.seq != last + 1 {
                        *noting.fault.lock().unwrap() = Some(format!("{} came after {last}", event.seq));
                        return;
                    }
                }
                Err(error) => {
                    *noting.fault.lock().unwrap() = Some(format!("the observer was told {error}"));
                    return;
                }
            }
        }
    });
    (work, seen)
}

async fn kill_in_turn(bed: &mut Bed) -> Result<()> {
    let started = Instant::now();
    let mut round = 0_usize;
    while started.elapsed() < LASTS {
        tokio::time::sleep(EVERY).await;
        match round % 5 {
            3 => {
                println!("{:?}: kill -9 Redis", started.elapsed());
                bed.redis.kill()?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                bed.redis.start_again()?;
            }
            4 => {
                println!("{:?}: kill -9 Postgres", started.elapsed());
                bed.postgres.kill()?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                tokio::task::block_in_place(|| bed.postgres.start_again())?;
            }
            hub => {
                println!("{:?}: kill -9 hub {hub}", started.elapsed());
                bed.kill_hub(hub).await?;
                tokio::time::sleep(Duration::from_millis(500)).await;
                bed.start_hub(hub).await?;
            }
        }
        round += 1;
    }
    Ok(())
}

/// Every acknowledged key has one completed call that ran, and no call is open. Returns all records.
async fn check_records(bed: &Bed, told: &Told) -> Result<Vec<CallRecord>> {
    let client = bed.client(0).await?;
    // What a killed hub left open is closed once its lease has run out, and nothing outlives its deadline.
    let started = Instant::now();
    loop {
        let mut open = Vec::new();
        for status in [CallStatus::Pending, CallStatus::Running] {
            let filter =
                ListCalls { operation_id: Some("work.do".into()), status: Some(status), ..ListCalls::default() };
            open.extend(client.call(&filter).await?.calls);
        }
        if open.is_empty() {
            println!("all calls are closed after {:?}", started.elapsed());
            break;
        }
        ensure!(started.elapsed() < DEADLINE + Duration::from_secs(5), "still open: {open:#?}");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let mut records = client.subscribe(&ExportCalls::default()).await?;
    let mut ran: HashMap<String, u32> = HashMap::new();
    let mut kept = Vec::new();
    while let Some(record) = records.next().await {
        let record = record?;
        if record.operation_id != "work.do" {
            continue;
        }
        ensure!(record.completed_at.is_some(), "{} is still {:?}", record.call_id, record.status);
        // A call that attached to another one never had a spoke of its own.
        if record.status == CallStatus::Completed && record.spoke.is_some() {
            let key = record.input.as_ref().and_then(|i: &Json| i.parse::<Value>().ok()).unwrap_or_default();
            *ran.entry(key["key"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        kept.push(record);
    }
    for key in told.keys.lock().unwrap().iter() {
        ensure!(ran.get(key) == Some(&1), "{key} was acknowledged; its records: {:?}", ran.get(key));
    }
    Ok(kept)
}
