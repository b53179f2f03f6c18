//! Markdown links to files of the repository.

use super::Findings;
use super::tree::{File, Tree};

/// Links that lead nowhere. Links to other sites aren't followed.
pub(super) fn check(tree: &Tree) -> Findings {
    let dead = |file: &File| {
        let is_dead = |(_, target): &(usize, String)| !resolves(tree, &file.path, target);
        let finding = |(line, target)| format!("{}:{line}: no file {target}", file.path);
        targets(&file.text).into_iter().filter(is_dead).map(finding).collect::<Findings>()
    };
    tree.with_extension("md").flat_map(dead).collect()
}

/// Whether `target`, as written in the file at `from`, is a file or a folder.
fn resolves(tree: &Tree, from: &str, target: &str) -> bool {
    let path = target.split(['#', '?']).next().unwrap_or("");
    let mut parts: Vec<&str> = from.split('/').collect();
    parts.pop();
    if path.starts_with('/') {
        parts.clear();
    }
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.pop().is_none() => return false,
            ".." => {}
            name => parts.push(name),
        }
    }
    let path = parts.join("/");
    let folder = path.clone() + "/";
    path.is_empty() || tree.files.iter().any(|file| file.path == path || file.path.starts_with(&folder))
}

/// Targets of inline links and of reference definitions that are paths, each with its line.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (number, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        // Every other piece between backticks is code.
        let prose: String = line.split('`').step_by(2).collect();
        let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let definition = prose.trim_start().strip_prefix('[').and_then(|rest| rest.split_once("]: ")).map(|(_, to)| to);
        for target in inline.chain(definition) {
            let target = target.split_whitespace().next().unwrap_or("").trim_matches(['<', '>']);
            if !target.is_empty() && !target.starts_with('#') && !has_scheme(target) {
                found.push((number + 1, target.to_owned()));
            }
        }
    }
    found
}

fn has_scheme(target: &str) -> bool {
    target.split_once(':').is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Findings {
        check(&Tree::of(&[("docs/a.md", text), ("docs/b/c.md", ""), ("README.md", "")]))
    }

    #[test]
    fn links_that_resolve_pass() {
        let text = "[r](../README.md#top) [c](b/c.md \"title\") [b](b/) [here](#x) [w](https://example.com/no.md)\n\
                    [ref]: ./b/c.md\n`[code](nowhere.md)`\n```\n[code](nowhere.md)\n```\n[root](/README.md)\n";
        assert_eq!(findings(text), Findings::new());
    }

    #[test]
    fn dead_links_fail() {
        assert_eq!(findings("x\n[c](c.md)\n"), ["docs/a.md:2: no file c.md"]);
        for text in ["[c](b/c.m)", "[up](../../README.md)", "[x]: nowhere.md", "![i](b/i.png) [c](b/c.md)"] {
            assert_eq!(findings(text).len(), 1, "{text}");
        }
    }
}
