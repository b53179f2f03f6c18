//! `fs.search`

use std::time::Instant;

use hub_spoke::CancellationToken;
use hub_spoke::hub_protocol::OperationType;
use regex::{Regex, RegexBuilder};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::walk::{Walk, single, start};
use super::{head, json_len};
use crate::declare::Tool;
use crate::error::{BAD_PATTERN, FILE_NOT_FOUND, NOT_A_FILE, OUTSIDE_ROOT, PERMISSION_DENIED, TOO_LARGE, ToolError};
use crate::root::{Root, checked};

pub(crate) const TOOL: Tool = Tool {
    id: "fs.search",
    title: "Search files",
    description: "Find lines by a regular expression (Rust syntax: no look-around, no back-references) in the text files \
        of the project or of one folder or file. Skips what .gitignore leaves out, hidden, binary and very large files. \
        glob narrows it by name, for example *.rs, src/**/*.ts, or !*.lock to leave files out.",
    kind: OperationType::Query,
    scope: "dev:read",
    errors: &[FILE_NOT_FOUND, NOT_A_FILE, OUTSIDE_ROOT, PERMISSION_DENIED, TOO_LARGE, BAD_PATTERN],
};

/// Matches in a reply when the caller asks for no number.
const DEFAULT_RESULTS: usize = 100;
/// Longest piece of a line that is answered, in bytes of JSON.
const LINE_BYTES: usize = 500;
/// How far before the match the piece of a long line begins, in bytes.
const LINE_BEFORE: usize = 100;
/// Bytes that a match takes in JSON beside path and text, rounded up.
const MATCH_OVERHEAD: usize = 80;
/// Memory that one compiled expression may take, in bytes.
const REGEX_BYTES: usize = 4 * 1024 * 1024;

/// Input of `fs.search`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SearchFiles {
    /// Regular expression, matched against each line.
    #[schemars(length(min = 1, max = 4096))]
    pub pattern: String,
    /// Folder or file, relative to the project folder. Default: the project folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 4096))]
    pub path: Option<String>,
    /// Only files whose path fits, in the syntax of .gitignore.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 4096))]
    pub glob: Option<String>,
    /// Take capital and small letters as equal. Default: false.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ignore_case: Option<bool>,
    /// Most matches to answer. Default: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2000))]
    pub max_results: Option<usize>,
}

/// Output of `fs.search`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SearchResults {
    /// Matching lines, by path and line.
    pub matches: Vec<Match>,
    /// Whether the search ended before it had seen everything: narrow it by path, glob or pattern.
    pub truncated: bool,
    /// Files that were searched.
    pub files_searched: usize,
    /// Files that were passed over: binary, too large or not readable.
    pub files_skipped: usize,
}

/// A matching line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// File, relative to the project folder.
    pub path: String,
    /// Line, counted from 1.
    pub line: usize,
    /// Column of the first match in the line, in characters counted from 1.
    pub column: usize,
    /// The line without its end; of a long line the part around the match.
    pub text: String,
}

struct Search<'a> {
    root: &'a Root,
    pattern: Regex,
    most: usize,
    budget: usize,
    until: Instant,
    stop: &'a CancellationToken,
    results: SearchResults,
}

pub(crate) fn search(root: &Root, params: SearchFiles, stop: &CancellationToken) -> Result<SearchResults, ToolError> {
    let pattern = RegexBuilder::new(&params.pattern)
        .case_insensitive(params.ignore_case.unwrap_or(false))
        .size_limit(REGEX_BYTES)
        .build()
        .map_err(|e| ToolError::BadPattern { which: "pattern", reason: e.to_string() })?;
    let path = start(params.path);
    let mut search = Search {
        root,
        pattern,
        most: params.max_results.unwrap_or(DEFAULT_RESULTS),
        budget: root.limits().reply_bytes,
        until: Instant::now() + root.limits().search_time,
        stop,
        results: SearchResults::default(),
    };
    if root.metadata(&path)?.is_dir() {
        search.folder(&Walk { from: &path, depth: None, hidden: false, glob: params.glob.as_deref() })?;
    } else {
        let text = root.read_text(&path)?;
        search.results.files_searched = 1;
        search.text(&single(&checked(&path)?).unwrap_or(path), &text);
    }
    Ok(search.results)
}

impl Search<'_> {
    fn folder(&mut self, walk: &Walk<'_>) -> Result<(), ToolError> {
        for found in walk.entries(self.root)? {
            if self.stop.is_cancelled() || Instant::now() > self.until {
                self.results.truncated = true;
            }
            if self.results.truncated {
                break;
            }
            if !found.metadata.is_file() {
                continue;
            }
            match self.root.read_text(&found.path) {
                Ok(text) => {
                    self.results.files_searched += 1;
                    self.text(&found.path, &text);
                }
                Err(_) => self.results.files_skipped += 1,
            }
        }
        Ok(())
    }

    fn text(&mut self, path: &str, text: &str) {
        for (index, line) in text.lines().enumerate() {
            let Some(at) = self.pattern.find(line).map(|m| m.start()) else { continue };
            let found = Match {
                path: path.to_owned(),
                line: index + 1,
                column: line[..at].chars().count() + 1,
                text: around(line, at).to_owned(),
            };
            let size = json_len(&found.path) + json_len(&found.text) + MATCH_OVERHEAD;
            if self.results.matches.len() >= self.most || size > self.budget {
                self.results.truncated = true;
                return;
            }
            self.budget -= size;
            self.results.matches.push(found);
        }
    }
}

/// The part of a line around `at`.
fn around(line: &str, at: usize) -> &str {
    if json_len(line) <= LINE_BYTES {
        return line;
    }
    head(&line[line.floor_char_boundary(at.saturating_sub(LINE_BEFORE))..], LINE_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Limits;

    fn project() -> (tempfile::TempDir, Root) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("src")).unwrap();
        let long = format!("{}needle{}", "ä".repeat(400), "x".repeat(4000));
        for (file, content) in [
            ("src/a.rs", "fn one() {}\r\n  let näh = needle;\n"),
            ("src/b.txt", "Needle\nneedle needle\n"),
            ("src/long.txt", long.as_str()),
            ("binary", "needle\0"),
            ("ignored.log", "needle"),
            (".gitignore", "*.log\n"),
        ] {
            std::fs::write(folder.path().join(file), content).unwrap();
        }
        let root = Root::open(folder.path(), Limits::default()).unwrap();
        (folder, root)
    }

    fn found(root: &Root, params: SearchFiles) -> SearchResults {
        search(root, params, &CancellationToken::new()).unwrap()
    }

    fn places(results: &SearchResults) -> Vec<String> {
        results.matches.iter().map(|m| format!("{}:{}:{}", m.path, m.line, m.column)).collect()
    }

    #[test]
    fn lines_are_found_by_path_line_and_column() {
        let (_folder, root) = project();
        let params = SearchFiles { pattern: "needle".into(), ..SearchFiles::default() };
        let all = found(&root, params.clone());
        assert_eq!(places(&all), ["src/a.rs:2:13", "src/b.txt:2:1", "src/long.txt:1:401"]);
        assert_eq!((all.files_searched, all.files_skipped, all.truncated), (3, 1, false));
        let text = &all.matches[2].text;
        assert!(text.contains("needle") && text.starts_with('ä') && text.len() <= LINE_BYTES, "{text}");

        let glob = SearchFiles { glob: Some("*.rs".into()), ..params.clone() };
        assert_eq!(places(&found(&root, glob)), ["src/a.rs:2:13"]);
        let file = SearchFiles { path: Some("./src/b.txt".into()), ignore_case: Some(true), ..params.clone() };
        assert_eq!(places(&found(&root, file)), ["src/b.txt:1:1", "src/b.txt:2:1"]);
        let few = found(&root, SearchFiles { max_results: Some(2), ..params });
        assert!(few.truncated && few.matches.len() == 2);
    }

    #[test]
    fn a_line_end_is_no_part_of_a_line() {
        let (_folder, root) = project();
        let params = SearchFiles { pattern: r"\{\}$".into(), ..SearchFiles::default() };
        assert_eq!(found(&root, params).matches[0].text, "fn one() {}");
    }

    #[test]
    fn malformed_patterns_are_named() {
        let (_folder, root) = project();
        for (pattern, glob, named) in
            [("(", None, "pattern"), ("a{9999}{9999}", None, "pattern"), ("a", Some("{"), "glob")]
        {
            let params =
                SearchFiles { pattern: pattern.into(), glob: glob.map(str::to_owned), ..SearchFiles::default() };
            let error = search(&root, params, &CancellationToken::new()).unwrap_err();
            assert!(matches!(error, ToolError::BadPattern { which, .. } if which == named), "{error}");
        }
    }

    #[test]
    fn an_aborted_search_ends() {
        let (_folder, root) = project();
        let stop = CancellationToken::new();
        stop.cancel();
        let params = SearchFiles { pattern: "needle".into(), ..SearchFiles::default() };
        let results = search(&root, params, &stop).unwrap();
        assert!(results.truncated && results.matches.is_empty());
    }
}
