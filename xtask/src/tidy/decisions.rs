//! `adr/`: one page per decision.

use super::Findings;
use super::tree::{File, Tree};

const INDEX: &str = "adr/README.md";
const HEADINGS: [&str; 5] = ["Status", "Context", "Decision", "Rejected", "Consequences"];

/// Gaps in the numbers, pages that the index doesn't link, missing headings.
pub(super) fn check(tree: &Tree) -> Findings {
    let Some(index) = tree.text(INDEX) else {
        return vec![format!("{INDEX}: missing")];
    };
    let mut findings = Findings::new();
    let mut expected = 1;
    for file in tree.with_extension("md") {
        let Some(name) = file.path.strip_prefix("adr/").filter(|name| *name != "README.md") else {
            continue;
        };
        match number(name) {
            Some(number) if number == expected => {}
            Some(_) => findings.push(format!("{}: the next number is {expected:04}", file.path)),
            None => findings.push(format!("{}: name it NNNN-title.md", file.path)),
        }
        expected = number(name).unwrap_or(expected - 1) + 1;
        if !index.contains(&format!("]({name})")) {
            findings.push(format!("{INDEX}: doesn't link {name}"));
        }
        findings.extend(missing_headings(file));
    }
    findings
}

fn number(name: &str) -> Option<u32> {
    let (digits, title) = name.split_once('-')?;
    if digits.len() != 4 || title == ".md" {
        return None;
    }
    digits.parse().ok()
}

fn missing_headings(file: &File) -> Option<String> {
    let headings = file.text.lines().filter_map(|line| line.strip_prefix("## ")).map(str::trim);
    let found: Vec<_> = headings.filter(|heading| HEADINGS.contains(heading)).collect();
    (found != HEADINGS).then(|| format!("{}: needs, in this order, ## {}", file.path, HEADINGS.join(", ## ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# T\n\n## Status\n## Context\n## Decision\n## Rejected\n## Consequences\n";
    const LIST: &str = "- [1](0001-a.md)\n- [2](0002-b.md)\n";

    #[test]
    fn numbered_and_listed_pages_pass() {
        let tree = Tree::of(&[("adr/0001-a.md", PAGE), ("adr/0002-b.md", PAGE), (INDEX, LIST)]);
        assert_eq!(check(&tree), Findings::new());
        assert_eq!(check(&Tree::of(&[(INDEX, "")])), Findings::new());
    }

    #[test]
    fn a_gap_a_double_and_a_wrong_name_fail() {
        let list = "[a](0001-a.md) [b](0001-b.md) [c](0003-c.md) [n](note.md)";
        let tree = Tree::of(&[("adr/0001-a.md", PAGE), ("adr/0003-c.md", PAGE), (INDEX, list)]);
        assert_eq!(check(&tree), ["adr/0003-c.md: the next number is 0002"]);
        let tree = Tree::of(&[("adr/0001-a.md", PAGE), ("adr/0001-b.md", PAGE), (INDEX, list)]);
        assert_eq!(check(&tree).len(), 1);
        assert_eq!(check(&Tree::of(&[(INDEX, list), ("adr/note.md", PAGE)])).len(), 1);
    }

    #[test]
    fn an_unlisted_page_and_missing_headings_fail() {
        assert_eq!(check(&Tree::of(&[("adr/0001-a.md", PAGE), (INDEX, "")])).len(), 1);
        for heading in HEADINGS {
            let page = PAGE.replace(&format!("## {heading}\n"), "");
            assert_eq!(check(&Tree::of(&[("adr/0001-a.md", &page), (INDEX, LIST)])).len(), 1, "{heading}");
        }
        assert_eq!(check(&Tree::of(&[])).len(), 1);
    }
}
