//! Rust files: length, module files, attributes and macros that must not stay.

use super::Findings;
use super::tree::{File, Tree};

/// Longest file of a crate, in lines before its tests: above it a file holds two things.
const LONGEST: usize = 600;

/// What no line of code may hold, and what to do instead. In pieces, so that this file passes.
const REFUSED: [(&str, &str); 5] = [
    (concat!("#[", "allow("), "use #[expect(.., reason = \"..\")]"),
    (concat!("#![", "allow("), "use #![expect(.., reason = \"..\")]"),
    (concat!("to", "do!("), "finish it, or return an error that says what isn't supported"),
    (concat!("unimple", "mented!("), "return an error that says what isn't supported"),
    (concat!("d", "bg!("), "use tracing, or take it out"),
];

/// What is wrong with Rust files.
pub(super) fn check(tree: &Tree) -> Findings {
    let mut findings = Findings::new();
    for file in tree.with_extension("rs") {
        if file.path.rsplit('/').next() == Some("mod.rs") {
            findings.push(format!("{}: rename: `x/mod.rs` is `x.rs` here", file.path));
        }
        let length = lines_before_tests(&file.text);
        if is_crate_source(&file.path) && length > LONGEST {
            findings.push(format!("{}: {length} lines before its tests, at most {LONGEST}: split it", file.path));
        }
        findings.extend(refused(file));
    }
    findings
}

fn is_crate_source(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("crates") && parts.next().is_some() && parts.next() == Some("src")
}

/// Lines up to a `#[cfg(test)] mod x {`. A test module in a file of its own ends nothing.
fn lines_before_tests(text: &str) -> usize {
    let lines: Vec<&str> = text.lines().collect();
    let opens_tests = |number: &usize| {
        let item = lines[*number..].iter().find(|line| !line.starts_with("#["));
        lines[*number] == "#[cfg(test)]" && item.is_some_and(|line| line.starts_with("mod ") && line.ends_with('{'))
    };
    (0..lines.len()).find(opens_tests).unwrap_or(lines.len())
}

fn refused(file: &File) -> Findings {
    let mut findings = Findings::new();
    for (number, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("//") {
            continue;
        }
        for (pattern, instead) in REFUSED.iter().filter(|(pattern, _)| stands_alone(line, pattern)) {
            findings.push(format!("{}:{}: `{pattern}`: {instead}", file.path, number + 1));
        }
    }
    findings
}

/// Whether `pattern` is in `line` and isn't the end of a longer name.
fn stands_alone(line: &str, pattern: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(pattern).any(|(at, _)| !line[..at].ends_with(is_name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(path: &str, text: &str) -> Findings {
        check(&Tree::of(&[(path, text)]))
    }

    #[test]
    fn a_long_file_fails_but_its_tests_do_not_count() {
        let code = "fn f() {}\n".repeat(LONGEST);
        let tests = "#[cfg(test)]\nmod tests {\n".to_owned() + &code + "}\n";
        assert!(findings("crates/a/src/b.rs", &(code.clone() + &tests)).is_empty());
        assert_eq!(findings("crates/a/src/b.rs", &(code.clone() + "fn g() {}\n" + &tests)).len(), 1);
        let elsewhere = "#[cfg(test)]\nmod tests;\n".to_owned() + &code;
        assert_eq!(findings("crates/a/src/b.rs", &elsewhere).len(), 1);
        assert!(findings("tests/b.rs", &elsewhere).is_empty());
    }

    #[test]
    fn mod_rs_fails() {
        assert_eq!(findings("crates/a/src/b/mod.rs", "").len(), 1);
        assert!(findings("crates/a/src/model.rs", "").is_empty());
    }

    #[test]
    fn refused_code_fails() {
        for (pattern, _) in REFUSED {
            assert_eq!(findings("xtask/src/a.rs", &format!("fn f() {{\n    {pattern}x)\n}}\n")).len(), 1, "{pattern}");
            assert!(findings("xtask/src/a.rs", &format!("/// Never {pattern}x).\n")).is_empty());
        }
        assert!(findings("a.rs", concat!("my_to", "do!(x)\n")).is_empty());
    }
}
