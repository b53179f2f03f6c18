//! A Rust service with the hub inside.
