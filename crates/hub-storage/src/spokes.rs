mod rows;

use std::collections::HashSet;

use diesel::prelude::{AsChangeset, ExpressionMethods};
use hub_protocol::{ConnectionId, HubId, Json, SpokeId};
use uuid::Uuid;

use crate::schema::{definitions, registrations, spokes};
use crate::types::{BindDoc, BindId};
use crate::{EventRow, NewEvent, Stamp, Store, StoreError};
pub use rows::{DefinitionRow, PreviousHolder, RegistrationRow, SpokeRow};

/// Verbs on spokes and the operations they serve.
#[derive(Debug)]
pub struct Spokes<'a>(pub(crate) &'a Store);

impl Spokes<'_> {
    /// Stores a spoke that connected and exactly these as its active operations; a known name keeps its id.
    ///
    /// Of two hubs that register one name at the same time the second waits for the first and sees what it wrote.
    /// The answer names the connection at another hub that held the name, for it to be ended.
    ///
    /// # Errors
    /// [`StoreError::HeldByOther`] when the name has another owner, [`StoreError::NewerInstance`] when it is connected
    /// at a hub with a lease as another instance that did not start earlier, [`StoreError::DefinitionConflict`] when a
    /// definition is stored with another spec; nothing is changed then.
    pub async fn register(
        &self,
        spoke: SpokeRow,
        definitions: Vec<DefinitionRow>,
        event: NewEvent,
    ) -> Result<(SpokeRow, EventRow, Option<PreviousHolder>), StoreError> {
        on_writer!(self.0, register(spoke, definitions, event))
    }

    /// Adds or activates operations of a spoke, and makes those with the local names of `withdraw` inactive, but for the
    /// versions just added; all others stay as they are.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the spoke, [`StoreError::DefinitionConflict`] as in [`Spokes::register`].
    pub async fn update_operations(
        &self,
        id: SpokeId,
        definitions: Vec<DefinitionRow>,
        withdraw: Vec<String>,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        on_writer!(self.0, update_operations(id, definitions, withdraw, event))
    }

    /// Makes the operations with these local names inactive, in every version; unknown names are passed over.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the spoke.
    pub async fn unregister(&self, id: SpokeId, locals: Vec<String>, event: NewEvent) -> Result<EventRow, StoreError> {
        on_writer!(self.0, unregister(id, locals, event))
    }

    /// Notes that a connection ended; `None`, and no change, when another one holds the spoke by now.
    ///
    /// # Errors
    /// What the database met.
    pub async fn disconnect(
        &self,
        id: SpokeId,
        connection: ConnectionId,
        at: Stamp,
        event: NewEvent,
    ) -> Result<Option<EventRow>, StoreError> {
        on_writer!(self.0, disconnect(id, connection, at, event))
    }

    /// Notes a sign of life; `None` leaves a value as it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] without the spoke.
    pub async fn heartbeat(
        &self,
        id: SpokeId,
        load: Option<f64>,
        agents: Option<Json>,
        draining: Option<bool>,
        at: Stamp,
    ) -> Result<(), StoreError> {
        let beat = Beat { load, agents: agents.map(BindDoc::from), draining, last_heartbeat_at: at };
        on_writer_once!(self.0, heartbeat(id, beat))
    }

    /// The spoke of that name.
    ///
    /// # Errors
    /// What the database met.
    pub async fn by_name(&self, name: &str) -> Result<Option<SpokeRow>, StoreError> {
        let name = name.to_owned();
        on_reader!(self.0, by_name(name))
    }

    /// All spokes by name.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self) -> Result<Vec<SpokeRow>, StoreError> {
        on_reader!(self.0, list())
    }

    /// All registrations by operation, version and spoke, the inactive ones too.
    ///
    /// # Errors
    /// What the database met.
    pub async fn registrations(&self) -> Result<Vec<RegistrationRow>, StoreError> {
        on_reader!(self.0, registrations(None))
    }

    /// As [`Spokes::registrations`], of one spoke.
    ///
    /// # Errors
    /// What the database met.
    pub async fn registrations_of(&self, spoke: SpokeId) -> Result<Vec<RegistrationRow>, StoreError> {
        on_reader!(self.0, registrations(Some(spoke)))
    }

    /// A connected spoke, other than the one of this name, that offers a pooled operation below this first segment.
    ///
    /// # Errors
    /// What the database met.
    pub async fn pooled_below(&self, first: &str, except: &str) -> Result<Option<String>, StoreError> {
        let (below, except) = (format!("{first}."), except.to_owned());
        on_reader!(self.0, pooled_below(below, except))
    }

    /// The spec of a definition, also when no spoke serves it any more.
    ///
    /// # Errors
    /// What the database met.
    pub async fn definition(&self, operation_id: &str, version: &str) -> Result<Option<Json>, StoreError> {
        let (operation_id, version) = (operation_id.to_owned(), version.to_owned());
        on_reader!(self.0, definition(operation_id, version))
    }

    /// Marks the connected spokes of a hub, or of every hub, as disconnected; returns how many that were.
    ///
    /// # Errors
    /// What the database met.
    pub async fn disconnect_all(&self, hub: Option<HubId>, at: Stamp) -> Result<u64, StoreError> {
        on_writer_once!(self.0, disconnect_all(hub, at))
    }
}

/// Whether `new` may have the name, and the connection at another hub that it takes it from.
fn may_replace(
    stored: &SpokeRow,
    new: &SpokeRow,
    lease_remaining_ms: u64,
) -> Result<Option<PreviousHolder>, StoreError> {
    if stored.owner != new.owner {
        return Err(StoreError::HeldByOther { owner: stored.owner.clone() });
    }
    if !stored.connected {
        return Ok(None);
    }
    let newer = new.instance_id == stored.instance_id || new.started_at > stored.started_at;
    if lease_remaining_ms > 0 && !newer {
        return Err(StoreError::NewerInstance { hub_id: stored.hub_id });
    }
    let elsewhere = stored.hub_id != new.hub_id;
    Ok(elsewhere.then_some(PreviousHolder {
        hub_id: stored.hub_id,
        connection_id: stored.connection_id,
        lease_remaining_ms,
        instance_id: stored.instance_id,
        started_at: stored.started_at,
    }))
}

/// What a heartbeat changes; here `None` is "leave it".
#[derive(Clone, AsChangeset)]
#[diesel(table_name = spokes)]
struct Beat {
    load: Option<f64>,
    agents: Option<BindDoc>,
    draining: Option<bool>,
    last_heartbeat_at: Stamp,
}

/// A definition that is stored, and how the spoke at hand is registered for it.
struct Known {
    id: Uuid,
    spec: String,
    /// Local name and whether it is active.
    registered: Option<(String, bool)>,
}

/// Stored definitions by operation and version.
type KnownMap = std::collections::HashMap<(String, String), Known>;

fn spec_of(text: String) -> Result<Json, StoreError> {
    Json::from_text(text).map_err(|error| diesel::result::Error::DeserializationError(error.into()).into())
}

backends! {
    use crate::bulk::Bulk;
    use of::events::append_one;
    use diesel::dsl::exists;
    use diesel::prelude::{
        BoolExpressionMethods, JoinOnDsl, OptionalExtension, QueryDsl, SelectableHelper, TextExpressionMethods,
    };
    use diesel_async::RunQueryDsl;

    pub(super) async fn register(
        c: &mut Conn,
        mut spoke: SpokeRow,
        wanted: Vec<DefinitionRow>,
        event: NewEvent,
    ) -> Result<(SpokeRow, EventRow, Option<PreviousHolder>), StoreError> {
        let previous = take_name(c, &mut spoke).await?;
        let mut known = registered(c, spoke.id).await?;
        activate_all(c, spoke.id, &wanted, &mut known).await?;
        deactivate(c, spoke.id, wanted, known, |_| true).await?;
        let event = append_one(c, event).await?;
        Ok((spoke, event, previous))
    }

    /// Makes inactive what is known of a spoke under these local names, but for what is wanted.
    async fn deactivate(
        c: &mut Conn,
        spoke: SpokeId,
        wanted: Vec<DefinitionRow>,
        mut known: KnownMap,
        named: impl Fn(&str) -> bool + Send,
    ) -> Result<(), StoreError> {
        for row in wanted {
            known.remove(&(row.operation_id, row.version));
        }
        let is_gone = |known: &Known| known.registered.as_ref().is_some_and(|(local, active)| *active && named(local));
        let gone: Vec<Uuid> = known.into_values().filter(is_gone).map(|known| known.id).collect();
        for definition in gone {
            let stale = registrations::table.find((BindId::from(spoke), BindId::from(definition)));
            diesel::update(stale).set(registrations::active.eq(false)).execute(c).await?;
        }
        Ok(())
    }

    /// Writes the row of the spoke, if it may have the name.
    async fn take_name(c: &mut Conn, spoke: &mut SpokeRow) -> Result<Option<PreviousHolder>, StoreError> {
        let insert = diesel::insert_into(spokes::table).values(spoke.clone()).on_conflict(spokes::name).do_nothing();
        let fresh = insert.execute(c).await.map_err(StoreError::conflict("spoke"))? > 0;
        if fresh {
            return Ok(None);
        }
        let stored = c.locked_spoke(&spoke.name).await?.ok_or(StoreError::NotFound { what: "spoke" })?;
        let lease_remaining_ms = match stored.connected {
            true => of::hubs::remaining(c, stored.hub_id).await?,
            false => 0,
        };
        let previous = may_replace(&stored, spoke, lease_remaining_ms)?;
        spoke.id = stored.id;
        diesel::update(spokes::table.find(BindId::from(spoke.id))).set(spoke.clone()).execute(c).await?;
        Ok(previous)
    }

    /// All registrations of one spoke, so that a reconnect with unchanged operations writes none of them.
    async fn registered(c: &mut Conn, id: SpokeId) -> Result<KnownMap, StoreError> {
        let rows = registrations::table
            .inner_join(definitions::table)
            .filter(registrations::spoke_id.eq(BindId::from(id)))
            .select((
                (definitions::operation_id, definitions::version, definitions::id, definitions::spec),
                (registrations::local, registrations::active),
            ))
            .load::<((String, String, Uuid, String), (String, bool))>(c)
            .await?;
        let known = rows.into_iter().map(|((operation, version, id, spec), registered)| {
            ((operation, version), Known { id, spec, registered: Some(registered) })
        });
        Ok(known.collect())
    }

    /// Makes sure that the definitions are stored with these very specs and that the spoke serves them.
    async fn activate_all(
        c: &mut Conn,
        spoke: SpokeId,
        wanted: &[DefinitionRow],
        known: &mut KnownMap,
    ) -> Result<(), StoreError> {
        let is_served = |row: &&DefinitionRow| {
            let found = known.get(&(row.operation_id.clone(), row.version.clone()));
            found.is_some_and(|found| found.registered.as_ref().is_some_and(|(l, active)| *active && *l == row.local))
        };
        let new: Vec<DefinitionRow> = wanted.iter().filter(|row| !is_served(row)).cloned().collect();
        if !new.is_empty() && c.offer(spoke, new).await? {
            *known = registered(c, spoke).await?;
        }
        for row in wanted {
            activate(c, spoke, row, known).await?;
        }
        Ok(())
    }

    async fn activate(
        c: &mut Conn,
        spoke: SpokeId,
        row: &DefinitionRow,
        known: &mut KnownMap,
    ) -> Result<(), StoreError> {
        let name = (row.operation_id.clone(), row.version.clone());
        let found = match known.remove(&name) {
            Some(found) => found,
            None => define(c, row).await?,
        };
        if found.spec != row.spec.as_str() {
            let (operation, version) = name;
            return Err(StoreError::DefinitionConflict { operation, version, stored: spec_of(found.spec)? });
        }
        let registered = Some((row.local.clone(), true));
        if found.registered != registered {
            let values = (registrations::local.eq(&row.local), registrations::active.eq(true));
            let (spoke_id, definition_id) = (BindId::from(spoke), BindId::from(found.id));
            let ids = (registrations::spoke_id.eq(spoke_id), registrations::definition_id.eq(definition_id));
            diesel::insert_into(registrations::table)
                .values((ids, values))
                .on_conflict((registrations::spoke_id, registrations::definition_id))
                .do_update()
                .set(values)
                .execute(c)
                .await?;
        }
        known.insert(name, Known { registered, ..found });
        Ok(())
    }

    /// Stores the definition unless it is there; returns what is stored.
    async fn define(c: &mut Conn, row: &DefinitionRow) -> Result<Known, StoreError> {
        diesel::insert_into(definitions::table)
            .values((
                definitions::id.eq(BindId::from(Uuid::now_v7())),
                definitions::operation_id.eq(&row.operation_id),
                definitions::version.eq(&row.version),
                definitions::spec.eq(row.spec.as_str()),
            ))
            .on_conflict((definitions::operation_id, definitions::version))
            .do_nothing()
            .execute(c)
            .await?;
        let stored = definitions::table
            .filter(definitions::operation_id.eq(&row.operation_id))
            .filter(definitions::version.eq(&row.version))
            .select((definitions::id, definitions::spec));
        let (id, spec) = stored.first::<(Uuid, String)>(c).await?;
        Ok(Known { id, spec, registered: None })
    }

    async fn require(c: &mut Conn, id: SpokeId) -> Result<(), StoreError> {
        let there = diesel::select(exists(spokes::table.find(BindId::from(id)))).get_result::<bool>(c).await?;
        there.then_some(()).ok_or(StoreError::NotFound { what: "spoke" })
    }

    pub(super) async fn update_operations(
        c: &mut Conn,
        id: SpokeId,
        wanted: Vec<DefinitionRow>,
        withdraw: Vec<String>,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        require(c, id).await?;
        let mut known = registered(c, id).await?;
        activate_all(c, id, &wanted, &mut known).await?;
        let withdraw: HashSet<String> = withdraw.into_iter().collect();
        deactivate(c, id, wanted, known, |local| withdraw.contains(local)).await?;
        append_one(c, event).await
    }

    pub(super) async fn unregister(
        c: &mut Conn,
        id: SpokeId,
        locals: Vec<String>,
        event: NewEvent,
    ) -> Result<EventRow, StoreError> {
        require(c, id).await?;
        let named = registrations::table
            .filter(registrations::spoke_id.eq(BindId::from(id)))
            .filter(registrations::local.eq_any(locals));
        diesel::update(named).set(registrations::active.eq(false)).execute(c).await?;
        append_one(c, event).await
    }

    pub(super) async fn disconnect(
        c: &mut Conn,
        id: SpokeId,
        connection: ConnectionId,
        at: Stamp,
        event: NewEvent,
    ) -> Result<Option<EventRow>, StoreError> {
        let held = spokes::table
            .find(BindId::from(id))
            .filter(spokes::connection_id.eq(BindId::from(connection)))
            .filter(spokes::connected.eq(true));
        let ended = (spokes::connected.eq(false), spokes::disconnected_at.eq(Some(at)));
        if diesel::update(held).set(ended).execute(c).await? == 0 {
            return Ok(None);
        }
        append_one(c, event).await.map(Some)
    }

    pub(super) async fn heartbeat(c: &mut Conn, id: SpokeId, beat: Beat) -> Result<(), StoreError> {
        let changed = diesel::update(spokes::table.find(BindId::from(id))).set(beat).execute(c).await?;
        (changed > 0).then_some(()).ok_or(StoreError::NotFound { what: "spoke" })
    }

    pub(crate) async fn by_name(c: &mut Conn, name: String) -> Result<Option<SpokeRow>, StoreError> {
        Ok(spokes::table.filter(spokes::name.eq(name)).select(SpokeRow::as_select()).first(c).await.optional()?)
    }

    pub(super) async fn list(c: &mut Conn) -> Result<Vec<SpokeRow>, StoreError> {
        Ok(spokes::table.order(spokes::name).select(SpokeRow::as_select()).load(c).await?)
    }

    pub(super) async fn registrations(
        c: &mut Conn,
        of: Option<SpokeId>,
    ) -> Result<Vec<RegistrationRow>, StoreError> {
        type Row = ((String, String, String), (String, bool), (String, SpokeId, String, String));
        let all = registrations::table
            .inner_join(definitions::table.on(definitions::id.eq(registrations::definition_id)))
            .inner_join(spokes::table.on(spokes::id.eq(registrations::spoke_id)))
            .order((definitions::operation_id, definitions::version, spokes::name))
            .select((
                (definitions::operation_id, definitions::version, definitions::spec),
                (registrations::local, registrations::active),
                (spokes::name, spokes::id, spokes::exposure, spokes::policy),
            ));
        let rows = match of {
            None => all.load::<Row>(c).await?,
            Some(spoke) => all.filter(registrations::spoke_id.eq(BindId::from(spoke))).load::<Row>(c).await?,
        };
        let rows = rows.into_iter().map(|((operation_id, version, spec), (local, active), of)| {
            let (spoke, spoke_id, exposure, policy) = of;
            let spec = spec_of(spec)?;
            Ok(RegistrationRow { operation_id, version, spec, local, spoke, spoke_id, active, exposure, policy })
        });
        rows.collect()
    }

    pub(super) async fn pooled_below(
        c: &mut Conn,
        below: String,
        except: String,
    ) -> Result<Option<String>, StoreError> {
        let offered = registrations::table
            .inner_join(definitions::table.on(definitions::id.eq(registrations::definition_id)))
            .inner_join(spokes::table.on(spokes::id.eq(registrations::spoke_id)))
            .filter(registrations::active.eq(true).and(spokes::connected.eq(true)))
            .filter(spokes::exposure.eq("pooled").and(spokes::name.ne(except)))
            .filter(definitions::operation_id.like(format!("{below}%")))
            .select((definitions::operation_id, spokes::name));
        // An underscore of the name stands for any letter in the pattern.
        let found = offered.load::<(String, String)>(c).await?.into_iter().find(|(id, _)| id.starts_with(&below));
        Ok(found.map(|(_, spoke)| spoke))
    }

    pub(super) async fn definition(
        c: &mut Conn,
        operation_id: String,
        version: String,
    ) -> Result<Option<Json>, StoreError> {
        let stored = definitions::table
            .filter(definitions::operation_id.eq(operation_id))
            .filter(definitions::version.eq(version))
            .select(definitions::spec);
        stored.first::<String>(c).await.optional()?.map(spec_of).transpose()
    }

    pub(super) async fn disconnect_all(c: &mut Conn, hub: Option<HubId>, at: Stamp) -> Result<u64, StoreError> {
        let ended = (spokes::connected.eq(false), spokes::disconnected_at.eq(Some(at)));
        let connected = diesel::update(spokes::table.filter(spokes::connected.eq(true)));
        let changed = match hub {
            None => connected.set(ended).execute(c).await?,
            Some(hub) => connected.filter(spokes::hub_id.eq(BindId::from(hub))).set(ended).execute(c).await?,
        };
        Ok(changed as u64)
    }
}
