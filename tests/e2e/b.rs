//! Temporary binary of one group of tests.

mod hostile;
mod observe;
mod slow;
