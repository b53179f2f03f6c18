//! Spokes that are between two hubs: sent away by one that drains, or left by one that died. Calls wait for them a little.

use std::collections::HashMap;
use std::time::Duration;

use hub_protocol::{ConnectionId, HubId};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Directory;

/// How long a spoke is expected back: the time in which the loss of a hub is seen, its lease runs out, and the spoke has
/// found another.
const EXPECTED: Duration = Duration::from_secs(6);

/// Operations whose providers are between two hubs, by when they left.
#[derive(Default)]
pub(crate) struct Away {
    since: papaya::HashMap<String, Instant>,
    changed: Notify,
}

impl Away {
    /// Something is offered that was not: whoever waits looks again.
    pub(super) fn came_back(&self) {
        self.changed.notify_waiters();
    }

    fn expect(&self, ids: Vec<String>) {
        let since = self.since.pin();
        since.retain(|_, at| at.elapsed() < EXPECTED);
        for id in ids {
            since.insert(id, Instant::now());
        }
    }

    fn until(&self, id: &str) -> Option<Instant> {
        self.since.pin().get(id).map(|at| *at + EXPECTED).filter(|until| *until > Instant::now())
    }
}

impl Directory {
    /// The spoke was sent away and will be back, here or at another hub.
    pub(crate) fn expect_back(&self, name: &str) {
        if let Some(spoke) = self.spoke(name) {
            self.away.expect(spoke.offered());
        }
    }

    /// Somebody who provides this operation is likely to come back.
    pub(crate) fn expect(&self, id: &str) {
        self.away.expect(vec![id.to_owned()]);
    }

    /// All spokes of a hub are gone with it, until they are connected to another.
    pub(crate) fn lose_hub(&self, hub: HubId) {
        for spoke in self.spokes().iter().filter(|s| s.hub == Some(hub)) {
            self.away.expect(spoke.offered());
            self.disconnect(spoke);
        }
    }

    /// Takes another hub's word on how busy its spokes are.
    pub(crate) fn busy(&self, hub: HubId, busy: &[(ConnectionId, u64)]) {
        let busy: HashMap<ConnectionId, u64> = busy.iter().copied().collect();
        for spoke in self.spokes().iter().filter(|s| s.hub == Some(hub)) {
            spoke.report(busy.get(&spoke.connection).copied().unwrap_or(0));
        }
    }

    /// Waits for an operation whose providers are expected back, or for one of them (`fs.read@laptop`); false when none
    /// is expected or none came.
    pub(crate) async fn comes_back(&self, id: &str) -> bool {
        let (plain, spoke) = id.split_once('@').map_or((id, None), |(plain, spoke)| (plain, Some(spoke)));
        loop {
            let changed = self.away.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if self.is_provided(plain, spoke) {
                return true;
            }
            let Some(until) = self.away.until(plain) else { return false };
            if tokio::time::timeout_at(until, changed).await.is_err() {
                return self.is_provided(plain, spoke);
            }
        }
    }

    fn is_provided(&self, id: &str, spoke: Option<&str>) -> bool {
        let operations = self.operations.pin();
        let providers = operations.get(id).into_iter().flat_map(|o| &o.versions).flat_map(|v| &v.providers);
        providers.into_iter().any(|p| p.spoke.takes_calls() && spoke.is_none_or(|name| &*p.spoke.name == name))
    }
}
