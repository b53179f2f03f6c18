use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use hub_storage::{CopiedTable, SqliteOptions, Store, StoreError};
use serde_json::json;

use super::progress::{Bar, Line};
use super::{existing_file, patient};
use crate::config::Config;
use crate::lock::FolderLock;

const SAME: &str = "source and target are the same database: name a new, empty one with --to or --database-file";

/// Copies a whole database into an empty one and compares both; goes on where an earlier try ended.
///
/// `from` and `to` are `sqlite:PATH` or `postgres://…`; without them, the file in the data folder and the configured
/// `database`.
///
/// # Errors
/// When a hub uses one of the two, the target holds other data, or the two differ in the end.
pub async fn import(config: &Config, from: Option<&str>, to: Option<&str>, as_json: bool) -> Result<bool> {
    let from = match from {
        Some(text) => Place::parse("--from", text)?,
        None => Place::File(existing_file(config)?),
    };
    let to = match (to, &config.database) {
        (Some(text), _) => Place::parse("--to", text)?,
        (None, Some(url)) => Place::Postgres(url.clone()),
        (None, None) => bail!("where to? give --to postgres://…, or --database-file with the URL in a file"),
    };
    if let Place::File(path) = &from {
        ensure!(path.exists(), "no database at {}: is --from right?", path.display());
    }
    let _locks = lock(&from, &to)?;
    let source = from.open().await.context("cannot read the source")?;
    let target = to.open().await.context("cannot write to the target")?;
    let outcome = copy(&source, &target, as_json).await;
    source.close().await;
    target.close().await;
    report(&outcome?, as_json)?;
    if let (Place::File(path), false) = (&from, as_json) {
        println!("{} is as it was; keep it until you trust the copy, but start no hub on it", path.display());
    }
    Ok(true)
}

/// Takes the folders of files, each once: both may be in one.
fn lock(from: &Place, to: &Place) -> Result<Vec<FolderLock>> {
    let files = [from.file()?, to.file()?];
    ensure!(files[0].is_none() || files[0] != files[1], SAME);
    let folders: BTreeSet<_> = files.iter().flatten().filter_map(|file| file.parent()).collect();
    folders.into_iter().map(FolderLock::take).collect()
}

async fn copy(source: &Store, target: &Store, as_json: bool) -> Result<Vec<CopiedTable>> {
    let mut line = Line::new(as_json);
    if !as_json && target.is_half_copied().await? {
        eprintln!("going on with an import that did not end");
    }
    let mut bar = Bar::new(&source.sizes().await?);
    let copied = target.copy_from(source, |at| {
        let (step, text) = bar.at(at);
        line.show(&step, || text);
    });
    let copied = copied.await;
    line.end();
    copied.map_err(|error| match error {
        StoreError::Conflict { what: "a store that is copied into itself" } => anyhow!(SAME),
        StoreError::Conflict { what: "the copy" } => {
            anyhow!("source and copy differ: something wrote to one of them meanwhile; import into a new database")
        }
        StoreError::Conflict { .. } => anyhow!("the target holds data already; import into a new, empty database"),
        other => anyhow::Error::new(other).context("the import stopped; the same command goes on from here"),
    })
}

fn report(copied: &[CopiedTable], as_json: bool) -> Result<()> {
    let rows: u64 = copied.iter().map(|table| table.rows).sum();
    if as_json {
        let table = |t: &CopiedTable| json!({ "table": t.table, "rows": t.rows, "sha256": t.sha256 });
        let tables: Vec<_> = copied.iter().map(table).collect();
        println!("{}", serde_json::to_string_pretty(&json!({ "rows": rows, "tables": tables }))?);
        return Ok(());
    }
    for table in copied {
        println!("{:<16} {:>10} rows  sha256 {}", table.table, table.rows, table.sha256);
    }
    println!("imported {rows} rows; counts and hashes of both databases are the same");
    Ok(())
}

/// A database that is named on the command line. Never printed whole: a URL may hold a password.
enum Place {
    File(PathBuf),
    Postgres(String),
}

impl Place {
    fn parse(flag: &str, text: &str) -> Result<Self> {
        if let Some(path) = text.strip_prefix("sqlite:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            ensure!(!path.is_empty(), "{flag} sqlite: lacks the path of a file");
            return Ok(Self::File(path.into()));
        }
        let is_postgres = text.starts_with("postgres://") || text.starts_with("postgresql://");
        ensure!(is_postgres, "{flag} is neither sqlite:PATH nor postgres://user@host/name");
        Ok(Self::Postgres(text.to_owned()))
    }

    /// The file, without links and relative parts; it need not be there, its folder must.
    fn file(&self) -> Result<Option<PathBuf>> {
        let Self::File(path) = self else { return Ok(None) };
        if let Ok(file) = path.canonicalize() {
            return Ok(Some(file));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let found = folder.canonicalize();
        let found = found.map_err(|e| anyhow!("cannot use the folder {}: {e}; make it first", folder.display()))?;
        Ok(path.file_name().map(|name| found.join(name)))
    }

    /// Opens a database that no hub uses; that no hub uses a file, its folder's lock says.
    async fn open(&self) -> Result<Store> {
        match self {
            Self::File(path) => {
                let store = Store::open_sqlite(path, SqliteOptions::default()).await;
                store.with_context(|| format!("cannot open {}", path.display()))
            }
            Self::Postgres(url) => {
                let store = Store::open_postgres(url, patient()).await;
                let store = store.context("cannot open the database")?;
                if let Some(hub) = store.hubs().list().await?.first() {
                    bail!("the hub {} at {} uses the database; stop all its hubs first", hub.id, hub.address);
                }
                Ok(store)
            }
        }
    }
}
