//! `fs.list`

use hub_spoke::CancellationToken;
use hub_spoke::hub_protocol::OperationType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::json_len;
use super::walk::{Found, Walk, start};
use crate::declare::Tool;
use crate::error::{FILE_NOT_FOUND, NOT_A_FOLDER, OUTSIDE_ROOT, PERMISSION_DENIED, ToolError};
use crate::root::Root;

pub(crate) const TOOL: Tool = Tool {
    id: "fs.list",
    title: "List a folder",
    description: "List a folder of the project, by name: files with their size, folders, and links (not followed). \
        depth 1 is the folder alone. What .gitignore leaves out and names that begin with a dot are shown only with \
        includeHidden; the inside of .git never is.",
    kind: OperationType::Query,
    scope: "dev:read",
    errors: &[FILE_NOT_FOUND, NOT_A_FOLDER, OUTSIDE_ROOT, PERMISSION_DENIED],
};

/// Bytes that an entry takes in JSON beside its path, rounded up.
const ENTRY_OVERHEAD: usize = 64;

/// Input of `fs.list`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ListFolder {
    /// Folder, relative to the project folder. Default: the project folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub path: Option<String>,
    /// How deep to go. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 64))]
    pub depth: Option<usize>,
    /// Also what begins with a dot or is left out by .gitignore. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub include_hidden: Option<bool>,
}

/// Output of `fs.list`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FolderList {
    /// The folder.
    pub path: String,
    /// What is in it.
    pub entries: Vec<FolderEntry>,
    /// Whether there is more than a reply can hold: list a folder below, or with less depth.
    pub truncated: bool,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FolderEntry {
    /// Relative to the project folder.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub kind: EntryKind,
    /// Size of a file in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Link,
    /// A pipe, socket or device.
    Other,
}

pub(crate) fn list(root: &Root, params: ListFolder, stop: &CancellationToken) -> Result<FolderList, ToolError> {
    let path = start(params.path);
    let depth = Some(params.depth.unwrap_or(1));
    let walk = Walk { from: &path, depth, hidden: params.include_hidden.unwrap_or(false), glob: None };
    let mut budget = root.limits().reply_bytes;
    let (mut entries, mut truncated) = (Vec::new(), false);
    for found in walk.entries(root)?.take_while(|_| !stop.is_cancelled()) {
        let Some(left) = budget.checked_sub(json_len(&found.path) + ENTRY_OVERHEAD) else {
            truncated = true;
            break;
        };
        budget = left;
        entries.push(entry(found));
    }
    Ok(FolderList { path, entries, truncated })
}

fn entry(found: Found) -> FolderEntry {
    let file_type = found.metadata.file_type();
    let kind = if file_type.is_file() {
        EntryKind::File
    } else if file_type.is_dir() {
        EntryKind::Dir
    } else if file_type.is_symlink() {
        EntryKind::Link
    } else {
        EntryKind::Other
    };
    FolderEntry { path: found.path, kind, size: (kind == EntryKind::File).then(|| found.metadata.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn listed(root: &Root, params: ListFolder) -> Vec<String> {
        let list = list(root, params, &CancellationToken::new()).unwrap();
        list.entries.into_iter().map(|e| format!("{:?} {}", e.kind, e.path)).collect()
    }

    #[test]
    fn ignored_and_hidden_names_are_shown_on_demand() {
        let folder = tempfile::tempdir().unwrap();
        for dir in ["src/deep", "target", ".git"] {
            std::fs::create_dir_all(folder.path().join(dir)).unwrap();
        }
        for file in ["src/main.rs", "src/deep/a.rs", "target/out", ".env", ".git/config", "b.log"] {
            std::fs::write(folder.path().join(file), "x").unwrap();
        }
        std::fs::write(folder.path().join(".gitignore"), "/target\n*.log\n").unwrap();
        let root = Root::open(folder.path(), Limits::default()).unwrap();

        assert_eq!(listed(&root, ListFolder::default()), ["Dir src"]);
        let deep = ListFolder { path: Some("src".into()), depth: Some(3), include_hidden: None };
        assert_eq!(listed(&root, deep), ["Dir src/deep", "File src/deep/a.rs", "File src/main.rs"]);
        let all = ListFolder { include_hidden: Some(true), ..ListFolder::default() };
        let names = ["File .env", "File .gitignore", "File b.log", "Dir src", "Dir target"];
        assert_eq!(listed(&root, all), names);
    }

    #[test]
    fn a_reply_is_bounded() {
        let folder = tempfile::tempdir().unwrap();
        for number in 0..20 {
            std::fs::write(folder.path().join(format!("{number:02}")), "").unwrap();
        }
        let root = Root::open(folder.path(), Limits { reply_bytes: 400, ..Limits::default() }).unwrap();
        let list = list(&root, ListFolder::default(), &CancellationToken::new()).unwrap();
        assert!(list.truncated && list.entries.len() == 6, "{list:?}");
    }
}
