use std::time::Duration;

use crate::schema::{audit_entries, call_edges, calls, idempotency_keys};
use crate::types::BindId;
use crate::{Stamp, Store, StoreError};

/// Most rows that one transaction of a sweep removes: a few tens of milliseconds of the writer's time.
const CHUNK: i64 = 5_000;

/// How long the mark of a writer that writes no more is kept: far longer than anybody tries a batch again.
const MARKS: Duration = Duration::from_secs(7 * 24 * 3600);

/// Setting that holds the latest cutoff of calls, in microseconds: what ended before it may be gone.
pub(crate) const CALLS_SWEPT_TO: &str = "store.calls_swept_to";

/// How long each kind of row is kept; `None` is for ever.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Retention {
    /// Ended calls, from their end on.
    pub calls: Option<Duration>,
    /// Events, from when they happened on.
    pub events: Option<Duration>,
    /// Audit entries, from when they were written on.
    pub audit: Option<Duration>,
}

/// Rows that a sweep removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Call records.
    pub calls: u64,
    /// Events.
    pub events: u64,
    /// Audit entries.
    pub audit: u64,
    /// Idempotency keys that had expired.
    pub idempotency: u64,
}

impl Store {
    /// Removes what `policy` no longer keeps at `now`, and expired idempotency keys, in transactions of
    /// bounded size so that other writes pass in between; an error leaves what was removed so far removed.
    ///
    /// # Errors
    /// What the database met.
    pub async fn sweep(&self, policy: &Retention, now: Stamp) -> Result<Swept, StoreError> {
        let mut swept = Swept::default();
        if let Some(age) = policy.calls {
            swept.calls = self.sweep_calls(now.minus(age)).await?;
        }
        if let Some(age) = policy.events {
            swept.events = self.sweep_events(now.minus(age)).await?;
        }
        if let Some(age) = policy.audit {
            swept.audit = self.sweep_audit(now.minus(age)).await?;
        }
        swept.idempotency = self.sweep_idempotency(now).await?;
        self.sweep_marks(now.minus(MARKS)).await?;
        Ok(swept)
    }
}

/// One method per kind: chunks until one comes back short.
macro_rules! sweeps {
    ($($method:ident => $body:ident;)*) => {
        impl Store {$(
            async fn $method(&self, cutoff: Stamp) -> Result<u64, StoreError> {
                let mut total = 0;
                loop {
                    let removed: u64 = on_writer!(self, $body(cutoff))?;
                    total += removed;
                    if removed < CHUNK as u64 {
                        return Ok(total);
                    }
                }
            }
        )*}
    };
}

sweeps! {
    sweep_calls => calls_before;
    sweep_events => events_before;
    sweep_audit => audit_before;
    sweep_idempotency => idempotency_until;
    sweep_marks => marks_before;
}

backends! {
    use crate::bulk::Bulk;
    use diesel::prelude::{BoolExpressionMethods, ExpressionMethods, QueryDsl};
    use diesel_async::RunQueryDsl;
    use hub_protocol::CallId;

    pub(super) async fn calls_before(c: &mut Conn, cutoff: Stamp) -> Result<u64, StoreError> {
        // What ended before the cutoff also started before it, and that column has the index.
        let ended = calls::started_at.lt(cutoff).and(calls::completed_at.lt(Some(cutoff)));
        let old = calls::table.filter(ended).order(calls::started_at).limit(CHUNK).select(calls::call_id);
        let old: Vec<CallId> = old.load(c).await?;
        let old: Vec<BindId> = old.into_iter().map(BindId::from).collect();
        diesel::delete(call_edges::table.filter(call_edges::source.eq_any(&old))).execute(c).await?;
        diesel::delete(call_edges::table.filter(call_edges::target.eq_any(&old))).execute(c).await?;
        let removed = diesel::delete(calls::table.filter(calls::call_id.eq_any(&old))).execute(c).await? as u64;
        if removed > 0 {
            c.one_at_a_time(CALLS_SWEPT_TO).await?;
            let before = of::settings::get(c, CALLS_SWEPT_TO.to_owned()).await?.and_then(|at| at.parse::<i64>().ok());
            if before.is_none_or(|before| before < cutoff.0) {
                of::settings::set(c, CALLS_SWEPT_TO.to_owned(), serde_json::json!(cutoff.0).into()).await?;
            }
        }
        Ok(removed)
    }

    pub(super) async fn marks_before(c: &mut Conn, cutoff: Stamp) -> Result<u64, StoreError> {
        of::batches::forget(c, cutoff).await
    }

    pub(super) async fn events_before(c: &mut Conn, cutoff: Stamp) -> Result<u64, StoreError> {
        of::events::trim(c, cutoff, CHUNK).await
    }

    pub(super) async fn audit_before(c: &mut Conn, cutoff: Stamp) -> Result<u64, StoreError> {
        let old = audit_entries::table.filter(audit_entries::at.lt(cutoff)).limit(CHUNK).select(audit_entries::id);
        let old: Vec<uuid::Uuid> = old.load(c).await?;
        let old: Vec<BindId> = old.into_iter().map(BindId::from).collect();
        Ok(diesel::delete(audit_entries::table.filter(audit_entries::id.eq_any(&old))).execute(c).await? as u64)
    }

    pub(super) async fn idempotency_until(c: &mut Conn, now: Stamp) -> Result<u64, StoreError> {
        // No key column to name the rows by, so the chunk ends at a time; rows of one microsecond go together.
        let expiries = idempotency_keys::table.filter(idempotency_keys::expires_at.le(now));
        let chunk = expiries.order(idempotency_keys::expires_at).limit(CHUNK).select(idempotency_keys::expires_at);
        let chunk: Vec<Stamp> = chunk.load(c).await?;
        let Some(last) = chunk.last() else { return Ok(0) };
        let gone = idempotency_keys::table.filter(idempotency_keys::expires_at.le(*last));
        Ok(diesel::delete(gone).execute(c).await? as u64)
    }
}
