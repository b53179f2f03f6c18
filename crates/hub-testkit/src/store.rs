//! Which store the hubs of a test run on: the same tests pass on both.
//!
//! With [`STORE_VARIABLE`] set to `postgres`, each data folder of a [`TestHub`](crate::TestHub) or a
//! [`HubProcess`](crate::HubProcess) stands for a database of its own on the server of this test run, made by the first
//! hub over it and dropped when this process has ended. The hubs get it, and the Redis server, through their
//! environment, so a test's own `--database` goes before.

use std::collections::HashMap;
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context as _, Result, bail, ensure};

use crate::servers::{postgres_url, redis_url};

/// Names the store of a test run: `sqlite`, the default, or `postgres`, which comes with Redis.
pub const STORE_VARIABLE: &str = "HUB_TEST_STORE";

/// Collects names of databases from its standard input, and drops them when that ends, however this process does. Out of
/// reach of the terminal and of the test runner, which kill a test's whole group.
const KEEPER: &str = r#"trap '' INT TERM HUP
names=
while read -r name; do names="$names $name"; done
for name in $names; do "$1" -Xq -d "$2" -c "DROP DATABASE IF EXISTS $name WITH (FORCE)"; done"#;

/// The databases of this process by data folder, with the pipe to their keeper.
static DATABASES: LazyLock<Mutex<Databases>> = LazyLock::new(Mutex::default);

#[derive(Default)]
struct Databases {
    by_folder: HashMap<PathBuf, String>,
    keeper: Option<ChildStdin>,
}

/// What hubs keep their data in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestStore {
    /// A file in the data folder; what hubs publish stays in their memory.
    Sqlite,
    /// A database of its own for each data folder, and Redis.
    Postgres,
}

impl TestStore {
    /// The one of this test run.
    ///
    /// # Errors
    /// The variable has another value.
    pub fn of_run() -> Result<Self> {
        match std::env::var_os(STORE_VARIABLE).unwrap_or_default().to_str() {
            Some("" | "sqlite") => Ok(Self::Sqlite),
            Some("postgres") => Ok(Self::Postgres),
            other => bail!("{STORE_VARIABLE} is sqlite or postgres, not {other:?}"),
        }
    }
}

/// The URL of the database that belongs to this data folder, which need not exist; makes it when there is none yet.
///
/// # Errors
/// There is no Postgres server, or no `psql`.
pub fn database_of(folder: &Path) -> Result<String> {
    let server = postgres_url()?;
    let folder = std::path::absolute(folder)?;
    let mut databases = DATABASES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(url) = databases.by_folder.get(&folder) {
        return Ok(url.clone());
    }
    let name = format!("hub_test_{}", uuid::Uuid::now_v7().simple());
    if databases.keeper.is_none() {
        databases.keeper = Some(start_keeper(&server)?);
    }
    let keeper = databases.keeper.as_mut().context("it was just started")?;
    writeln!(keeper, "{name}").context("the shell that drops databases has ended")?;
    psql(&server, &format!("CREATE DATABASE {name}"))?;
    let url = renamed(&server, &name)?;
    databases.by_folder.insert(folder, url.clone());
    Ok(url)
}

/// The environment that puts a hub over `folder` with these arguments on the store of this test run.
///
/// # Errors
/// As [`TestStore::of_run`] and [`database_of`].
pub fn store_settings(folder: &Path, flags: &[&str]) -> Result<Vec<(&'static str, String)>> {
    let own = flags.iter().any(|flag| flag.split('=').next() == Some("--database"));
    match TestStore::of_run()? {
        TestStore::Postgres if !own => Ok(vec![("HUB_DATABASE", database_of(folder)?), ("HUB_REDIS", redis_url()?)]),
        _ => Ok(Vec::new()),
    }
}

/// Runs a statement on the database of this URL; answers what it returns, columns by `|`, one row a line.
///
/// # Errors
/// What Postgres says.
pub fn psql(url: &str, sql: &str) -> Result<String> {
    client("psql", &["-XqAt", "-v", "ON_ERROR_STOP=1", "-d", url, "-c", sql])
}

/// The whole database of this URL as text, which is the same as long as the database is.
///
/// # Errors
/// What Postgres says.
pub fn pg_dump(url: &str) -> Result<String> {
    let text = client("pg_dump", &["-d", url])?;
    // `\restrict` and `\unrestrict` come with a random word.
    let stays = |line: &&str| !line.starts_with("\\restrict ") && !line.starts_with("\\unrestrict ");
    Ok(text.split_inclusive('\n').filter(stays).collect())
}

fn client(program: &str, args: &[&str]) -> Result<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot start {program}: install the Postgres client"))?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(String::from_utf8(output.stdout)?)
}

fn start_keeper(server: &str) -> Result<ChildStdin> {
    let mut keeper = Command::new("/bin/sh");
    keeper.args(["-c", KEEPER, "keeper", "psql", server]).process_group(0).current_dir("/");
    keeper.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let keeper = keeper.spawn().context("cannot start /bin/sh")?;
    keeper.stdin.context("standard input was asked for")
}

/// The same server's database of another name.
fn renamed(url: &str, name: &str) -> Result<String> {
    let (base, query) = url.split_at(url.find('?').unwrap_or(url.len()));
    let (server, _) = base.rsplit_once('/').context("a URL of Postgres ends with /DATABASE")?;
    Ok(format!("{server}/{name}{query}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_keeps_its_database() -> Result<()> {
        let (one, other) = (Path::new("one"), Path::new("other"));
        let url = database_of(one)?;
        assert_eq!(database_of(one)?, url);
        assert_ne!(database_of(other)?, url);
        psql(&url, "CREATE TABLE here (n int)")?;
        assert_eq!(psql(&url, "SELECT count(*), 'x' FROM here")?.trim(), "0|x");
        assert!(psql(&url, "SELECT nothing").is_err());
        let dump = pg_dump(&url)?;
        assert!(dump.contains("CREATE TABLE public.here") && dump == pg_dump(&url)?);
        Ok(())
    }

    #[test]
    fn the_name_of_the_database_is_replaced() -> Result<()> {
        assert_eq!(renamed("postgres://a@b:1/c", "d")?, "postgres://a@b:1/d");
        assert_eq!(renamed("postgres://a@b:1/c?sslmode=disable&x=/y", "d")?, "postgres://a@b:1/d?sslmode=disable&x=/y");
        Ok(())
    }
}
