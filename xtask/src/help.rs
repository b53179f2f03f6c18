//! What `--help` says.

use anyhow::{Result, bail};

const OVERVIEW: &str = "\
cargo xtask <command>

  test [filter...]   run the whole test suite, or the tests whose names contain a filter
  servers            start the servers that tests use, for tests that are run by hand
  ci                 all that a change must pass: format, tidy, licences, clippy, docs, tests
  tidy               house rules that no compiler knows; takes a second
  schema [--check]   write docs/operations.json from the server, or compare it
  bench [args...]    run hub-bench in release

First time here?     cargo run --release      starts a hub
                     cargo xtask test         shows that it works on this machine
Before you push:     cargo xtask ci           the same that CI runs (.ci/run)

`cargo xtask <command> --help` says more.
";

const TEST: &str = "\
cargo xtask test [filter...] [--without python|node]

Builds the programs, which tests start, then runs the doc tests, then every other test with hubs on SQLite, then the
end-to-end tests again with hubs on Postgres and Redis. What the second run leaves out is named before it, and counted
as skipped by the runner; the summaries of both end the log. Uses cargo-nextest when it is installed (`cargo install
cargo-nextest --locked`), else `cargo test`. Never stops at the first failure.

  cargo xtask test                    everything
  cargo xtask test calls:: deadline   the tests whose names contain `calls::` or `deadline`
  cargo xtask test --without node     leave out what needs node, and say so

Some tests talk to the hub from other languages. Their interpreters are found (Node 22 is installed where the one found
is older), their packages are installed in pinned versions below target/test-tools/, and handed to the tests in these
variables:

  HUB_TEST_PYTHON      a python3, 3.10 or newer   HUB_TEST_PYTHONPATH  its PYTHONPATH: `websockets`, the client of MCP,
                                                                       a validator and a tester of OpenAPI
  HUB_TEST_NODE        a node, 22 or newer        HUB_TEST_NODE_PATH   its NODE_PATH: `ws`, `amaro`; clients, servers and
                                                                       conformance suite of MCP; a validator of OpenAPI
  HUB_TEST_WITHOUT     what --without named, comma-separated; tests that need it print that they were left out

Some need servers. A private Postgres and a private Redis (or Valkey) are started for the run, on free ports of the
loopback address over temp folders, and end with it; what isn't installed is installed with the system's package
manager where that needs no password. Servers of your own are used instead when you name them:

  HUB_TEST_POSTGRES_URL  a superuser and the database `postgres`; each test makes a database of its own
  HUB_TEST_REDIS_URL     each test uses a prefix of its own

A tool or server that can't be had fails the run. A single test under a debugger, without this command (`cargo xtask
servers` starts servers for it, and HUB_TEST_STORE=postgres puts hubs on them):

  cargo nextest run -p hub-operations -E 'test(deadline)' --no-capture
  HUB_TEST_STORE=postgres cargo nextest run -p hub-e2e -E 'not test(/^sqlite::/)'
";

const SERVERS: &str = "\
cargo xtask servers

Starts a private Postgres and a private Redis as `cargo xtask test` does, prints the two variables that name them to
tests, and waits for Ctrl-C, which ends both.
";

const CI: &str = "\
cargo xtask ci [--without python|node]

In this order, each even if one before it failed, tests last:

  format    cargo fmt --all -- --check                             mend with: cargo fmt --all
  tidy      cargo xtask tidy
  licences  cargo deny check bans licenses sources                 only if cargo-deny is installed
  clippy    cargo clippy --workspace --all-targets -- -D warnings
  docs      cargo doc --workspace --no-deps, warnings are errors
  tests     cargo xtask test

Cargo.lock must be up to date (--locked). With CI set, nextest uses its profile `ci` (.config/nextest.toml).
";

const TIDY: &str = "\
cargo xtask tidy

Reads the files that .gitignore doesn't name, and `cargo metadata`, and reports as `file:line: what`:

  layers      an edge between crates that isn't in the picture of docs/architecture.md; diesel outside hub-storage,
              tungstenite outside hub-server and hub-spoke, tokio in hub-protocol
  crates      description, `lints.workspace = true`, a front page (`//!` on the first line of lib.rs or main.rs)
  sources     files above 600 lines before their tests, mod.rs, allow attributes (use expect with a reason), leftovers
  decisions   adr/NNNN-*.md numbered without gaps, listed in adr/README.md, with the five headings
  migrations  the same names for every backend
  readme      the first two commands: cargo run --release, cargo xtask test
  links       Markdown links to files of the repository
  words       paths and names of the machine or tool a text was written with; package registries' hosts
";

const SCHEMA: &str = "\
cargo xtask schema [--check]

Asks the server for its operation catalogue (`hub-server operations --json`) and writes it to docs/operations.json,
which is committed: a change on the wire is a visible diff. With --check nothing is written, and a difference is an
error.
";

const BENCH: &str = "\
cargo xtask bench [args...]

Runs hub-bench in release; the arguments are its own (`cargo xtask bench --help`).
";

/// Prints the page of `command`, or the overview.
pub(crate) fn print(command: Option<&str>) -> Result<()> {
    let page = match command {
        None | Some("help" | "--help" | "-h") => OVERVIEW,
        Some("test") => TEST,
        Some("servers") => SERVERS,
        Some("ci") => CI,
        Some("tidy") => TIDY,
        Some("schema") => SCHEMA,
        Some("bench") => BENCH,
        Some(other) => bail!("no command `{other}`; `cargo xtask --help` lists them"),
    };
    print!("{page}");
    Ok(())
}
