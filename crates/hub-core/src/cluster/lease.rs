//! The hub's lease in the store, and what happens when one runs out.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hub_protocol::{CallError, ErrorCode, HubId, Json};
use hub_storage::{HubRow, Stamp, Store};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{BEAT, Cluster};
use crate::error::put_off;
use crate::hub::Hub;

/// How long a lease is good for, by the store's clock.
pub(super) const TTL: Duration = Duration::from_secs(2);

/// How long a hub trusts its own lease, counted from before it asked for it: shorter, since others may count by another
/// clock's speed.
const TRUST: Duration = Duration::from_millis(1_500);

/// How long a call waits for the lease of its hub.
const FENCED: Duration = Duration::from_secs(3);

/// Renewals in a row before a hub takes others for lost: after an outage of the store they need time to renew theirs.
const SETTLED: u64 = 8;

/// How often hubs look for others whose lease has run out.
const RECOVER_EVERY: Duration = Duration::from_secs(2);

/// The hub may have lost its spokes to others while it could not reach the store.
pub(crate) fn fenced() -> CallError {
    let text = "the hub of the spoke can't reach the store and may not use its spokes";
    CallError::new(ErrorCode::OperationUnavailable, text).with_retryable(true)
}

/// When the lease was last asked for with success.
#[derive(Default)]
pub(super) struct Lease {
    asked_at: Mutex<Option<Instant>>,
    renewed: Notify,
    /// Renewals in time since the last one that was not.
    fresh: AtomicU64,
}

impl Cluster {
    /// Whether the lease may have run out, so that others may have this hub's spokes by now.
    pub(crate) fn is_fenced(&self) -> bool {
        let asked_at = self.inner.lease.asked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        asked_at.is_none_or(|at| at.elapsed() > TRUST)
    }

    /// Waits a little for the lease to be fresh: a store that is slow for a moment need not fail a call.
    pub(crate) async fn unfenced(&self) -> bool {
        let until = Instant::now() + FENCED;
        while self.is_fenced() {
            let renewed = self.inner.lease.renewed.notified();
            if !self.is_fenced() {
                return true;
            }
            if tokio::time::timeout_at(until, renewed).await.is_err() {
                return !self.is_fenced();
            }
        }
        true
    }

    /// Renews the lease; closes connections of spokes that others have taken over meanwhile.
    pub(super) async fn renew(&self, hub: &Hub) -> Result<(), crate::CoreError> {
        let asked_at = Instant::now();
        let row = HubRow {
            id: self.inner.me,
            address: self.inner.options.address.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Stamp::from_millis(hub.started_at()),
            draining: hub.is_draining(),
            renewed_at: Stamp::now(),
            remaining_ms: 0,
        };
        let renewed = self.inner.store.hubs().renew(row, TTL).await?;
        *self.inner.lease.asked_at.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(asked_at);
        self.inner.lease.renewed.notify_waiters();
        self.let_go(hub, &renewed.held);
        Ok(())
    }

    pub(super) async fn keep_lease(self, hub: Hub) {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut told = false;
        loop {
            tick.tick().await;
            let was_fenced = self.is_fenced();
            // A renewal that takes longer than the lease is trusted is as good as none.
            match tokio::time::timeout(TRUST, self.renew(&hub)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => put_off(&error, "the hub's lease was not renewed"),
                Err(_) => tracing::debug!("the hub's lease was not renewed in time"),
            }
            let is_fenced = self.is_fenced();
            match (std::mem::replace(&mut told, is_fenced), is_fenced) {
                (false, true) => {
                    tracing::warn!("the hub's lease has run out: its spokes get no calls until it is renewed")
                }
                (true, false) => tracing::info!("the hub's lease is good again"),
                _ => {}
            }
            let fresh = &self.inner.lease.fresh;
            if was_fenced || is_fenced {
                fresh.store(0, Ordering::Relaxed);
            } else {
                fresh.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Looks for hubs whose lease has run out; apart from the renewals, which must not wait for it.
    pub(super) async fn keep_recovering(self, hub: Hub) {
        loop {
            tokio::time::sleep(RECOVER_EVERY).await;
            if self.inner.lease.fresh.load(Ordering::Relaxed) <= SETTLED {
                continue;
            }
            match hub.store().hubs().dead().await {
                Ok(dead) => recover(hub.store(), &dead).await,
                Err(error) => put_off(&error.into(), "lost hubs were not looked for"),
            }
        }
    }
}

/// The end of a call that was in the tree of a lost hub, whichever hub its spoke is connected to.
fn lost_with(hub: HubId) -> CallError {
    let text =
        "the caller's hub restarted or was lost, and its calls were aborted; what a spoke had begun may have ended";
    CallError::new(ErrorCode::SpokeDisconnected, text)
        .with_details(&serde_json::json!({ "reason": "hub lost", "hubId": hub }))
}

/// Closes what lost hubs have left open. Several hubs may do so at once.
pub(crate) async fn recover(store: &Store, dead: &[HubId]) {
    for hub in dead {
        let now = Stamp::now();
        let error = Json::from_serialize(&lost_with(*hub)).unwrap_or_default();
        let calls = store.calls().close_interrupted(Some(*hub), now, error).await;
        let spokes = store.spokes().disconnect_all(Some(*hub), now).await;
        match (calls, spokes) {
            (Ok(calls), Ok(spokes)) => {
                tracing::warn!(hub.peer = %hub, calls, spokes, "closed what a lost hub left open");
                if let Err(error) = store.hubs().leave(*hub).await {
                    put_off(&error.into(), "a lost hub's lease was not removed");
                }
            }
            (Err(error), _) | (_, Err(error)) => {
                put_off(&error.into(), "what a lost hub left open was not closed");
            }
        }
    }
}
