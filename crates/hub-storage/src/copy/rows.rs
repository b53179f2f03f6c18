//! The tables and their rows.

use diesel::prelude::{Insertable, Queryable, Selectable};
use hub_protocol::{Json, SpokeId};
use sha2::Sha256;
use uuid::Uuid;

use super::canon::Canon;
use crate::schema::{definitions, registrations, settings};
use crate::types::{BindDoc, BindId};
use crate::{
    AccountRow, AuditRow, CallRow, ClientRow, EdgeRow, EventRow, IdempotencyRow, SecretRow, SpokeRow, StoreError,
};

pub(crate) use crate::keys::Stored as KeyStored;

/// Most rows in a chunk, calls with large payloads in mind.
pub(crate) const CHUNK: i64 = 500;

/// A definition.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = definitions)]
pub(crate) struct Definition {
    #[diesel(serialize_as = BindId)]
    pub(crate) id: Uuid,
    pub(crate) operation_id: String,
    pub(crate) version: String,
    pub(crate) spec: String,
}

/// A registration.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = registrations)]
pub(crate) struct Registration {
    #[diesel(serialize_as = BindId)]
    pub(crate) spoke_id: SpokeId,
    #[diesel(serialize_as = BindId)]
    pub(crate) definition_id: Uuid,
    pub(crate) local: String,
    pub(crate) active: bool,
}

/// A setting.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = settings)]
pub(crate) struct Setting {
    pub(crate) key: String,
    #[diesel(serialize_as = BindDoc)]
    pub(crate) value: Json,
}

macro_rules! tables {
    ($($table:ident($row:ty) $name:literal by |$r:ident| $key:expr;)*) => {
        /// The tables that are copied, those others refer to first. Leases, marks and imports stay where they are.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Table { $($table),* }

        pub(crate) const TABLES: [Table; [$($name),*].len()] = [$(Table::$table),*];

        /// Rows of a table.
        #[derive(Clone)]
        pub(crate) enum Chunk { $($table(Vec<$row>)),* }

        impl Table {
            pub(crate) fn name(self) -> &'static str {
                match self { $(Self::$table => $name),* }
            }
        }

        impl Chunk {
            pub(crate) fn len(&self) -> u64 {
                match self { $(Self::$table(rows) => rows.len() as u64),* }
            }

            /// The key of the last row; `None` if no more rows follow.
            pub(crate) fn place(&self) -> Result<Option<Json>, StoreError> {
                if matches!(self, Self::Keys(_)) || self.len() < CHUNK as u64 {
                    return Ok(None);
                }
                let key = match self { $(Self::$table(rows) => rows.last().map(|$r| Json::from_serialize(&$key))),* };
                key.transpose().map_err(|error| diesel::result::Error::SerializationError(error.into()).into())
            }

            pub(crate) fn digest(&self, hash: &mut Sha256) {
                match self { $(Self::$table(rows) => rows.iter().for_each(|row| row.canon(hash))),* }
            }
        }
    };
}

tables! {
    Accounts(AccountRow) "accounts" by |row| row.id;
    Keys(KeyStored) "api_keys" by |row| row.id;
    Audit(AuditRow) "audit_entries" by |row| row.id;
    Spokes(SpokeRow) "spokes" by |row| row.id;
    Definitions(Definition) "definitions" by |row| row.id;
    Registrations(Registration) "registrations" by |row| (row.spoke_id, row.definition_id);
    Calls(CallRow) "calls" by |row| row.call_id;
    Edges(EdgeRow) "call_edges" by |row| (row.source, row.target, &row.kind);
    Idempotency(IdempotencyRow) "idempotency_keys" by |row| (&row.principal, &row.operation_id, &row.key);
    Events(EventRow) "events" by |row| row.seq;
    Clients(ClientRow) "clients" by |row| row.id;
    Secrets(SecretRow) "secrets" by |row| row.id;
    Settings(Setting) "settings" by |row| &row.key;
}
