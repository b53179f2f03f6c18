//! Other worlds' operations in and out of the hub.
