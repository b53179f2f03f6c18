//! Streams that a client lost and asks for the rest of, with `Last-Event-ID`.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use hub_testkit::TestHub;
use serde_json::{Value, json};

use super::spoke;
use super::tasks::slow;
use super::wire::{Event, Session, runs};
use crate::tools::{Program, node};

fn call(id: u64, operation: &str, input: Value) -> Value {
    let arguments = json!({ "operationId": operation, "input": input });
    let params = json!({ "name": "call", "arguments": arguments, "_meta": { "progressToken": id } });
    json!({ "jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params })
}

/// The rest of a stream that is known.
async fn rest(session: &Session, after: &Event) -> Result<Vec<Event>> {
    let (status, rest) = session.rest(&after.id).await?;
    ensure!(status == 200, "{status} after {after:?}");
    Ok(rest)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_was_lost_is_told_again() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-06-18").await?;
    let begun = session.begin_reading(&call(7, "demo.count", json!(3)), 1).await?;
    let first = begun.first().context("an event")?;
    let all = rest(&session, first).await?;
    let kinds: Vec<String> = all.iter().map(|event| event.message["params"]["progress"].to_string()).collect();
    ensure!(kinds == ["1.0", "2.0", "3.0", "null"], "{all:?}");
    let answer = all.last().context("an answer")?;
    ensure!(answer.message["id"] == 7, "{answer:?}");
    ensure!(answer.message["result"]["structuredContent"]["items"] == json!([0, 1, 2]), "{answer:?}");
    // Where it was cut is where it goes on, as often as it is asked for.
    for (at, event) in all.iter().enumerate() {
        ensure!(rest(&session, event).await? == all[at + 1..], "after {event:?}");
    }
    // What is not its own, or is not there, is not told.
    let other = Session::begin(&hub, hub.admin_key(), "2025-06-18").await?;
    for (session, id) in [(&other, first.id.as_str()), (&session, "9/0"), (&session, "0/999"), (&session, "x/y")] {
        let (status, events) = session.rest(id).await?;
        ensure!(status == 400 && events.is_empty(), "{id}: {status} {events:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_there_yet_is_waited_for() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_slow, gate) = slow(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-11-25").await?;
    let begun = session.begin_reading(&call(1, "slow.work", json!({})), 1).await?;
    let open = async {
        runs(&hub, "slow.work").await?;
        gate.add_permits(1);
        Ok(())
    };
    // Two who ask are both told.
    let (one, two, ()) = tokio::try_join!(rest(&session, &begun[0]), rest(&session, &begun[0]), open)?;
    ensure!(one == two && one.len() == 1 && one[0].message["result"]["structuredContent"]["data"] == "done", "{one:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn all_answers_to_a_batch_are_told_again() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let (_slow, gate) = slow(&hub).await?;
    let session = Session::begin(&hub, hub.admin_key(), "2025-03-26").await?;
    let batch =
        json!([call(1, "slow.work", json!({})), call(2, "demo.count", json!(2)), call(3, "demo.add", json!([1]))]);
    let begun = session.begin_reading(&batch, 1).await?;
    gate.add_permits(1);
    let all = rest(&session, &begun[0]).await?;
    let mut answered: Vec<u64> = all.iter().filter_map(|event| event.message["id"].as_u64()).collect();
    answered.sort_unstable();
    ensure!(answered == [1, 2, 3] && all.len() == 5, "{all:?}");
    ensure!(rest(&session, &all[3]).await? == all[4..]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_client_resumes() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let hub = TestHub::start().await?;
    let (_slow, gate) = slow(&hub).await?;
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/mcp/resume.mjs"));
    let mut command = node.command(hub.folder());
    command.env("HUB_KEY", hub.new_key(&[]).await?).arg(script).arg(format!("{}/mcp", hub.url()));
    let mut host = Program::start(&mut command)?;
    ensure!(host.line().await? == "cut");
    gate.add_permits(1);
    super::wire::completed(&hub, "slow.work").await?;
    host.tell("resume").await?;
    ensure!(host.line().await? == "done");
    ensure!(host.child.wait().await?.success());
    Ok(())
}
