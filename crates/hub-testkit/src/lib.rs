//! Test support: a hub in a temp folder, fault injectors, story suites.
