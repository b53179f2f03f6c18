//! Whose the SDK's sessions are, and what is known of each.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;

use super::Owner;

/// Sessions of one owner; the one that was idle longest gives way to a new one.
const PER_OWNER: usize = 256;

/// Sessions of all owners; above it none is begun.
const MAX: usize = 8_192;

/// The sessions by their ids.
pub(super) struct Sessions {
    manager: Arc<LocalSessionManager>,
    owned: Mutex<HashMap<String, Owned>>,
}

struct Owned {
    owner: Owner,
    used: Instant,
    session: Session,
}

/// A session.
#[derive(Clone)]
pub(super) struct Session {
    /// The SDK's.
    pub(super) id: Arc<str>,
    /// The revision that was agreed on.
    pub(super) revision: Arc<str>,
    in_flight: Arc<Mutex<HashSet<String>>>,
}

/// A request that is being answered; dropped when it has been.
pub(super) struct InFlight {
    session: Session,
    id: String,
}

impl Session {
    fn of(id: &str, revision: &str) -> Self {
        Self { id: id.into(), revision: revision.into(), in_flight: Arc::default() }
    }

    /// Begins to answer a request; `None` while another one has its id.
    pub(super) fn enter(&self, id: String) -> Option<InFlight> {
        self.lock().insert(id.clone()).then(|| InFlight { session: self.clone(), id })
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<String>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.session.lock().remove(&self.id);
    }
}

impl Sessions {
    pub(super) fn new(manager: Arc<LocalSessionManager>) -> Self {
        Self { manager, owned: Mutex::default() }
    }

    /// The owner's session; those of others do not exist.
    pub(super) fn of(&self, id: &str, owner: &Owner) -> Option<Session> {
        let mut owned = self.lock();
        let owned = owned.get_mut(id).filter(|owned| owned.owner == *owner)?;
        owned.used = Instant::now();
        Some(owned.session.clone())
    }

    pub(super) fn begun(&self, id: &str, owner: Owner, revision: &str) {
        let session = Session::of(id, revision);
        self.lock().insert(id.to_owned(), Owned { owner, used: Instant::now(), session });
    }

    pub(super) fn ended(&self, id: &str) {
        self.lock().remove(id);
    }

    /// Cancels what is being answered in a session. The SDK would let it go on for seconds after the end.
    pub(super) async fn cancel_all(&self, session: &Session) {
        let ids: Vec<String> = session.lock().iter().cloned().collect();
        for id in ids {
            let params = format!("{{\"requestId\":{id},\"reason\":\"the session is ended\"}}");
            let cancel = format!("{{\"jsonrpc\":\"2.0\",\"method\":\"notifications/cancelled\",\"params\":{params}}}");
            if let Ok(cancel) = serde_json::from_str(&cancel) {
                // It has ended by itself if this fails.
                let _ended = self.manager.accept_message(&session.id, cancel).await;
            }
        }
    }

    /// Forgets sessions that have ended, and ends the idlest of an owner that has too many; `false` when there is no
    /// room for another one.
    pub(super) async fn make_room(&self, owner: &Owner) -> bool {
        if self.lock().len() < PER_OWNER {
            return true;
        }
        let live: Vec<String> = self.manager.sessions.read().await.keys().map(ToString::to_string).collect();
        let idlest = {
            let mut owned = self.lock();
            let live: HashSet<&str> = live.iter().map(String::as_str).collect();
            owned.retain(|id, _| live.contains(id.as_str()));
            let theirs = owned.iter().filter(|(_, owned)| owned.owner == *owner);
            let too_many = theirs.clone().count() >= PER_OWNER;
            let idlest = theirs.min_by_key(|(_, owned)| owned.used).map(|(id, _)| id.clone()).filter(|_| too_many);
            idlest.inspect(|id| drop(owned.remove(id)))
        };
        if let Some(id) = idlest {
            tracing::info!(owner = %owner.0, "an MCP session gave way to a newer one");
            // It has ended by itself if this fails.
            let _ended = self.manager.close_session(&id.into()).await;
        }
        live.len() < MAX
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
