//! End-to-end tests: the real server driven by the real SDK.
