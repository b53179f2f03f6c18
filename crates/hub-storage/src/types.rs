//! Own SQL types, so that one `table!` can serve backends that store ids, times and JSON differently.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use diesel::backend::Backend;
use diesel::deserialize::{self, FromSql, FromSqlRow, Queryable};
use diesel::expression::AsExpression;
use diesel::pg::{Pg, PgValue};
use diesel::query_builder::QueryId;
use diesel::serialize::{self, IsNull, Output, ToSql};
use diesel::sql_types::{SqlOrd, SqlType};
use diesel::sqlite::{Sqlite, SqliteValue};
use hub_protocol::{AccountId, CallId, ConnectionId, HubId, Json, KeyId, SpokeId};
use uuid::Uuid;

/// A UUID: 16 bytes in a blob on SQLite, which sorts as the UUID does; a `uuid` on Postgres, sorted the same.
#[derive(Debug, Clone, Copy, SqlType, QueryId)]
#[diesel(sqlite_type(name = "Binary"), postgres_type(oid = 2950, array_oid = 2951))]
pub struct Uid;

/// A time: microseconds since the epoch in an integer on SQLite, a `timestamptz` on Postgres.
#[derive(Debug, Clone, Copy, SqlType, QueryId)]
#[diesel(sqlite_type(name = "Long"), postgres_type(oid = 1184, array_oid = 1185))]
pub struct Micros;

/// A JSON text that is stored without being parsed: text on both. `jsonb` would respell it, and payloads are hashed
/// and compared byte by byte.
#[derive(Debug, Clone, Copy, SqlType, QueryId)]
#[diesel(sqlite_type(name = "Text"), postgres_type(oid = 25, array_oid = 1009))]
pub struct Doc;

impl SqlOrd for Uid {}
impl SqlOrd for Micros {}

/// A moment, in microseconds since the Unix epoch (UTC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, AsExpression, FromSqlRow)]
#[diesel(sql_type = Micros)]
pub struct Stamp(pub i64);

impl Stamp {
    /// The wall clock now; the epoch if the clock stands before it.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(micros(since))
    }

    /// From milliseconds since the epoch.
    #[must_use]
    pub fn from_millis(millis: u64) -> Self {
        Self(i64::try_from(millis).unwrap_or(i64::MAX).saturating_mul(1000))
    }

    /// Whole milliseconds since the epoch; 0 for a time before it.
    #[must_use]
    pub fn millis(self) -> u64 {
        u64::try_from(self.0 / 1000).unwrap_or(0)
    }

    /// This moment and `millis` milliseconds, at most the last moment there is.
    #[must_use]
    pub fn plus_millis(self, millis: u64) -> Self {
        Self(self.0.saturating_add(Self::from_millis(millis).0))
    }

    /// This moment, or the end of what every backend can store.
    pub(crate) fn storable(self) -> Self {
        Self(self.0.clamp(*POSTGRES_RANGE.start(), *POSTGRES_RANGE.end()))
    }

    /// The moment `span` after this one.
    pub(crate) fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }

    /// The moment `age` before this one.
    pub(crate) fn minus(self, age: Duration) -> Self {
        Self(self.0.saturating_sub(micros(age)))
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// An id on its way into a query: diesel's traits can't be put on the types of hub-protocol themselves.
#[derive(Debug, Clone, Copy, AsExpression)]
#[diesel(sql_type = Uid)]
pub struct BindId(Option<Uuid>);

/// A JSON text on its way into a query.
#[derive(Debug, Clone, AsExpression)]
#[diesel(sql_type = Doc)]
pub struct BindDoc(Option<Json>);

impl ToSql<Uid, Sqlite> for BindId {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        let Some(id) = &self.0 else { return Ok(IsNull::Yes) };
        out.set_value(id.as_bytes().as_slice());
        Ok(IsNull::No)
    }
}

impl ToSql<Doc, Sqlite> for BindDoc {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        let Some(json) = &self.0 else { return Ok(IsNull::Yes) };
        out.set_value(json.as_str());
        Ok(IsNull::No)
    }
}

impl ToSql<Uid, Pg> for BindId {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let Some(id) = &self.0 else { return Ok(IsNull::Yes) };
        out.write_all(id.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl ToSql<Doc, Pg> for BindDoc {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        let Some(json) = &self.0 else { return Ok(IsNull::Yes) };
        out.write_all(json.as_bytes())?;
        Ok(IsNull::No)
    }
}

impl From<Json> for BindDoc {
    fn from(json: Json) -> Self {
        Self(Some(json))
    }
}

impl From<Option<Json>> for BindDoc {
    fn from(json: Option<Json>) -> Self {
        Self(json)
    }
}

impl<DB: Backend> Queryable<Doc, DB> for Json
where
    Self: FromSql<Doc, DB>,
{
    type Row = Self;
    fn build(row: Self) -> deserialize::Result<Self> {
        Ok(row)
    }
}

/// Lets ids go into queries and come out of them.
macro_rules! ids {
    ($($id:ty: $uuid:expr, $make:expr;)*) => {$(
        impl From<$id> for BindId {
            fn from(id: $id) -> Self {
                Self(Some($uuid(id)))
            }
        }

        impl From<Option<$id>> for BindId {
            fn from(id: Option<$id>) -> Self {
                Self(id.map($uuid))
            }
        }

        impl FromSql<Uid, Sqlite> for $id {
            fn from_sql(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
                Ok($make(Uuid::from_slice(value.read_blob())?))
            }
        }

        impl FromSql<Uid, Pg> for $id {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                Ok($make(Uuid::from_slice(value.as_bytes())?))
            }
        }

        impl<DB: Backend> Queryable<Uid, DB> for $id
        where
            Self: FromSql<Uid, DB>,
        {
            type Row = Self;
            fn build(row: Self) -> deserialize::Result<Self> {
                Ok(row)
            }
        }
    )*};
}

ids! {
    Uuid: std::convert::identity, std::convert::identity;
    AccountId: |id: AccountId| id.0, AccountId;
    CallId: |id: CallId| id.0, CallId;
    ConnectionId: |id: ConnectionId| id.0, ConnectionId;
    HubId: |id: HubId| id.0, HubId;
    KeyId: |id: KeyId| id.0, KeyId;
    SpokeId: |id: SpokeId| id.0, SpokeId;
}

impl ToSql<Micros, Sqlite> for Stamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0);
        Ok(IsNull::No)
    }
}

impl FromSql<Micros, Sqlite> for Stamp {
    fn from_sql(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        Ok(Self(value.read_long()))
    }
}

/// Microseconds from the Unix epoch to 2000-01-01, where Postgres counts from.
const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The years 1 to 9999: what every client of a Postgres can show. Stamps beyond it are stored as its ends.
const POSTGRES_RANGE: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;

impl ToSql<Micros, Pg> for Stamp {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        out.write_all(&(self.storable().0 - POSTGRES_EPOCH).to_be_bytes())?;
        Ok(IsNull::No)
    }
}

impl FromSql<Micros, Pg> for Stamp {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        let micros = i64::from_be_bytes(value.as_bytes().try_into()?);
        Ok(Self(micros.saturating_add(POSTGRES_EPOCH)))
    }
}

impl FromSql<Doc, Pg> for Json {
    fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
        Self::from_text(std::str::from_utf8(value.as_bytes())?).map_err(|_| "a stored text is not json".into())
    }
}

impl FromSql<Doc, Sqlite> for Json {
    fn from_sql(mut value: SqliteValue<'_, '_, '_>) -> deserialize::Result<Self> {
        // The parser's own message can quote what it read, and stored payloads stay out of errors.
        Self::from_text(value.read_text()).map_err(|_| "a stored text is not json".into())
    }
}
