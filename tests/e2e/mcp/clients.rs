//! The official clients, in the newest revision that each of them speaks and in the one before.

mod odd;

use std::path::Path;
use std::sync::Arc;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, stream};
use hub_protocol::CallError;
use hub_protocol::ops::calls::ListCalls;
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::tools::{Program, Tool, node, python};

/// Lets a program in `tests/e2e/mcp/` connect, list, call, stream and cancel.
async fn serves(tool: Option<Tool>, program: &str, mode: &str, version: &str) -> Result<()> {
    let Some(tool) = tool else { return Ok(()) };
    let hub = TestHub::start().await?;
    let _spoke = super::spoke(&hub).await?;
    // Its items come one by one, when they are let through.
    let gate = Arc::new(Semaphore::new(0));
    let through = Arc::clone(&gate);
    let steps = hub.spoke("steps").spoke_type("compute").stream("steps.count", "Counts.", move |_, to: u64| {
        let gate = Arc::clone(&through);
        let item = move |n| {
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.expect("nobody closes it").forget();
                Ok::<_, CallError>(n)
            }
        };
        async move { Ok::<_, CallError>(stream::iter(0..to).then(item)) }
    });
    let _steps = steps.build()?.start().await?;
    let mut host = start(&tool, &hub, &[program, mode]).await?;
    ensure!(says(&mut host).await? == json!({ "version": version }));
    ensure!(says(&mut host).await? == json!({ "tools": ["call", "list", "schema", "search"] }));
    ensure!(says(&mut host).await? == json!(3));
    for item in 1..=3 {
        gate.add_permits(1);
        let progress = says(&mut host).await?;
        ensure!(progress["progress"].as_f64() == Some(f64::from(item)), "{progress}");
    }
    ensure!(says(&mut host).await? == json!([0, 1, 2]));
    let client = hub.client().await?;
    let below = ListCalls { operation_id: Some("demo.wait".to_owned()), ..ListCalls::default() };
    eventually("the call's child runs", async || Ok((!client.call(&below).await?.calls.is_empty()).then_some(())))
        .await?;
    host.tell("cancel").await?;
    ensure!(says(&mut host).await? == json!("cancelled"));
    super::ended_aborted(&hub, "demo.parent").await?;
    super::ended_aborted(&hub, "demo.wait").await?;
    ensure!(says(&mut host).await? == json!(7));
    ensure!(host.child.wait().await?.success());
    Ok(())
}

/// A program in `tests/e2e/mcp/`, connected with a key without scopes.
async fn start(tool: &Tool, hub: &TestHub, words: &[&str]) -> Result<Program> {
    let script = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/mcp")).join(words[0]);
    let mut command = tool.command(hub.folder());
    command.env("HUB_KEY", hub.new_key(&[]).await?).arg(script).arg(format!("{}/mcp", hub.url())).args(&words[1..]);
    Program::start(&mut command)
}

async fn says(host: &mut Program) -> Result<Value> {
    Ok(serde_json::from_str(&host.line().await?)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript() -> Result<()> {
    serves(node().await?, "client.mjs", "client", "2026-07-28").await
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_of_the_first_generation() -> Result<()> {
    serves(node().await?, "client.mjs", "sdk", "2025-11-25").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_without_sessions() -> Result<()> {
    serves(python().await?, "client.py", "auto", "2026-07-28").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_with_a_session() -> Result<()> {
    serves(python().await?, "client.py", "legacy", "2025-11-25").await
}
