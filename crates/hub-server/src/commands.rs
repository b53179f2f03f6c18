//! What the binary does beside running a hub. Each answers whether all is well, and prints what it found.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "commands talk to the person who runs them")]

mod health;
mod import;
pub mod keyring;
mod progress;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hub_storage::{PostgresOptions, SqliteOptions, Store, VerifyProgress};
use serde_json::json;

use crate::config::Config;
use crate::lock::FolderLock;

pub use health::health;
pub use import::import;
use progress::Line;

/// Findings at which [`Store::verify`] stops.
const MOST_FINDINGS: usize = 1_000;

/// Applies the migrations that the configured database lacks, or only lists them.
///
/// # Errors
/// When there is no such file, a hub has it, or the database refuses.
pub async fn migrate(config: &Config, dry_run: bool, as_json: bool) -> Result<bool> {
    let names = match &config.database {
        Some(url) if dry_run => Store::pending_postgres(url).await.context("cannot read the database")?,
        Some(url) => Store::migrate_postgres(url).await.context("cannot migrate the database")?,
        None => migrate_file(config, dry_run).await?,
    };
    if as_json {
        let list = if dry_run { "pending" } else { "applied" };
        println!("{}", json!({ list: names }));
        return Ok(true);
    }
    match (names.is_empty(), dry_run) {
        (true, _) => println!("the database is up to date"),
        (false, true) => println!("would apply:"),
        (false, false) => println!("applied:"),
    }
    for name in &names {
        println!("  {name}");
    }
    Ok(true)
}

async fn migrate_file(config: &Config, dry_run: bool) -> Result<Vec<String>> {
    let file = existing_file(config)?;
    let names = Store::pending_sqlite(&file).await.with_context(|| format!("cannot read {}", file.display()))?;
    if !dry_run && !names.is_empty() {
        let _lock = FolderLock::take(&config.data_dir)?;
        let opened = Store::open_sqlite(&file, SqliteOptions::default()).await;
        opened.with_context(|| format!("cannot migrate {}", file.display()))?.close().await;
    }
    Ok(names)
}

/// Looks whether what belongs together in the configured database is there; changes nothing.
///
/// # Errors
/// When there is no such database, it lacks migrations, or reading fails.
pub async fn verify(config: &Config, as_json: bool) -> Result<bool> {
    let store = open_to_verify(config).await?;
    let mut line = Line::if_long(as_json);
    let mut rows = BTreeMap::new();
    let findings = store.verify(|at: VerifyProgress| {
        rows.insert(at.table, at.rows);
        line.show("", || format!("looking at {}: {} rows", at.table, at.rows));
    });
    let findings = findings.await;
    line.end();
    let half = store.is_half_copied().await;
    store.close().await;
    let unfinished = half
        .context("cannot read the database")?
        .then(|| "an import into it was not finished: run `hub-server import` again".to_owned());
    let findings = findings.context("cannot read the database")?;
    let findings: Vec<String> = unfinished.into_iter().chain(findings.iter().map(ToString::to_string)).collect();
    if as_json {
        println!("{}", serde_json::to_string_pretty(&json!({ "findings": findings, "rows": rows }))?);
        return Ok(findings.is_empty());
    }
    for finding in &findings {
        println!("{finding}");
    }
    let total: u64 = rows.values().sum();
    match findings.len() {
        0 => println!("rows: {total}; nothing is wrong"),
        n if n >= MOST_FINDINGS => println!("rows: {total}; findings: {n} or more"),
        n => println!("rows: {total}; findings: {n}"),
    }
    Ok(findings.is_empty())
}

/// Opening would migrate; a check of a backup must leave it as it is.
async fn open_to_verify(config: &Config) -> Result<Store> {
    let lacks = |names: Vec<String>| {
        let list = names.join(", ");
        ensure!(names.is_empty(), "the database lacks migrations: {list}; run `hub-server migrate` first");
        Ok(())
    };
    match &config.database {
        Some(url) => {
            lacks(Store::pending_postgres(url).await.context("cannot read the database")?)?;
            Store::open_postgres(url, patient()).await.context("cannot open the database")
        }
        None => {
            let file = existing_file(config)?;
            let cannot = || format!("cannot read {}", file.display());
            lacks(Store::pending_sqlite(&file).await.with_context(cannot)?)?;
            Store::open_sqlite(&file, SqliteOptions::default()).await.with_context(cannot)
        }
    }
}

/// Copies the database file to a new file, also while a hub runs on it.
///
/// # Errors
/// When the database is no file, or one of the two files can't be used.
pub async fn backup(config: &Config, to: &Path, as_json: bool) -> Result<bool> {
    ensure!(
        config.database.is_none(),
        "a Postgres is backed up by its own tools, also while hubs use it: pg_dump --format=custom --file {} DATABASE_URL",
        to.display()
    );
    let from = existing_file(config)?;
    // Looked at again when the file is made; here for a text that says what to do.
    ensure!(!to.exists(), "cannot back up to {}: it exists already; choose a new --to", to.display());
    let store = Store::open_sqlite(&from, SqliteOptions::default()).await;
    let store = store.with_context(|| format!("cannot open {}", from.display()))?;
    let written = store.backup_to(to).await.with_context(|| format!("cannot back up to {}", to.display()));
    store.close().await;
    let bytes = written?;
    if as_json {
        println!("{}", json!({ "file": to, "bytes": bytes }));
    } else {
        println!(
            "wrote {} ({bytes} bytes); to restore, stop the hub and put it in place of {}",
            to.display(),
            from.display()
        );
    }
    Ok(true)
}

fn existing_file(config: &Config) -> Result<PathBuf> {
    let file = config.data_dir.join("hub.db");
    ensure!(file.exists(), "no database at {}: is --data-dir right?", file.display());
    Ok(file)
}

/// For reading whole tables, where a hub's statements touch few rows.
fn patient() -> PostgresOptions {
    PostgresOptions { pool: 2, statement_timeout: Duration::from_secs(600), ..PostgresOptions::default() }
}
