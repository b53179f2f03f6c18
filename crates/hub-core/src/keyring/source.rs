//! Where a keyring is kept. Never in the environment: that is inherited by children and shown by `ps` and crash reports.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::{Keyring, KeyringError, MAX_TEXT};

/// Longest wait for the command.
const COMMAND_ANSWERS: Duration = Duration::from_secs(30);

/// Where the keyring comes from.
#[derive(Debug, Clone)]
pub enum KeyringSource {
    /// A file that only its owner can read.
    File {
        /// Where.
        path: PathBuf,
        /// Whether it is made on first need, and may be rotated.
        ours: bool,
        /// Whether a group may read it: systemd gives a service its credentials by an access list, which shows as that.
        credential: bool,
    },
    /// What a program says on its standard output: one that asks a key management service. No shell.
    Command(Vec<String>),
}

impl KeyringSource {
    /// A file that the hub makes when it needs one.
    #[must_use]
    pub fn own_file(path: impl Into<PathBuf>) -> Self {
        Self::File { path: path.into(), ours: true, credential: false }
    }

    /// Reads the keyring; `None` when there is none yet and it may be made.
    ///
    /// # Errors
    /// When it can't be read, is malformed, or others may read the file.
    pub async fn load(&self) -> Result<Option<Keyring>, KeyringError> {
        match self {
            Self::File { path, ours, credential } => match read(path, *credential) {
                Ok(text) => Keyring::parse(&text).map(Some),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound && *ours => Ok(None),
                Err(error) => Err(unreadable(path.display(), error)),
            },
            Self::Command(words) => Keyring::parse(&output(words).await?).map(Some),
        }
    }

    /// Makes a keyring where there is none; of two who try at once both get the same.
    ///
    /// # Errors
    /// When the file can't be written, or is not the hub's own to make.
    pub async fn create(&self) -> Result<Keyring, KeyringError> {
        let Self::File { path, ours: true, .. } = self else {
            return Err(unreadable(self.describe(), "the hub does not write there"));
        };
        let made = Keyring::generate()?;
        let written = staged(path, &made).and_then(|partial| {
            let linked = fs::hard_link(&partial, path);
            fs::remove_file(&partial)?;
            linked.and_then(|()| sync_folder(path))
        });
        match written {
            Ok(()) => {
                tracing::warn!(
                    file = %path.display(),
                    "made a keyring: back it up apart from the database, without it no secret can be read"
                );
                Ok(made)
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                self.load().await?.ok_or_else(|| unreadable(path.display(), error))
            }
            Err(error) => Err(unreadable(path.display(), error)),
        }
    }

    /// Puts a keyring in the place of the one in the file, as a whole or not at all.
    ///
    /// # Errors
    /// When the file can't be written, or is not the hub's own to change.
    pub fn replace(&self, with: &Keyring) -> Result<(), KeyringError> {
        let Self::File { path, ours: true, .. } = self else {
            return Err(unreadable(
                self.describe(),
                "the hub does not write there: change the keyring where it is kept",
            ));
        };
        let replaced =
            staged(path, with).and_then(|partial| fs::rename(&partial, path)).and_then(|()| sync_folder(path));
        replaced.map_err(|error| unreadable(path.display(), error))
    }

    /// The file or program, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Command(words) => words.first().cloned().unwrap_or_default(),
        }
    }
}

fn unreadable(from: impl std::fmt::Display, reason: impl std::fmt::Display) -> KeyringError {
    KeyringError::Unreadable { from: from.to_string(), reason: reason.to_string() }
}

fn read(path: &Path, credential: bool) -> std::io::Result<Zeroizing<String>> {
    use std::io::Read as _;
    let mut file = fs::File::open(path)?;
    // Of the file that was opened, not of whatever the name stands for by now.
    let about = file.metadata()?;
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        let others = if credential { 0o037 } else { 0o077 };
        let mode = about.permissions().mode() & 0o777;
        if mode & others != 0 {
            return Err(std::io::Error::other(format!("its mode is {mode:03o}: others can read it; set it to 600")));
        }
    }
    #[cfg(not(unix))]
    let _ = credential;
    if about.len() > MAX_TEXT as u64 {
        return Err(std::io::Error::other("it is too long for a keyring"));
    }
    let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT));
    file.read_to_string(&mut text)?;
    Ok(text)
}

/// Writes the keyring to a new file beside `path`, for the owner alone and safe from a power failure.
fn staged(path: &Path, keyring: &Keyring) -> std::io::Result<PathBuf> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", uuid::Uuid::now_v7()));
    let partial = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&partial)?;
    let written = file.write_all(keyring.to_text().as_bytes()).and_then(|()| file.write_all(b"\n"));
    if let Err(error) = written.and_then(|()| file.sync_all()) {
        // What is left of it would be a key in a place that nobody looks at.
        let _gone = fs::remove_file(&partial);
        return Err(error);
    }
    Ok(partial)
}

/// Makes the new name survive a power failure.
fn sync_folder(path: &Path) -> std::io::Result<()> {
    #[cfg(unix)]
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        fs::File::open(folder)?.sync_all()?;
    }
    #[cfg(not(unix))]
    let _ = path;
    Ok(())
}

async fn output(words: &[String]) -> Result<Zeroizing<String>, KeyringError> {
    let [program, args @ ..] = words else { return Err(unreadable("keyring_command", "it is empty")) };
    let failed = |reason: &str| unreadable(program, reason);
    let mut child = tokio::process::Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        // Not into the log: who knows what it says there.
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error.kind().to_string()))?;
    let mut stdout = child.stdout.take().ok_or_else(|| failed("it has no output"))?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT + 1));
    let reading = async {
        let limited = &mut (&mut stdout).take(MAX_TEXT as u64);
        limited.read_to_string(&mut text).await.map_err(|error| failed(&error.kind().to_string()))?;
        let status = child.wait().await.map_err(|error| failed(&error.kind().to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(&status.to_string())) }
    };
    match tokio::time::timeout(COMMAND_ANSWERS, reading).await {
        Ok(done) => done.map(|()| text),
        Err(_) => Err(failed("it did not answer in time")),
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn files_are_made_once_and_only_for_their_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keyring");
        let source = KeyringSource::own_file(&path);
        assert!(source.load().await.unwrap().is_none());
        let (a, b) = (source.create().await.unwrap(), source.create().await.unwrap());
        assert_eq!(a.checks(), b.checks());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let rotated = a.rotated().unwrap();
        source.replace(&rotated).unwrap();
        assert_eq!(source.load().await.unwrap().unwrap().checks(), rotated.checks());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = source.load().await.unwrap_err().to_string();
        assert!(refused.contains("640") && refused.contains("others"), "{refused}");
        let given = KeyringSource::File { path: path.clone(), ours: false, credential: true };
        assert_eq!(given.load().await.unwrap().unwrap().checks(), rotated.checks());
        assert!(given.replace(&rotated).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(given.load().await.is_err());
        let absent = KeyringSource::File { path: folder.path().join("none"), ours: false, credential: false };
        assert!(absent.load().await.is_err());
    }

    #[tokio::test]
    async fn commands_are_run_without_a_shell() {
        let text = Keyring::generate().unwrap().to_text().to_string();
        let command = |words: &[&str]| KeyringSource::Command(words.iter().map(|w| (*w).to_owned()).collect());
        assert_eq!(command(&["echo", &text]).load().await.unwrap().unwrap().versions(), [1]);
        for wrong in [vec!["echo", "$HOME; ls"], vec!["false"], vec!["/no/such/program"], vec![]] {
            assert!(command(&wrong).load().await.is_err(), "{wrong:?}");
        }
    }
}
