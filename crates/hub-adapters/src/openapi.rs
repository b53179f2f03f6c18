//! OpenAPI documents become operations.
