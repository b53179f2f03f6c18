//! Tasks of MCP hosts, begun at one hub and asked for at another.

use std::sync::Arc;

use anyhow::{Result, ensure};
use hub_protocol::CallError;
use hub_testkit::eventually;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use super::bed::Bed;
use crate::mcp::tasks::{REVISION, created};
use crate::mcp::wire::Session;

#[tokio::test(flavor = "multi_thread")]
async fn a_task_is_known_to_all_hubs() -> Result<()> {
    let bed = Bed::start(2).await?;
    let gate = Arc::new(Semaphore::new(0));
    let through = Arc::clone(&gate);
    let spoke = bed.spoke(0, "worker").query("work.slow", "Works.", move |_, _: Value| {
        let gate = Arc::clone(&through);
        async move {
            gate.acquire().await.expect("nobody closes it").forget();
            Ok::<_, CallError>("done")
        }
    });
    let spoke =
        spoke.query("work.wait", "Waits for ever.", |_, _: Value| std::future::pending::<Result<u8, CallError>>());
    let _spoke = spoke.build()?.start().await?;
    let at = async |n: usize| Session::begin_at(([127, 0, 0, 1], bed.hubs[n].port).into(), &bed.key, REVISION).await;
    let (here, there) = (at(0).await?, at(1).await?);
    let (slow, wait) = (created(&here, "work.slow").await?, created(&here, "work.wait").await?);
    for id in [&slow, &wait] {
        eventually("the other hub knows it", async || {
            let got = there.ask(1, "tasks/get", json!({ "taskId": id })).await?;
            Ok((got["result"]["status"] == "working").then_some(()))
        })
        .await?;
    }
    let listed = there.ask(1, "tasks/list", json!({})).await?["result"]["tasks"].clone();
    let ids: Vec<&Value> = listed.as_array().into_iter().flatten().map(|task| &task["taskId"]).collect();
    ensure!(ids == [&wait, &slow], "{listed}");
    let waiting = there.ask(2, "tasks/result", json!({ "taskId": slow }));
    let (result, ()) = tokio::try_join!(waiting, async {
        gate.add_permits(1);
        Ok(())
    })?;
    ensure!(result["result"]["structuredContent"] == json!({ "data": "done", "callId": slow }), "{result}");
    there.ask(3, "tasks/cancel", json!({ "taskId": wait })).await?;
    for session in [&here, &there] {
        eventually("it is cancelled", async || {
            let got = session.ask(4, "tasks/get", json!({ "taskId": wait })).await?;
            Ok((got["result"]["status"] == "cancelled").then_some(()))
        })
        .await?;
    }
    Ok(())
}
