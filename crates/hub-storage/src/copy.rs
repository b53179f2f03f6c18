//! Copies a whole store into another one, whatever backends they have.

mod canon;
mod rows;
mod sizes;

use hub_protocol::Json;
use sha2::{Digest, Sha256};

use crate::{Store, StoreError};
use rows::{Chunk, TABLES, Table};

/// How far a copy has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyProgress {
    /// The table at hand.
    pub table: &'static str,
    /// Its rows that are done.
    pub rows: u64,
    /// Whether they are compared by now, no longer copied.
    pub comparing: bool,
}

/// A table that was copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopiedTable {
    /// Its name.
    pub table: &'static str,
    /// Its rows.
    pub rows: u64,
    /// SHA-256 over all of them in the order of their keys, in hexadecimal; the same on every backend.
    pub sha256: String,
}

impl Store {
    /// Copies everything but leases from `source` into this store, then reads both again and compares them.
    ///
    /// Goes in transactions of bounded size. When it ends early, by an error or the death of the process, the same
    /// call goes on from there. Nobody may write to either store meanwhile.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when both are the same database, when this store is neither empty nor that of an
    /// unfinished copy, or when the two differ after the copy, else what the databases met.
    pub async fn copy_from(
        &self,
        source: &Self,
        mut progress: impl FnMut(CopyProgress) + Send,
    ) -> Result<Vec<CopiedTable>, StoreError> {
        if on_reader!(self, place())? == on_reader!(source, place())? {
            return Err(StoreError::Conflict { what: "a store that is copied into itself" });
        }
        if !on_writer!(self, start())? {
            return Err(StoreError::Conflict { what: "a store that is not empty" });
        }
        for table in TABLES {
            self.copy_table(source, table, &mut progress).await?;
        }
        let last = source.events().last().await?;
        on_writer!(self, position(last))?;
        let mut copied = Vec::new();
        for table in TABLES {
            let (theirs, ours) =
                (digest(source, table, &mut progress).await?, digest(self, table, &mut progress).await?);
            if theirs != ours {
                return Err(StoreError::Conflict { what: "the copy" });
            }
            copied.push(ours);
        }
        on_writer!(self, finish())?;
        Ok(copied)
    }

    async fn copy_table(
        &self,
        source: &Self,
        table: Table,
        progress: &mut (impl FnMut(CopyProgress) + Send),
    ) -> Result<(), StoreError> {
        let (mut place, mut rows, finished) = on_reader!(self, reached(table))?;
        if finished {
            return Ok(());
        }
        loop {
            let chunk: Chunk = on_reader!(source, page(table, place))?;
            place = chunk.place()?;
            let next = place.clone();
            rows += chunk.len();
            let so_far = i64::try_from(rows).unwrap_or(i64::MAX);
            on_writer!(self, put(table, chunk, next, so_far))?;
            progress(CopyProgress { table: table.name(), rows, comparing: false });
            if place.is_none() {
                return Ok(());
            }
        }
    }
}

/// Counts and hashes a table in the order of its keys.
async fn digest(
    store: &Store,
    table: Table,
    progress: &mut (impl FnMut(CopyProgress) + Send),
) -> Result<CopiedTable, StoreError> {
    let (mut place, mut rows, mut hash) = (None, 0, Sha256::new());
    loop {
        let chunk: Chunk = on_reader!(store, page(table, place))?;
        chunk.digest(&mut hash);
        rows += chunk.len();
        progress(CopyProgress { table: table.name(), rows, comparing: true });
        place = chunk.place()?;
        if place.is_none() {
            let sha256 = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
            return Ok(CopiedTable { table: table.name(), rows, sha256 });
        }
    }
}

/// The key of a row, as it is kept between two chunks.
type Place = Option<Json>;

/// The key that `place` holds.
fn key<K: serde::de::DeserializeOwned>(place: &Place) -> Result<Option<K>, StoreError> {
    let parsed = place.as_ref().map(Json::parse).transpose();
    parsed.map_err(|error| diesel::result::Error::DeserializationError(error.into()).into())
}

backends! {
    use crate::copy::rows::*;
    use crate::bulk::Bulk;
    use crate::calls::CallBatch;
    use crate::schema::*;
    use crate::types::{BindDoc, BindId, Uid};
    use crate::{AccountRow, AuditRow, CallRow, ClientRow, EdgeRow, IdempotencyRow, SecretRow, SpokeRow};
    use diesel::dsl::{exists, sql};
    use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel::sql_types::{Bool, Text};
    use diesel_async::RunQueryDsl;
    use hub_protocol::CallId;
    use uuid::Uuid;

    /// Where the database is.
    pub(super) async fn place(c: &mut Conn) -> Result<String, StoreError> {
        Ok(diesel::select(sql::<Text>(<Conn as Bulk>::PLACE)).get_result(c).await?)
    }

    /// Marks the store as one that is being copied into; `false` if it holds anything else.
    pub(super) async fn start(c: &mut Conn) -> Result<bool, StoreError> {
        c.one_at_a_time("store.import").await?;
        macro_rules! any {
            ($table:ident.$column:ident) => {
                diesel::select(exists($table::table.select($table::$column))).get_result::<bool>(c).await?
            };
        }
        if any!(imports.name) {
            return Ok(true);
        }
        let used = [
            any!(accounts.id),
            any!(audit_entries.id),
            any!(spokes.id),
            any!(definitions.id),
            any!(calls.call_id),
            any!(call_edges.source),
            any!(idempotency_keys.key),
            any!(clients.id),
            any!(settings.key),
            any!(hubs.id),
            c.last_position().await? > 0,
        ];
        if used.contains(&true) {
            return Ok(false);
        }
        note(c, "begun", None, 0, true).await?;
        Ok(true)
    }

    async fn note(c: &mut Conn, name: &str, place: Place, copied: i64, finished: bool) -> Result<(), StoreError> {
        let place = BindDoc::from(place);
        let values = (imports::place.eq(&place), imports::copied.eq(copied), imports::finished.eq(finished));
        diesel::insert_into(imports::table)
            .values((imports::name.eq(name), values))
            .on_conflict(imports::name)
            .do_update()
            .set(values)
            .execute(c)
            .await?;
        Ok(())
    }

    pub(super) async fn finish(c: &mut Conn) -> Result<(), StoreError> {
        diesel::delete(imports::table).execute(c).await?;
        Ok(())
    }

    pub(super) async fn position(c: &mut Conn, last: u64) -> Result<(), StoreError> {
        c.set_last_position(last).await
    }

    /// Key of the last row that was copied, their number, and whether these are all.
    pub(super) async fn reached(c: &mut Conn, table: Table) -> Result<(Place, u64, bool), StoreError> {
        let row = imports::table.find(table.name()).select((imports::place, imports::copied, imports::finished));
        let row = row.first::<(Place, i64, bool)>(c).await.optional()?;
        Ok(row.map_or((None, 0, false), |(place, copied, finished)| (place, copied.unsigned_abs(), finished)))
    }

    /// The rows behind `after`, by key; fewer than asked for at the end.
    pub(super) async fn page(c: &mut Conn, table: Table, after: Place) -> Result<Chunk, StoreError> {
        /// Rows with one column as their key.
        macro_rules! by {
            ($table:ident.$key:ident, $row:ty, $kind:ty, $bind:expr, $limit:expr) => {{
                let mut page =
                    $table::table.select(<$row>::as_select()).order($table::$key).limit($limit).into_boxed::<Db>();
                if let Some(after) = key::<$kind>(&after)? {
                    page = page.filter($table::$key.gt($bind(after)));
                }
                page.load::<$row>(c).await?
            }};
        }
        Ok(match table {
            Table::Accounts => Chunk::Accounts(by!(accounts.id, AccountRow, Uuid, BindId::from, CHUNK)),
            // At once, since one refers to another; there are few.
            Table::Keys => Chunk::Keys(by!(api_keys.id, KeyStored, Uuid, BindId::from, i64::MAX)),
            Table::Audit => Chunk::Audit(by!(audit_entries.id, AuditRow, Uuid, BindId::from, CHUNK)),
            Table::Spokes => Chunk::Spokes(by!(spokes.id, SpokeRow, Uuid, BindId::from, CHUNK)),
            Table::Definitions => Chunk::Definitions(by!(definitions.id, Definition, Uuid, BindId::from, CHUNK)),
            Table::Calls => Chunk::Calls(by!(calls.call_id, CallRow, Uuid, BindId::from, CHUNK)),
            Table::Clients => Chunk::Clients(by!(clients.id, ClientRow, Uuid, BindId::from, CHUNK)),
            Table::Secrets => Chunk::Secrets(by!(secrets.id, SecretRow, Uuid, BindId::from, CHUNK)),
            Table::Settings => Chunk::Settings(by!(settings.key, Setting, String, std::convert::identity, CHUNK)),
            Table::Registrations => Chunk::Registrations(registrations_page(c, key(&after)?).await?),
            Table::Edges => Chunk::Edges(edges_page(c, key(&after)?).await?),
            Table::Idempotency => Chunk::Idempotency(idempotency_page(c, key(&after)?).await?),
            Table::Events => {
                let after = key::<u64>(&after)?.unwrap_or(0);
                Chunk::Events(of::events::after(c, after, None, CHUNK as u32).await?)
            }
        })
    }

    async fn registrations_page(c: &mut Conn, after: Option<(Uuid, Uuid)>) -> Result<Vec<Registration>, StoreError> {
        let by = (registrations::spoke_id, registrations::definition_id);
        let mut page =
            registrations::table.select(Registration::as_select()).order(by).limit(CHUNK).into_boxed::<Db>();
        if let Some((spoke, definition)) = after {
            let behind = sql::<Bool>("(spoke_id, definition_id) > (").bind::<Uid, _>(BindId::from(spoke));
            page = page.filter(behind.sql(", ").bind::<Uid, _>(BindId::from(definition)).sql(")"));
        }
        Ok(page.load(c).await?)
    }

    async fn edges_page(c: &mut Conn, after: Option<(CallId, CallId, String)>) -> Result<Vec<EdgeRow>, StoreError> {
        let by = (call_edges::source, call_edges::target, call_edges::kind);
        let mut page = call_edges::table.select(EdgeRow::as_select()).order(by).limit(CHUNK).into_boxed::<Db>();
        if let Some((source, target, kind)) = after {
            let behind = sql::<Bool>("(source, target, kind) > (").bind::<Uid, _>(BindId::from(source)).sql(", ");
            let behind = behind.bind::<Uid, _>(BindId::from(target)).sql(", ").bind::<Text, _>(kind).sql(")");
            page = page.filter(behind);
        }
        Ok(page.load(c).await?)
    }

    async fn idempotency_page(
        c: &mut Conn,
        after: Option<(String, String, String)>,
    ) -> Result<Vec<IdempotencyRow>, StoreError> {
        let by = (idempotency_keys::principal, idempotency_keys::operation_id, idempotency_keys::key);
        let mut page =
            idempotency_keys::table.select(IdempotencyRow::as_select()).order(by).limit(CHUNK).into_boxed::<Db>();
        if let Some((principal, operation_id, key)) = after {
            let behind = sql::<Bool>("(principal, operation_id, key) > (").bind::<Text, _>(principal).sql(", ");
            let behind = behind.bind::<Text, _>(operation_id).sql(", ").bind::<Text, _>(key).sql(")");
            page = page.filter(behind);
        }
        Ok(page.load(c).await?)
    }

    /// Writes a chunk, and where it ends, in one transaction.
    pub(super) async fn put(
        c: &mut Conn,
        table: Table,
        chunk: Chunk,
        next: Place,
        so_far: i64,
    ) -> Result<(), StoreError> {
        macro_rules! each {
            ($table:ident, $rows:expr) => {{
                for row in $rows {
                    diesel::insert_into($table::table).values(row).execute(c).await?;
                }
            }};
        }
        match chunk {
            Chunk::Accounts(rows) => each!(accounts, rows),
            Chunk::Keys(rows) => {
                c.defer_references().await?;
                each!(api_keys, rows);
            }
            Chunk::Audit(rows) => each!(audit_entries, rows),
            Chunk::Spokes(rows) => each!(spokes, rows),
            Chunk::Definitions(rows) => each!(definitions, rows),
            Chunk::Registrations(rows) => each!(registrations, rows),
            Chunk::Clients(rows) => each!(clients, rows),
            Chunk::Secrets(rows) => each!(secrets, rows),
            Chunk::Settings(rows) => each!(settings, rows),
            Chunk::Idempotency(rows) => each!(idempotency_keys, rows),
            Chunk::Calls(started) => drop(c.record_calls(CallBatch { started, ..CallBatch::default() }).await?),
            Chunk::Edges(edges) => drop(c.record_calls(CallBatch { edges, ..CallBatch::default() }).await?),
            Chunk::Events(rows) => c.load_events(rows).await?,
        }
        let finished = next.is_none();
        note(c, table.name(), next, so_far, finished).await
    }
}
