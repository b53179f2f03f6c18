//! `cargo xtask tidy`: house rules that no compiler knows.
//!
//! Each rule is a function from plain data ([`Tree`], [`Package`]s) to findings, so that its test can show it fail.

mod crates;
mod decisions;
mod layers;
mod links;
mod migrations;
mod packages;
mod readme;
mod sources;
mod tree;
mod words;

use anyhow::{Result, bail};

use packages::Package;
use tree::Tree;

/// One line for a person: `file:line: what is wrong, and what to do`.
type Findings = Vec<String>;

/// Checks the workspace this program was built in.
///
/// # Errors
/// There are findings (they are printed), or the workspace can't be read.
pub(crate) fn run() -> Result<()> {
    let tree = Tree::read()?;
    let packages = Package::read_all()?;
    let findings = check(&tree, &packages);
    for finding in &findings {
        println!("{finding}");
    }
    if !findings.is_empty() {
        bail!("findings: {}; `cargo xtask tidy --help` explains the rules", findings.len());
    }
    println!("tidy: {} files, {} crates", tree.files.len(), packages.len());
    Ok(())
}

fn check(tree: &Tree, packages: &[Package]) -> Findings {
    [
        layers::check(packages),
        crates::check(tree, packages),
        sources::check(tree),
        decisions::check(tree),
        migrations::check(tree),
        readme::check(tree),
        links::check(tree),
        words::check(tree),
    ]
    .concat()
}
