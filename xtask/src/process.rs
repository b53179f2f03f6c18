//! Starting other programs, always in the root of the workspace.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, anyhow, bail};

/// The folder of the root manifest.
pub(crate) fn root() -> PathBuf {
    // Cargo names the package it runs; the compiled-in path serves a binary that is started by hand.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    let package = PathBuf::from(package);
    package.parent().map_or(package.clone(), PathBuf::from)
}

/// Whether this run is CI's: the lock file is binding then.
pub(crate) fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false")
}

/// Whether a variable is there and not empty.
pub(crate) fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty())
}

/// A command that will run in the root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    command.current_dir(root());
    command
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut cargo = command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // What cargo told this program of itself. Build scripts that watch it (ring's) would run anew, with all that comes
    // after them, whenever cargo is started by hand and by this program in turn.
    let own = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_str().is_some_and(own)) {
        cargo.env_remove(name);
    }
    cargo
}

/// Whether `cargo <subcommand>` is installed.
pub(crate) fn has_cargo_subcommand(subcommand: &str) -> bool {
    output(cargo().args([subcommand, "--version"])).is_ok()
}

/// Shows and runs a command whose output is for the person.
///
/// # Errors
/// It didn't start, or ended with a failure.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command.status().with_context(|| format!("can't start `{}`", shown(command)))?;
    if !status.success() {
        bail!("`{}` failed ({status})", shown(command));
    }
    Ok(())
}

/// As [`run`], and repeats the lines of its standard error that begin so after blanks. To a terminal the command writes
/// by itself, in colour and with its progress, and nothing is noted: what it wrote is still to be seen.
pub(crate) fn run_noting(command: &mut Command, prefix: &str) -> (Result<()>, Vec<String>) {
    if std::io::stderr().is_terminal() {
        return (run(command), Vec::new());
    }
    println!("$ {}", shown(command));
    let mut noted = Vec::new();
    let mut follow = || {
        let mut child = command.stderr(Stdio::piped()).spawn()?;
        for line in child.stderr.take().into_iter().flat_map(|stderr| BufReader::new(stderr).split(b'\n')) {
            let line = String::from_utf8_lossy(&line?).into_owned();
            eprintln!("{line}");
            if line.trim_start().starts_with(prefix) {
                noted.push(line);
            }
        }
        child.wait()
    };
    let outcome = match follow() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(anyhow!("`{}` failed ({status})", shown(command))),
        Err(error) => Err(error).with_context(|| format!("can't run `{}`", shown(command))),
    };
    (outcome, noted)
}

/// Runs a command for its standard output.
///
/// # Errors
/// It didn't start, or ended with a failure: then the last line it wrote to standard error is part of the message.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("can't start `{}`", shown(command)))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last = errors.lines().rev().find(|line| !line.trim().is_empty());
        let last = last.map(|line| format!(": {}", line.trim())).unwrap_or_default();
        bail!("`{}` failed ({}){last}", shown(command), output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` wrote no UTF-8", shown(command)))
}

fn shown(command: &Command) -> String {
    let program = PathBuf::from(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    command.get_args().fold(name, |line, arg| line + " " + &arg.to_string_lossy())
}
