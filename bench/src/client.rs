//! Clients that cost the same for every system: one task per connection, which reads all there is, then writes once.

pub(crate) mod callee;
pub(crate) mod frame;
pub(crate) mod http;
pub(crate) mod nats;
pub(crate) mod sdk;
pub(crate) mod socket;

use std::time::Duration;

/// Longest wait for an answer before a load counts as stuck.
pub(crate) const STUCK: Duration = Duration::from_secs(20);
