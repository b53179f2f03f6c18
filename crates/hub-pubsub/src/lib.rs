//! Event targets (live, at-most-once hints) and stream operators.
