//! Rebuilds when a migration is added: the embedding macro alone sees only edits of the files it knew.

fn main() {
    println!("cargo::rerun-if-changed=../../migrations");
}
