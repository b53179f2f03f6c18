//! Aborting a call tree: leaves first, with a receipt per call (protocol §4, abort cascade).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use hub_operations::{CallTable, Reached};
use hub_protocol::CallId;
use hub_protocol::ops::calls::{AbortMode, AbortOutcome, Receipt};
use tokio::time::Instant;

use crate::live::LiveCall;

/// How long `kill` waits for confirmations unless told otherwise (protocol §4).
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// What an abort is to do.
pub(crate) struct Abort {
    pub(crate) mode: AbortMode,
    pub(crate) reason: Option<String>,
    pub(crate) grace: Duration,
}

impl Abort {
    /// At once, without waiting.
    pub(crate) fn now(reason: &str) -> Self {
        Self { mode: AbortMode::KillNowait, reason: Some(reason.to_owned()), grace: GRACE }
    }
}

/// Aborts the call and all below it.
pub(crate) async fn tree(calls: &CallTable<Arc<LiveCall>>, id: CallId, abort: Abort) -> Vec<Receipt> {
    let started = Instant::now();
    let reached: Vec<Reached<Arc<LiveCall>>> = calls.subtree(id).into_iter().filter(|r| r.live).collect();
    metrics::counter!("hub_aborted_calls_total").increment(reached.len() as u64);
    if abort.mode == AbortMode::Skip {
        // Only the call itself is answered; what runs goes on.
        if let Some(call) = calls.get(id) {
            call.skip.cancel();
        }
        return reached.iter().map(|r| receipt_now(&r.data, started)).collect();
    }
    stop(&reached, &abort);
    let reached = with_late_comers(calls, id, reached, &abort);
    if abort.mode == AbortMode::KillNowait {
        return reached.iter().map(|r| receipt_now(&r.data, started)).collect();
    }
    let until = started + abort.grace;
    let waits = reached.iter().map(|r| async move {
        let outcome = tokio::time::timeout_at(until, r.data.finished()).await;
        r.data.receipt(outcome.unwrap_or(AbortOutcome::NoAnswer), millis(started))
    });
    futures_util::future::join_all(waits).await
}

fn stop(reached: &[Reached<Arc<LiveCall>>], abort: &Abort) {
    for call in reached {
        // The frame goes out here, in this order; the call's own task then only waits for the confirmation.
        if call.data.outcome().is_none() {
            call.data.tell_callee(abort.reason.as_deref());
        }
    }
    for call in reached {
        call.data.set_grace(abort.grace);
        call.data.stop.fire(abort.reason.clone(), Some(abort.mode));
    }
}

/// Also stops what was called between the look at the tree and the stop of its caller. Calls below a stopped one are
/// refused ([`LiveCall::stop`] is looked at after a call has its place in the tree), so this comes to an end.
fn with_late_comers(
    calls: &CallTable<Arc<LiveCall>>,
    id: CallId,
    mut reached: Vec<Reached<Arc<LiveCall>>>,
    abort: &Abort,
) -> Vec<Reached<Arc<LiveCall>>> {
    let mut known: HashSet<CallId> = reached.iter().map(|r| r.id).collect();
    loop {
        let late: Vec<_> = calls.subtree(id).into_iter().filter(|r| r.live && known.insert(r.id)).collect();
        if late.is_empty() {
            return reached;
        }
        stop(&late, abort);
        // What came later is below what was there, so leaves stay first.
        reached.splice(0..0, late);
    }
}

fn receipt_now(call: &LiveCall, started: Instant) -> Receipt {
    call.receipt(call.outcome().unwrap_or(AbortOutcome::NoAnswer), millis(started))
}

fn millis(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}
