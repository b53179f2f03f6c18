//! `fs.edit`

use std::time::Duration;

use hub_spoke::CancellationToken;
use hub_spoke::hub_protocol::OperationType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use similar::TextDiff;

use super::head;
use super::write::unchanged;
use crate::declare::Tool;
use crate::error::{
    EDIT_NOT_FOUND, EDIT_NOT_UNIQUE, FILE_CHANGED, FILE_NOT_FOUND, NOT_A_FILE, NOT_TEXT, OUTSIDE_ROOT,
    PERMISSION_DENIED, TOO_LARGE, ToolError,
};
use crate::root::{Root, sha256};

pub(crate) const TOOL: Tool = Tool {
    id: "fs.edit",
    title: "Edit a file",
    description: "Replace texts in a file of the project. Each oldText must be in the file exactly once, with its white \
        space and line ends, unless all is true. Edits are made in order, each on the result of those before it; if one \
        fails the file stays as it was. Answers a unified diff.",
    kind: OperationType::Mutation,
    scope: "dev:write",
    errors: &[
        FILE_NOT_FOUND,
        NOT_A_FILE,
        OUTSIDE_ROOT,
        PERMISSION_DENIED,
        TOO_LARGE,
        NOT_TEXT,
        FILE_CHANGED,
        EDIT_NOT_FOUND,
        EDIT_NOT_UNIQUE,
    ],
};

/// Longest search for a small diff; after it the diff is right but larger.
const DIFF_TIME: Duration = Duration::from_millis(500);

/// Most lines named when a text is not unique.
const NAMED_LINES: usize = 20;

/// Input of `fs.edit`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EditFile {
    /// File, relative to the project folder.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// What to replace, in order.
    #[schemars(length(min = 1, max = 200))]
    pub edits: Vec<Edit>,
    /// SHA-256 in hex of the content that was seen; a file that has changed since is left alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = "^[0-9a-f]{64}$"))]
    pub expected_sha256: Option<String>,
}

/// One replacement.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Edit {
    /// Exact text to replace.
    #[schemars(length(min = 1))]
    pub old_text: String,
    /// What takes its place; may be empty.
    pub new_text: String,
    /// Replace it wherever it is. Default: false, then it must be there exactly once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<bool>,
}

/// Output of `fs.edit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EditedFile {
    /// Texts replaced, over all edits.
    pub replacements: usize,
    /// SHA-256 of the content now, in hex.
    pub sha256: String,
    /// Unified diff of the change; its end is cut when it is very long.
    pub diff: String,
}

pub(crate) fn edit(root: &Root, params: EditFile, _: &CancellationToken) -> Result<EditedFile, ToolError> {
    let EditFile { path, edits, expected_sha256 } = params;
    let _changing = root.changing();
    let target = root.target(&path, false)?;
    let old = root.read_text(&path)?;
    if let Some(expected) = expected_sha256 {
        unchanged(&path, &expected, old.as_bytes())?;
    }
    let (new, replacements) = apply(&old, &edits, |bytes| root.small(&path, bytes))?;
    target.replace(new.as_bytes()).map_err(|e| ToolError::of_io(&path, &e))?;
    let diff = diff(&path, &old, &new);
    let diff = head(&diff, root.limits().reply_bytes).to_owned();
    Ok(EditedFile { replacements, sha256: sha256(new.as_bytes()), diff })
}

/// Makes the edits in order. `fits` is asked before a text grows, since one `all` can multiply its size.
fn apply(old: &str, edits: &[Edit], fits: impl Fn(u64) -> Result<(), ToolError>) -> Result<(String, usize), ToolError> {
    let (mut text, mut replacements) = (old.to_owned(), 0);
    for (index, edit) in edits.iter().enumerate() {
        let found = places(&text, &edit.old_text);
        match found.len() {
            0 => return Err(ToolError::EditNotFound { edit: index }),
            1 => {}
            _ if edit.all == Some(true) => {}
            _ => return Err(ToolError::EditNotUnique { edit: index, lines: lines_of(&text, &found) }),
        }
        let removed = found.len() * edit.old_text.len();
        fits((text.len() - removed).saturating_add(found.len().saturating_mul(edit.new_text.len())) as u64)?;
        text = text.replace(&edit.old_text, &edit.new_text);
        replacements += found.len();
    }
    Ok((text, replacements))
}

/// Where `old` begins, without overlaps. No text is nowhere.
fn places(text: &str, old: &str) -> Vec<usize> {
    if old.is_empty() { Vec::new() } else { text.match_indices(old).map(|(at, _)| at).collect() }
}

fn lines_of(text: &str, places: &[usize]) -> Vec<usize> {
    let (mut line, mut from) = (1, 0);
    let mut lines = Vec::new();
    for &at in places.iter().take(NAMED_LINES) {
        line += text[from..at].matches('\n').count();
        from = at;
        lines.push(line);
    }
    lines
}

fn diff(path: &str, old: &str, new: &str) -> String {
    let diff = TextDiff::configure().timeout(DIFF_TIME).diff_lines(old, new);
    diff.unified_diff().context_radius(3).header(&format!("a/{path}"), &format!("b/{path}")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn one(old: &str, new: &str, all: Option<bool>) -> Edit {
        Edit { old_text: old.into(), new_text: new.into(), all }
    }

    fn applied(text: &str, edits: &[Edit]) -> Result<(String, usize), ToolError> {
        apply(text, edits, |_| Ok(()))
    }

    #[test]
    fn edits_see_the_result_of_those_before() {
        let edits = [one("a", "b", None), one("b", "cc", Some(true))];
        assert_eq!(applied("a b b\n", &edits), Ok(("cc cc cc\n".into(), 4)));
    }

    #[test]
    fn an_edit_must_be_found_and_unique() {
        assert_eq!(applied("abc", &[one("x", "y", None)]), Err(ToolError::EditNotFound { edit: 0 }));
        assert_eq!(applied("abc", &[one("", "y", None)]), Err(ToolError::EditNotFound { edit: 0 }));
        let edits = [one("c", "c", None), one("x", "y", None)];
        assert_eq!(applied("x\nx c\nx", &edits), Err(ToolError::EditNotUnique { edit: 1, lines: vec![1, 2, 3] }));
    }

    #[test]
    fn growth_is_refused_before_it_happens() {
        let huge = "x".repeat(1000);
        let result = apply("aaaa", &[one("a", &huge, Some(true))], |bytes| {
            assert_eq!(bytes, 4000);
            Err(ToolError::Busy { limit: 0 })
        });
        assert_eq!(result, Err(ToolError::Busy { limit: 0 }));
    }

    #[test]
    fn a_failed_edit_leaves_the_file_alone_and_a_good_one_answers_a_diff() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("a.rs");
        std::fs::write(&file, "fn a() {}\nfn b() {}\n").unwrap();
        let root = Root::open(folder.path(), Limits::default()).unwrap();
        let run = |edits: Vec<Edit>, sha: Option<String>| {
            edit(&root, EditFile { path: "a.rs".into(), edits, expected_sha256: sha }, &CancellationToken::new())
        };
        let half = run(vec![one("fn a", "fn c", None), one("nowhere", "", None)], None);
        assert_eq!(half, Err(ToolError::EditNotFound { edit: 1 }));
        let stale = run(vec![one("fn a", "fn c", None)], Some("0".repeat(64)));
        assert!(matches!(stale, Err(ToolError::Changed { .. })), "{stale:?}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "fn a() {}\nfn b() {}\n");

        let seen = sha256(&std::fs::read(&file).unwrap());
        let done = run(vec![one("fn a", "fn c", None)], Some(seen)).unwrap();
        assert_eq!(done.diff, "--- a/a.rs\n+++ b/a.rs\n@@ -1,2 +1,2 @@\n-fn a() {}\n+fn c() {}\n fn b() {}\n");
        assert_eq!((done.replacements, done.sha256), (1, sha256(&std::fs::read(&file).unwrap())));
    }
}
