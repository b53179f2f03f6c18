use std::sync::Arc;

use hub_protocol::ConnectionId;

use crate::session::Session;

/// Open connections.
#[derive(Default)]
pub(crate) struct Sessions {
    open: papaya::HashMap<ConnectionId, Arc<Session>>,
}

impl Sessions {
    pub(crate) fn add(&self, session: Arc<Session>) {
        self.open.pin().insert(session.id(), session);
    }

    pub(crate) fn remove(&self, id: ConnectionId) {
        self.open.pin().remove(&id);
    }

    pub(crate) fn len(&self) -> usize {
        self.open.pin().len()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Session>> {
        self.open.pin().values().cloned().collect()
    }
}
