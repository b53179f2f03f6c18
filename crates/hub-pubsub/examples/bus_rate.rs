//! How fast frames go from one hub to another: `cargo run --release -p hub-pubsub --features redis --example bus_rate
//! -- redis://127.0.0.1:6379/`.
#![expect(clippy::print_stdout, reason = "a program for people")]

use std::time::Instant;

use hub_pubsub::{Bus, BusDelivery, RedisOptions, TargetError};
use tokio::task::JoinSet;

/// Bytes of a frame: a small call event.
const FRAME: usize = 300;

#[tokio::main]
async fn main() -> Result<(), TargetError> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "redis://127.0.0.1:6379/".to_owned());
    let options = RedisOptions::default().with_prefix(format!("bus-rate-{}:", std::process::id()));
    let [sender, listener] = [Bus::redis(&url, options.clone())?, Bus::redis(&url, options)?];
    one_after_another(&sender, &listener).await?;
    for tasks in [1, 8, 64, 256] {
        from_many_tasks(&sender, &listener, tasks, 200_000.min(tasks * 4000)).await?;
    }
    enqueued(&sender, &listener, 200_000).await
}

async fn one_after_another(sender: &Bus, listener: &Bus) -> Result<(), TargetError> {
    let _inbox = listener.listen("a").await?;
    let mut times = Vec::new();
    for _ in 0..10_000 {
        let started = Instant::now();
        sender.send("a", vec![0; FRAME]).await?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    println!("send, one after another: p50 {:?}, p99 {:?}", times[times.len() / 2], times[times.len() * 99 / 100]);
    Ok(())
}

async fn from_many_tasks(sender: &Bus, listener: &Bus, tasks: usize, frames: usize) -> Result<(), TargetError> {
    let mut inbox = listener.listen("b").await?;
    let started = Instant::now();
    let mut senders = JoinSet::new();
    for _ in 0..tasks {
        let sender = sender.clone();
        senders.spawn(async move {
            for _ in 0..frames / tasks {
                sender.send("b", vec![0; FRAME]).await?;
            }
            Ok::<_, TargetError>(())
        });
    }
    let wanted = frames / tasks * tasks;
    let mut received = 0;
    while received < wanted {
        match inbox.recv().await {
            Some(BusDelivery::Frame(_)) => received += 1,
            other => println!("{other:?}"),
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    for result in senders.join_all().await {
        result?;
    }
    println!("send from {tasks} tasks: {:.0} frames/s, sent and received", wanted as f64 / seconds);
    Ok(())
}

async fn enqueued(sender: &Bus, listener: &Bus, frames: usize) -> Result<(), TargetError> {
    let mut inbox = listener.listen("c").await?;
    let started = Instant::now();
    let mut senders = JoinSet::new();
    let sender = sender.clone();
    senders.spawn(async move {
        for _ in 0..frames {
            drop(sender.enqueue("c", vec![0; FRAME]).await?);
        }
        Ok::<_, TargetError>(())
    });
    for _ in 0..frames {
        inbox.recv().await;
    }
    println!(
        "enqueue from one task: {:.0} frames/s, sent and received",
        frames as f64 / started.elapsed().as_secs_f64()
    );
    Ok(())
}
