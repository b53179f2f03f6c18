//! MCP's official conformance suite, every revision that it knows, against a hub with the tools of fixtures.py imported
//! through `hub spoke mcp`. What is expected to fail, and why, is in expected-*.yml; anything else that fails is an
//! error, and so is what is expected to fail and passes.

use std::path::Path;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hub_testkit::{Ran, TestHub, run};

use crate::tools::{Program, Tool, node, python};

const SUITE: &str = "@modelcontextprotocol/conformance";

const HERE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/mcp");

/// A hub as the suite finds it.
struct Tested {
    hub: TestHub,
    node: Tool,
    url: String,
    _programs: [Program; 2],
}

impl Tested {
    async fn start(fixtures: &[&str]) -> Result<Option<Self>> {
        let (Some(node), Some(python)) = (node().await?, python().await?) else { return Ok(None) };
        let hub = TestHub::start().await?;
        let (flags, python) = (["--no-scope", "--as-tools", "--stream", "test_tool_with_progress"], python.program());
        let program = ["--", &python, super::FIXTURES];
        let fixtures = super::offering(&hub, "fixtures", &[&flags[..], &program, fixtures].concat()).await?;
        let key_file = hub.folder().join("admin.key");
        let mut proxy = node.command(hub.folder());
        let proxy = proxy.arg(Path::new(HERE).join("add_key.mjs")).arg(hub.url()).arg(key_file);
        let mut proxy = Program::start(proxy)?;
        let url = format!("http://127.0.0.1:{}/mcp", proxy.line().await?);
        Ok(Some(Self { hub, node, url, _programs: [fixtures, proxy] }))
    }

    async fn run(&self, more: &[&str]) -> Result<Ran> {
        let mut suite = self.node.command(self.hub.folder());
        suite.arg(self.node.file(&format!("{SUITE}/dist/index.js"))).args(["server", "--url", &self.url]).args(more);
        run(&mut suite).await
    }
}

async fn conforms(revision: &str) -> Result<()> {
    let Some(tested) = Tested::start(&[]).await? else { return Ok(()) };
    let expected = format!("{HERE}/expected-{revision}.yml");
    let ran = tested.run(&["--requirements", revision, "--expected-failures", &expected]).await?;
    ensure!(ran.code == Some(0) && ran.out.contains("Baseline check passed"), "{}\n{}", ran.out, ran.err);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_2025_11_25() -> Result<()> {
    conforms("2025-11-25").await
}

#[tokio::test(flavor = "multi_thread")]
async fn of_2026_07_28() -> Result<()> {
    conforms("2026-07-28").await
}

/// What the suite has on the tasks extension is not among a revision's requirements: its scenarios, and which of their
/// checks fail.
const TASKS: [(&str, &[&str]); 6] = [
    ("tasks-capability-negotiation", &[]),
    ("tasks-wire-fields", &[]),
    ("tasks-request-state-removal", &[]),
    ("tasks-request-headers", &[]),
    ("tasks-dispatch-and-envelope", &[]),
    // Every failure of a call is a result that says so, with and without a task, so that the model can read it.
    ("tasks-lifecycle", &["sep-2663-tasks-get-status-failed"]),
    // Not here: tasks-required-task-error, since no call has to be a task; tasks-mrtr-input and tasks-mrtr-composition,
    // since a call has nobody to ask on the way; tasks-status-notifications, which the suite skips.
];

#[tokio::test(flavor = "multi_thread")]
async fn of_the_tasks_extension() -> Result<()> {
    let Some(tested) = Tested::start(&["jobs"]).await? else { return Ok(()) };
    let tested = &tested;
    let checked = TASKS.iter().map(|(scenario, fails)| async move {
        let ran = tested.run(&["--scenario", scenario, "--spec-version", "2026-07-28", "--force"]).await?;
        let failed = ran.out.lines().filter(|line| line.contains("FAILURE"));
        let failed: Vec<&str> =
            failed.filter_map(|line| Some(line.split_once(" [")?.1.split(']').next()?.trim())).collect();
        ensure!(ran.out.contains("Test Results") && failed == *fails, "{scenario}: {}\n{}", ran.out, ran.err);
        Ok(())
    });
    // They wait most of their time; more at once would only wait for the processor.
    stream::iter(checked).buffer_unordered(2).try_collect().await
}

/// A revision that a newer suite brings is not passed over.
#[tokio::test]
async fn no_revision_is_left_out() -> Result<()> {
    let Some(node) = node().await? else { return Ok(()) };
    let files = std::fs::read_dir(node.file(&format!("{SUITE}/requirements")))?;
    let mut revisions = files.map(|file| Ok(file?.file_name())).collect::<Result<Vec<_>>>()?;
    revisions.sort();
    ensure!(revisions == ["2025-11-25.yaml", "2026-07-28.yaml"], "{revisions:?}");
    Ok(())
}
