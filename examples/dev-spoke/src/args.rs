use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Parser;
use dev_spoke::Limits;
use hub_spoke::local::{data_folder, is_local};

/// Offer a project folder to a hub: agents and people read, search and edit its files and run commands in it.
#[derive(Parser)]
#[command(
    version,
    after_help = "\
Examples:
  dev-spoke                        offer this folder to the hub on this machine
  dev-spoke --read-only ~/project  only let callers look
  HUB_KEY=hub_... dev-spoke --url wss://hub.example.org --name laptop ~/project

What is offered, as dev.NAME.<operation>, and the scope that a caller's key needs:
  fs.read, fs.list, fs.search      dev:read
  fs.write, fs.edit                dev:write   (not with --read-only)
  bash.run                         dev:run     (not with --read-only or --no-bash)
A key with dev:* may do all of it, and so may the hub's admin key.

fs.* can't leave ROOT: not by .., not by links. bash.run is no sandbox: a command has all your rights on this machine.
If you don't trust every caller, use --no-bash, or run the spoke in a container."
)]
pub(crate) struct Args {
    /// Folder to offer.
    #[arg(value_name = "ROOT", default_value = ".")]
    pub(crate) root: PathBuf,
    /// Where the hub is.
    #[arg(long, env = "HUB_URL", default_value = "ws://127.0.0.1:3300")]
    pub(crate) url: String,
    /// File with the spoke's key (scope: spoke). Without it: the variable HUB_KEY, or else the admin key that a hub on
    /// this machine has in its data folder.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Data folder of the hub on this machine, where its admin.key is. Default: the platform's.
    #[arg(long, env = "HUB_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// PEM file with certificates to trust besides the system's, for hubs with a certificate of their own.
    #[arg(long, env = "HUB_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Name of this spoke at the hub. Default: the folder's name.
    #[arg(long)]
    name: Option<String>,
    /// Offer nothing that changes a file; bash.run neither, since a command can write.
    #[arg(long)]
    read_only: bool,
    /// Don't offer bash.run.
    #[arg(long)]
    no_bash: bool,
    /// What to log to standard error: error, warn, info, debug. RUST_LOG says it in more detail.
    #[arg(long, value_name = "LEVEL", default_value = "warn")]
    pub(crate) log: String,
}

/// A key and how a shell gets at it, so that it need not be shown.
pub(crate) struct Key {
    pub(crate) secret: String,
    pub(crate) shell: String,
}

impl Args {
    pub(crate) fn limits(&self) -> Limits {
        let limits = Limits::default();
        Limits { write: !self.read_only, bash: !self.read_only && !self.no_bash, ..limits }
    }

    /// The name asked for, or the folder's without what a name can't have.
    pub(crate) fn name(&self, root: &Path) -> Result<String> {
        if let Some(name) = &self.name {
            return Ok(name.clone());
        }
        let folder = root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let name: String = folder.chars().map(|c| if fits(c) { c } else { '-' }).take(64).collect();
        let name = name.trim_matches('-');
        if name.is_empty() {
            bail!("{root:?} gives no name for the spoke: choose one with --name");
        }
        Ok(name.to_owned())
    }

    pub(crate) fn key(&self) -> Result<Key> {
        if let Some(file) = &self.key_file {
            return key_in(file);
        }
        if let Some(secret) = std::env::var_os("HUB_KEY").filter(|key| !key.is_empty()) {
            return Ok(Key { secret: secret.to_string_lossy().trim().to_owned(), shell: "$HUB_KEY".to_owned() });
        }
        if !is_local(&self.url)? {
            bail!("no key for a hub on another machine: give one with --key-file FILE or in the variable HUB_KEY");
        }
        match self.data_dir.clone().or_else(data_folder).map(|folder| folder.join("admin.key")) {
            Some(file) if file.exists() => key_in(&file),
            Some(file) => bail!(
                "no key: there is no {file:?}, so no hub has been started on this machine by this user. \
                 Start one, or give the key of another hub with --key-file FILE or HUB_KEY"
            ),
            None => bail!("no key: give one with --key-file FILE or in the variable HUB_KEY"),
        }
    }

    pub(crate) fn ca_certificate(&self) -> Result<Option<Vec<u8>>> {
        let read = |file: &PathBuf| std::fs::read(file).with_context(|| format!("--ca-file {file:?}"));
        self.ca_file.as_ref().map(read).transpose()
    }

    /// Where the hub answers HTTP.
    pub(crate) fn http_url(&self) -> String {
        let url = self.url.trim_end_matches('/').trim_end_matches("/ws");
        match url.split_once("://") {
            Some(("ws", rest)) => format!("http://{rest}"),
            Some(("wss", rest)) => format!("https://{rest}"),
            _ => url.to_owned(),
        }
    }
}

fn key_in(file: &Path) -> Result<Key> {
    let text = std::fs::read_to_string(file).with_context(|| format!("key file {file:?}"))?;
    let secret = text.trim().to_owned();
    if secret.is_empty() {
        bail!("key file {file:?} is empty");
    }
    Ok(Key { secret, shell: format!("$(cat '{}')", file.display()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(words: &[&str]) -> Args {
        Args::parse_from([&["dev-spoke"], words].concat())
    }

    #[test]
    fn a_folder_gives_a_name() {
        let name = |root: &str| args(&[]).name(Path::new(root));
        assert_eq!(name("/home/me/My Project (2)").unwrap(), "My-Project--2");
        assert!(name("/").is_err() && name("/ä").is_err());
        assert_eq!(args(&["--name", "laptop"]).name(Path::new("/x")).unwrap(), "laptop");
    }

    #[test]
    fn the_http_url_is_that_of_the_same_hub() {
        for (url, http) in [
            ("ws://127.0.0.1:3300", "http://127.0.0.1:3300"),
            ("wss://h.example/hub/ws", "https://h.example/hub"),
            ("http://h:1/", "http://h:1"),
        ] {
            assert_eq!(args(&["--url", url]).http_url(), http);
        }
    }

    #[test]
    fn the_admin_key_is_where_the_hub_was_told_to_keep_it() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_str().unwrap();
        std::fs::write(folder.path().join("admin.key"), "hub_x\n").unwrap();
        // Unless the environment of the tests has a key of its own.
        if std::env::var_os("HUB_KEY").is_none() {
            assert_eq!(args(&["--data-dir", data]).key().unwrap().secret, "hub_x");
            assert!(args(&["--data-dir", data, "--url", "wss://hub.example.org"]).key().is_err());
        }
        assert!(args(&["--ca-file", "/nowhere.pem"]).ca_certificate().unwrap_err().to_string().contains("--ca-file"));
        assert!(args(&[]).ca_certificate().unwrap().is_none());
    }

    #[test]
    fn read_only_offers_no_shell() {
        assert!(!args(&["--read-only"]).limits().bash && !args(&["--read-only"]).limits().write);
        assert!(!args(&["--no-bash"]).limits().bash && args(&["--no-bash"]).limits().write);
    }
}
