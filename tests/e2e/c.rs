//! Temporary binary of one group of tests.

mod cli;
mod examples;
mod process;
mod shutdown;
