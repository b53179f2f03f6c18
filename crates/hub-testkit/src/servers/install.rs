use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use super::{POSTGRES_VARIABLE, REDIS_VARIABLE, postgres, redis};

/// A package manager: its program, what installs without asking, and its names of Postgres and Redis.
struct Manager {
    program: &'static str,
    install: &'static [&'static str],
    packages: [&'static str; 2],
    needs_root: bool,
}

const MANAGERS: [Manager; 4] = [
    Manager {
        program: "apt-get",
        install: &["install", "-y", "--no-install-recommends"],
        packages: ["postgresql", "redis-server"],
        needs_root: true,
    },
    Manager { program: "dnf", install: &["install", "-y"], packages: ["postgresql-server", "redis"], needs_root: true },
    Manager { program: "apk", install: &["add"], packages: ["postgresql", "redis"], needs_root: true },
    Manager { program: "brew", install: &["install"], packages: ["postgresql", "redis"], needs_root: false },
];

/// Installs what is missing with the system's package manager, where that needs no password. A system server that such
/// a package starts is left alone.
///
/// # Errors
/// One line that says what to install, or which variables to set instead.
pub fn ensure_installed(postgres: bool, redis: bool) -> Result<()> {
    let missing = || {
        let postgres = (postgres && postgres::programs().is_none()).then_some(0);
        let redis = (redis && redis::program().is_none()).then_some(1);
        postgres.into_iter().chain(redis).collect::<Vec<usize>>()
    };
    let wanted = missing();
    if wanted.is_empty() {
        return Ok(());
    }
    let manager = MANAGERS.iter().find(|manager| succeeds(Command::new(manager.program).arg("--version")));
    if let Some(manager) = manager {
        install(manager, &wanted);
    }
    let missing = missing();
    if missing.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = missing.iter().map(|which| ["Postgres", "Redis (or Valkey)"][*which]).collect();
    let variables: Vec<_> = missing.iter().map(|which| [POSTGRES_VARIABLE, REDIS_VARIABLE][*which]).collect();
    bail!("tests need {}: install it, or set {}", names.join(" and "), variables.join(" and "));
}

/// What came of it is seen by looking again.
fn install(manager: &Manager, wanted: &[usize]) {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout.trim_ascii() == b"0");
    let with_sudo = manager.needs_root && !is_root;
    if with_sudo && !succeeds(Command::new("sudo").args(["-n", "true"])) {
        return;
    }
    let command = || {
        let mut command = Command::new(if with_sudo { "sudo" } else { manager.program });
        if with_sudo {
            command.args(["-n", manager.program]);
        }
        command
    };
    if manager.program == "apt-get" {
        succeeds(command().arg("update"));
    }
    succeeds(command().args(manager.install).args(wanted.iter().map(|which| manager.packages[*which])));
}

fn succeeds(command: &mut Command) -> bool {
    command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
