//! Temporary binary of one group of tests.

mod crash;
mod keyed;
mod spokes;
mod tree;
