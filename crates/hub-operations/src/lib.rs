//! Operation registry, validation, access rules and the peer engine that both ends of a connection run.
