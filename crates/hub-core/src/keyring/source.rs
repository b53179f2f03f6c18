//! Where a keyring is kept. Never in the environment: that is inherited by children and shown by `ps` and crash reports.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use hub_operations::Scrubber;
use tokio::io::AsyncReadExt as _;
use zeroize::Zeroizing;

use super::{Keyring, KeyringError, MAX_TEXT};

/// Longest wait for the command.
const COMMAND_ANSWERS: Duration = Duration::from_secs(30);

/// How much of a command's errors is looked at, in bytes, and how much of their last line is told, in letters.
const MAX_SAID: usize = 4096;
const MAX_LINE: usize = 300;

/// Longest wait for the rest of a command's errors once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(200);

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

    /// Makes a keyring where there is none, beginning with this version; of two who try at once both get the same.
    ///
    /// # Errors
    /// When the file can't be written, or is not the hub's own to make.
    pub async fn create(&self, version: i32) -> Result<Keyring, KeyringError> {
        let lock = self.lock().await?;
        if let Some(made) = self.load().await? {
            return Ok(made);
        }
        let made = Keyring::generate(version)?;
        lock.replace(&made)?;
        tracing::warn!(
            file = self.describe(),
            "made a keyring: back it up apart from the database, without it no secret can be read"
        );
        Ok(made)
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

pub(super) fn unreadable(from: impl std::fmt::Display, reason: impl std::fmt::Display) -> KeyringError {
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

/// Writes the keyring to a new file, for the owner alone and safe from a power failure.
pub(super) fn staged(partial: &Path, keyring: &Keyring) -> std::io::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(partial)?;
    let written = file.write_all(keyring.to_text().as_bytes()).and_then(|()| file.write_all(b"\n"));
    written.and_then(|()| file.sync_all()).inspect_err(|_| {
        // What is left of it would be a key in a place that nobody looks at.
        let _gone = fs::remove_file(partial);
    })
}

/// Makes the new name survive a power failure.
pub(super) fn sync_folder(path: &Path) -> std::io::Result<()> {
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
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| failed(&error.kind().to_string()))?;
    let mut stdout = child.stdout.take().ok_or_else(|| failed("it has no output"))?;
    let mut stderr = child.stderr.take().ok_or_else(|| failed("it has no output"))?;
    let mut text = Zeroizing::new(String::with_capacity(MAX_TEXT + 1));
    let mut said = Zeroizing::new(Vec::with_capacity(2 * MAX_SAID));
    let reading = async {
        let limited = &mut (&mut stdout).take(MAX_TEXT as u64);
        limited.read_to_string(&mut text).await.map_err(|error| error.kind().to_string())?;
        let status = child.wait().await.map_err(|error| error.kind().to_string())?;
        if status.success() { Ok(()) } else { Err(status.to_string()) }
    };
    let ended = {
        let mut ended = pin!(tokio::time::timeout(COMMAND_ANSWERS, reading));
        let mut hearing = pin!(hear(&mut stderr, &mut said));
        tokio::select! {
            () = &mut hearing => ended.await,
            ended = &mut ended => {
                // What stands in the pipe yet; a program that it has left behind may keep it open.
                let _rest = tokio::time::timeout(LAST_WORDS, hearing).await;
                ended
            }
        }
    };
    match ended.unwrap_or_else(|_| Err("it did not answer in time".to_owned())) {
        Ok(()) => Ok(text),
        Err(reason) => Err(failed(&[reason].into_iter().chain(last_line(&said, &text)).collect::<Vec<_>>().join(": "))),
    }
}

/// Keeps the end of what is said.
async fn hear(stderr: &mut tokio::process::ChildStderr, said: &mut Vec<u8>) {
    let mut buffer = [0; MAX_SAID];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        said.drain(..said.len().saturating_sub(MAX_SAID));
        said.extend_from_slice(&buffer[..length]);
    }
}

/// The last line of what a command said about its failure, unless it repeats what it printed: that may be keys.
fn last_line(said: &[u8], printed: &str) -> Option<String> {
    let said = String::from_utf8_lossy(said);
    let line = said.lines().map(str::trim).rfind(|line| !line.is_empty())?;
    let keys = Scrubber::of(printed.split([',', ':', '\n']).map(str::trim).filter(|word| !word.is_empty()));
    let line = keys.text(line).unwrap_or_else(|| line.to_owned());
    Some(line.chars().filter(|letter| !letter.is_control()).take(MAX_LINE).collect())
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
        let (a, b) = (source.create(1).await.unwrap(), source.create(1).await.unwrap());
        assert_eq!(a.checks(), b.checks());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let rotated = a.rotated().unwrap();
        source.lock().await.unwrap().replace(&rotated).unwrap();
        assert_eq!(source.load().await.unwrap().unwrap().checks(), rotated.checks());
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let mut names: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["keyring", "keyring.lock"]);

        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = source.load().await.unwrap_err().to_string();
        assert!(refused.contains("640") && refused.contains("others"), "{refused}");
        let given = KeyringSource::File { path: path.clone(), ours: false, credential: true };
        assert_eq!(given.load().await.unwrap().unwrap().checks(), rotated.checks());
        assert!(given.lock().await.unwrap().replace(&rotated).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
        assert!(given.load().await.is_err());
        let absent = KeyringSource::File { path: folder.path().join("none"), ours: false, credential: false };
        assert!(absent.load().await.is_err());
    }

    #[tokio::test]
    async fn commands_are_run_without_a_shell() {
        let text = Keyring::generate(1).unwrap().to_text().to_string();
        let command = |words: &[&str]| KeyringSource::Command(words.iter().map(|w| (*w).to_owned()).collect());
        assert_eq!(command(&["echo", &text]).load().await.unwrap().unwrap().versions(), [1]);
        for wrong in [vec!["echo", "$HOME; ls"], vec!["false"], vec!["/no/such/program"], vec![]] {
            assert!(command(&wrong).load().await.is_err(), "{wrong:?}");
        }
    }

    #[tokio::test]
    async fn of_a_command_that_fails_the_last_line_of_its_errors_is_told() {
        let run = async |script: &str| {
            let words = ["sh", "-c", script].map(str::to_owned).to_vec();
            KeyringSource::Command(words).load().await.unwrap_err().to_string()
        };
        let said = run("echo v1:a2V5a2V5a2V5; echo first >&2; echo 'no access to the key' >&2; exit 3").await;
        assert!(said.ends_with("exit status: 3: no access to the key"), "{said}");
        let said = run("echo v1:a2V5a2V5a2V5; echo 'got a2V5a2V5a2V5' >&2; exit 3").await;
        assert!(said.ends_with("got [redacted]"), "{said}");
        let said = run("yes | head -c 1000000 | tr -d '\\n' >&2; exit 3").await;
        assert!(said.len() < 2 * MAX_LINE, "{said}");
        // Who keeps the pipe open behind it does not hold the answer up.
        let began = std::time::Instant::now();
        let said = run("sleep 20 >&2 & exit 3").await;
        assert!(said.ends_with("exit status: 3") && began.elapsed() < Duration::from_secs(10), "{said}");
    }
}
