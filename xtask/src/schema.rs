//! `cargo xtask schema`: the committed operation catalogue.

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use crate::process::{cargo, output, root};

const CATALOGUE: &str = "docs/operations.json";

/// Writes the catalogue, or compares it.
///
/// # Errors
/// The server didn't print JSON, or, with `--check`, prints other JSON than the file holds.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let check = match args {
        [] => false,
        [flag] if flag == "--check" => true,
        _ => bail!("unexpected arguments; see `cargo xtask schema --help`"),
    };
    let mut server = cargo();
    server.args(["run", "--quiet", "--package", "hub-server", "--", "operations", "--json"]);
    // Not captured: what the compiler says about a server that doesn't build is for the person.
    let printed = output(server.stderr(Stdio::inherit())).context("the server can't print its operations")?;
    serde_json::from_str::<serde_json::Value>(&printed).context("`hub-server operations --json` printed no JSON")?;
    let printed = printed.trim_end().to_owned() + "\n";
    let path = root().join(CATALOGUE);
    let committed = fs::read_to_string(&path).unwrap_or_default();
    match difference(&committed, &printed) {
        None => println!("{CATALOGUE} is up to date"),
        Some(difference) if check => bail!(
            "{CATALOGUE} isn't what the server has; {difference}\nmeant? run `cargo xtask schema` and commit the file"
        ),
        Some(_) => {
            fs::write(&path, printed).with_context(|| format!("can't write {CATALOGUE}"))?;
            println!("{CATALOGUE} written");
        }
    }
    Ok(())
}

/// Where two texts first differ, for a person.
fn difference(committed: &str, printed: &str) -> Option<String> {
    if committed == printed {
        return None;
    }
    let (mut old, mut new) = (committed.lines(), printed.lines());
    for number in 1.. {
        match (old.next(), new.next()) {
            (None, None) => break,
            (old, new) if old == new => {}
            (old, new) => {
                let shown = |line: Option<&str>| line.unwrap_or("(end)").trim().to_owned();
                return Some(format!("line {number}:\n  file:   {}\n  server: {}", shown(old), shown(new)));
            }
        }
    }
    Some("only line ends differ".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_differing_line_is_named() {
        assert_eq!(difference("a\nb\n", "a\nb\n"), None);
        assert!(difference("a\nb\n", "a\nc\n").unwrap().contains("line 2:\n  file:   b\n  server: c"));
        assert!(difference("", "a\n").unwrap().contains("line 1:\n  file:   (end)"));
        assert!(difference("a\r\n", "a\n").unwrap().contains("line ends"));
    }
}
