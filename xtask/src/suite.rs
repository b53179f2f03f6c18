//! `cargo xtask test`: every test, with the tools and servers some of them need.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::process::{cargo, has_cargo_subcommand, in_ci, run as run_command, run_noting};
use crate::servers::Servers;
use crate::tools;

/// The end-to-end tests that are not run again on Postgres, by module, and why.
const NOT_AGAIN: [(&str, &str); 7] = [
    ("sqlite", "what only SQLite has; the module says why"),
    ("cluster", "several hubs, which share a Postgres in the first run already"),
    ("import", "copies from one store to another, both its own"),
    ("nginx", "what a proxy passes on, whatever the store"),
    ("service", "what a service manager is told, whatever the store"),
    ("mcp::conformance", "what MCP asks of its messages, whatever the store"),
    ("mcp::servers", "what the official servers answer, whatever the store"),
];

/// Names the store that the hubs of end-to-end tests run on, as in hub-testkit.
const STORE_VARIABLE: &str = "HUB_TEST_STORE";

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

/// Runs the doc tests, all others, and the end-to-end tests again on Postgres and Redis; repeats the runner's summaries
/// at the end.
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
    let nextest = has_cargo_subcommand("nextest");
    if !nextest {
        println!("cargo-nextest isn't installed: using cargo test (cargo install cargo-nextest --locked)");
    }
    let mut doc_tests = cargo();
    doc_tests.args(["test", "--workspace", "--all-features", "--no-fail-fast", "--doc"]);
    let mut all = runner(nextest);
    if !nextest {
        all.args(["--workspace", "--lib", "--bins", "--tests", "--examples"]);
    }
    let mut again = runner(nextest);
    again.env(STORE_VARIABLE, "postgres");
    if nextest {
        // Of the whole workspace, so that nothing is built anew with fewer features. A name that the person asked for
        // need not be one of these.
        let modules = NOT_AGAIN.map(|(module, _)| module).join("|");
        again.args(["-E", &format!("package(hub-e2e) & not test(/^({modules})::/)"), "--no-tests", "pass"]);
    } else {
        again.args(["--package", "hub-e2e", "--tests"]);
    }
    // One of each for the whole run; they end with this function.
    let servers = Servers::start()?;
    for command in [&mut doc_tests, &mut all, &mut again] {
        command.args(locked.then_some("--locked"));
        tools::variables().for_each(|name| _ = command.env_remove(name));
        command.envs(environment.iter().map(|(name, value)| (name, value))).envs(servers.environment());
        add_filters(command, &options.filters);
    }
    all.env_remove(STORE_VARIABLE);
    if !nextest {
        again.args(options.filters.is_empty().then_some("--"));
        again.args(NOT_AGAIN.iter().flat_map(|(module, _)| ["--skip".to_owned(), format!("{module}::")]));
    }
    let doc_tests = run_command(&mut doc_tests);
    let started = Instant::now();
    let (all, first_summary) = run_noting(&mut all, SUMMARY);
    let first_took = started.elapsed();
    println!("\nOnce more on Postgres and Redis: the end-to-end tests, without");
    for (module, why) in NOT_AGAIN {
        println!("  {module}::    {why}");
    }
    let started = Instant::now();
    let (again, second_summary) = run_noting(&mut again, SUMMARY);
    let took = [first_took, started.elapsed()];
    println!();
    let runs = [
        ("all tests, hubs on SQLite", &all, first_summary),
        ("end-to-end, hubs on Postgres and Redis", &again, second_summary),
    ];
    for ((what, outcome, summary), took) in runs.into_iter().zip(took) {
        let outcome = if outcome.is_ok() { "passed" } else { "FAILED" };
        println!("{outcome} in {:.0} s: {what}", took.as_secs_f32());
        summary.iter().for_each(|line| println!("{line}"));
    }
    doc_tests.and(all).and(again)
}

/// How the line of nextest begins that says how many tests passed.
const SUMMARY: &str = "Summary [";

fn runner(nextest: bool) -> Command {
    let mut runner = cargo();
    if nextest {
        runner.args(["nextest", "run", "--workspace", "--all-features", "--no-fail-fast"]);
        runner.args(["--profile", if in_ci() { "ci" } else { "default" }]);
    } else {
        runner.args(["test", "--all-features", "--no-fail-fast"]);
    }
    runner
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
