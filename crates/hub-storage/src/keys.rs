use std::collections::BTreeMap;
use std::fmt;

use diesel::prelude::{Insertable, Queryable, Selectable};
use hub_protocol::{AccountId, Json, KeyId};

use crate::schema::{accounts, api_keys};
use crate::types::{BindDoc, BindId};
use crate::{AuditRow, EventRow, NewEvent, Stamp, Store, StoreError};

/// One API key; the key's text is nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyRow {
    /// Id of the row.
    pub id: KeyId,
    /// The part of the key that names it; unique.
    pub public_id: String,
    /// SHA-256 of the key's secret, 32 bytes.
    pub hash: Vec<u8>,
    /// Who calls with it; survives rotation.
    pub principal: String,
    /// Account it belongs to.
    pub account_id: AccountId,
    /// Name of that account, joined in when read and ignored when written.
    pub account: String,
    /// Name for people.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Actions per resource.
    pub resources: Option<BTreeMap<String, Vec<String>>>,
    /// Patterns of the operations that are tools of their own for its holder.
    pub tools: Vec<String>,
    /// When it was made.
    pub created_at: Stamp,
    /// When it stops working.
    pub expires_at: Option<Stamp>,
    /// When it was revoked.
    pub revoked_at: Option<Stamp>,
    /// The key that replaces it.
    pub rotated_to: Option<KeyId>,
    /// When it was last seen, roughly.
    pub last_used_at: Option<Stamp>,
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRow")
            .field("id", &self.id)
            .field("principal", &self.principal)
            .field("account", &self.account)
            .field("name", &self.name)
            .field("expires_at", &self.expires_at)
            .field("revoked_at", &self.revoked_at)
            .field("rotated_to", &self.rotated_to)
            .finish_non_exhaustive()
    }
}

/// Verbs on API keys.
#[derive(Debug)]
pub struct Keys<'a>(pub(crate) &'a Store);

impl Keys<'_> {
    /// Adds a key.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without its account, [`StoreError::Conflict`] when id or public id is taken.
    pub async fn insert(&self, key: KeyRow, audit: AuditRow, event: NewEvent) -> Result<EventRow, StoreError> {
        on_writer!(self.0, insert(key, audit, event))
    }

    /// Adds `new` as the successor of `old`, which ends at `old_expires_at` or at its own end if that is earlier.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the old key, [`StoreError::Conflict`] when it is revoked or already rotated.
    pub async fn rotate(
        &self,
        old: KeyId,
        old_expires_at: Stamp,
        new: KeyRow,
        audit: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        on_writer!(self.0, rotate(old, old_expires_at, new, audit, event))
    }

    /// Ends a key now; of several times the first counts, but each is audited.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the key.
    pub async fn revoke(
        &self,
        id: KeyId,
        at: Stamp,
        audit: AuditRow,
        event: NewEvent,
    ) -> Result<(KeyRow, EventRow), StoreError> {
        on_writer!(self.0, revoke(id, at, audit, event))
    }

    /// The key with this public id.
    ///
    /// # Errors
    /// What the database met.
    pub async fn by_public_id(&self, public_id: &str) -> Result<Option<KeyRow>, StoreError> {
        let public_id = public_id.to_owned();
        on_reader!(self.0, by_public_id(public_id))
    }

    /// The key with this id.
    ///
    /// # Errors
    /// What the database met.
    pub async fn get(&self, id: KeyId) -> Result<Option<KeyRow>, StoreError> {
        on_reader!(self.0, get(id))
    }

    /// All keys, newest first; without `include_ended` only those neither revoked nor expired at `now`.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self, include_ended: bool, now: Stamp) -> Result<Vec<KeyRow>, StoreError> {
        on_reader!(self.0, list(include_ended, now))
    }

    /// Notes that the key was used; an earlier time than the stored one, or a key that is gone, changes nothing.
    ///
    /// # Errors
    /// What the database met.
    pub async fn touch(&self, id: KeyId, at: Stamp) -> Result<(), StoreError> {
        on_writer_once!(self.0, touch(id, at))
    }
}

/// A key as its table holds it.
#[derive(Clone, Queryable, Selectable, Insertable)]
#[diesel(table_name = api_keys, treat_none_as_default_value = false)]
pub(crate) struct Stored {
    #[diesel(serialize_as = BindId)]
    pub(crate) id: KeyId,
    pub(crate) public_id: String,
    pub(crate) hash: Vec<u8>,
    pub(crate) principal: String,
    #[diesel(serialize_as = BindId)]
    pub(crate) account_id: AccountId,
    pub(crate) name: String,
    #[diesel(serialize_as = BindDoc)]
    pub(crate) scopes: Json,
    #[diesel(serialize_as = BindDoc)]
    pub(crate) resources: Option<Json>,
    #[diesel(serialize_as = BindDoc)]
    pub(crate) tools: Json,
    pub(crate) created_at: Stamp,
    pub(crate) expires_at: Option<Stamp>,
    pub(crate) revoked_at: Option<Stamp>,
    #[diesel(serialize_as = BindId)]
    pub(crate) rotated_to: Option<KeyId>,
    pub(crate) last_used_at: Option<Stamp>,
}

impl Stored {
    fn of(key: KeyRow) -> Result<Self, StoreError> {
        Ok(Self {
            scopes: encoded(&key.scopes)?,
            resources: key.resources.as_ref().map(encoded).transpose()?,
            tools: encoded(&key.tools)?,
            id: key.id,
            public_id: key.public_id,
            hash: key.hash,
            principal: key.principal,
            account_id: key.account_id,
            name: key.name,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            rotated_to: key.rotated_to,
            last_used_at: key.last_used_at,
        })
    }

    fn into_row(self, account: String) -> Result<KeyRow, StoreError> {
        Ok(KeyRow {
            scopes: decoded(&self.scopes)?,
            resources: self.resources.as_ref().map(decoded).transpose()?,
            tools: decoded(&self.tools)?,
            account,
            id: self.id,
            public_id: self.public_id,
            hash: self.hash,
            principal: self.principal,
            account_id: self.account_id,
            name: self.name,
            created_at: self.created_at,
            expires_at: self.expires_at,
            revoked_at: self.revoked_at,
            rotated_to: self.rotated_to,
            last_used_at: self.last_used_at,
        })
    }
}

fn encoded<T: serde::Serialize>(value: &T) -> Result<Json, StoreError> {
    Json::from_serialize(value).map_err(|error| diesel::result::Error::SerializationError(error.into()).into())
}

fn decoded<T: serde::de::DeserializeOwned>(text: &Json) -> Result<T, StoreError> {
    text.parse().map_err(|error| diesel::result::Error::DeserializationError(error.into()).into())
}

backends! {
    use of::{audit, events};
    use diesel::prelude::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel::result::{DatabaseErrorKind, Error as DieselError};
    use diesel_async::RunQueryDsl;

    pub(super) async fn insert(
        c: &mut Conn,
        key: KeyRow,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        add(c, key).await?;
        noted(c, entry, event).await
    }

    async fn add(c: &mut Conn, key: KeyRow) -> Result<(), StoreError> {
        let row = Stored::of(key)?;
        let added = diesel::insert_into(api_keys::table).values(row).execute(c).await;
        added.map(drop).map_err(|error| match error {
            DieselError::DatabaseError(DatabaseErrorKind::ForeignKeyViolation, _) => {
                StoreError::NotFound { what: "account" }
            }
            other => StoreError::conflict("key")(other),
        })
    }

    async fn noted(c: &mut Conn, entry: AuditRow, event: NewEvent) -> Result<EventRow, StoreError> {
        audit::append(c, entry).await?;
        events::append_one(c, event).await
    }

    pub(super) async fn rotate(
        c: &mut Conn,
        old: KeyId,
        old_expires_at: Stamp,
        new: KeyRow,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        let before = get(c, old).await?.ok_or(StoreError::NotFound { what: "key" })?;
        let ends = before.expires_at.map_or(old_expires_at, |own| own.min(old_expires_at));
        let successor = new.id;
        // First the new row: the old one refers to it.
        add(c, new).await?;
        // Of several at once, the one that changes the row makes the others too late.
        let lasts = api_keys::revoked_at.is_null().and(api_keys::rotated_to.is_null());
        let rotated = diesel::update(api_keys::table.find(BindId::from(old)).filter(lasts))
            .set((api_keys::rotated_to.eq(BindId::from(successor)), api_keys::expires_at.eq(Some(ends))))
            .execute(c)
            .await?;
        if rotated == 0 {
            return Err(StoreError::Conflict { what: "key" });
        }
        noted(c, entry, event).await
    }

    pub(super) async fn revoke(
        c: &mut Conn,
        id: KeyId,
        at: Stamp,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<(KeyRow, EventRow), StoreError> {
        let first = diesel::update(api_keys::table.find(BindId::from(id)).filter(api_keys::revoked_at.is_null()));
        first.set(api_keys::revoked_at.eq(Some(at))).execute(c).await?;
        let key = get(c, id).await?.ok_or(StoreError::NotFound { what: "key" })?;
        Ok((key, noted(c, entry, event).await?))
    }

    pub(super) async fn by_public_id(c: &mut Conn, public_id: String) -> Result<Option<KeyRow>, StoreError> {
        let found = api_keys::table
            .inner_join(accounts::table)
            .filter(api_keys::public_id.eq(public_id))
            .select((Stored::as_select(), accounts::name))
            .first::<(Stored, String)>(c)
            .await
            .optional()?;
        found.map(|(key, account)| key.into_row(account)).transpose()
    }

    pub(super) async fn get(c: &mut Conn, id: KeyId) -> Result<Option<KeyRow>, StoreError> {
        let found = api_keys::table
            .inner_join(accounts::table)
            .filter(api_keys::id.eq(BindId::from(id)))
            .select((Stored::as_select(), accounts::name))
            .first::<(Stored, String)>(c)
            .await
            .optional()?;
        found.map(|(key, account)| key.into_row(account)).transpose()
    }

    pub(super) async fn list(c: &mut Conn, include_ended: bool, now: Stamp) -> Result<Vec<KeyRow>, StoreError> {
        let mut query = api_keys::table
            .inner_join(accounts::table)
            .select((Stored::as_select(), accounts::name))
            .order((api_keys::created_at.desc(), api_keys::id.desc()))
            .into_boxed::<Db>();
        if !include_ended {
            let lasts = api_keys::expires_at.is_null().or(api_keys::expires_at.gt(Some(now)));
            query = query.filter(api_keys::revoked_at.is_null().and(lasts));
        }
        let found = query.load::<(Stored, String)>(c).await?;
        found.into_iter().map(|(key, account)| key.into_row(account)).collect()
    }

    pub(super) async fn touch(c: &mut Conn, id: KeyId, at: Stamp) -> Result<(), StoreError> {
        let newer = api_keys::last_used_at.is_null().or(api_keys::last_used_at.lt(Some(at)));
        diesel::update(api_keys::table.find(BindId::from(id)).filter(newer))
            .set(api_keys::last_used_at.eq(Some(at)))
            .execute(c)
            .await?;
        Ok(())
    }
}
