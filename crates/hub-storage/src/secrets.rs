use std::collections::BTreeMap;
use std::fmt;

use diesel::prelude::{Insertable, Queryable, Selectable};
use hub_protocol::Json;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::schema::secrets;
use crate::types::BindId;
use crate::{AuditRow, EventRow, NewEvent, Stamp, Store, StoreError};

/// Setting that tells which versions of the keyring the secrets are encrypted with.
const KEYRING: &str = "store.keyring";

/// One secret of a client, encrypted.
#[derive(Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = secrets, treat_none_as_default_value = false)]
pub struct SecretRow {
    /// Id of the row.
    #[diesel(serialize_as = BindId)]
    pub id: Uuid,
    /// Whose it is.
    #[diesel(serialize_as = BindId)]
    pub client_id: Uuid,
    /// Unique within the client.
    pub name: String,
    /// Version of the keyring that it is encrypted with.
    pub version: i32,
    /// From which its own key is derived.
    pub salt: Vec<u8>,
    /// Of the cipher.
    pub nonce: Vec<u8>,
    /// With the cipher's tag at its end.
    pub ciphertext: Vec<u8>,
    /// When a secret of this name was first set.
    pub created_at: Stamp,
    /// When it was last replaced.
    pub rotated_at: Option<Stamp>,
}

impl fmt::Debug for SecretRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("SecretRow");
        f.field("id", &self.id).field("name", &self.name).field("version", &self.version).finish_non_exhaustive()
    }
}

/// How a hub's keyring compares with the one that the secrets are encrypted with, by version.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Agreement {
    /// Needed, and not offered.
    pub lacking: Vec<i32>,
    /// Offered as something else.
    pub differing: Vec<i32>,
}

impl Agreement {
    /// Whether the keyring serves.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.lacking.is_empty() && self.differing.is_empty()
    }
}

/// What is known of the keyring: a check value for each version in use.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Known {
    versions: BTreeMap<i32, String>,
    /// Versions below it have been dropped.
    #[serde(default)]
    least: i32,
}

/// Verbs on the encrypted secrets of external services.
#[derive(Debug)]
pub struct Secrets<'a>(pub(crate) &'a Store);

impl Secrets<'_> {
    /// Puts a secret in the place of one of the same name, whose time of making it keeps; `replaces` demands that there
    /// is one. Counts as a change of the client.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the client or the secret to replace, [`StoreError::Conflict`] when the version
    /// of the keyring has been dropped, or the client was made anew meanwhile.
    pub async fn put(
        &self,
        client: &str,
        row: SecretRow,
        replaces: bool,
        audit: AuditRow,
        event: NewEvent,
    ) -> Result<(SecretRow, EventRow), StoreError> {
        let client = client.to_owned();
        on_writer!(self.0, put(client, row, replaces, audit, event))
    }

    /// Removes a secret. Counts as a change of the client.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the client or the secret.
    pub async fn remove(
        &self,
        client: &str,
        name: &str,
        audit: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        let (client, name) = (client.to_owned(), name.to_owned());
        on_writer!(self.0, remove(client, name, audit, event))
    }

    /// The secrets of a client, or of all, by name.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self, client: Option<Uuid>) -> Result<Vec<SecretRow>, StoreError> {
        on_reader!(self.0, list(client))
    }

    /// At most `limit` secrets of another version than this, by id behind `after`.
    ///
    /// # Errors
    /// What the database met.
    pub async fn of_other_versions(
        &self,
        version: i32,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<SecretRow>, StoreError> {
        on_reader!(self.0, of_other_versions(version, after, limit))
    }

    /// Replaces each first row by its second, the same secret under another version, unless it was set anew meanwhile;
    /// answers how many were replaced.
    ///
    /// # Errors
    /// What the database met; then none is replaced.
    pub async fn reencrypt(&self, pairs: Vec<(SecretRow, SecretRow)>) -> Result<u64, StoreError> {
        on_writer!(self.0, reencrypt(pairs))
    }

    /// How many secrets each version of the keyring encrypts.
    ///
    /// # Errors
    /// What the database met.
    pub async fn versions(&self) -> Result<Vec<(i32, u64)>, StoreError> {
        on_reader!(self.0, versions())
    }

    /// Compares a keyring, as check values by version, with the one that is in use, and notes versions that are newer
    /// than all in use; nothing is noted when they don't agree.
    ///
    /// # Errors
    /// What the database met.
    pub async fn agree(&self, offered: BTreeMap<i32, String>) -> Result<Agreement, StoreError> {
        on_writer!(self.0, agree(offered))
    }

    /// Notes a keyring in the place of one that is lost, when no secret is stored and all its versions are newer than
    /// any that was known; answers whether it did.
    ///
    /// # Errors
    /// What the database met.
    pub async fn begin_anew(&self, offered: BTreeMap<i32, String>) -> Result<bool, StoreError> {
        on_writer!(self.0, begin_anew(offered))
    }

    /// Lets nothing be encrypted with a version below `least` any more.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when something still is.
    pub async fn drop_versions_below(&self, least: i32) -> Result<(), StoreError> {
        on_writer!(self.0, drop_versions_below(least))
    }
}

backends! {
    use of::{audit, clients, events, settings};
    use crate::bulk::Bulk;
    use diesel::dsl::count_star;
    use diesel::prelude::{BoolExpressionMethods, ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel_async::RunQueryDsl;

    /// What is known of the keyring. Changes of it and of secrets take turns until their transactions end.
    async fn known(c: &mut Conn) -> Result<Known, StoreError> {
        c.one_at_a_time(KEYRING).await?;
        let stored = settings::get(c, KEYRING.to_owned()).await?;
        let parsed = stored.map(|value| value.parse::<Known>()).transpose();
        Ok(parsed.map_err(|error| diesel::result::Error::DeserializationError(error.into()))?.unwrap_or_default())
    }

    async fn note(c: &mut Conn, known: Known) -> Result<(), StoreError> {
        let value = Json::from_serialize(&known);
        let value = value.map_err(|error| diesel::result::Error::SerializationError(error.into()))?;
        settings::set(c, KEYRING.to_owned(), value).await
    }

    pub(super) async fn put(
        c: &mut Conn,
        client: String,
        mut row: SecretRow,
        replaces: bool,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<(SecretRow, EventRow), StoreError> {
        if row.version < known(c).await?.least {
            return Err(StoreError::Conflict { what: "version of the keyring" });
        }
        if clients::changed(c, client, row.created_at).await? != row.client_id {
            return Err(StoreError::Conflict { what: "client" });
        }
        let owner = secrets::client_id.eq(BindId::from(row.client_id));
        let same = secrets::table.filter(owner.and(secrets::name.eq(row.name.clone())));
        let before = same.clone().select(SecretRow::as_select()).first(c).await.optional()?;
        match before {
            Some(before) => {
                row.rotated_at = Some(row.created_at);
                row.created_at = before.created_at;
                diesel::delete(same).execute(c).await?;
            }
            None if replaces => return Err(StoreError::NotFound { what: "secret" }),
            None => {}
        }
        diesel::insert_into(secrets::table).values(row.clone()).execute(c).await.map_err(StoreError::conflict("secret"))?;
        audit::append(c, entry).await?;
        Ok((row, events::append_one(c, event).await?))
    }

    pub(super) async fn remove(
        c: &mut Conn,
        client: String,
        name: String,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        let id = clients::changed(c, client, entry.at).await?;
        let owner = secrets::client_id.eq(BindId::from(id));
        if diesel::delete(secrets::table.filter(owner.and(secrets::name.eq(name)))).execute(c).await? == 0 {
            return Err(StoreError::NotFound { what: "secret" });
        }
        audit::append(c, entry).await?;
        events::append_one(c, event).await
    }

    pub(super) async fn list(c: &mut Conn, client: Option<Uuid>) -> Result<Vec<SecretRow>, StoreError> {
        let mut query = secrets::table.select(SecretRow::as_select()).order(secrets::name).into_boxed::<Db>();
        if let Some(client) = client {
            query = query.filter(secrets::client_id.eq(BindId::from(client)));
        }
        Ok(query.load(c).await?)
    }

    pub(super) async fn of_other_versions(
        c: &mut Conn,
        version: i32,
        after: Option<Uuid>,
        limit: u32,
    ) -> Result<Vec<SecretRow>, StoreError> {
        let mut query = secrets::table
            .select(SecretRow::as_select())
            .filter(secrets::version.ne(version))
            .order(secrets::id)
            .limit(limit.into())
            .into_boxed::<Db>();
        if let Some(after) = after {
            query = query.filter(secrets::id.gt(BindId::from(after)));
        }
        Ok(query.load(c).await?)
    }

    pub(super) async fn reencrypt(c: &mut Conn, pairs: Vec<(SecretRow, SecretRow)>) -> Result<u64, StoreError> {
        let least = known(c).await?.least;
        let mut replaced = 0;
        for (old, new) in pairs {
            if new.version < least {
                return Err(StoreError::Conflict { what: "version of the keyring" });
            }
            // The salt is drawn for each encryption: with another one the secret is another one, too.
            let same = secrets::table.find(BindId::from(old.id)).filter(secrets::salt.eq(old.salt));
            let changed = (
                secrets::version.eq(new.version),
                secrets::salt.eq(new.salt),
                secrets::nonce.eq(new.nonce),
                secrets::ciphertext.eq(new.ciphertext),
            );
            replaced += diesel::update(same).set(changed).execute(c).await? as u64;
        }
        Ok(replaced)
    }

    pub(super) async fn versions(c: &mut Conn) -> Result<Vec<(i32, u64)>, StoreError> {
        let counted = secrets::table
            .group_by(secrets::version)
            .select((secrets::version, count_star()))
            .order(secrets::version)
            .load::<(i32, i64)>(c)
            .await?;
        Ok(counted.into_iter().map(|(version, count)| (version, count.unsigned_abs())).collect())
    }

    pub(super) async fn agree(c: &mut Conn, offered: BTreeMap<i32, String>) -> Result<Agreement, StoreError> {
        let mut known = known(c).await?;
        let mut found = Agreement::default();
        for (version, check) in &known.versions {
            match offered.get(version) {
                None => found.lacking.push(*version),
                Some(other) if other != check => found.differing.push(*version),
                Some(_) => {}
            }
        }
        if !found.holds() {
            return Ok(found);
        }
        let newest = known.versions.keys().next_back().copied();
        // Older ones than those in use were dropped; a keyring may still have them.
        let newer = offered.into_iter().filter(|(version, _)| newest.is_none_or(|newest| *version > newest));
        let newer: Vec<_> = newer.filter(|(version, _)| *version >= known.least).collect();
        if !newer.is_empty() {
            known.versions.extend(newer);
            note(c, known).await?;
        }
        Ok(found)
    }

    pub(super) async fn begin_anew(c: &mut Conn, offered: BTreeMap<i32, String>) -> Result<bool, StoreError> {
        let known = known(c).await?;
        let newest = known.versions.keys().next_back().copied().unwrap_or_default().max(known.least - 1);
        let Some(least) = offered.keys().next().copied().filter(|least| *least > newest) else { return Ok(false) };
        if secrets::table.count().get_result::<i64>(c).await? > 0 {
            return Ok(false);
        }
        // Who still has the old keyring can encrypt nothing with it.
        note(c, Known { versions: offered, least }).await?;
        Ok(true)
    }

    pub(super) async fn drop_versions_below(c: &mut Conn, least: i32) -> Result<(), StoreError> {
        let mut known = known(c).await?;
        let used = secrets::table.filter(secrets::version.lt(least)).count().get_result::<i64>(c).await?;
        if used > 0 {
            return Err(StoreError::Conflict { what: "version of the keyring" });
        }
        known.versions.retain(|version, _| *version >= least);
        known.least = known.least.max(least);
        note(c, known).await
    }
}
