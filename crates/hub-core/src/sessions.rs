use std::collections::HashSet;
use std::sync::Arc;

use hub_protocol::{ConnectionId, KeyId, close};

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

    /// Closes the connections of a revoked key.
    pub(crate) fn revoke(&self, key: KeyId) {
        for session in self.all() {
            if session.principal().key.as_ref().is_some_and(|k| k.id == key) {
                session.close(close::KEY_REVOKED, "key revoked", false);
            }
        }
    }

    /// Closes the connections whose key is none of these.
    pub(crate) fn keep(&self, keys: &HashSet<KeyId>) {
        for session in self.all() {
            if session.principal().key.as_ref().is_some_and(|k| !keys.contains(&k.id)) {
                session.close(close::KEY_REVOKED, "key revoked", false);
            }
        }
    }

    /// Closes the connections whose key has run out.
    pub(crate) fn expire(&self) {
        for session in self.all() {
            if session.is_expired() {
                session.close(close::KEY_REVOKED, "key expired", false);
            }
        }
    }
}
