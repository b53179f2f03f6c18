//! hub: the command line of people and agents.
