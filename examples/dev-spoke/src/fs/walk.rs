use std::path::{Path, PathBuf};

use cap_std::fs::Metadata;
use ignore::WalkBuilder;
use ignore::overrides::OverrideBuilder;

use crate::error::ToolError;
use crate::root::Root;

/// What a walk passes over.
pub(super) struct Walk<'a> {
    pub(super) from: &'a str,
    pub(super) depth: Option<usize>,
    pub(super) hidden: bool,
    pub(super) glob: Option<&'a str>,
}

/// Something found, by its path relative to the project folder.
pub(super) struct Found {
    pub(super) path: String,
    pub(super) metadata: Metadata,
}

impl Walk<'_> {
    /// Everything below a folder, in the order of names. Links are shown and not followed.
    pub(super) fn entries<'r>(&self, root: &'r Root) -> Result<impl Iterator<Item = Found> + use<'r>, ToolError> {
        let folder = root.folder(self.from)?;
        let walk = self.builder(root, &folder)?.build();
        Ok(walk.filter_map(Result::ok).filter(|entry| entry.depth() > 0).filter_map(move |entry| {
            let path = entry.path().strip_prefix(root.path()).ok()?;
            // The walk goes by names. A folder that was swapped for a link behind its back may have led it out; so
            // nothing is told of an entry that can't be seen through the root's handle.
            let metadata = root.entry(path).ok()?;
            Some(Found { path: shown(path)?, metadata })
        }))
    }

    fn builder(&self, root: &Root, folder: &Path) -> Result<WalkBuilder, ToolError> {
        let mut walk = WalkBuilder::new(root.path().join(folder));
        walk.max_depth(self.depth).sort_by_file_name(Ord::cmp).require_git(false).follow_links(false);
        // Files above the project folder are none of the caller's business, so they rule nothing here.
        walk.parents(false);
        walk.filter_entry(|entry| entry.depth() == 0 || entry.file_name() != ".git");
        if self.hidden {
            walk.standard_filters(false);
        }
        if let Some(glob) = self.glob {
            let bad = |e: ignore::Error| ToolError::BadPattern { which: "glob", reason: e.to_string() };
            let mut globs = OverrideBuilder::new(root.path());
            globs.add(glob).map_err(bad)?;
            walk.overrides(globs.build().map_err(bad)?);
        }
        Ok(walk)
    }
}

/// With slashes on every system. A name that is not UTF-8 can't be asked for, so it is not shown.
fn shown(path: &Path) -> Option<String> {
    let parts: Option<Vec<&str>> = path.iter().map(|part| part.to_str()).collect();
    parts.map(|parts| parts.join("/"))
}

/// For messages and replies: the folder as the caller named it, `.` for none.
pub(super) fn start(path: Option<String>) -> String {
    path.filter(|p| !p.is_empty()).unwrap_or_else(|| ".".to_owned())
}

/// The path of a single file in the form that a walk gives.
pub(super) fn single(path: &Path) -> Option<String> {
    shown(&path.components().collect::<PathBuf>())
}
