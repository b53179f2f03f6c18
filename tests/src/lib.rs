//! End-to-end tests live in `tests/e2e/`: the real server driven by the real SDK.
