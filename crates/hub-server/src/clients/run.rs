//! Keeps clients connected: one task for each, at one hub of the cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hub_core::{Hub, brings_operations};
use hub_protocol::{CallError, ErrorCode};
use hub_storage::{ClientRow, ClientState};
use tokio_util::sync::{CancellationToken, DropGuard};
use uuid::Uuid;

use super::adapt::{self, Adapter};
use super::link::Link;

/// How often the store is asked for changes made at other hubs, and leases are renewed.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How long a hub that died keeps its clients from the others.
const LEASE: Duration = Duration::from_secs(10);

/// Pauses between tries.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Longest reason that is kept.
const MAX_REASON: usize = 500;

/// A client that this hub keeps.
struct Kept {
    revision: i64,
    _stop: DropGuard,
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
    let wanted: Vec<ClientRow> = rows.into_iter().filter(|row| row.enabled).collect();
    kept.retain(|id, _| wanted.iter().any(|row| row.id == *id));
    for row in wanted {
        if !is_ours(hub, &row).await {
            kept.remove(&row.id);
        } else if kept.get(&row.id).is_none_or(|kept| kept.revision != row.revision) {
            let stop = CancellationToken::new();
            let (id, revision) = (row.id, row.revision);
            hub.spawn("client", keep(hub.clone(), row, programs, stop.clone()));
            // In the place of an older one, which ends.
            kept.insert(id, Kept { revision, _stop: stop.drop_guard() });
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

async fn keep(hub: Hub, row: ClientRow, programs: bool, stop: CancellationToken) {
    let connected = async {
        let (mut pause, mut told) = (FIRST_PAUSE, None);
        loop {
            let began = tokio::time::Instant::now();
            let Err(reason) = connect(&hub, &row, programs).await;
            if told.as_ref() != Some(&reason) {
                tracing::warn!(client = %row.name, reason, "a client is not connected");
            }
            note(&hub, &row, "degraded", Some(reason.clone()), 0).await;
            told = Some(reason);
            if began.elapsed() > LONGEST_PAUSE {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = connected => {}
    }
}

/// Connects and offers operations until that fails; the reason holds no secret.
async fn connect(hub: &Hub, row: &ClientRow, programs: bool) -> Result<std::convert::Infallible, String> {
    let opened = hub.open_client(&row.name).await.map_err(|error| CallError::from(error).message)?;
    let clean = |reason: String| opened.scrub(&reason).chars().take(MAX_REASON).collect::<String>();
    if !brings_operations(row) {
        adapt::complete(&opened).map_err(clean)?;
        note(hub, row, "ready", None, 0).await;
        return std::future::pending().await;
    }
    let adapter = Adapter::connect(&opened, programs).await.map_err(clean)?;
    let scrubber = Arc::new(opened.scrubber());
    // Begun before what is there is offered, so that no change is missed.
    let mut changes = adapter.changes();
    let link = Link::open(hub, &row.name, adapter.registry().map_err(clean)?, scrubber).await;
    let link = link.map_err(|error| clean(error.message))?;
    tracing::info!(client = %row.name, operations = link.operations(), "a client is connected");
    // What could not be offered in the place of what is.
    let mut refused: Option<CallError> = None;
    loop {
        let trouble = adapter.trouble().or_else(|| refused.as_ref().map(|error| error.message.clone()));
        let word = if trouble.is_none() { "ready" } else { "degraded" };
        note(hub, row, word, trouble.or_else(|| adapter.left_out()).map(clean), link.operations()).await;
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY), if refused.as_ref().is_some_and(|error| error.retryable) => {}
            () = link.lost() => return Err("its connection within the hub was lost".to_owned()),
            () = changes.next() => {}
        }
        refused = match adapter.registry() {
            Ok(registry) => link.offer(registry).await.err(),
            Err(reason) => Some(CallError::new(ErrorCode::ExecutionError, reason)),
        };
    }
}

async fn note(hub: &Hub, row: &ClientRow, state: &str, reason: Option<String>, operations: i32) {
    if hub.is_draining() {
        // Its own end says nothing of the client.
        return;
    }
    let state = ClientState { state: state.to_owned(), reason, operations };
    if let Err(error) = hub.note_client_state(row, state).await {
        tracing::debug!(client = %row.name, %error, "the state of a client was not noted");
    }
}
