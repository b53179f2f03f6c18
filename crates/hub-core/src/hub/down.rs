//! How a hub goes down.

use std::sync::atomic::Ordering;
use std::time::Duration;

use hub_protocol::close;
use hub_protocol::ops::hub::HubItem;
use rand::Rng;
use tokio::time::Instant;

use super::Hub;
use crate::Session;
use crate::cluster::Cluster;

/// How long calls that were cut off at shutdown may take to tell their callers.
const CUT_OFF: Duration = Duration::from_secs(1);

impl Hub {
    /// Goes down in the documented order; answers whether everything ended within `grace`.
    ///
    /// The faces must have stopped accepting before.
    pub async fn shut_down(&self, grace: Duration) -> bool {
        let until = Instant::now() + grace;
        // 1. Refuse new calls and send peers away that nothing runs for or on.
        self.inner.about.draining.store(true, Ordering::Relaxed);
        self.send_idle_away();
        // 2. Let running mutations finish; reads and streams are cut off. A peer is sent away once it has its answers.
        let finished = tokio::time::timeout_at(until, self.wound_down()).await.is_ok();
        if !finished {
            tracing::warn!(calls = self.calls().len(), "calls were cut off: the grace is over");
            self.cut_off().await;
        }
        // 3. Send the others away, too.
        self.send_away(|_| true);
        let closed = tokio::time::timeout_at(until.max(Instant::now() + Duration::from_secs(1)), self.sessions_ended());
        let closed = closed.await.is_ok();
        // 4. End what still serves.
        if let Some(cluster) = self.cluster() {
            cluster.leave(self).await;
        }
        self.tasks().stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(2), self.tasks().served()).await.is_ok();
        // 5. Write what is left, then close the store.
        self.recorder().close();
        let written = tokio::time::timeout(Duration::from_secs(10), self.tasks().written()).await.is_ok();
        // What only one hub at a time does, such as keeping a client, is for others from now on.
        let released = tokio::time::timeout(CUT_OFF, self.store().leases().release_all(self.id())).await;
        if !matches!(released, Ok(Ok(()))) {
            tracing::warn!("the store was not reached: leases run on until they end by themselves");
        }
        self.store().close().await;
        tracing::info!(calls = finished, connections = closed, tasks = ended, records = written, "the hub is down");
        finished && closed && ended && written
    }

    /// Closes connections with 1001 and a jitter, so that peers don't come back all at once.
    fn send_away(&self, which: impl Fn(&Session) -> bool) {
        for session in self.sessions().all().iter().filter(|s| which(s)) {
            let wait = rand::rng().random_range(0..1_000);
            session.close(close::GOING_AWAY, format!("retry-after-ms={wait}"), true);
        }
    }

    /// Spokes stay while calls run, since those may yet call them.
    fn send_idle_away(&self) {
        // In a cluster they are as well called at the next hub, if there is one that stays.
        let leaves = |hub: &HubItem| hub.hub_id == self.id() || hub.draining;
        let alone = self.cluster().is_none_or(|cluster| cluster.hubs(self).iter().all(leaves));
        let running = !self.calls().is_empty() && alone;
        self.send_away(|session| session.is_idle() && !(running && session.spoke().is_some()));
    }

    /// Waits until nothing runs and every answer is on its way.
    async fn wound_down(&self) {
        loop {
            // Each time anew: a read may have been admitted while the hub began to drain.
            self.cancel_reads().await;
            if let Some(cluster) = self.cluster() {
                cluster.stop_streams();
            }
            self.send_idle_away();
            let relaying = self.cluster().map_or(0, Cluster::relaying);
            let idle = self.sessions().all().iter().all(|session| session.is_idle());
            if self.calls().is_empty() && relaying == 0 && idle {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Aborts queries and subscriptions; mutations go on.
    async fn cancel_reads(&self) {
        for live in self.calls().all() {
            let reads = live.definition.spec().kind != hub_protocol::OperationType::Mutation;
            if reads && live.parent.is_none() && !live.stop.is_fired() {
                crate::abort::tree(self.calls(), live.id, crate::abort::Abort::now("the hub is draining")).await;
            }
        }
    }

    /// Aborts all that still runs, so that its callers are told and its record says how it ended.
    async fn cut_off(&self) {
        for live in self.calls().all().iter().filter(|live| live.parent.is_none()) {
            crate::abort::tree(self.calls(), live.id, crate::abort::Abort::now("the hub went down")).await;
        }
        // A peer that does not read, or a store that does not write, must not hold up the end.
        if tokio::time::timeout(CUT_OFF, self.wound_down()).await.is_err() {
            tracing::warn!(calls = self.calls().len(), "calls did not end when they were cut off");
        }
    }

    async fn sessions_ended(&self) {
        while self.sessions().len() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
