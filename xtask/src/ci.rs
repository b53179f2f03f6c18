//! `cargo xtask ci`: all that a change must pass.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::process::{cargo, has_cargo_subcommand, run as run_command};
use crate::{suite, tidy};

type Step<'a> = (&'static str, Box<dyn Fn() -> Result<()> + 'a>);

/// Runs every step, tests last, and then fails if one of them failed: one run shows all there is to mend.
///
/// # Errors
/// Names the steps that failed.
pub(crate) fn run(options: &suite::Options) -> Result<()> {
    let steps: [Step<'_>; 6] = [
        ("format", Box::new(|| run_command(cargo().args(["fmt", "--all", "--", "--check"])))),
        ("tidy", Box::new(tidy::run)),
        ("licences", Box::new(licences)),
        ("clippy", Box::new(clippy)),
        ("docs", Box::new(docs)),
        ("tests", Box::new(|| suite::run(options, true))),
    ];
    let mut failed = Vec::new();
    let mut before = String::new();
    for (name, step) in steps {
        println!("\n== {name}{before}");
        let started = Instant::now();
        let result = step();
        before = format!("   ({name} took {:.0} s)", started.elapsed().as_secs_f32());
        if let Err(error) = result {
            println!("FAILED {name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

fn licences() -> Result<()> {
    if !has_cargo_subcommand("deny") {
        println!("not checked: cargo-deny isn't installed (cargo install cargo-deny --locked)");
        return Ok(());
    }
    // Advisories are left out: they change without a change here, and need the network.
    run_command(cargo().args(["deny", "--locked", "check", "bans", "licenses", "sources"]))
}

fn clippy() -> Result<()> {
    let args = ["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];
    run_command(cargo().args(args))
}

fn docs() -> Result<()> {
    let args = ["doc", "--locked", "--workspace", "--no-deps", "--all-features"];
    run_command(cargo().args(args).env("RUSTDOCFLAGS", "-D warnings"))
}
