//! Drives every vector in both directions.

mod format;
mod frames;
mod meaning;
mod values;

use std::collections::BTreeSet;

use format::{cases, files};
use serde::Deserialize;

#[test]
fn files_are_of_a_known_kind_and_names_unique() {
    #[derive(Deserialize)]
    struct Named {
        name: String,
    }
    for kind in ["frames", "heads", "responses", "values"] {
        let mut names = BTreeSet::new();
        for (file, Named { name }) in cases::<Named>(kind) {
            assert!(names.insert((file.clone(), name.clone())), "{file}: {name:?} twice");
        }
        assert!(!names.is_empty(), "no vectors of kind {kind}");
    }
    for (path, kind, _) in files() {
        assert!(matches!(&*kind, "frames" | "heads" | "responses" | "values"), "{path}: unknown kind {kind:?}");
    }
}
