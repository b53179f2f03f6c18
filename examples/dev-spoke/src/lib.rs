//! A spoke that offers a project folder to the hub: `fs.read`, `fs.write`, `fs.edit`, `fs.list`, `fs.search` and
//! `bash.run`.
//!
//! **Purpose.** Run it in a folder, and agents anywhere in the cluster read, search and edit that folder's files and
//! run its commands. It is also the model of a spoke: declared errors, limits, cancellation, a stream.
//!
//! **Non-goals.** It is no sandbox. `fs.*` can't leave the folder, but `bash.run` runs what its caller asks for with
//! all rights of the user who started the spoke. For callers you don't trust use [`Limits::bash`] `= false`, or put the
//! spoke into a container.
//!
//! **Invariants.**
//! - Every path of `fs.*` is resolved below a handle of the folder, by the system where it can (`openat2`), so a link
//!   that is swapped between check and use can't lead out.
//! - A file is replaced whole or not at all, and never over a change that the caller said it had not seen.
//! - A command and everything in its process group ends with its call, whichever way the call ends; on Linux also what
//!   has left the group, as long as it has its inherited environment.
//! - Every reply is bounded, and says so when something was left out.

mod bash;
mod declare;
mod error;
mod fs;
mod root;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hub_spoke::Spoke;

pub use bash::{RunCommand, RunItem, RunStream};
pub use fs::{edit, list, read, search, write};
pub use hub_spoke::{RunningSpoke, SpokeBuilder};

/// What the spoke offers, and how much of it.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Whether to offer `fs.write` and `fs.edit`.
    pub write: bool,
    /// Whether to offer `bash.run`. A command can write, whatever [`Limits::write`] says.
    pub bash: bool,
    /// Largest file that is read or written, in bytes.
    pub file_bytes: u64,
    /// Most text in one reply, in bytes of JSON; below the connection's message limit of 1 MiB.
    pub reply_bytes: usize,
    /// Longest search.
    pub search_time: Duration,
    /// Longest run of a command, whatever its caller asks for.
    pub run_time: Duration,
    /// Most output of one command, in bytes; what is over is thrown away.
    pub run_output_bytes: usize,
    /// Most commands at a time.
    pub runs: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            write: true,
            bash: true,
            file_bytes: 8 * 1024 * 1024,
            reply_bytes: 256 * 1024,
            search_time: Duration::from_secs(20),
            run_time: Duration::from_secs(30 * 60),
            run_output_bytes: 1024 * 1024,
            runs: 16,
        }
    }
}

impl Limits {
    /// The default limits with nothing that can change a file.
    #[must_use]
    pub fn read_only() -> Self {
        Self { write: false, bash: false, ..Self::default() }
    }
}

/// Why a folder can't be offered.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is no such folder, or it may not be entered.
    #[error("folder {path:?} can't be offered")]
    Folder {
        /// As given.
        path: std::path::PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
}

/// A project folder with its operations.
#[derive(Clone)]
pub struct Tools {
    root: Arc<root::Root>,
    runs: Arc<bash::Runs>,
}

impl Tools {
    /// Opens a folder. Commands see the environment of this process without the variables that hold `key`.
    ///
    /// # Errors
    /// When the folder can't be opened.
    pub fn open(root: &Path, key: &str, limits: Limits) -> Result<Self, OpenError> {
        let root = root::Root::open(root, limits).map_err(|source| OpenError::Folder { path: root.into(), source })?;
        let root = Arc::new(root);
        let runs = Arc::new(bash::Runs::new(Arc::clone(&root), key));
        Ok(Self { root, runs })
    }

    /// Adds the folder's operations to a spoke.
    pub fn offer(&self, spoke: SpokeBuilder) -> SpokeBuilder {
        let mut spoke = fs::offer_reads(spoke, &self.root);
        if self.root.limits().write {
            spoke = fs::offer_writes(spoke, &self.root);
        }
        if self.root.limits().bash {
            spoke = bash::offer(spoke, &self.runs);
        }
        spoke
    }

    /// Kills every running command with its process group, and waits until they are gone. Afterwards none can start.
    pub async fn shutdown(&self) {
        self.runs.shutdown().await;
    }
}

/// A spoke that connects to `url` with `key`, registers as `name` and offers the folder `root`.
///
/// Commands that still run when the runtime ends are killed; [`Tools::shutdown`] does so in an orderly way.
///
/// # Errors
/// When the folder can't be opened.
pub fn builder(url: &str, key: &str, name: &str, root: &Path, limits: Limits) -> Result<SpokeBuilder, OpenError> {
    let tools = Tools::open(root, key, limits)?;
    Ok(tools.offer(Spoke::builder(url, key, name).version(env!("CARGO_PKG_VERSION"))))
}
