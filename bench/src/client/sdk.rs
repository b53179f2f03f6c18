//! Callers and callee built on the SDK, as agents are.

use std::time::Instant;

use anyhow::Result;
use futures_util::{StreamExt, stream};
use hub_protocol::OperationType;
use hub_spoke::{Client, Json, Reply, RunningSpoke, Spoke};
use tokio::task::JoinSet;

use super::callee::spec;
use super::frame;
use crate::stats::{Tally, Window};

/// The answer's `data`.
fn data() -> Json {
    serde_json::json!({ "text": "the answer, some fifty bytes of it", "n": 7 }).into()
}

/// A spoke that answers at once, and streams for as long as it is wanted.
pub(crate) async fn spoke(url: &str, key: &str) -> Result<RunningSpoke> {
    let constant = data();
    let items = data();
    let spoke = Spoke::builder(url, key, "sdk")
        .spoke_type("compute")
        .raw(spec("sdk.look", OperationType::Query), move |_, _| {
            let answer = constant.clone();
            async move { Ok(Reply::Value(answer)) }
        })
        .raw(spec("sdk.count", OperationType::Subscription), move |_, _| {
            let item = items.clone();
            async move { Ok(Reply::Stream(stream::repeat_with(move || Ok(item.clone())).boxed())) }
        })
        .build()?;
    Ok(spoke.start().await?)
}

/// Keeps `in_flight` calls going, each by a task of its own, until the window is over.
pub(crate) async fn call(client: Client, in_flight: usize, window: Window) -> Result<Tally> {
    let input = Json::from(serde_json::from_str::<serde_json::Value>(frame::INPUT)?);
    let mut tasks = JoinSet::new();
    for _ in 0..in_flight {
        let (client, input) = (client.clone(), input.clone());
        tasks.spawn(async move {
            let mut tally = Tally::new(window);
            loop {
                let sent = Instant::now();
                if window.is_over(sent) {
                    return Ok::<_, anyhow::Error>(tally);
                }
                client.call_raw("sdk.look", input.clone()).await?;
                tally.note(sent, Instant::now());
            }
        });
    }
    let mut total = Tally::new(window);
    while let Some(tally) = tasks.join_next().await {
        total.add(tally??);
    }
    Ok(total)
}

/// Subscribes once and counts items until the window is over.
pub(crate) async fn subscribe(client: Client, window: Window) -> Result<Tally> {
    let mut tally = Tally::new(window);
    let mut items = client.request("sdk.count").input(serde_json::json!({ "n": 0 })).subscribe().await?;
    while let Some(item) = items.next().await {
        item?;
        let now = Instant::now();
        tally.items(now, 1);
        if window.is_over(now) {
            return Ok(tally);
        }
    }
    anyhow::bail!("the stream ended")
}
