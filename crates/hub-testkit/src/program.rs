use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Longest run of a program.
const LONGEST: Duration = Duration::from_secs(30);

/// A program that has ended.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

/// Says that a test has been left out, and why: nothing is left out silently.
#[expect(clippy::print_stdout, reason = "the test's output is where people look")]
pub fn left_out(why: &str) {
    println!("LEFT OUT: {why}");
}

/// A built program of this workspace, beside the running test in the target folder.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    let folder = test.parent().and_then(Path::parent).context("a test runs in target/PROFILE/deps")?;
    let binary = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    anyhow::ensure!(
        binary.exists(),
        "{} is not built: run `cargo xtask test`, which builds it first",
        binary.display()
    );
    Ok(binary)
}

/// A command with nothing of this process' environment but the way to programs, and `home` as home and folder.
pub fn command(program: impl AsRef<Path>, home: &Path) -> Command {
    let mut command = Command::new(program.as_ref());
    command.env_clear().current_dir(home).env("HOME", home).kill_on_drop(true);
    command
        .envs(["PATH", "SYSTEMROOT", "LLVM_PROFILE_FILE"].into_iter().filter_map(|n| Some((n, std::env::var_os(n)?))));
    command
}

/// Runs a program to its end, at most 30 s.
pub async fn run(command: &mut Command) -> Result<Ran> {
    run_with(command, "").await
}

/// As [`run`], with `input` on its standard input.
pub async fn run_with(command: &mut Command, input: &str) -> Result<Ran> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.as_std().get_program()))?;
    let mut stdin = child.stdin.take().context("standard input was asked for")?;
    // A program that does not read is no fault.
    let _unread = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let ended = tokio::time::timeout(LONGEST, child.wait_with_output()).await;
    let output = ended.with_context(|| format!("{:?} did not end in time", command.as_std()))??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) })
}
