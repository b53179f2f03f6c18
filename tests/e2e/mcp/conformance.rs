//! MCP's official conformance suite, every revision that it knows, against a hub with the tools of fixtures.py imported
//! through `hub spoke mcp`. What is expected to fail, and why, is in expected-*.yml; anything else that fails is an
//! error, and so is what is expected to fail and passes.

use std::path::Path;

use anyhow::{Result, ensure};
use hub_testkit::{TestHub, run};

use crate::tools::{Program, node, python};

const SUITE: &str = "@modelcontextprotocol/conformance";

async fn conforms(revision: &str) -> Result<()> {
    let (Some(node), Some(python)) = (node().await?, python().await?) else { return Ok(()) };
    let hub = TestHub::start().await?;
    let (flags, python) = (["--no-scope", "--as-tools", "--stream", "test_tool_with_progress"], python.program());
    let program = ["--", &python, super::FIXTURES];
    let _fixtures = super::offering(&hub, "fixtures", &[&flags[..], &program].concat()).await?;
    let here = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/mcp"));
    let key_file = hub.folder().join("admin.key");
    let mut proxy = node.command(hub.folder());
    let mut proxy = Program::start(proxy.arg(here.join("add_key.mjs")).arg(hub.url()).arg(key_file))?;
    let url = format!("http://127.0.0.1:{}/mcp", proxy.line().await?);
    let mut suite = node.command(hub.folder());
    suite.arg(node.file(&format!("{SUITE}/dist/index.js"))).args(["server", "--url", &url, "--requirements", revision]);
    suite.arg("--expected-failures").arg(here.join(format!("expected-{revision}.yml")));
    let ran = run(&mut suite).await?;
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
