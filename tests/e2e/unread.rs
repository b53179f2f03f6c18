//! Promise 6: a reader that stops reading hurts only itself.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hub_protocol::{CallError, close};
use hub_testkit::TestHub;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Serialize, Deserialize, JsonSchema)]
struct Size {
    bytes: usize,
}

/// Bytes queued for the reader before its own calls are no longer read.
const BUFFER: usize = 256 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_is_closed_with_1013_and_others_notice_nothing() -> Result<()> {
    let buffer = BUFFER.to_string();
    let hub = TestHub::start_with(&["--stall-timeout-ms", "3000", "--outbound-buffer-bytes", &buffer]).await?;
    let spoke = hub
        .spoke("filler")
        .spoke_type("compute")
        .query("demo.fill", "A text of a size.", |_, s: Size| async move { Ok::<_, CallError>("x".repeat(s.bytes)) })
        .build()?
        .start()
        .await?;
    // The others' spoke: behind 20 MB of answers on one connection anybody would wait.
    let quick = hub
        .spoke("quick")
        .spoke_type("compute")
        .query("demo.quick", "A short text.", |_, s: Size| async move { Ok::<_, CallError>("x".repeat(s.bytes)) })
        .build()?
        .start()
        .await?;
    let other = hub.client().await?;
    let mut deaf = hub.raw().await?;
    // 20 MB in answers of 100 kB: more than the buffers of hub and kernels together.
    for n in 0..200 {
        let id = n.to_string();
        let asked = deaf.request(&id, "demo.fill", json!({ "bytes": 100_000 }));
        // A hub that no longer reads from it makes even asking stall; that is as it should be.
        if tokio::time::timeout(Duration::from_millis(200), asked).await.is_err() {
            break;
        }
    }
    let started = Instant::now();
    // One recorder serves all hubs of a process, so only the growth counts.
    let before = slow_consumers(&hub).await?;
    let mut slowest = Duration::ZERO;
    while slow_consumers(&hub).await? == before {
        ensure!(started.elapsed() < Duration::from_secs(20), "the deaf reader was not found");
        let asked = Instant::now();
        other.call_raw("demo.quick", json!({ "bytes": 10 })).await?;
        slowest = slowest.max(asked.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Now it reads again, just in time to be told.
    let closed = deaf.closed().await?;
    assert_eq!(closed.code, close::SLOW_CONSUMER, "{closed:?}");
    // Whoever waited for the deaf reader would have waited until it was closed, after 3 s at least.
    ensure!(slowest < Duration::from_secs(2), "another caller waited {slowest:?}");
    other.call_raw("demo.quick", json!({ "bytes": 10 })).await.context("others go on")?;
    quick.stop().await?;
    spoke.stop().await?;
    Ok(())
}

async fn slow_consumers(hub: &TestHub) -> Result<u64> {
    let address = hub.url().replace("http://", "").parse()?;
    let metrics = hub_testkit::http(address, "GET", "/metrics", "", &serde_json::Value::Null).await?.body;
    let line = metrics.lines().find(|line| line.starts_with("hub_slow_consumers_total "));
    Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0))
}
