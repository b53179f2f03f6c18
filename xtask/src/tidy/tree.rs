//! The files of the repository.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::process::root;

/// One file.
pub(super) struct File {
    /// From the root, with `/` between names.
    pub(super) path: String,
    /// Empty if the file isn't UTF-8.
    pub(super) text: String,
}

/// All files that `.gitignore` doesn't name, sorted by path.
pub(super) struct Tree {
    pub(super) files: Vec<File>,
}

impl Tree {
    /// Reads the workspace.
    ///
    /// # Errors
    /// A folder or file can't be read.
    pub(super) fn read() -> Result<Self> {
        let root = root();
        let ignored = fs::read_to_string(root.join(".gitignore")).context("can't read .gitignore")?;
        let mut files = Vec::new();
        walk(&root, "", &Ignored::parse(&ignored), &mut files)?;
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(Self { files })
    }

    /// The text of the file at `path`.
    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.files.iter().find(|file| file.path == path).map(|file| file.text.as_str())
    }

    /// Files whose name ends with `.extension`.
    pub(super) fn with_extension(&self, extension: &str) -> impl Iterator<Item = &File> {
        self.files.iter().filter(move |file| file.path.rsplit_once('.').is_some_and(|(_, end)| end == extension))
    }

    #[cfg(test)]
    pub(super) fn of(files: &[(&str, &str)]) -> Self {
        let file = |(path, text): &(&str, &str)| File { path: (*path).to_owned(), text: (*text).to_owned() };
        Self { files: files.iter().map(file).collect() }
    }
}

fn walk(folder: &Path, prefix: &str, ignored: &Ignored, files: &mut Vec<File>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("can't list {}", folder.display()))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        let kind = entry.file_type()?;
        if name == ".git" || ignored.contains(&path) {
            continue;
        }
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), ignored, files)?;
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).with_context(|| format!("can't read {path}"))?;
            files.push(File { path, text: String::from_utf8(bytes).unwrap_or_default() });
        }
    }
    Ok(())
}

/// The patterns of `.gitignore` that this repository uses: `/path`, `name`, `*ending`. Git isn't asked: a CI machine may
/// have the files without it.
struct Ignored(Vec<String>);

impl Ignored {
    fn parse(text: &str) -> Self {
        let patterns = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        Self(patterns.map(|pattern| pattern.trim_end_matches('/').to_owned()).collect())
    }

    fn contains(&self, path: &str) -> bool {
        let name = path.rsplit('/').next().unwrap_or(path);
        self.0.iter().any(|pattern| match (pattern.strip_prefix('/'), pattern.strip_prefix('*')) {
            (Some(anchored), _) => anchored == path,
            (None, Some(ending)) => name.ends_with(ending),
            (None, None) => name == pattern,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ignored_patterns() {
        let ignored = Ignored::parse("# built\n/target\n/fuzz/target/\n*.snap.new\nnode_modules\n");
        for path in ["target", "fuzz/target", "crates/a/b.snap.new", "examples/x/node_modules"] {
            assert!(ignored.contains(path), "{path}");
        }
        for path in ["docs/target", "src/lib.rs", "crates/a/b.snap"] {
            assert!(!ignored.contains(path), "{path}");
        }
    }
}
