use diesel::prelude::{AsChangeset, ExpressionMethods, Insertable, Queryable, Selectable};
use hub_protocol::{CallId, Json};

use crate::schema::idempotency_keys;
use crate::types::{BindDoc, BindId};
use crate::{Stamp, Store, StoreError};

/// One use of an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = idempotency_keys, treat_none_as_default_value = false, treat_none_as_null = true)]
#[diesel(primary_key(principal, operation_id, key))]
pub struct IdempotencyRow {
    /// Who called.
    pub principal: String,
    /// What was called, by its hub-wide id.
    pub operation_id: String,
    /// The caller's key; unique with the two above.
    pub key: String,
    /// The call that runs or ran.
    #[diesel(serialize_as = BindId)]
    pub call_id: CallId,
    /// Hash of the input, to tell a repeat from a mistake.
    pub input_hash: Vec<u8>,
    /// How the call ended; `None` while it runs.
    #[diesel(serialize_as = BindDoc)]
    pub outcome: Option<Json>,
    /// When the key was first used.
    pub created_at: Stamp,
    /// From when on the key is free again.
    pub expires_at: Stamp,
}

/// What [`Idempotency::begin`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Begun {
    /// The key was free and is now taken by this call.
    New,
    /// The key is taken by this earlier call.
    Existing(IdempotencyRow),
}

/// Verbs on idempotency keys.
#[derive(Debug)]
pub struct Idempotency<'a>(pub(crate) &'a Store);

impl Idempotency<'_> {
    /// Takes the key for `row.call_id` unless an earlier use holds it at `now`; of several at once one gets it.
    ///
    /// # Errors
    /// What the database met.
    pub async fn begin(&self, row: IdempotencyRow, now: Stamp) -> Result<Begun, StoreError> {
        on_writer!(self.0, begin(row, now))
    }

    /// Frees a key that `call_id` holds without having left an outcome. One with an outcome stays, and so does one
    /// that another call has taken since: of several who find a dead holder, none may free the key of the next.
    ///
    /// # Errors
    /// What the database met.
    pub async fn release(
        &self,
        principal: &str,
        operation_id: &str,
        key: &str,
        call_id: CallId,
    ) -> Result<(), StoreError> {
        let (principal, operation_id, key) = (principal.to_owned(), operation_id.to_owned(), key.to_owned());
        on_writer_once!(self.0, release(principal, operation_id, key, call_id))
    }
}

backends! {
    use diesel::prelude::{QueryDsl, SelectableHelper};
    use diesel_async::RunQueryDsl;

    pub(super) async fn begin(c: &mut Conn, row: IdempotencyRow, now: Stamp) -> Result<Begun, StoreError> {
        use diesel::query_dsl::methods::FilterDsl;
        let insert = diesel::insert_into(idempotency_keys::table)
            .values(row.clone())
            .on_conflict((idempotency_keys::principal, idempotency_keys::operation_id, idempotency_keys::key))
            .do_update()
            .set(row.clone());
        // One statement decides, also where several writers are at it at once.
        let taken = FilterDsl::filter(insert, idempotency_keys::expires_at.le(now)).execute(c).await?;
        if taken > 0 {
            return Ok(Begun::New);
        }
        let held = idempotency_keys::table.find((row.principal, row.operation_id, row.key));
        Ok(Begun::Existing(held.select(IdempotencyRow::as_select()).first(c).await?))
    }

    pub(super) async fn release(
        c: &mut Conn,
        principal: String,
        operation_id: String,
        key: String,
        call_id: CallId,
    ) -> Result<(), StoreError> {
        let held = idempotency_keys::table.find((principal, operation_id, key));
        let held = held.filter(idempotency_keys::call_id.eq(BindId::from(call_id)));
        diesel::delete(held.filter(idempotency_keys::outcome.is_null())).execute(c).await?;
        Ok(())
    }
}
