//! `cargo xtask test`: every test, with the tools and servers some of them need.

use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{cargo, has_cargo_subcommand, in_ci, run as run_command};
use crate::servers::Servers;
use crate::tools;

/// What the person asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Options {
    /// Run only tests whose names contain one of these; all if empty.
    filters: Vec<String>,
    /// Tools to do without, as named by [`tools::Tool::name`].
    without: Vec<String>,
}

impl Options {
    /// Reads `[filter...] [--without tool]...`.
    ///
    /// # Errors
    /// An unknown flag or tool.
    pub(crate) fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            let tool = match arg.split_once('=') {
                Some(("--without", tool)) => Some(tool),
                _ if arg == "--without" => Some(args.next().map_or("", String::as_str)),
                _ => None,
            };
            match tool {
                Some(tool) => options.without.extend(tool.split(',').map(known_tool).collect::<Result<Vec<_>>>()?),
                None if arg.starts_with('-') => bail!("unknown flag `{arg}`; see `cargo xtask test --help`"),
                None => options.filters.push(arg.clone()),
            }
        }
        Ok(options)
    }
}

fn known_tool(name: &str) -> Result<String> {
    match tools::ALL.iter().find(|tool| tool.name == name) {
        Some(tool) => Ok(tool.name.to_owned()),
        None => bail!("--without takes python or node, not `{name}`"),
    }
}

/// Runs the doc tests and then the others, whose runner's summary so comes last.
///
/// # Errors
/// A tool or server is missing, the programs don't build, or a test failed.
pub(crate) fn run(options: &Options, locked: bool) -> Result<()> {
    let environment = tools::prepare(&options.without)?;
    Servers::prepare()?;
    // Tests start the programs that they find beside themselves in the target folder; cargo builds those of another
    // package for nobody, and stale ones would be tested instead.
    let mut programs = cargo();
    programs.args(["build", "--workspace", "--all-features", "--bins"]).args(locked.then_some("--locked"));
    run_command(&mut programs)?;
    let mut doc_tests = cargo();
    doc_tests.args(["test", "--workspace", "--all-features", "--no-fail-fast", "--doc"]);
    let mut others = cargo();
    let nextest = has_cargo_subcommand("nextest");
    if nextest {
        others.args(["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
        others.args(["--profile", if in_ci() { "ci" } else { "default" }]);
    } else {
        println!("cargo-nextest isn't installed: using cargo test (cargo install cargo-nextest --locked)");
        let targets = ["--lib", "--bins", "--tests", "--examples"];
        others.args(["test", "--workspace", "--all-features", "--no-fail-fast"]).args(targets);
    }
    // One of each for the whole run; they end with this function.
    let servers = Servers::start()?;
    for command in [&mut doc_tests, &mut others] {
        command.args(locked.then_some("--locked"));
        tools::variables().for_each(|name| _ = command.env_remove(name));
        command.envs(environment.iter().map(|(name, value)| (name, value))).envs(servers.environment());
    }
    add_filters(&mut doc_tests, &options.filters);
    add_filters(&mut others, &options.filters);
    let doc_tests = run_command(&mut doc_tests);
    let others = run_command(&mut others);
    doc_tests.and(others)
}

/// Both runners take names after `--`; nextest before it too, but cargo test only one.
fn add_filters(command: &mut Command, filters: &[String]) {
    if !filters.is_empty() {
        command.arg("--").args(filters);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn filters_and_tools_are_told_apart() {
        let options = parse("calls:: --without python --without=node deadline").unwrap();
        assert_eq!(options.filters, ["calls::", "deadline"]);
        assert_eq!(options.without, ["python", "node"]);
        assert_eq!(parse("--without python,node").unwrap().without, ["python", "node"]);
        assert_eq!(parse("").unwrap(), Options::default());
    }

    #[test]
    fn unknown_flags_and_tools_are_refused() {
        for line in ["--release", "--without", "--without perl", "--without=", "-p hub-core"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
