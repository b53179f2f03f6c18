//! `README.md`: its first command runs the hub, its second the tests.

use super::Findings;
use super::tree::Tree;

const README: &str = "README.md";
const COMMANDS: [&str; 2] = ["cargo run --release", "cargo xtask test"];

/// A README that doesn't begin with the two commands.
pub(super) fn check(tree: &Tree) -> Findings {
    let Some(text) = tree.text(README) else {
        return vec![format!("{README}: missing")];
    };
    let found = commands(text);
    let wrong = |(number, expected): (usize, &&str)| {
        let found = found.get(number).copied().unwrap_or("none");
        (found != *expected).then(|| format!("{README}: command {} is `{found}`, not `{expected}`", number + 1))
    };
    COMMANDS.iter().enumerate().filter_map(wrong).collect()
}

/// Command lines of fenced shell blocks, without prompts and comments.
fn commands(text: &str) -> Vec<&str> {
    let mut found = Vec::new();
    let mut block = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            block = if block.is_none() { Some(language.trim()) } else { None };
            continue;
        }
        let command = match block {
            Some("sh" | "bash" | "shell") => line,
            // What has no prompt is output.
            Some("console") => line.strip_prefix("$ ").unwrap_or(""),
            _ => continue,
        };
        let command = command.trim().split(" #").next().unwrap_or("").trim_end();
        if !command.is_empty() && !command.starts_with('#') {
            found.push(command);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(text: &str) -> Findings {
        check(&Tree::of(&[(README, text)]))
    }

    #[test]
    fn the_two_commands_in_this_order_pass() {
        assert!(
            findings("# Hub\n```sh\ncargo run --release   # starts\n```\n```sh\ncargo xtask test\n```\n").is_empty()
        );
        let console = "```toml\na = 1\n```\n```console\n$ cargo run --release\nlistening\n$ cargo xtask test\n```\n";
        assert!(findings(console).is_empty());
    }

    #[test]
    fn other_first_commands_fail() {
        assert_eq!(findings("```sh\ncargo xtask test\ncargo run --release\n```\n").len(), 2);
        assert_eq!(findings("```sh\ncargo run --release\n```\nThen `cargo xtask test`.\n").len(), 1);
        assert_eq!(findings("```sh\ngit clone x\ncargo run --release\ncargo xtask test\n```\n").len(), 2);
        assert_eq!(check(&Tree::of(&[])), ["README.md: missing"]);
    }
}
