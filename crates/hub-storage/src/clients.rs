use diesel::prelude::{Insertable, Queryable, Selectable};
use hub_protocol::Json;
use uuid::Uuid;

use crate::schema::{clients, secrets};
use crate::types::{BindDoc, BindId};
use crate::{AuditRow, EventRow, NewEvent, Stamp, Store, StoreError};

/// A service outside that the hub uses.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = clients, treat_none_as_default_value = false)]
pub struct ClientRow {
    /// Id of the row.
    #[diesel(serialize_as = BindId)]
    pub id: Uuid,
    /// Unique name.
    pub name: String,
    /// What kind of service it is.
    pub kind: String,
    /// How it is reached; holds no secrets.
    #[diesel(serialize_as = BindDoc)]
    pub config: Json,
    /// Scopes that callers of its operations need; `None` for the default.
    #[diesel(serialize_as = BindDoc)]
    pub scopes: Option<Json>,
    /// Whether it is in use.
    pub enabled: bool,
    /// Grows with each change, also of its secrets, but not of its state.
    pub revision: i64,
    /// When it was made.
    pub created_at: Stamp,
    /// When it was last changed.
    pub updated_at: Stamp,
    /// How it fares.
    pub state: String,
    /// Why it fares so.
    pub reason: Option<String>,
    /// Since when.
    pub state_at: Option<Stamp>,
    /// Operations that it offers now.
    pub operations: i32,
}

/// What is to become different of a client; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub struct ClientChange {
    /// How it is reached. Refused while the client has secrets, unless they go where they went.
    pub config: Option<Json>,
    /// Revision of the client whose secrets the new configuration sends where the old one does.
    pub same_aim: Option<i64>,
    /// Scopes that callers need.
    pub scopes: Option<Json>,
    /// Whether it is in use.
    pub enabled: Option<bool>,
}

/// How a client fares.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientState {
    /// A word.
    pub state: String,
    /// Why; no secrets.
    pub reason: Option<String>,
    /// Operations that it offers now.
    pub operations: i32,
}

/// Verbs on external services.
#[derive(Debug)]
pub struct Clients<'a>(pub(crate) &'a Store);

impl Clients<'_> {
    /// Adds a client.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when the name is taken.
    pub async fn insert(&self, row: ClientRow, audit: AuditRow, event: NewEvent) -> Result<EventRow, StoreError> {
        on_writer!(self.0, insert(row, audit, event))
    }

    /// Changes a client; also without any difference its revision grows.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the client, [`StoreError::Conflict`] when its secrets would go elsewhere.
    pub async fn update(
        &self,
        name: &str,
        change: ClientChange,
        at: Stamp,
        audit: AuditRow,
        event: NewEvent,
    ) -> Result<(ClientRow, EventRow), StoreError> {
        let name = name.to_owned();
        on_writer!(self.0, update(name, change, at, audit, event))
    }

    /// Removes a client with its secrets.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the client.
    pub async fn remove(&self, name: &str, audit: AuditRow, event: NewEvent) -> Result<EventRow, StoreError> {
        let name = name.to_owned();
        on_writer!(self.0, remove(name, audit, event))
    }

    /// Notes how a client fares, with an event; `None` when it fared so before, or has changed or gone since `revision`.
    ///
    /// # Errors
    /// What the database met.
    pub async fn set_state(
        &self,
        id: Uuid,
        revision: i64,
        state: ClientState,
        at: Stamp,
        event: NewEvent,
    ) -> Result<Option<EventRow>, StoreError> {
        on_writer!(self.0, set_state(id, revision, state, at, event))
    }

    /// The client of that name.
    ///
    /// # Errors
    /// What the database met.
    pub async fn by_name(&self, name: &str) -> Result<Option<ClientRow>, StoreError> {
        let name = name.to_owned();
        on_reader!(self.0, by_name(name))
    }

    /// All clients, by name.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self) -> Result<Vec<ClientRow>, StoreError> {
        on_reader!(self.0, list())
    }
}

backends! {
    use of::{audit, events};
    use diesel::prelude::{ExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel_async::RunQueryDsl;

    pub(super) async fn insert(
        c: &mut Conn,
        row: ClientRow,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        let added = diesel::insert_into(clients::table).values(row).execute(c).await;
        added.map_err(StoreError::conflict("client"))?;
        audit::append(c, entry).await?;
        events::append_one(c, event).await
    }

    pub(super) async fn update(
        c: &mut Conn,
        name: String,
        change: ClientChange,
        at: Stamp,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<(ClientRow, EventRow), StoreError> {
        let id = changed(c, name, at).await?;
        let row = || clients::table.find(BindId::from(id));
        if change.config.is_some() {
            let now: i64 = row().select(clients::revision).first(c).await?;
            let held = secrets::table.filter(secrets::client_id.eq(BindId::from(id))).count();
            let stale = change.same_aim.is_some_and(|then| then + 1 != now);
            if (stale || change.same_aim.is_none()) && held.get_result::<i64>(c).await? > 0 {
                return Err(StoreError::Conflict { what: if stale { "client" } else { "client's secrets" } });
            }
        }
        if let Some(config) = change.config {
            diesel::update(row()).set(clients::config.eq(BindDoc::from(config))).execute(c).await?;
        }
        if let Some(scopes) = change.scopes {
            diesel::update(row()).set(clients::scopes.eq(BindDoc::from(Some(scopes)))).execute(c).await?;
        }
        if let Some(enabled) = change.enabled {
            diesel::update(row()).set(clients::enabled.eq(enabled)).execute(c).await?;
        }
        audit::append(c, entry).await?;
        let event = events::append_one(c, event).await?;
        Ok((row().select(ClientRow::as_select()).first(c).await?, event))
    }

    /// Counts a change of a client, of which nobody knows yet how it fares; answers its id. The row stays locked until
    /// the end of the transaction.
    pub(crate) async fn changed(c: &mut Conn, name: String, at: Stamp) -> Result<Uuid, StoreError> {
        let counted = diesel::update(clients::table.filter(clients::name.eq(&name)))
            .set((
                clients::revision.eq(clients::revision + 1),
                clients::updated_at.eq(at),
                clients::state.eq("pending"),
                clients::reason.eq(None::<String>),
                clients::state_at.eq(None::<Stamp>),
            ))
            .execute(c)
            .await?;
        if counted == 0 {
            return Err(StoreError::NotFound { what: "client" });
        }
        Ok(clients::table.filter(clients::name.eq(name)).select(clients::id).first(c).await?)
    }

    pub(super) async fn remove(
        c: &mut Conn,
        name: String,
        entry: AuditRow,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        // Locks the row, so that no secret is added between the two.
        let id = changed(c, name, entry.at).await?;
        diesel::delete(secrets::table.filter(secrets::client_id.eq(BindId::from(id)))).execute(c).await?;
        diesel::delete(clients::table.find(BindId::from(id))).execute(c).await?;
        audit::append(c, entry).await?;
        events::append_one(c, event).await
    }

    pub(super) async fn set_state(
        c: &mut Conn,
        id: Uuid,
        revision: i64,
        new: ClientState,
        at: Stamp,
        event: NewEvent,
    ) -> Result<Option<EventRow>, StoreError> {
        let stands = clients::table.find(BindId::from(id)).filter(clients::revision.eq(revision));
        let before = stands.select((clients::state, clients::reason, clients::operations));
        let before = before.first::<(String, Option<String>, i32)>(c).await.optional()?;
        let ClientState { state, reason, operations } = new;
        if before.is_none_or(|before| before == (state.clone(), reason.clone(), operations)) {
            return Ok(None);
        }
        let noted = diesel::update(stands)
            .set((
                clients::state.eq(state),
                clients::reason.eq(reason),
                clients::operations.eq(operations),
                clients::state_at.eq(Some(at)),
            ))
            .execute(c)
            .await?;
        if noted == 0 {
            return Ok(None);
        }
        events::append_one(c, event).await.map(Some)
    }

    pub(crate) async fn by_name(c: &mut Conn, name: String) -> Result<Option<ClientRow>, StoreError> {
        let query = clients::table.filter(clients::name.eq(name)).select(ClientRow::as_select());
        Ok(query.first(c).await.optional()?)
    }

    pub(super) async fn list(c: &mut Conn) -> Result<Vec<ClientRow>, StoreError> {
        Ok(clients::table.select(ClientRow::as_select()).order(clients::name).load(c).await?)
    }
}
