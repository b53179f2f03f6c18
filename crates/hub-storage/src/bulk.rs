//! The hot inserts, which each backend does in its own way.

use std::collections::HashMap;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use diesel::sqlite::SqliteConnection;
use hub_protocol::{CallId, SpokeId};

use crate::calls::{CallBatch, CallRow, CallUpdate, KeyedOutcome};
use crate::events::{EventRow, NewEvent, placed};
use crate::schema::{call_edges, calls, events, idempotency_keys};
use crate::sqlite::{LiteConn, on_sync};
use crate::types::{BindDoc, BindId};
use crate::{DefinitionRow, SpokeRow, Stamp, StoreError};

/// Inserts in statements of a fixed number of rows, which stay prepared, and the rest one by one. A statement
/// of any length would be made and parsed anew each time.
macro_rules! insert_rows {
    ($c:expr, $table:expr, $rows:expr, $size:expr) => {{
        let mut rows = $rows.into_iter();
        while rows.len() >= $size {
            let chunk: Vec<_> = rows.by_ref().take($size).collect();
            let Ok(chunk) = <[_; $size]>::try_from(chunk) else { break };
            diesel::insert_into($table).values(chunk).execute($c)?;
        }
        for row in rows {
            diesel::insert_into($table).values(row).execute($c)?;
        }
    }};
}

/// What is written per backend instead of once.
pub(crate) trait Bulk {
    /// SQL for a text that tells this database from all others for as long as its server runs.
    const PLACE: &str;
    /// Gives the events the next positions, in order.
    async fn append_events(&mut self, new: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError>;
    /// The highest position ever given.
    async fn last_position(&mut self) -> Result<u64, StoreError>;
    /// Writes a batch of call records.
    async fn record_calls(&mut self, batch: CallBatch) -> Result<Vec<EventRow>, StoreError>;
    /// Writes events at the positions they have.
    async fn load_events(&mut self, rows: Vec<EventRow>) -> Result<(), StoreError>;
    /// Makes the next event's position one more than `last`.
    async fn set_last_position(&mut self, last: u64) -> Result<(), StoreError>;
    /// Checks references between rows at the end of this transaction instead of row by row.
    async fn defer_references(&mut self) -> Result<(), StoreError>;
    /// Keeps other transactions that name the same thing waiting until this one has ended.
    async fn one_at_a_time(&mut self, what: &str) -> Result<(), StoreError>;
    /// Stores the definitions that aren't there and registers the spoke for all, where that saves a round trip for each;
    /// answers whether it did.
    async fn offer(&mut self, spoke: SpokeId, rows: Vec<DefinitionRow>) -> Result<bool, StoreError>;
    /// The spoke of that name, which no other transaction changes until this one has ended.
    async fn locked_spoke(&mut self, name: &str) -> Result<Option<SpokeRow>, StoreError>;
    /// The clock by which leases run: that of the database where several hubs share one.
    async fn lease_clock(&mut self) -> Result<Stamp, StoreError>;
    /// Begins a transaction that only reads, and sees everything as of one moment.
    async fn as_of_one_moment(&mut self) -> Result<(), StoreError>;
}

impl Bulk for LiteConn {
    const PLACE: &str = "(SELECT file FROM pragma_database_list WHERE name = 'main')";

    async fn append_events(&mut self, new: Vec<NewEvent>) -> Result<Vec<EventRow>, StoreError> {
        Ok(on_sync(self, |c| insert_events(c, new))?)
    }

    async fn last_position(&mut self) -> Result<u64, StoreError> {
        Ok(on_sync(self, last_seq)?.unsigned_abs())
    }

    async fn record_calls(&mut self, mut batch: CallBatch) -> Result<Vec<EventRow>, StoreError> {
        fold(&mut batch);
        // On the plain connection: a statement costs a third there, as nothing is copied to be moved.
        on_sync(self, |c| record(c, batch)).map_err(StoreError::conflict("call"))
    }

    async fn load_events(&mut self, rows: Vec<EventRow>) -> Result<(), StoreError> {
        let rows = rows.into_iter().map(|row| EventInsert {
            seq: i64::try_from(row.seq).unwrap_or(i64::MAX),
            topic: row.topic,
            kind: row.kind,
            at: row.at,
            root: row.root.into(),
            payload: row.payload.into(),
        });
        let rows: Vec<EventInsert> = rows.collect();
        Ok(on_sync(self, |c| {
            insert_rows!(c, events::table, rows, EVENT_ROWS);
            Ok(())
        })?)
    }

    async fn set_last_position(&mut self, last: u64) -> Result<(), StoreError> {
        let last = i64::try_from(last).unwrap_or(i64::MAX);
        Ok(on_sync(self, move |c| {
            let row = sqlite_sequence::table.filter(sqlite_sequence::name.eq("events"));
            if diesel::update(row).set(sqlite_sequence::seq.eq(last)).execute(c)? == 0 {
                let row = (sqlite_sequence::name.eq("events"), sqlite_sequence::seq.eq(last));
                diesel::insert_into(sqlite_sequence::table).values(row).execute(c)?;
            }
            Ok(())
        })?)
    }

    async fn defer_references(&mut self) -> Result<(), StoreError> {
        Ok(on_sync(self, |c| c.batch_execute("PRAGMA defer_foreign_keys = ON"))?)
    }

    async fn one_at_a_time(&mut self, _: &str) -> Result<(), StoreError> {
        // There is one writer.
        Ok(())
    }

    async fn offer(&mut self, _: SpokeId, _: Vec<DefinitionRow>) -> Result<bool, StoreError> {
        Ok(false)
    }

    async fn locked_spoke(&mut self, name: &str) -> Result<Option<SpokeRow>, StoreError> {
        crate::spokes::lite::by_name(self, name.to_owned()).await
    }

    async fn lease_clock(&mut self) -> Result<Stamp, StoreError> {
        Ok(Stamp::now())
    }

    async fn as_of_one_moment(&mut self) -> Result<(), StoreError> {
        // Every transaction does.
        Ok(())
    }
}

/// Puts updates of calls that start in the same batch into their rows: one insert instead of insert and update.
pub(crate) fn fold(batch: &mut CallBatch) {
    if batch.started.is_empty() || batch.updates.is_empty() {
        return;
    }
    let started: HashMap<CallId, usize> = batch.started.iter().enumerate().map(|(n, row)| (row.call_id, n)).collect();
    let rows = &mut batch.started;
    batch.updates = std::mem::take(&mut batch.updates)
        .into_iter()
        .filter_map(|update| match started.get(&update.call_id).and_then(|n| rows.get_mut(*n)) {
            None => Some(update),
            Some(row) => {
                apply(row, update);
                None
            }
        })
        .collect();
}

fn apply(row: &mut CallRow, update: CallUpdate) {
    row.status = update.status;
    row.spoke = update.spoke;
    row.attempts = update.attempts;
    row.output = update.output;
    row.output_size = update.output_size;
    row.output_hash = update.output_hash;
    row.error = update.error;
    row.completed_at = update.completed_at;
    row.items = update.items;
    row.cost = update.cost;
}

/// Rows in one prepared insert of calls; see `insert_rows`.
const CALL_ROWS: usize = 32;
/// Rows in one prepared insert of events.
const EVENT_ROWS: usize = 64;

fn record(c: &mut SqliteConnection, batch: CallBatch) -> QueryResult<Vec<EventRow>> {
    insert_rows!(c, calls::table, batch.started, CALL_ROWS);
    for update in batch.updates {
        diesel::update(calls::table.find(BindId::from(update.call_id))).set(update).execute(c)?;
    }
    for edge in batch.edges {
        diesel::insert_or_ignore_into(call_edges::table).values(edge).execute(c)?;
    }
    for KeyedOutcome { principal, operation_id, key, outcome } in batch.outcomes {
        let held = idempotency_keys::table.find((principal, operation_id, key));
        diesel::update(held).set(idempotency_keys::outcome.eq(BindDoc::from(outcome))).execute(c)?;
    }
    insert_events(c, batch.events)
}

diesel::table! {
    /// SQLite's own record of the positions it gave; a table here so that its query stays prepared.
    sqlite_sequence (name) {
        name -> Text,
        seq -> BigInt,
    }
}

fn last_seq(c: &mut SqliteConnection) -> QueryResult<i64> {
    let given = sqlite_sequence::table.find("events").select(sqlite_sequence::seq);
    Ok(given.first(c).optional()?.unwrap_or(0))
}

#[derive(Insertable)]
#[diesel(table_name = events, treat_none_as_default_value = false)]
struct EventInsert {
    seq: i64,
    topic: String,
    kind: String,
    at: Stamp,
    root: BindId,
    payload: BindDoc,
}

/// Positions are given here and not by the table: the transaction holds the write lock, so the last one
/// stands still, and no row has to be read back. The texts are copied since a prepared statement can't borrow.
fn insert_events(c: &mut SqliteConnection, new: Vec<NewEvent>) -> QueryResult<Vec<EventRow>> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let first = last_seq(c)? + 1;
    let rows: Vec<EventInsert> = (first..)
        .zip(&new)
        .map(|(seq, event)| EventInsert {
            seq,
            topic: event.topic.clone(),
            kind: event.kind.clone(),
            at: event.at,
            root: event.root.into(),
            payload: event.payload.clone().into(),
        })
        .collect();
    insert_rows!(c, events::table, rows, EVENT_ROWS);
    Ok(placed(first.unsigned_abs(), new))
}
