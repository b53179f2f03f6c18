//! Words that must not be in a committed text: they speak of the machine or tool it was written with, or of a host that
//! a reader's own configuration names.

use super::Findings;
use super::tree::Tree;

/// Lower case, in pieces so that this file passes.
const REFUSED: [(&str, &str); 10] = [
    (concat!("/wo", "rk/"), "a path of one machine"),
    (concat!("/tmp/bash_", "jobs"), "a path of one machine"),
    (concat!("str_replace_", "based_edit"), "a tool of the writer"),
    (concat!("co-authored-", "by: "), "belongs in a commit message, if anywhere"),
    (concat!("as an ai ", "language model"), "says nothing about the hub"),
    (concat!("py", "pi.org"), "name the package, not a registry's host"),
    (concat!("python", "hosted.org"), "name the package, not a registry's host"),
    (concat!("registry.np", "mjs"), "name the package, not a registry's host"),
    (concat!("index.cra", "tes.io"), "name the package, not a registry's host"),
    (concat!("static.cra", "tes.io"), "name the package, not a registry's host"),
];

/// Lines with a refused word.
pub(super) fn check(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for file in &tree.files {
        for (number, line) in file.text.lines().enumerate() {
            let line = line.to_lowercase();
            for (word, reason) in REFUSED.iter().filter(|(word, _)| holds(&line, word)) {
                findings.push(format!("{}:{}: `{word}`: {reason}", file.path, number + 1));
            }
        }
    }
    findings
}

/// Whether `word` is in `line`; a path counts only where it begins, so `/home/me/x/` doesn't hold `/x/`.
fn holds(line: &str, word: &str) -> bool {
    let continues_path = |before: &str| before.ends_with(|c: char| c.is_alphanumeric() || "._-~}*".contains(c));
    line.match_indices(word).any(|(at, _)| !word.starts_with('/') || !continues_path(&line[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refused_word_fails() {
        for (word, _) in REFUSED {
            assert_eq!(check(&Tree::of(&[("a.toml", &format!("x = 1\ny = \"{word}z\"\n"))])).len(), 1, "{word}");
        }
        assert_eq!(check(&Tree::of(&[("a.md", concat!("As An AI ", "Language Model"))])).len(), 1);
    }

    #[test]
    fn a_folder_of_that_name_elsewhere_passes() {
        assert!(check(&Tree::of(&[("a.md", "~/work/hub /home/me/work/x https://example.com/work/y")])).is_empty());
    }
}
