//! All hubs are restarted in turn under load of keyed calls, others and streams (must hold 3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, stream};
use hub_protocol::CallError;
use hub_spoke::Client;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::bed::Bed;

/// Items of a stream.
const TICKS: u64 = 100;

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_fails_no_keyed_call() -> Result<()> {
    let mut bed = Bed::start_with(3, &["--shutdown-grace-ms", "10000"]).await?;
    let mut spokes = Vec::new();
    for n in 0..6 {
        let spoke = bed
            .balanced_spoke(&format!("worker{n}"))
            .mutation("work.do", "Does a piece of work.", |_, input: Value| async move {
                tokio::time::sleep(Duration::from_millis(30)).await;
                Ok::<_, CallError>(input)
            })
            .stream("work.watch", "Ticks for three seconds.", |_, _: Value| async {
                Ok::<_, CallError>(stream::unfold(0, |n| async move {
                    tokio::time::sleep(Duration::from_millis(30)).await;
                    (n < TICKS).then_some((Ok::<_, CallError>(n), n + 1))
                }))
            })
            .build()?
            .start()
            .await?;
        spokes.push(spoke);
    }
    let stop = Arc::new(AtomicBool::new(false));
    let (keyed, plain) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let failed = Arc::new(AtomicU64::new(0));
    let mut callers = JoinSet::new();
    for n in 0..8 {
        let client = bed.balanced().await?;
        let (stop, keyed, plain, failed) =
            (Arc::clone(&stop), Arc::clone(&keyed), Arc::clone(&plain), Arc::clone(&failed));
        callers.spawn(async move {
            let mut number = 0;
            while !stop.load(Ordering::SeqCst) {
                number += 1;
                let request = client.request("work.do").input(json!({ "n": number }));
                if n % 2 == 0 {
                    let answer = request.idempotency_key(format!("{n}-{number}")).call().await;
                    ensure!(answer.is_ok(), "a keyed call failed: {answer:?}");
                    keyed.fetch_add(1, Ordering::SeqCst);
                } else {
                    match request.call().await {
                        Ok(_) => {
                            plain.fetch_add(1, Ordering::SeqCst);
                        }
                        Err(error) => {
                            ensure!(error.retryable, "an unkeyed call failed for good: {error:?}");
                            failed.fetch_add(1, Ordering::SeqCst);
                        }
                    }
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            Ok(())
        });
    }
    let (watched, cut) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    for _ in 0..6 {
        callers.spawn(watch(bed.balanced().await?, Arc::clone(&stop), Arc::clone(&watched), Arc::clone(&cut)));
    }
    for hub in 0..3 {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let asked = Instant::now();
        let clean = bed.stop_hub(hub).await?;
        println!("hub {hub} was down after {:?}", asked.elapsed());
        ensure!(clean, "hub {hub} did not end cleanly");
        bed.start_hub(hub).await?;
        bed.all_linked().await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    stop.store(true, Ordering::SeqCst);
    while let Some(ended) = callers.join_next().await {
        ended??;
    }
    println!(
        "{} keyed calls, {} others, {} of them failed with a retryable code",
        keyed.load(Ordering::SeqCst),
        plain.load(Ordering::SeqCst),
        failed.load(Ordering::SeqCst)
    );
    println!("{} streams were whole, {} were cut", watched.load(Ordering::SeqCst), cut.load(Ordering::SeqCst));
    ensure!(keyed.load(Ordering::SeqCst) > 50, "too few calls");
    ensure!(watched.load(Ordering::SeqCst) > 0 && cut.load(Ordering::SeqCst) > 0, "no stream met a hub that went down");
    Ok(())
}

/// Reads one stream after another. One that is cut may be subscribed to again, and one that ends is whole.
async fn watch(client: Client, stop: Arc<AtomicBool>, whole: Arc<AtomicU64>, cut: Arc<AtomicU64>) -> Result<()> {
    while !stop.load(Ordering::SeqCst) {
        let mut ticks = client.request("work.watch").input(json!({})).subscribe().await?;
        let mut next = 0;
        loop {
            match ticks.next().await {
                Some(Ok(tick)) => {
                    ensure!(tick.as_str() == next.to_string(), "{} came in the place of {next}", tick.as_str());
                    next += 1;
                }
                Some(Err(error)) => {
                    ensure!(error.retryable, "a stream failed for good: {error:?}");
                    cut.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    break;
                }
                None => {
                    ensure!(next == TICKS, "a stream ended at {next}");
                    whole.fetch_add(1, Ordering::SeqCst);
                    break;
                }
            }
        }
    }
    Ok(())
}
