//! Many rows in one statement: each column goes as an array through `unnest`, several times faster than `VALUES`.

use std::borrow::Cow;
use std::collections::HashMap;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use hub_protocol::{CallId, Json, SpokeId};
use uuid::Uuid;

use crate::bulk::{Bulk, fold};
use crate::calls::{CallBatch, CallRow, CallUpdate, EdgeRow, KeyedOutcome};
use crate::events::placed;
use crate::schema::spokes;
use crate::types::{BindId, Micros, Uid};
use crate::{DefinitionRow, EventRow, NewEvent, SpokeRow, Stamp, StoreError};

/// Most rows in one statement, so that no array grows beyond what a message takes.
const ROWS: usize = 1000;
/// Bytes of payload after which a statement takes no further row.
const BYTES: usize = 16 << 20;

/// A value of a statement.
enum Bind<'a> {
    Count(i64),
    Id(BindId),
    Ids(Vec<BindId>),
    Texts(Vec<Option<Cow<'a, str>>>),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
    Times(Vec<Option<Stamp>>),
}

enum Piece<'a> {
    Sql(&'static str),
    Bind(Bind<'a>),
}

/// A statement whose text is always the same, so that it stays prepared; `sql_query` is prepared anew each time.
struct Statement<'a>(Vec<Piece<'a>>);

impl<'a> Statement<'a> {
    fn new(head: &'static str) -> Self {
        Self(vec![Piece::Sql(head)])
    }

    fn sql(mut self, sql: &'static str) -> Self {
        self.0.push(Piece::Sql(sql));
        self
    }

    fn bind(mut self, bind: Bind<'a>) -> Self {
        self.0.push(Piece::Bind(bind));
        self
    }

    fn columns(mut self, columns: impl IntoIterator<Item = Bind<'a>>) -> Self {
        for (n, column) in columns.into_iter().enumerate() {
            if n > 0 {
                self.0.push(Piece::Sql(", "));
            }
            self.0.push(Piece::Bind(column));
        }
        self
    }
}

impl QueryId for Statement<'_> {
    type QueryId = ();
    // The cache goes by the text.
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl Query for Statement<'_> {
    type SqlType = BigInt;
}

impl QueryFragment<Pg> for Statement<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for piece in &self.0 {
            match piece {
                Piece::Sql(sql) => out.push_sql(sql),
                Piece::Bind(Bind::Count(n)) => out.push_bind_param::<BigInt, _>(n)?,
                Piece::Bind(Bind::Id(id)) => out.push_bind_param::<Uid, _>(id)?,
                Piece::Bind(Bind::Ids(ids)) => out.push_bind_param::<Array<Uid>, _>(ids)?,
                Piece::Bind(Bind::Texts(texts)) => out.push_bind_param::<Array<Nullable<Text>>, _>(texts)?,
                Piece::Bind(Bind::Ints(ints)) => out.push_bind_param::<Array<Integer>, _>(ints)?,
                Piece::Bind(Bind::Longs(longs)) => out.push_bind_param::<Array<BigInt>, _>(longs)?,
                Piece::Bind(Bind::Times(times)) => out.push_bind_param::<Array<Nullable<Micros>>, _>(times)?,
            }
        }
        Ok(())
    }
}

/// A text as Postgres takes it, which has no NUL: a peer's odd name must not keep its record from being written.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

fn texts<'a, R>(rows: &'a [R], of: impl Fn(&'a R) -> &'a str) -> Bind<'a> {
    Bind::Texts(rows.iter().map(|row| Some(clean(of(row)))).collect())
}

fn maybe_texts<'a, R>(rows: &'a [R], of: impl Fn(&'a R) -> Option<&'a str>) -> Bind<'a> {
    Bind::Texts(rows.iter().map(|row| of(row).map(clean)).collect())
}

fn docs<'a, R>(rows: &'a [R], of: impl Fn(&'a R) -> Option<&'a Json>) -> Bind<'a> {
    Bind::Texts(rows.iter().map(|row| of(row).map(|json| Cow::Borrowed(json.as_str()))).collect())
}

fn ids<R, I: Into<BindId>>(rows: &[R], of: impl Fn(&R) -> I) -> Bind<'_> {
    Bind::Ids(rows.iter().map(|row| of(row).into()).collect())
}

fn ints<R>(rows: &[R], of: impl Fn(&R) -> i32) -> Bind<'_> {
    Bind::Ints(rows.iter().map(of).collect())
}

fn longs<R>(rows: &[R], of: impl Fn(&R) -> i64) -> Bind<'_> {
    Bind::Longs(rows.iter().map(of).collect())
}

fn times<R>(rows: &[R], of: impl Fn(&R) -> Option<Stamp>) -> Bind<'_> {
    Bind::Times(rows.iter().map(of).collect())
}

/// About how many bytes a row sends.
pub(super) trait Weight {
    fn weight(&self) -> usize;

    fn of(rows: &[Self]) -> usize
    where
        Self: Sized,
    {
        rows.iter().map(Self::weight).sum()
    }
}

fn size(json: Option<&Json>) -> usize {
    json.map_or(0, Json::size)
}

impl Weight for NewEvent {
    fn weight(&self) -> usize {
        self.payload.size() + self.topic.len() + 64
    }
}

impl Weight for EventRow {
    fn weight(&self) -> usize {
        self.payload.size() + self.topic.len() + 64
    }
}

impl Weight for CallRow {
    fn weight(&self) -> usize {
        size(self.input.as_ref()) + size(self.output.as_ref()) + size(self.error.as_ref()) + 256
    }
}

impl Weight for CallUpdate {
    fn weight(&self) -> usize {
        size(self.output.as_ref()) + size(self.error.as_ref()) + 128
    }
}

impl Weight for KeyedOutcome {
    fn weight(&self) -> usize {
        self.outcome.size() + 128
    }
}

impl Weight for DefinitionRow {
    fn weight(&self) -> usize {
        self.spec.size() + 256
    }
}

impl Weight for EdgeRow {
    fn weight(&self) -> usize {
        64
    }
}

/// Parts of rows that one statement takes.
fn parts<R: Weight>(mut rows: &[R]) -> impl Iterator<Item = &[R]> {
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |row: &R| {
            bytes += row.weight();
            bytes < BYTES
        };
        // A row that is too large for any part is one by itself.
        let count = rows.iter().take(ROWS).map(fits).take_while(|fits| *fits).count().max(1).min(rows.len());
        let (part, rest) = rows.split_at(count);
        rows = rest;
        (!part.is_empty()).then_some(part)
    })
}

fn insert_calls(rows: &[CallRow]) -> Statement<'_> {
    let columns = [
        ids(rows, |row| row.call_id),
        texts(rows, |row| &row.request_id),
        texts(rows, |row| &row.operation_id),
        texts(rows, |row| &row.version),
        texts(rows, |row| &row.kind),
        ids(rows, |row| row.parent),
        ids(rows, |row| row.root),
        ints(rows, |row| row.depth),
        texts(rows, |row| &row.principal),
        maybe_texts(rows, |row| row.spoke.as_deref()),
        ids(rows, |row| row.hub_id),
        texts(rows, |row| &row.status),
        docs(rows, |row| row.input.as_ref()),
        longs(rows, |row| row.input_size),
        maybe_texts(rows, |row| row.input_hash.as_deref()),
        docs(rows, |row| row.output.as_ref()),
        longs(rows, |row| row.output_size),
        maybe_texts(rows, |row| row.output_hash.as_deref()),
        docs(rows, |row| row.error.as_ref()),
        maybe_texts(rows, |row| row.idempotency_key.as_deref()),
        times(rows, |row| Some(row.started_at)),
        times(rows, |row| row.completed_at),
        ints(rows, |row| row.attempts),
        longs(rows, |row| row.items),
        longs(rows, |row| row.cost),
    ];
    Statement::new(
        "INSERT INTO calls (call_id, request_id, operation_id, version, kind, parent, root, depth, principal, spoke, \
         hub_id, status, input, input_size, input_hash, output, output_size, output_hash, error, idempotency_key, \
         started_at, completed_at, attempts, items, cost) SELECT * FROM unnest(",
    )
    .columns(columns)
    .sql(")")
}

fn update_calls(rows: &[CallUpdate]) -> Statement<'_> {
    let columns = [
        ids(rows, |row| row.call_id),
        texts(rows, |row| &row.status),
        maybe_texts(rows, |row| row.spoke.as_deref()),
        ints(rows, |row| row.attempts),
        docs(rows, |row| row.output.as_ref()),
        longs(rows, |row| row.output_size),
        maybe_texts(rows, |row| row.output_hash.as_deref()),
        docs(rows, |row| row.error.as_ref()),
        times(rows, |row| row.completed_at),
        longs(rows, |row| row.items),
        longs(rows, |row| row.cost),
    ];
    Statement::new(
        "UPDATE calls SET status = n.status, spoke = n.spoke, attempts = n.attempts, output = n.output, \
         output_size = n.output_size, output_hash = n.output_hash, error = n.error, completed_at = n.completed_at, \
         items = n.items, cost = n.cost FROM unnest(",
    )
    .columns(columns)
    .sql(
        ") AS n (call_id, status, spoke, attempts, output, output_size, output_hash, error, completed_at, items, \
         cost) WHERE calls.call_id = n.call_id",
    )
}

fn insert_edges(rows: &[EdgeRow]) -> Statement<'_> {
    Statement::new("INSERT INTO call_edges (source, target, kind) SELECT * FROM unnest(")
        .columns([ids(rows, |row| row.source), ids(rows, |row| row.target), texts(rows, |row| &row.kind)])
        .sql(") ON CONFLICT DO NOTHING")
}

fn update_outcomes(rows: &[KeyedOutcome]) -> Statement<'_> {
    let columns = [
        texts(rows, |row| &row.principal),
        texts(rows, |row| &row.operation_id),
        texts(rows, |row| &row.key),
        docs(rows, |row| Some(&row.outcome)),
    ];
    Statement::new("UPDATE idempotency_keys AS k SET outcome = n.outcome FROM unnest(").columns(columns).sql(
        ") AS n (principal, operation_id, key, outcome) \
         WHERE k.principal = n.principal AND k.operation_id = n.operation_id AND k.key = n.key",
    )
}

fn insert_definitions(rows: &[DefinitionRow]) -> Statement<'_> {
    let columns = [
        ids(rows, |_| uuid::Uuid::now_v7()),
        texts(rows, |row| &row.operation_id),
        texts(rows, |row| &row.version),
        docs(rows, |row| Some(&row.spec)),
    ];
    Statement::new("INSERT INTO definitions (id, operation_id, version, spec) SELECT * FROM unnest(")
        .columns(columns)
        .sql(") ON CONFLICT DO NOTHING")
}

fn insert_registrations(spoke: SpokeId, rows: &[DefinitionRow]) -> Statement<'_> {
    let columns = [
        ids(rows, |_| spoke),
        texts(rows, |row| &row.operation_id),
        texts(rows, |row| &row.version),
        texts(rows, |row| &row.local),
    ];
    Statement::new(
        "INSERT INTO registrations (spoke_id, definition_id, local, active) \
         SELECT n.spoke_id, d.id, n.local, true FROM unnest(",
    )
    .columns(columns)
    .sql(
        ") AS n (spoke_id, operation_id, version, local) \
         JOIN definitions d ON d.operation_id = n.operation_id AND d.version = n.version \
         ON CONFLICT (spoke_id, definition_id) DO UPDATE SET local = excluded.local, active = true",
    )
}

/// The last of several rows of one definition, in the order of their names; see [`last_updates`].
fn last_offers(rows: Vec<DefinitionRow>) -> Vec<DefinitionRow> {
    let name = |row: &DefinitionRow| (row.operation_id.clone(), row.version.clone());
    let last: std::collections::BTreeMap<_, DefinitionRow> = rows.into_iter().map(|row| (name(&row), row)).collect();
    last.into_values().collect()
}

/// Takes positions and writes the events at them, in one statement: the lock on the row of positions is what all
/// hubs wait for, so nothing goes to and fro while it is held but this and the commit.
///
/// Where they are all of a writer's batch, its mark learns of the first position on the way.
fn append_events(rows: &[NewEvent], writer: Option<Uuid>) -> Statement<'_> {
    let count = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let columns = [
        texts(rows, |row| &row.topic),
        texts(rows, |row| &row.kind),
        times(rows, |row| Some(row.at)),
        ids(rows, |row| row.root),
        docs(rows, |row| Some(&row.payload)),
    ];
    let mut statement = Statement::new("WITH p AS (UPDATE event_position SET last = last + ")
        .bind(Bind::Count(count))
        .sql(" RETURNING last), ");
    if let Some(writer) = writer {
        statement = statement
            .sql("b AS (UPDATE applied_batches SET first_seq = p.last + 1 - ")
            .bind(Bind::Count(count))
            .sql(" FROM p WHERE writer = ")
            .bind(Bind::Id(writer.into()))
            .sql("), ");
    }
    statement
        .sql("e AS (INSERT INTO events (seq, topic, kind, at, root, payload) SELECT p.last - ")
        .bind(Bind::Count(count))
        .sql(" + n.nth, n.topic, n.kind, n.at, n.root, n.payload FROM p, unnest(")
        .columns(columns)
        .sql(") WITH ORDINALITY AS n (topic, kind, at, root, payload, nth)) SELECT last FROM p")
}

/// Writes events at the positions they have.
fn insert_events(rows: &[EventRow]) -> Statement<'_> {
    let columns = [
        longs(rows, |row| i64::try_from(row.seq).unwrap_or(i64::MAX)),
        texts(rows, |row| &row.topic),
        texts(rows, |row| &row.kind),
        times(rows, |row| Some(row.at)),
        ids(rows, |row| row.root),
        docs(rows, |row| Some(&row.payload)),
    ];
    Statement::new("INSERT INTO events (seq, topic, kind, at, root, payload) SELECT * FROM unnest(")
        .columns(columns)
        .sql(")")
}

/// The last of several updates of one call, in the order of the ids: of two transactions that update the same
/// calls, one then waits for the other.
fn last_updates(updates: Vec<CallUpdate>) -> Vec<CallUpdate> {
    let last: HashMap<CallId, CallUpdate> = updates.into_iter().map(|update| (update.call_id, update)).collect();
    let mut updates: Vec<CallUpdate> = last.into_values().collect();
    updates.sort_unstable_by_key(|update| update.call_id.0);
    updates
}

fn last_outcomes(outcomes: Vec<KeyedOutcome>) -> Vec<KeyedOutcome> {
    let key = |outcome: &KeyedOutcome| (outcome.principal.clone(), outcome.operation_id.clone(), outcome.key.clone());
    let last: HashMap<_, KeyedOutcome> = outcomes.into_iter().map(|outcome| (key(&outcome), outcome)).collect();
    let mut outcomes: Vec<KeyedOutcome> = last.into_values().collect();
    outcomes.sort_unstable_by_key(key);
    outcomes
}

/// Gives the events the next positions; returns the first, which the mark of `writer` learns as well.
pub(super) async fn place_events(
    c: &mut AsyncPgConnection,
    events: &[NewEvent],
    writer: Option<Uuid>,
) -> Result<u64, StoreError> {
    let mut first = None;
    for part in parts(events) {
        // The positions of all parts follow one another: the first has the lock.
        let last = append_events(part, writer.filter(|_| first.is_none())).get_result::<i64>(c).await?;
        first.get_or_insert(last.unsigned_abs() + 1 - part.len() as u64);
    }
    Ok(first.unwrap_or(0))
}

impl Bulk for AsyncPgConnection {
    const PLACE: &str = "current_database() || ' ' || pg_postmaster_start_time()::text";

    async fn append_events(&mut self, new: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError> {
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let first = place_events(self, &new, None).await?;
        Ok(placed(first, new))
    }

    async fn last_position(&mut self) -> Result<u64, StoreError> {
        let last = Statement::new("SELECT last FROM event_position").get_result::<i64>(self).await?;
        Ok(last.unsigned_abs())
    }

    async fn record_calls(&mut self, mut batch: CallBatch) -> Result<Vec<EventRow>, StoreError> {
        fold(&mut batch);
        for part in parts(&batch.started) {
            insert_calls(part).execute(self).await.map_err(StoreError::conflict("call"))?;
        }
        for part in parts(&last_updates(batch.updates)) {
            update_calls(part).execute(self).await?;
        }
        for part in parts(&batch.edges) {
            insert_edges(part).execute(self).await?;
        }
        for part in parts(&last_outcomes(batch.outcomes)) {
            update_outcomes(part).execute(self).await?;
        }
        self.append_events(batch.events).await
    }

    async fn load_events(&mut self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        for part in parts(&rows) {
            insert_events(part).execute(self).await?;
        }
        Ok(())
    }

    async fn set_last_position(&mut self, last: u64) -> Result<(), StoreError> {
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        Statement::new("UPDATE event_position SET last = ").bind(Bind::Count(last)).execute(self).await?;
        Ok(())
    }

    async fn defer_references(&mut self) -> Result<(), StoreError> {
        diesel::sql_query("SET CONSTRAINTS ALL DEFERRED").execute(self).await?;
        Ok(())
    }

    async fn one_at_a_time(&mut self, what: &str) -> Result<(), StoreError> {
        let lock = diesel::sql_query("SELECT 1 FROM pg_advisory_xact_lock(hashtext($1))");
        lock.bind::<Text, _>(what).execute(self).await?;
        Ok(())
    }

    async fn offer(&mut self, spoke: SpokeId, rows: Vec<DefinitionRow>) -> Result<bool, StoreError> {
        for part in parts(&last_offers(rows)) {
            insert_definitions(part).execute(self).await?;
            insert_registrations(spoke, part).execute(self).await?;
        }
        Ok(true)
    }

    async fn locked_spoke(&mut self, name: &str) -> Result<Option<SpokeRow>, StoreError> {
        let row = spokes::table.filter(spokes::name.eq(name)).select(SpokeRow::as_select()).for_update();
        Ok(row.first(self).await.optional()?)
    }

    async fn lease_clock(&mut self) -> Result<Stamp, StoreError> {
        let now = diesel::select(diesel::dsl::sql::<Micros>("clock_timestamp()"));
        Ok(now.get_result(self).await?)
    }

    async fn as_of_one_moment(&mut self) -> Result<(), StoreError> {
        diesel::sql_query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(self).await?;
        Ok(())
    }
}
