//! Which addresses an outgoing request may reach.
