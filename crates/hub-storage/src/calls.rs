mod interrupted;
mod rows;
mod stats;

use hub_protocol::{CallId, HubId, Json};

use crate::schema::{call_edges, calls};
use crate::types::{BindId, Micros, Uid};
use crate::{EventRow, Stamp, Store, StoreError};
pub use rows::{BatchMark, CallBatch, CallFilter, CallRow, CallUpdate, EdgeRow, ExportFilter, KeyedOutcome, StatRow};

/// Most calls, and most edges, that a tree is read with.
const TREE_LIMIT: i64 = 10_000;

/// Verbs on call records.
#[derive(Debug)]
pub struct Calls<'a>(pub(crate) &'a Store);

impl Calls<'_> {
    /// Writes a batch in one transaction; returns its events with their positions. The hottest verb.
    ///
    /// A batch with a mark may be tried again after any error, also one that leaves open whether it was written:
    /// what was written is answered as it was then.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when a started call exists already, or a later batch of the same writer; nothing is
    /// written then.
    pub async fn record(&self, batch: CallBatch) -> Result<Vec<EventRow>, StoreError> {
        on_writer!(self.0, record(batch))
    }

    /// One call.
    ///
    /// # Errors
    /// What the database met.
    pub async fn get(&self, id: CallId) -> Result<Option<CallRow>, StoreError> {
        on_reader!(self.0, get(id))
    }

    /// Calls, newest (highest id) first.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self, filter: CallFilter) -> Result<Vec<CallRow>, StoreError> {
        on_reader!(self.0, list(filter))
    }

    /// The calls of a tree by depth and id, at most 10,000, and the edges from or to its calls, at most as many.
    ///
    /// # Errors
    /// What the database met.
    pub async fn tree(&self, root: CallId) -> Result<(Vec<CallRow>, Vec<EdgeRow>), StoreError> {
        on_reader!(self.0, tree(root))
    }

    /// A page of calls, oldest (lowest id) first.
    ///
    /// # Errors
    /// What the database met.
    pub async fn export(&self, filter: ExportFilter) -> Result<Vec<CallRow>, StoreError> {
        on_reader!(self.0, export(filter))
    }

    /// Figures per operation over the calls started at `since` or later; durations are those of the newest
    /// 100,000 ended ones.
    ///
    /// # Errors
    /// What the database met.
    pub async fn stats(&self, since: Stamp, operation_id: Option<String>) -> Result<Vec<StatRow>, StoreError> {
        stats::stats(self.0, since, operation_id).await
    }

    /// Fails every live call of a hub, or of every hub, with `error`: for the start after a crash.
    ///
    /// Each gets a `failed` event; its unfinished idempotency key stays and names it. Goes in transactions of bounded
    /// size; one that fails leaves the earlier ones done, and the next try goes on from there. Several hubs may
    /// close the calls of one that died: each call is closed, and told of, once. Returns how many calls this one
    /// closed.
    ///
    /// # Errors
    /// What the database met.
    pub async fn close_interrupted(&self, hub: Option<HubId>, at: Stamp, error: Json) -> Result<u64, StoreError> {
        interrupted::close(self.0, hub, at, error).await
    }
}

backends! {
    use crate::bulk::Bulk;
    use diesel::dsl::sql;
    use diesel::expression::SqlLiteral;
    use diesel::prelude::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel::sql_types::{Bool, Nullable};
    use diesel_async::{AsyncConnection, RunQueryDsl};

    pub(super) async fn record(c: &mut Conn, batch: CallBatch) -> Result<Vec<EventRow>, StoreError> {
        let Some(mark) = batch.mark else { return c.record_calls(batch).await };
        if let Some(first) = of::batches::applied(c, mark).await? {
            return Ok(crate::events::placed(first, batch.events));
        }
        let written = c.record_calls(batch).await?;
        of::batches::done(c, mark, written.as_slice().first().map_or(0, |row| row.seq)).await?;
        Ok(written)
    }

    pub(super) async fn get(c: &mut Conn, id: CallId) -> Result<Option<CallRow>, StoreError> {
        Ok(calls::table.find(BindId::from(id)).select(CallRow::as_select()).first(c).await.optional()?)
    }

    /// The lowest id of the calls started at `since` or later: with it a walk along the ids stops where the
    /// time does. Ids sort by start only about, and this is exact; it reads nothing but the index.
    async fn first_since(c: &mut Conn, since: Stamp) -> Result<Option<CallId>, StoreError> {
        let lowest = sql::<Nullable<Uid>>(LOWEST_CALL);
        Ok(calls::table.filter(calls::started_at.ge(since)).select(lowest).first(c).await?)
    }

    /// The beginning of a comparison of start times that is checked row by row, as the ids give the order.
    fn started(compare: &str) -> SqlLiteral<Bool> {
        sql(&format!("{UNINDEXED}started_at {compare}"))
    }

    pub(super) async fn list(c: &mut Conn, filter: CallFilter) -> Result<Vec<CallRow>, StoreError> {
        let mut query = calls::table.select(CallRow::as_select()).into_boxed::<Db>();
        if let Some(since) = filter.since {
            let Some(first) = first_since(c, since).await? else { return Ok(Vec::new()) };
            query =
                query.filter(calls::call_id.ge(BindId::from(first))).filter(started(">= ").bind::<Micros, _>(since));
        }
        if let Some(status) = filter.status {
            // Said as the partial indexes say it, or they are not used.
            match status.as_str() {
                "pending" | "running" => query = query.filter(sql::<Bool>("status IN ('pending', 'running')")),
                "failed" | "aborted" => query = query.filter(sql::<Bool>("status IN ('failed', 'aborted')")),
                _ => {}
            }
            query = query.filter(calls::status.eq(status));
        }
        if let Some(operation_id) = filter.operation_id {
            query = query.filter(calls::operation_id.eq(operation_id));
        }
        if let Some(principal) = filter.principal {
            query = query.filter(calls::principal.eq(principal));
        }
        if let Some(spoke) = filter.spoke {
            query = query.filter(calls::spoke.eq(Some(spoke)));
        }
        if filter.roots {
            query = query.filter(calls::parent.is_null());
        }
        if filter.tasks {
            query = query.filter(sql::<Bool>(IS_TASK));
        }
        if let Some(before) = filter.before {
            query = query.filter(calls::call_id.lt(BindId::from(before)));
        }
        Ok(query.order(calls::call_id.desc()).limit(filter.limit.into()).load(c).await?)
    }

    pub(super) async fn tree(c: &mut Conn, root: CallId) -> Result<(Vec<CallRow>, Vec<EdgeRow>), StoreError> {
        c.transaction(async |c| {
            c.as_of_one_moment().await?;
            let rows = calls::table
                .filter(calls::root.eq(BindId::from(root)))
                .order((calls::depth, calls::call_id))
                .limit(TREE_LIMIT)
                .select(CallRow::as_select())
                .load::<CallRow>(c)
                .await?;
            let inside = calls::table.filter(calls::root.eq(BindId::from(root))).select(calls::call_id);
            let touches = call_edges::source.eq_any(inside).or(call_edges::target.eq_any(inside));
            let edges = call_edges::table
                .filter(touches)
                .order((call_edges::source, call_edges::target, call_edges::kind))
                .limit(TREE_LIMIT)
                .select(EdgeRow::as_select())
                .load::<EdgeRow>(c)
                .await?;
            Ok((rows, edges))
        })
        .await
    }

    pub(super) async fn export(c: &mut Conn, filter: ExportFilter) -> Result<Vec<CallRow>, StoreError> {
        let mut query = calls::table.select(CallRow::as_select()).into_boxed::<Db>();
        if let Some(since) = filter.since {
            // Later pages begin behind `after` anyway.
            if filter.after.is_none() {
                let Some(first) = first_since(c, since).await? else { return Ok(Vec::new()) };
                query = query.filter(calls::call_id.ge(BindId::from(first)));
            }
            query = query.filter(started(">= ").bind::<Micros, _>(since));
        }
        if let Some(until) = filter.until {
            query = query.filter(started("< ").bind::<Micros, _>(until));
        }
        if let Some(after) = filter.after {
            query = query.filter(calls::call_id.gt(BindId::from(after)));
        }
        if let Some(root) = filter.root {
            query = query.filter(calls::root.eq(BindId::from(root)));
        }
        if let Some(principal) = filter.principal {
            query = query.filter(calls::principal.eq(principal));
        }
        Ok(query.order(calls::call_id).limit(filter.limit.into()).load(c).await?)
    }
}
