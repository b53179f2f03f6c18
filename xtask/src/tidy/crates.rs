//! What every crate has: a description, the lints of the workspace, a front page.

use super::Findings;
use super::packages::Package;
use super::tree::Tree;

/// What crates lack.
pub(super) fn check(tree: &Tree, packages: &[Package]) -> Findings {
    packages.iter().flat_map(|package| check_one(tree, package)).collect()
}

fn check_one(tree: &Tree, package: &Package) -> Findings {
    let manifest = &package.manifest;
    let mut findings = Findings::new();
    if package.description.as_deref().is_none_or(|text| text.trim().is_empty()) {
        findings.push(format!("{manifest}: no description"));
    }
    if !tree.text(manifest).is_some_and(takes_workspace_lints) {
        findings.push(format!("{manifest}: no `lints.workspace = true`"));
    }
    for entry in &package.entries {
        if !tree.text(entry).is_some_and(|text| text.starts_with("//! ")) {
            findings.push(format!("{entry}:1: no front page; begin with `//!`: purpose, non-goals, invariants"));
        }
    }
    findings
}

fn takes_workspace_lints(manifest: &str) -> bool {
    let mut section = "";
    for line in manifest.lines().map(str::trim) {
        if line.starts_with('[') {
            section = line;
        }
        let setting: String = line.split('#').next().unwrap_or("").split_whitespace().collect();
        if matches!((section, setting.as_str()), ("[lints]", "workspace=true") | ("", "lints.workspace=true")) {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANIFEST: &str = "crates/a/Cargo.toml";
    const ENTRY: &str = "crates/a/src/lib.rs";

    fn findings(manifest: &str, entry: &str, description: Option<&str>) -> Findings {
        let package = Package {
            name: "a".to_owned(),
            manifest: MANIFEST.to_owned(),
            description: description.map(str::to_owned),
            entries: vec![ENTRY.to_owned()],
            ..Package::default()
        };
        check(&Tree::of(&[(MANIFEST, manifest), (ENTRY, entry)]), &[package])
    }

    #[test]
    fn a_complete_crate_passes() {
        assert_eq!(findings("[lints]\nworkspace = true\n", "//! Page.\n", Some("It.")), Findings::new());
    }

    #[test]
    fn each_missing_part_is_found() {
        let lints = "[lints]\nworkspace = true\n";
        assert_eq!(findings(lints, "//! Page.\n", None), ["crates/a/Cargo.toml: no description"]);
        assert_eq!(findings(lints, "mod x;\n//! Late.\n", Some("It.")).len(), 1);
        for other in ["", "[lints.rust]\nworkspace = true\n", "[lints]\n# workspace = true\n[x]\nworkspace = true\n"] {
            assert_eq!(findings(other, "//! Page.\n", Some("It.")).len(), 1, "{other}");
        }
    }
}
