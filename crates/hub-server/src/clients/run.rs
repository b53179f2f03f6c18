//! Keeps clients connected: one task for each, at one hub of the cluster.

use std::collections::HashMap;
use std::time::Duration;

use hub_core::{Hub, brings_operations};
use hub_protocol::{CallError, ErrorCode};
use hub_storage::ClientRow;
use tokio::sync::watch;
use uuid::Uuid;

use super::keep::{Keeper, Wanted};

/// How often the store is asked for changes made at other hubs, and leases are renewed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a hub that died keeps its clients from the others.
const LEASE: Duration = Duration::from_secs(10);

/// A client that this hub keeps.
struct Kept {
    revision: i64,
    wanted: watch::Sender<Wanted>,
}

impl Kept {
    /// Ends it, and its calls with why.
    fn end(&self, name: &str, why: &str, retryable: bool) {
        let error = CallError::new(ErrorCode::SpokeDisconnected, format!("client {name:?} {why}"));
        self.wanted.send_replace(Wanted::Gone(error.with_retryable(retryable)));
    }
}

/// Keeps every enabled client connected, or notes whether it could be, until the hub drains.
pub(crate) async fn run(hub: Hub, programs: bool) {
    let mut changes = hub.client_changes();
    let mut kept: HashMap<Uuid, Kept> = HashMap::new();
    while !hub.is_draining() {
        match hub.store().clients().list().await {
            Ok(rows) => look(&hub, rows, &mut kept, programs).await,
            // What runs goes on; the store tells of an outage by itself.
            Err(error) if error.is_outage() => {}
            Err(error) => tracing::warn!(%error, "clients can't be read"),
        }
        if hub.keyring_trouble().is_some() {
            // Noted where readiness is asked for; tried again so that it is noted when it is over.
            let _noted = hub.check_keyring().await;
        }
        let _either = tokio::time::timeout(LOOK_EVERY, changes.changed()).await;
    }
    // Until the hub is down: what runs may be needed by calls that are to finish.
    std::future::pending().await
}

async fn look(hub: &Hub, rows: Vec<ClientRow>, kept: &mut HashMap<Uuid, Kept>, programs: bool) {
    kept.retain(|id, kept| {
        let row = rows.iter().find(|row| row.id == *id);
        if row.is_none() {
            let name = kept.wanted.borrow().name();
            kept.end(&name, "was deleted", false);
        }
        row.is_some()
    });
    for row in rows {
        let (id, revision) = (row.id, row.revision);
        if !row.enabled {
            kept.remove(&id).inspect(|kept| kept.end(&row.name, "was disabled", false));
        } else if !is_ours(hub, &row).await {
            kept.remove(&id).inspect(|kept| kept.end(&row.name, "has gone over to another hub", true));
        } else if let Some(kept) = kept.get_mut(&id) {
            if kept.revision != revision {
                kept.revision = revision;
                kept.wanted.send_replace(Wanted::Connected(Box::new(row)));
            }
        } else {
            let (wanted, watched) = watch::channel(Wanted::Connected(Box::new(row)));
            hub.spawn("client", Keeper::new(hub.clone(), watched, programs).run());
            kept.insert(id, Kept { revision, wanted });
        }
    }
}

/// Whether this hub is to keep the client.
async fn is_ours(hub: &Hub, row: &ClientRow) -> bool {
    // Whether a client that brings no operations is complete, each may say.
    if hub.hubs().is_empty() || !brings_operations(row) {
        return true;
    }
    let held = hub.store().leases().hold(&format!("import:{}", row.id), hub.id(), LEASE).await;
    held.unwrap_or(false)
}
