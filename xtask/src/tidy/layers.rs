//! The dependency picture of the architecture: who may use whom.

use super::Findings;
use super::packages::{Dependency, Package};

struct Layer {
    name: &'static str,
    level: u8,
    /// Crates of the workspace that it may use, shipped code.
    uses: &'static [&'static str],
}

const LAYERS: [Layer; 9] = [
    Layer { name: "hub-protocol", level: 0, uses: &[] },
    Layer { name: "hub-operations", level: 1, uses: &["hub-protocol"] },
    Layer { name: "hub-pubsub", level: 1, uses: &["hub-protocol"] },
    Layer { name: "hub-storage", level: 1, uses: &["hub-protocol"] },
    Layer { name: "hub-core", level: 2, uses: &["hub-operations", "hub-pubsub", "hub-storage", "hub-protocol"] },
    Layer { name: "hub-adapters", level: 2, uses: &["hub-operations", "hub-protocol"] },
    Layer { name: "hub-spoke", level: 2, uses: &["hub-operations", "hub-protocol"] },
    Layer {
        name: "hub-server",
        level: 3,
        uses: &["hub-core", "hub-adapters", "hub-operations", "hub-pubsub", "hub-storage", "hub-protocol"],
    },
    Layer { name: "hub-cli", level: 3, uses: &["hub-adapters", "hub-spoke", "hub-operations", "hub-protocol"] },
];

/// The crate of test support, open to every crate's tests.
const TESTKIT: &str = "hub-testkit";

/// Crates outside of the picture: they may use all, and nothing shipped may use them.
const FREE: [&str; 4] = [TESTKIT, "hub-e2e", "hub-bench", "xtask"];

/// An outside dependency that only some crates may name, and why.
struct Reserved {
    matches: fn(&str) -> bool,
    what: &'static str,
    allowed: fn(&str) -> bool,
    reason: &'static str,
}

const RESERVED: [Reserved; 3] = [
    Reserved {
        matches: |dependency| dependency.starts_with("diesel"),
        what: "diesel",
        allowed: |krate| krate == "hub-storage",
        reason: "only hub-storage names the database",
    },
    Reserved {
        matches: |dependency| dependency.contains("tungstenite"),
        what: "tungstenite",
        allowed: |krate| ["hub-server", "hub-spoke", TESTKIT, "hub-e2e", "hub-bench"].contains(&krate),
        reason: "only hub-server and hub-spoke hold sockets",
    },
    Reserved {
        matches: |dependency| dependency.starts_with("tokio"),
        what: "tokio",
        allowed: |krate| krate != "hub-protocol",
        reason: "hub-protocol is plain data",
    },
];

/// Every edge that isn't in the picture.
pub(super) fn check(packages: &[Package]) -> Findings {
    let mut findings = Findings::new();
    for package in packages {
        let layer = LAYERS.iter().find(|layer| layer.name == package.name);
        if layer.is_none() && !is_free(package) {
            findings.push(format!(
                "{}: {} has no place in the picture; give it a layer in xtask/src/tidy/layers.rs, the architecture \
                 and an ADR",
                package.manifest, package.name
            ));
        }
        for dependency in &package.dependencies {
            let is_internal = packages.iter().any(|other| other.name == dependency.name);
            if let Some(layer) = layer.filter(|_| is_internal && dependency.name != package.name) {
                findings.extend(wrong_edge(package, layer, dependency));
            }
            findings.extend(reserved(package, dependency));
        }
    }
    findings
}

fn is_free(package: &Package) -> bool {
    FREE.contains(&package.name.as_str()) || package.manifest.starts_with("examples/")
}

fn wrong_edge(package: &Package, layer: &Layer, dependency: &Dependency) -> Option<String> {
    let name = dependency.name.as_str();
    let is_below = LAYERS.iter().any(|other| other.name == name && other.level < layer.level);
    let allowed = layer.uses.contains(&name) || (dependency.is_dev && (is_below || name == TESTKIT));
    let kind = if dependency.is_dev { "in tests " } else { "" };
    (!allowed).then(|| {
        format!(
            "{}: {} may not use {name} {kind}({}); a new edge needs an ADR and a line in xtask/src/tidy/layers.rs",
            package.manifest,
            layer.name,
            if layer.uses.is_empty() { "it uses no crate of the hub".to_owned() } else { layer.uses.join(", ") },
        )
    })
}

fn reserved<'a>(package: &'a Package, dependency: &'a Dependency) -> impl Iterator<Item = String> + 'a {
    let broken = RESERVED.iter().filter(|rule| (rule.matches)(&dependency.name) && !(rule.allowed)(&package.name));
    broken.map(|rule| {
        let Package { manifest, name, .. } = package;
        format!("{manifest}: {name} may not name {} (dependency {}): {}", rule.what, dependency.name, rule.reason)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, normal: &[&str], dev: &[&str]) -> Package {
        let folder = if name.starts_with("hub-") { "crates" } else { "examples" };
        let edge = |is_dev| move |name: &&str| Dependency { name: (*name).to_owned(), is_dev };
        Package {
            name: name.to_owned(),
            manifest: format!("{folder}/{name}/Cargo.toml"),
            dependencies: normal.iter().map(edge(false)).chain(dev.iter().map(edge(true))).collect(),
            ..Package::default()
        }
    }

    /// The whole picture, with one crate's dependencies as given.
    fn check_with(name: &str, normal: &[&str], dev: &[&str]) -> Findings {
        let others = LAYERS.iter().map(|layer| layer.name).chain([TESTKIT, "dev-spoke"]).filter(|other| *other != name);
        let packages: Vec<_> =
            others.map(|other| package(other, &[], &[])).chain([package(name, normal, dev)]).collect();
        check(&packages)
    }

    #[test]
    fn the_picture_itself_passes() {
        for layer in &LAYERS {
            assert_eq!(check_with(layer.name, layer.uses, &[TESTKIT]), Findings::new());
        }
        assert!(check_with("hub-e2e", &["hub-server", "hub-cli", "tokio-tungstenite"], &[]).is_empty());
        assert!(check_with("an-example", &["hub-core", "hub-spoke"], &[]).is_empty());
    }

    #[test]
    fn edges_upwards_sideways_and_to_free_crates_fail() {
        let wrong = [
            ("hub-protocol", "hub-operations"),
            ("hub-operations", "hub-storage"),
            ("hub-spoke", "hub-core"),
            ("hub-adapters", "hub-core"),
            ("hub-server", "hub-spoke"),
            ("hub-cli", "hub-server"),
            ("hub-core", "hub-testkit"),
            ("hub-spoke", "dev-spoke"),
        ];
        for (name, dependency) in wrong {
            assert_eq!(check_with(name, &[dependency], &[]).len(), 1, "{name} -> {dependency}");
        }
    }

    #[test]
    fn tests_may_look_down_but_not_up() {
        assert!(check_with("hub-server", &[], &["hub-spoke", TESTKIT]).is_empty());
        assert_eq!(check_with("hub-spoke", &[], &["hub-server"]).len(), 1);
        assert_eq!(check_with("hub-storage", &[], &["hub-pubsub"]).len(), 1);
    }

    #[test]
    fn reserved_dependencies_fail_elsewhere() {
        assert_eq!(check_with("hub-core", &["diesel-async"], &[]).len(), 1);
        assert_eq!(check_with(TESTKIT, &[], &["diesel"]).len(), 1);
        assert_eq!(check_with("hub-core", &["tokio-tungstenite"], &[]).len(), 1);
        assert_eq!(check_with("hub-protocol", &["tokio"], &[]).len(), 1);
        assert!(check_with("hub-storage", &["diesel", "tokio"], &[]).is_empty());
    }

    #[test]
    fn a_crate_without_a_place_fails() {
        assert_eq!(check_with("hub-extra", &[], &[]).len(), 1);
    }
}
