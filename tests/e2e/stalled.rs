//! A stream whose reader has stopped asking can still be ended.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::StreamExt;
use futures_util::stream;
use hub_protocol::CallError;
use hub_protocol::ops::calls::{AbortCall, AbortMode, AbortOutcome, CallStatus, ListCalls};
use hub_testkit::TestHub;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize, JsonSchema)]
struct Nothing {}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_back_stream_is_aborted_and_confirmed() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = hub
        .spoke("source")
        .spoke_type("compute")
        .stream("demo.flood", "Never ends.", |_, _: Nothing| async {
            Ok::<_, CallError>(stream::repeat_with(|| Ok::<_, CallError>("x".repeat(10_000))))
        })
        .build()?
        .start()
        .await?;
    let reader = hub.client().await?;
    let mut items = reader.request("demo.flood").input(serde_json::json!({})).subscribe().await?;
    items.next().await.context("an item")??;
    // Nobody reads any more; give the flow time to stop: the record's count of items then stands still.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let other = hub.client().await?;
    let running = ListCalls { operation_id: Some("demo.flood".into()), ..ListCalls::default() };
    let call = other.call(&running).await?.calls.pop().context("the call")?;
    assert_eq!(call.status, CallStatus::Running);
    let abort = AbortCall { call_id: call.call_id, mode: AbortMode::Kill, reason: None, grace_ms: Some(5_000) };
    let receipts = other.call(&abort).await?.receipts;
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].outcome, AbortOutcome::Stopped, "{receipts:?}");
    let ended = other.call(&running).await?.calls.pop().context("the call")?;
    assert_eq!(ended.status, CallStatus::Aborted);
    drop(items);
    spoke.stop().await?;
    Ok(())
}
