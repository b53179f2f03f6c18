//! `fs.read`

use hub_spoke::CancellationToken;
use hub_spoke::hub_protocol::OperationType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{head, json_len};
use crate::declare::Tool;
use crate::error::{FILE_NOT_FOUND, NOT_A_FILE, NOT_TEXT, OUTSIDE_ROOT, PERMISSION_DENIED, TOO_LARGE, ToolError};
use crate::root::{Root, sha256};

pub(crate) const TOOL: Tool = Tool {
    id: "fs.read",
    title: "Read a file",
    description: "Read a text file of the project, whole or by lines. The answer holds the lines as they are, the \
        file's number of lines, and its sha256 for expectedSha256 of fs.write and fs.edit. When truncated is true, go \
        on with offsetLine = nextLine.",
    kind: OperationType::Query,
    scope: "dev:read",
    errors: &[FILE_NOT_FOUND, NOT_A_FILE, OUTSIDE_ROOT, PERMISSION_DENIED, TOO_LARGE, NOT_TEXT],
};

/// Lines in a reply when the caller asks for no number.
const DEFAULT_LINES: usize = 2_000;

/// Input of `fs.read`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ReadFile {
    /// File, relative to the project folder.
    #[schemars(length(min = 1, max = 4096))]
    pub path: String,
    /// First line to answer, counted from 1. Default: 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub offset_line: Option<usize>,
    /// Most lines to answer. Default: 2,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub limit_lines: Option<usize>,
}

/// Output of `fs.read`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileContent {
    /// As asked for.
    pub path: String,
    /// The lines, with their line ends.
    pub content: String,
    /// Lines in the whole file.
    pub total_lines: usize,
    /// Whether the file goes on after `content`, or a line of it was too long and is cut.
    pub truncated: bool,
    /// The line after `content`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_line: Option<usize>,
    /// SHA-256 of the whole file, in hex.
    pub sha256: String,
}

pub(crate) fn read(root: &Root, params: ReadFile, _: &CancellationToken) -> Result<FileContent, ToolError> {
    let text = root.read_text(&params.path)?;
    let skip = params.offset_line.unwrap_or(1).saturating_sub(1);
    let most = params.limit_lines.unwrap_or(DEFAULT_LINES);
    let mut budget = root.limits().reply_bytes;
    let (mut content, mut taken, mut cut) = (String::new(), 0, false);
    for line in text.split_inclusive('\n').skip(skip).take(most) {
        let size = json_len(line);
        if size > budget {
            // A line that alone is over the limit would never be answered; then its head is better than nothing.
            if taken == 0 {
                content.push_str(head(line, budget));
                (taken, cut) = (1, true);
            }
            break;
        }
        budget -= size;
        content.push_str(line);
        taken += 1;
    }
    let total_lines = text.split_inclusive('\n').count();
    let next_line = Some(skip.saturating_add(taken).saturating_add(1)).filter(|next| *next <= total_lines);
    let truncated = cut || next_line.is_some();
    Ok(FileContent { path: params.path, content, total_lines, truncated, next_line, sha256: sha256(text.as_bytes()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn read_with(content: &str, reply_bytes: usize, offset: usize, limit: usize) -> FileContent {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("a.txt"), content).unwrap();
        let root = Root::open(folder.path(), Limits { reply_bytes, ..Limits::default() }).unwrap();
        let params = ReadFile { path: "a.txt".into(), offset_line: Some(offset), limit_lines: Some(limit) };
        read(&root, params, &CancellationToken::new()).unwrap()
    }

    #[test]
    fn lines_are_answered_as_they_are() {
        let whole = read_with("one\r\ntwo\nthree", 100, 1, 10);
        assert_eq!(whole.content, "one\r\ntwo\nthree");
        assert_eq!((whole.total_lines, whole.truncated, whole.next_line), (3, false, None));
        let part = read_with("one\ntwo\nthree\n", 100, 2, 1);
        assert_eq!((part.content.as_str(), part.truncated, part.next_line), ("two\n", true, Some(3)));
        assert_eq!(part.sha256, read_with("one\ntwo\nthree\n", 100, 1, 9).sha256);
    }

    #[test]
    fn beyond_the_end_there_is_nothing() {
        let beyond = read_with("one\n", 100, 7, 1);
        assert_eq!((beyond.content.as_str(), beyond.total_lines, beyond.truncated), ("", 1, false));
        assert_eq!(read_with("", 100, 1, 1).total_lines, 0);
    }

    #[test]
    fn a_reply_is_bounded_and_says_where_to_go_on() {
        let first = read_with("12345678\nabcdefgh\nend\n", 20, 1, 10);
        assert_eq!((first.content.as_str(), first.next_line), ("12345678\nabcdefgh\n", Some(3)));
        let long = read_with("ääääää\nend\n", 5, 1, 10);
        assert_eq!((long.content.as_str(), long.truncated, long.next_line), ("ää", true, Some(2)));
    }
}
