//! Who may change a keyring file: one process at a time, from reading it to the last secret that is encrypted anew.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::source::{staged, sync_folder, unreadable};
use super::{Keyring, KeyringError, KeyringSource};

/// Longest wait for another process.
const WAIT: Duration = Duration::from_secs(10);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(50);

/// The right to change a keyring, until it is dropped or the process ends.
#[derive(Debug)]
pub struct KeyringLock<'a> {
    source: &'a KeyringSource,
    /// `None` where others keep the keyring, and change it.
    _held: Option<File>,
}

impl KeyringSource {
    /// Keeps others from changing the keyring; waits for who does now, at most 10 s. An unfinished file of a process that
    /// died is removed.
    ///
    /// # Errors
    /// [`KeyringError::Busy`], or when the lock can't be written beside the file.
    pub async fn lock(&self) -> Result<KeyringLock<'_>, KeyringError> {
        let Some(path) = self.own_path() else { return Ok(KeyringLock { source: self, _held: None }) };
        let until = tokio::time::Instant::now() + WAIT;
        loop {
            match taken(path) {
                Ok(held) => return Ok(KeyringLock { source: self, _held: Some(held) }),
                Err(KeyringError::Busy { .. }) if tokio::time::Instant::now() < until => {
                    tokio::time::sleep(PAUSE).await
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Removes what a process has left that died while it changed the keyring: it holds keys.
    pub fn remove_unfinished(&self) {
        let Some(path) = self.own_path().filter(|path| partial(path).exists()) else { return };
        match taken(path) {
            Ok(_) => {
                tracing::warn!(file = %partial(path).display(), "removed the keyring of a change that was cut off")
            }
            // Then it is somebody's who is at it.
            Err(KeyringError::Busy { .. }) => {}
            Err(error) => tracing::error!(%error, "the keyring of a change that was cut off can't be removed"),
        }
    }

    fn own_path(&self) -> Option<&Path> {
        match self {
            Self::File { path, ours: true, .. } => Some(path),
            _ => None,
        }
    }
}

impl KeyringLock<'_> {
    /// Puts a keyring in the place of the one in the file, as a whole or not at all.
    ///
    /// # Errors
    /// When the file can't be written, or is not the hub's own to change.
    pub fn replace(&self, with: &Keyring) -> Result<(), KeyringError> {
        let Some(path) = self.source.own_path() else {
            let reason = "the hub does not write there: change the keyring where it is kept";
            return Err(unreadable(self.source.describe(), reason));
        };
        let partial = partial(path);
        let replaced =
            staged(&partial, with).and_then(|()| std::fs::rename(&partial, path)).and_then(|()| sync_folder(path));
        replaced.map_err(|error| unreadable(path.display(), error))
    }
}

fn taken(path: &Path) -> Result<File, KeyringError> {
    let failed = |error| unreadable(path.display(), error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    // A file of its own: the keyring's is replaced, and a lock would stay with the old one.
    let mut file = options.open(beside(path, "lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(busy(path, file)),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    // Only for messages.
    let _noted = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    match std::fs::remove_file(partial(path)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        _ => Ok(file),
    }
}

fn busy(path: &Path, file: File) -> KeyringError {
    let mut by = String::new();
    let by = match (&file).take(20).read_to_string(&mut by) {
        Ok(1..) => format!("process {}", by.trim_end()),
        _ => "another process".to_owned(),
    };
    KeyringError::Busy { path: path.display().to_string(), by }
}

/// Where a keyring is written before it takes the place of the old one.
fn partial(path: &Path) -> PathBuf {
    beside(path, "new")
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}
