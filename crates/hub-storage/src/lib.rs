//! The hub's store: one set of verbs over an embedded SQLite file.
