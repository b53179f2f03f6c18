use std::collections::HashMap;
use std::time::Duration;

use hub_operations::now_ms;
use hub_protocol::HubId;
use hub_protocol::ops::hub::HubItem;
use hub_storage::HubRow;
use tokio::time::Instant;

use super::wire::Beat;

/// Another hub as it was last heard.
pub(super) struct Member {
    pub(super) beat: Beat,
    pub(super) heard_at: Instant,
}

/// The other hubs that live.
#[derive(Default)]
pub(super) struct Members {
    known: HashMap<HubId, Member>,
}

impl Members {
    /// Notes a sign of life; answers whether the hub is new here.
    pub(super) fn heard(&mut self, id: HubId, beat: Beat) -> bool {
        self.known.insert(id, Member { beat, heard_at: Instant::now() }).is_none()
    }

    pub(super) fn forget(&mut self, id: HubId) {
        self.known.remove(&id);
    }

    /// Forgets and names the hubs that were silent for so long.
    pub(super) fn silent(&mut self, silence: Duration) -> Vec<HubId> {
        let silent: Vec<HubId> =
            self.known.iter().filter(|(_, m)| m.heard_at.elapsed() > silence).map(|(id, _)| *id).collect();
        silent.iter().for_each(|id| self.forget(*id));
        silent
    }

    pub(super) fn living(&self) -> impl Iterator<Item = (HubId, &Member)> {
        self.known.iter().map(|(id, member)| (*id, member))
    }
}

/// A hub of which only the lease is known.
pub(super) fn unheard(row: HubRow) -> HubItem {
    HubItem {
        hub_id: row.id,
        address: row.address,
        version: row.version,
        started_at: row.started_at.millis(),
        draining: row.draining,
        connections: 0,
        spokes: 0,
        calls_in_flight: 0,
        recorder_backlog: 0,
        own: false,
        linked: false,
        last_heard_at: row.renewed_at.millis(),
    }
}

/// A hub as a list shows it.
pub(super) fn item(id: HubId, beat: &Beat, silence: Option<Duration>, linked: bool) -> HubItem {
    let silent_ms = silence.map_or(0, |s| u64::try_from(s.as_millis()).unwrap_or(u64::MAX));
    HubItem {
        hub_id: id,
        address: beat.address.clone(),
        version: beat.version.clone(),
        started_at: beat.started_at,
        draining: beat.draining,
        connections: beat.connections,
        spokes: beat.spokes,
        calls_in_flight: beat.calls,
        recorder_backlog: beat.backlog,
        own: silence.is_none(),
        linked,
        last_heard_at: now_ms().saturating_sub(silent_ms),
    }
}
