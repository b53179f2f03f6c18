//! What tests need from outside of cargo: found, or installed below `target/test-tools/`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::process::{command, output, root};

/// Names the tools that `--without` gave up, comma-separated.
pub(crate) const WITHOUT: &str = "HUB_TEST_WITHOUT";

/// An interpreter with one package.
pub(crate) struct Tool {
    /// The word for `--without`.
    pub(crate) name: &'static str,
    /// Programs to try, in this order.
    programs: &'static [&'static str],
    /// Arguments that make it print its own absolute path.
    locate: [&'static str; 2],
    /// Arguments that succeed if the package can be loaded, in a version that tests can use.
    probe: [&'static str; 2],
    /// The interpreter's own variable for package folders.
    search_path: &'static str,
    /// Folder of the packages below `target/test-tools/`.
    folder: &'static str,
    /// Variables that hand program and folder to the tests.
    variables: [&'static str; 2],
    /// Makes the command that installs the package, from the interpreter and the folder.
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
        // Both came with version 13; a distribution's older one is passed over.
        probe: ["-c", "import websockets.asyncio.client, websockets.sync.client"],
        search_path: "PYTHONPATH",
        folder: "py",
        variables: ["HUB_TEST_PYTHON", "HUB_TEST_PYTHONPATH"],
        install: pip_install,
        hint: "install python3 with pip (apt-get install python3 python3-pip)",
    },
    Tool {
        name: "node",
        programs: &["node", "nodejs"],
        locate: ["-p", "process.execPath"],
        // From 22.18 on node runs TypeScript by itself, before that with the package that it has built in since.
        probe: ["-e", "require('ws'); process.features.typescript || require('amaro')"],
        search_path: "NODE_PATH",
        folder: "node/node_modules",
        variables: ["HUB_TEST_NODE", "HUB_TEST_NODE_PATH"],
        install: npm_install,
        hint: "install node with npm (apt-get install nodejs npm)",
    },
];

fn pip_install(python: &Path, folder: &Path) -> Command {
    let mut pip = command(python);
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--retries", "2"]);
    pip.args(["--upgrade", "--target"]).arg(folder).arg("websockets>=13");
    pip
}

fn npm_install(_node: &Path, folder: &Path) -> Command {
    let mut npm = command("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--fetch-retries=2", "--prefix"]);
    // npm adds `node_modules` by itself.
    npm.arg(folder.parent().unwrap_or(folder)).args(["ws@8", "amaro@1"]);
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

/// Returns the interpreter, after making sure that it can load the package.
fn prepare_one(tool: &Tool, folder: &Path) -> Result<PathBuf> {
    let located = tool.programs.iter().find_map(|program| output(command(program).args(tool.locate)).ok());
    let Some(program) = located.map(|path| PathBuf::from(path.trim())) else {
        bail!("there is no program {}", tool.programs.join(" or "));
    };
    let probe = || output(command(&program).args(tool.probe).env(tool.search_path, folder));
    if probe().is_err() {
        println!("installing what tests need from {} into {}", tool.name, folder.display());
        output(&mut (tool.install)(&program, folder))?;
        probe()?;
    }
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
