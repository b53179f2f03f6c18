//! `hub-server keyring`: what the keyring is, and a new master key for it.
//!
//! Rotation is safe to end at any moment: the new key is in the file before anything is encrypted with it, the old ones
//! stay there until nothing needs them, and each batch of secrets is one transaction.

use anyhow::{Context as _, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use hub_core::{Keyring, agreed, keyring::reencrypt, next_version};
use hub_storage::Store;
use serde_json::json;

use crate::config::Config;
use crate::serve::open_store;

/// The subcommand.
#[must_use]
pub fn command() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let drop_old =
        Arg::new("drop-old").long("drop-old").action(ArgAction::SetTrue).help("then remove versions that nothing uses");
    Command::new("keyring")
        .about("Show or rotate the keys that secrets are encrypted with")
        .subcommand_required(true)
        .subcommand(
            Command::new("status").about("Print the versions of the keyring and what they encrypt").arg(json.clone()),
        )
        .subcommand(
            Command::new("rotate")
                .about("Add a new key and encrypt every secret with it, also while hubs are running")
                .after_help(
                    "Run it again when it was interrupted: it goes on where it was. With several hubs, copy the file to\n\
                     the others right after; until then they refuse to use secrets.",
                )
                .arg(drop_old)
                .arg(json),
        )
}

/// Runs the subcommand; answers whether all is well.
///
/// # Errors
/// When the keyring or the database can't be used.
pub async fn run(config: &Config, flags: &ArgMatches) -> Result<bool> {
    let file = config.data_dir.join("hub.db");
    anyhow::ensure!(
        config.database.is_some() || file.exists(),
        "no database at {}: is --data-dir right?",
        file.display()
    );
    let store = open_store(config).await?;
    let done = match flags.subcommand() {
        Some(("rotate", sub)) => rotate(config, &store, sub.get_flag("drop-old")).await.map(|text| (text, sub)),
        Some((_, sub)) => status(config, &store).await.map(|text| (text, sub)),
        None => anyhow::bail!("status or rotate?"),
    };
    store.close().await;
    let (report, sub) = done?;
    if sub.get_flag("json") {
        println!("{}", report.as_json());
    } else {
        print!("{}", report.as_text());
    }
    Ok(report.trouble.is_none())
}

struct Report {
    kept_in: String,
    versions: Vec<i32>,
    /// Secrets by version.
    used: Vec<(i32, u64)>,
    reencrypted: Option<u64>,
    trouble: Option<String>,
}

impl Report {
    fn as_json(&self) -> serde_json::Value {
        let used: Vec<_> = self.used.iter().map(|(v, secrets)| json!({ "version": v, "secrets": secrets })).collect();
        json!({ "keyring": self.kept_in, "versions": self.versions, "used": used,
            "reencrypted": self.reencrypted, "trouble": self.trouble })
    }

    fn as_text(&self) -> String {
        let mut text = format!("keyring {}\n", self.kept_in);
        for (n, version) in self.versions.iter().enumerate() {
            let secrets = self.used.iter().find(|(used, _)| used == version).map_or(0, |(_, secrets)| *secrets);
            let role = if n == 0 { ", encrypts" } else { "" };
            text.push_str(&format!("  v{version}: {secrets} secrets{role}\n"));
        }
        if self.versions.is_empty() {
            text.push_str("  none yet: it is made with the first secret\n");
        }
        if let Some(count) = self.reencrypted {
            text.push_str(&format!("encrypted {count} secrets anew; back the keyring up, apart from the database\n"));
        }
        if let Some(trouble) = &self.trouble {
            text.push_str(&format!("trouble: {trouble}\n"));
        }
        text
    }
}

async fn status(config: &Config, store: &Store) -> Result<Report> {
    let ring = config.keyring.load().await?;
    let trouble = match &ring {
        Some(ring) => agreed(&store.secrets().agree(ring.checks()).await?).err().map(|error| error.to_string()),
        None => next_version(store).await.err().map(|error| error.to_string()),
    };
    Ok(Report {
        kept_in: config.keyring.describe(),
        versions: ring.as_ref().map(Keyring::versions).unwrap_or_default(),
        used: store.secrets().versions().await?,
        reencrypted: None,
        trouble,
    })
}

async fn rotate(config: &Config, store: &Store, drop_old: bool) -> Result<Report> {
    let source = &config.keyring;
    // Until the end: another rotation would begin from the keyring that this one replaces.
    let lock = source.lock().await?;
    let Some(old) = source.load().await? else {
        // Unless secrets need the one that there was: then it is lost, and that is said.
        next_version(store).await?;
        anyhow::bail!("there is no keyring yet: it is made with the first secret");
    };
    agreed(&store.secrets().agree(old.checks()).await?)?;
    // Secrets of an older version are what a rotation that was interrupted has left.
    let left = store.secrets().of_other_versions(old.first(), None, 1).await?;
    let mut ring = if left.is_empty() {
        let new = old.rotated()?;
        lock.replace(&new)?;
        new
    } else {
        old
    };
    agreed(&store.secrets().agree(ring.checks()).await?)?;
    // A hub that has read the old keyring may set a secret meanwhile; what it left is found the next time around.
    let mut count = 0;
    loop {
        let done = reencrypt(store, &ring, |done| tracing::info!(secrets = done, "encrypted anew")).await?;
        count += done;
        if done == 0 {
            break;
        }
    }
    if drop_old {
        store.secrets().drop_versions_below(ring.first()).await.context("a secret was set meanwhile: run it again")?;
        ring = ring.without_below(ring.first());
        lock.replace(&ring)?;
    }
    Ok(Report {
        kept_in: source.describe(),
        versions: ring.versions(),
        used: store.secrets().versions().await?,
        reencrypted: Some(count),
        trouble: None,
    })
}
