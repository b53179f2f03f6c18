//! The shipped container files before programs that know their formats, since the suite can't run containers.

use std::path::Path;

use anyhow::{Result, ensure};
use tempfile::TempDir;
use tokio::process::Command;

use crate::tools::python;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy");
/// Named in docs/deploy.md.
const OLDEST_KUBERNETES: &str = "1.30";

async fn accepts(linter: &mut Command, file: &str) -> Result<()> {
    let output = linter.arg(Path::new(DEPLOY).join(file)).output().await?;
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    ensure!(output.status.success(), "{file}: {said}");
    Ok(())
}

#[tokio::test]
async fn linters_accept_the_container_files() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let home = TempDir::new()?;
    let mut compose = python.command(home.path());
    compose.args(["-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]);
    accepts(&mut compose, "compose.yaml").await?;
    let mut kubernetes = python.command(home.path());
    kubernetes.args(["-m", "kubernetes_validate", "--strict", "-k", OLDEST_KUBERNETES]);
    accepts(&mut kubernetes, "kubernetes/hub.yaml").await?;
    accepts(&mut Command::new(python.file("bin/hadolint")), "docker/Dockerfile").await
}
