use diesel::prelude::{Insertable, Queryable, Selectable};
use hub_protocol::{Json, KeyId};
use uuid::Uuid;

use crate::schema::audit_entries;
use crate::types::{BindDoc, BindId};
use crate::{Stamp, Store, StoreError};

/// One thing somebody did to the hub.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = audit_entries, treat_none_as_default_value = false)]
pub struct AuditRow {
    /// UUIDv7, so it sorts by time.
    #[diesel(serialize_as = BindId)]
    pub id: Uuid,
    /// When it was done.
    pub at: Stamp,
    /// Principal that did it.
    pub actor: String,
    /// Key it was done with.
    #[diesel(serialize_as = BindId)]
    pub key_id: Option<KeyId>,
    /// What was done, as `area.verb`.
    pub action: String,
    /// What it was done to.
    pub target: String,
    /// More about it; no secrets.
    #[diesel(serialize_as = BindDoc)]
    pub details: Json,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    /// Only this action.
    pub action: Option<String>,
    /// Only this principal's.
    pub actor: Option<String>,
    /// Only entries older than this one.
    pub before: Option<Uuid>,
    /// Most entries to return.
    pub limit: u32,
}

/// Verbs on the audit trail.
#[derive(Debug)]
pub struct Audit<'a>(pub(crate) &'a Store);

impl Audit<'_> {
    /// Adds an entry.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the id is taken, else what the database met.
    pub async fn append(&self, row: AuditRow) -> Result<(), StoreError> {
        on_writer_once!(self.0, append(row))
    }

    /// Entries, newest first.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self, filter: AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        on_reader!(self.0, list(filter))
    }
}

backends! {
    use diesel::prelude::{ExpressionMethods, QueryDsl, SelectableHelper};
    use diesel_async::RunQueryDsl;

    pub(crate) async fn append(c: &mut Conn, row: AuditRow) -> Result<(), StoreError> {
        let insert = diesel::insert_into(audit_entries::table).values(row);
        insert.execute(c).await.map_err(StoreError::conflict("audit entry"))?;
        Ok(())
    }

    pub(super) async fn list(c: &mut Conn, filter: AuditFilter) -> Result<Vec<AuditRow>, StoreError> {
        let mut query = audit_entries::table.select(AuditRow::as_select()).into_boxed::<Db>();
        if let Some(action) = filter.action {
            query = query.filter(audit_entries::action.eq(action));
        }
        if let Some(actor) = filter.actor {
            query = query.filter(audit_entries::actor.eq(actor));
        }
        if let Some(before) = filter.before {
            query = query.filter(audit_entries::id.lt(BindId::from(before)));
        }
        Ok(query.order(audit_entries::id.desc()).limit(filter.limit.into()).load(c).await?)
    }
}
