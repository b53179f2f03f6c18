//! What a hub knows and tells of the bus itself.

use std::sync::atomic::Ordering;

use hub_pubsub::Connectivity;

use super::Cluster;
use crate::hub::Hub;

/// How the bus to the other hubs is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BusState {
    /// It works.
    Up,
    /// It has worked, and is tried again.
    Away,
    /// It has not worked since this hub has started.
    NotReached,
}

impl Cluster {
    /// How the bus is.
    pub(crate) fn bus(&self) -> BusState {
        let reached = &self.inner.reached;
        match self.inner.options.bus.connectivity() {
            Connectivity::Connected => BusState::Up,
            _ if reached.load(Ordering::Relaxed) => BusState::Away,
            _ => BusState::NotReached,
        }
    }

    /// Tells the log of an outage of the bus, or of what wakes readers of the event log.
    pub(super) fn look_at_bus(&self, hub: &Hub) {
        let ways = [self.inner.options.bus.connectivity(), hub.log().connectivity()];
        match ways.iter().find(|way| **way != Connectivity::Connected) {
            None => {
                self.inner.outage.worked();
                self.inner.reached.store(true, Ordering::Relaxed);
            }
            Some(Connectivity::Away(reason)) => self.inner.outage.failed(reason),
            Some(_) => {}
        }
    }
}
