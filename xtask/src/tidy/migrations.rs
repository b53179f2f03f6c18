//! `migrations/<backend>/<name>/`: every backend has the same names.

use std::collections::{BTreeMap, BTreeSet};

use super::Findings;
use super::tree::Tree;

/// Migrations that a backend lacks and another has.
pub(super) fn check(tree: &Tree) -> Findings {
    let mut backends: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in &tree.files {
        let mut parts = file.path.split('/');
        if let (Some("migrations"), Some(backend), Some(name), Some(_)) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        {
            backends.entry(backend).or_default().insert(name);
        }
    }
    let all: BTreeSet<&str> = backends.values().flatten().copied().collect();
    let lacking = |(backend, names): (&&str, &BTreeSet<&str>)| {
        let missing = |name| format!("migrations/{backend}: no {name}, which another backend has");
        all.difference(names).map(missing).collect::<Findings>()
    };
    backends.iter().flat_map(lacking).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_of_one_backend_only_fails() {
        let sqlite = ("migrations/sqlite/0001_start/up.sql", "");
        let postgres = ("migrations/postgres/0001_start/up.sql", "");
        assert!(check(&Tree::of(&[sqlite])).is_empty());
        assert!(check(&Tree::of(&[sqlite, postgres])).is_empty());
        let second = ("migrations/sqlite/0002_keys/up.sql", "");
        let findings = check(&Tree::of(&[sqlite, postgres, second]));
        assert_eq!(findings, ["migrations/postgres: no 0002_keys, which another backend has"]);
    }
}
