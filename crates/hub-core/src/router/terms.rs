use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hub_operations::Definition;
use hub_protocol::OnDisconnect;

use super::Leash;
use crate::directory::Found;

/// What the call runs.
#[derive(Clone)]
pub(super) enum Target {
    /// An operation of the hub.
    Own(OwnTarget),
    /// An operation of spokes.
    Spoke(Arc<Found>),
}

/// An operation of the hub, by its key in the registry.
#[derive(Clone)]
pub(super) struct OwnTarget {
    pub(super) id: Arc<str>,
    pub(super) definition: Arc<Definition>,
}

impl Target {
    pub(super) fn own(id: &str, definition: &Arc<Definition>) -> Self {
        Self::Own(OwnTarget { id: id.into(), definition: Arc::clone(definition) })
    }

    pub(super) fn definition(&self) -> &Arc<Definition> {
        match self {
            Self::Own(own) => &own.definition,
            Self::Spoke(found) => &found.definition,
        }
    }
}

/// Conditions that the caller set.
#[derive(Clone)]
pub(super) struct Terms {
    pub(super) leash: Leash,
    pub(super) on_disconnect: OnDisconnect,
    pub(super) idle_ms: Option<u64>,
}

/// Whether and how far the call is in the record.
pub(super) struct Recording {
    on: bool,
    started: AtomicBool,
}

impl Recording {
    pub(super) fn new(on: bool) -> Self {
        Self { on, started: AtomicBool::new(false) }
    }

    pub(super) fn is_on(&self) -> bool {
        self.on
    }

    /// Whether the start is still to be written, by whoever asks first.
    pub(super) fn claim_start(&self) -> bool {
        self.on && !self.started.swap(true, Ordering::Relaxed)
    }
}
