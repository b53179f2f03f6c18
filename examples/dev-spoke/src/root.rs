//! The project folder: the only way from a caller's path to a file.

use std::io::{Read, Write};
use std::path::{Component, Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, Metadata, OpenOptions};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::Limits;
use crate::error::ToolError;

#[cfg(test)]
mod tests;

/// A handle of the folder. Paths are resolved below the handle, so renaming the folder or swapping a link in it
/// changes nothing of what can be reached.
pub(crate) struct Root {
    dir: Dir,
    path: PathBuf,
    limits: Limits,
    /// Held from the look at a file to its replacement, so that two callers of this spoke can't undo each other.
    changes: Mutex<()>,
}

/// A file to be replaced or made.
pub(crate) struct Target {
    folder: Dir,
    name: PathBuf,
    /// Of the file that is there now.
    pub(crate) existing: Option<Metadata>,
}

impl Root {
    pub(crate) fn open(path: &Path, limits: Limits) -> std::io::Result<Self> {
        let path = path.canonicalize()?;
        let dir = Dir::open_ambient_dir(&path, ambient_authority())?;
        Ok(Self { dir, path, limits, changes: Mutex::new(()) })
    }

    pub(crate) const fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The folder where the system has it: for walks and for the working folder of commands, which take no handle.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Serializes changes of files.
    pub(crate) fn changing(&self) -> MutexGuard<'_, ()> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What a path leads to, following links that stay inside.
    pub(crate) fn metadata(&self, path: &str) -> Result<Metadata, ToolError> {
        self.dir.metadata(checked(path)?).map_err(|e| ToolError::of_io(path, &e))
    }

    /// What is at a path, without following a link there. Folders on the way must not lead out.
    pub(crate) fn entry(&self, path: &Path) -> std::io::Result<Metadata> {
        self.dir.symlink_metadata(path)
    }

    /// The path of a folder without links, relative to the root.
    pub(crate) fn folder(&self, path: &str) -> Result<PathBuf, ToolError> {
        let io = |e: std::io::Error| ToolError::of_io(path, &e);
        let real = self.dir.canonicalize(checked(path)?).map_err(io)?;
        if !self.dir.metadata(&real).map_err(io)?.is_dir() {
            return Err(ToolError::NotAFolder { path: path.to_owned() });
        }
        Ok(real)
    }

    /// Reads a regular file that is not over the limit.
    pub(crate) fn read(&self, path: &str) -> Result<Vec<u8>, ToolError> {
        let inside = checked(path)?;
        let io = |e: std::io::Error| ToolError::of_io(path, &e);
        // Looked at before it is opened, since opening alone can act on a device; and after, since it can be swapped.
        self.regular(path, &self.dir.metadata(&inside).map_err(io)?)?;
        let file = open_for_reading(&self.dir, &inside).map_err(io)?;
        self.regular(path, &file.metadata().map_err(io)?)?;
        let limit = self.limits.file_bytes;
        let mut bytes = Vec::new();
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(io)?;
        self.small(path, bytes.len() as u64)?;
        Ok(bytes)
    }

    /// Reads a text file.
    pub(crate) fn read_text(&self, path: &str) -> Result<String, ToolError> {
        text(self.read(path)?).ok_or_else(|| ToolError::NotText { path: path.to_owned() })
    }

    /// Finds where a file is or would be. A link is followed, so that what it points to is replaced and not the link.
    pub(crate) fn target(&self, path: &str, create_folders: bool) -> Result<Target, ToolError> {
        let inside = checked(path)?;
        let io = |e: std::io::Error| ToolError::of_io(path, &e);
        let real = match self.dir.symlink_metadata(&inside) {
            Ok(_) => self.dir.canonicalize(&inside).map_err(io)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => inside,
            Err(e) => return Err(io(e)),
        };
        let Some(name) = real.file_name() else {
            return Err(ToolError::NotAFile { path: path.to_owned(), is: "a folder" });
        };
        let parent = real.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if create_folders {
            self.dir.create_dir_all(parent).map_err(io)?;
        }
        let folder = self.dir.open_dir(parent).map_err(io)?;
        let existing = match folder.symlink_metadata(name) {
            Ok(found) => Some(found),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            Err(e) => return Err(io(e)),
        };
        if let Some(found) = &existing {
            self.regular(path, found)?;
            if found.permissions().readonly() {
                return Err(ToolError::Denied { path: path.to_owned() });
            }
        }
        Ok(Target { folder, name: name.into(), existing })
    }

    /// Refuses a size over the limit.
    pub(crate) fn small(&self, path: &str, bytes: u64) -> Result<(), ToolError> {
        let limit = self.limits.file_bytes;
        if bytes > limit { Err(ToolError::TooLarge { path: path.to_owned(), bytes, limit }) } else { Ok(()) }
    }

    fn regular(&self, path: &str, found: &Metadata) -> Result<(), ToolError> {
        let kind = found.file_type();
        if kind.is_file() {
            return self.small(path, found.len());
        }
        let is = if kind.is_dir() { "a folder" } else { "a pipe, socket, device or other special file" };
        Err(ToolError::NotAFile { path: path.to_owned(), is })
    }
}

impl Target {
    /// Puts `content` there in one step: a reader sees the old file or the new one, never a part.
    pub(crate) fn replace(&self, content: &[u8]) -> std::io::Result<()> {
        let temporary = format!(".{}.tmp", Uuid::new_v4().simple());
        let written =
            self.fill(&temporary, content).and_then(|()| self.folder.rename(&temporary, &self.folder, &self.name));
        if written.is_err() {
            // Nothing to add if this fails too: the first error tells why.
            let _ = self.folder.remove_file(&temporary);
        }
        written
    }

    fn fill(&self, temporary: &str, content: &[u8]) -> std::io::Result<()> {
        let mut file = self.folder.open_with(temporary, OpenOptions::new().write(true).create_new(true))?;
        if let Some(existing) = &self.existing {
            file.set_permissions(existing.permissions())?;
        }
        file.write_all(content)?;
        file.sync_all()
    }
}

/// The path by its words alone: relative, and down only. Links are left to the system.
pub(crate) fn checked(path: &str) -> Result<PathBuf, ToolError> {
    let outside = || ToolError::Outside { path: path.to_owned() };
    if path.contains('\0') {
        return Err(outside());
    }
    let mut inside = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(name) => inside.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    Ok(if inside.as_os_str().is_empty() { PathBuf::from(".") } else { inside })
}

/// The bytes as text, unless they are something else: a NUL is in no text file.
pub(crate) fn text(bytes: Vec<u8>) -> Option<String> {
    if bytes.contains(&0) { None } else { String::from_utf8(bytes).ok() }
}

/// Names a content, so that a caller can say which one it has seen.
pub(crate) fn sha256(content: &[u8]) -> String {
    Sha256::digest(content).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Never waits: a pipe that took the file's place would else hold this thread for good.
#[cfg(unix)]
fn open_for_reading(dir: &Dir, path: &Path) -> std::io::Result<File> {
    use cap_std::fs::OpenOptionsExt;
    let flags = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(std::io::Error::other)?;
    dir.open_with(path, OpenOptions::new().read(true).custom_flags(flags))
}

#[cfg(not(unix))]
fn open_for_reading(dir: &Dir, path: &Path) -> std::io::Result<File> {
    dir.open(path)
}
