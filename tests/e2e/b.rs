//! Temporary binary of one group of tests.

mod hostile;
