//! Automation of this workspace, run as `cargo xtask <command>`.
//!
//! **Purpose.** One entry for what people and CI run: the test suite with everything it needs, the full check of a
//! change, the house rules that no compiler knows, the committed operation catalogue, the benchmarks.
//!
//! **Non-goals.** No part of the product. No crate depends on it.
//!
//! **Invariants.** Nothing is left out silently; tests run last, so that their runner's summary ends the log; whatever
//! is installed goes below `target/test-tools/`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "xtask talks to the person who runs it")]

mod ci;
mod help;
mod process;
mod schema;
mod servers;
mod suite;
mod tidy;
mod tools;

use std::process::ExitCode;

use anyhow::{Result, bail};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        // Not `fn main() -> Result<()>`: with RUST_BACKTRACE set, that buries the message under a backtrace.
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let (command, rest) = args.split_first().map_or(("help", &[][..]), |(head, rest)| (head.as_str(), rest));
    // What follows `bench` belongs to hub-bench, its --help included.
    if command != "bench" && rest.iter().any(|arg| arg == "--help" || arg == "-h") {
        return help::print(Some(command));
    }
    match command {
        "ci" => ci::run(&suite::Options::parse(rest)?),
        "test" => suite::run(&suite::Options::parse(rest)?, process::in_ci()),
        "servers" => no_arguments(rest).and_then(|()| servers::run()),
        "tidy" => no_arguments(rest).and_then(|()| tidy::run()),
        "schema" => schema::run(rest),
        "bench" => bench(rest),
        "help" | "--help" | "-h" => help::print(rest.first().map(String::as_str)),
        other => bail!("no command `{other}`; `cargo xtask --help` lists them"),
    }
}

fn bench(args: &[String]) -> Result<()> {
    if !process::root().join("bench/Cargo.toml").exists() {
        bail!("there is no crate hub-bench yet: it belongs in bench/, with \"bench\" in the root manifest's members");
    }
    process::run(process::cargo().args(["run", "--release", "--package", "hub-bench", "--"]).args(args))
}

fn no_arguments(args: &[String]) -> Result<()> {
    match args.first() {
        Some(arg) => bail!("unexpected argument `{arg}`; see `cargo xtask --help`"),
        None => Ok(()),
    }
}
