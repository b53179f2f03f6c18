use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use diesel::prelude::{AsChangeset, ExpressionMethods, Insertable, Queryable, Selectable};
use hub_protocol::{ConnectionId, HubId, SpokeId};

use crate::schema::{calls, hubs, leases, spokes};
use crate::types::BindId;
use crate::{Stamp, Store, StoreError};

/// A hub of the cluster and its lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubRow {
    /// Id of the process.
    pub id: HubId,
    /// Where other hubs reach it.
    pub address: String,
    /// Its version.
    pub version: String,
    /// When it started.
    pub started_at: Stamp,
    /// Whether it takes nothing new.
    pub draining: bool,
    /// When it last renewed its lease, by the database's clock; ignored when written.
    pub renewed_at: Stamp,
    /// Milliseconds that its lease went on for when it was read, by the database's clock; ignored when written.
    pub remaining_ms: u64,
}

/// A spoke that is connected to the hub that asks.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = spokes)]
pub struct HeldSpoke {
    /// Id of the spoke.
    #[diesel(column_name = id)]
    pub spoke_id: SpokeId,
    /// Its name.
    pub name: String,
    /// The connection that holds it.
    pub connection_id: ConnectionId,
}

/// What [`Hubs::renew`] answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// All hubs with a lease, by id, the one that asks among them.
    pub hubs: Vec<HubRow>,
    /// What is stored as connected to the hub that asks, by name.
    pub held: Vec<HeldSpoke>,
}

/// Verbs on hubs.
///
/// Leases run by the clock of the database where hubs share one, so their own clocks may differ; on SQLite by that of
/// this process.
#[derive(Debug)]
pub struct Hubs<'a>(pub(crate) &'a Store);

impl Hubs<'_> {
    /// Takes or renews a hub's lease for `ttl` from now; answers who else lives and what this hub holds.
    ///
    /// # Errors
    /// What the database met.
    pub async fn renew(&self, hub: HubRow, ttl: Duration) -> Result<Renewed, StoreError> {
        on_writer!(self.0, renew(hub, ttl))
    }

    /// Ends a hub's lease; one without is left as it is.
    ///
    /// # Errors
    /// What the database met.
    pub async fn leave(&self, id: HubId) -> Result<(), StoreError> {
        on_writer_once!(self.0, leave(id))
    }

    /// All hubs with a lease, by id.
    ///
    /// # Errors
    /// What the database met.
    pub async fn list(&self) -> Result<Vec<HubRow>, StoreError> {
        on_reader!(self.0, list())
    }

    /// Ids of hubs without a lease that connected spokes or unfinished calls name, or whose lease ran out. To be
    /// cleaned up with [`Calls::close_interrupted`](crate::Calls::close_interrupted),
    /// [`Spokes::disconnect_all`](crate::Spokes::disconnect_all) and [`Hubs::leave`], which several hubs may do at once.
    ///
    /// # Errors
    /// What the database met.
    pub async fn dead(&self) -> Result<Vec<HubId>, StoreError> {
        on_reader!(self.0, dead())
    }
}

/// Verbs on named leases: what one hub at a time may do.
#[derive(Debug)]
pub struct Leases<'a>(pub(crate) &'a Store);

impl Leases<'_> {
    /// Takes the lease, or renews it, for `ttl` from now; `false` while another holds it.
    ///
    /// # Errors
    /// What the database met.
    pub async fn hold(&self, name: &str, holder: HubId, ttl: Duration) -> Result<bool, StoreError> {
        let name = name.to_owned();
        on_writer!(self.0, hold(name, holder, ttl))
    }

    /// Ends the lease if `holder` has it.
    ///
    /// # Errors
    /// What the database met.
    pub async fn release(&self, name: &str, holder: HubId) -> Result<(), StoreError> {
        let name = name.to_owned();
        on_writer_once!(self.0, release(name, holder))
    }

    /// Ends all leases that `holder` has.
    ///
    /// # Errors
    /// What the database met.
    pub async fn release_all(&self, holder: HubId) -> Result<(), StoreError> {
        on_writer_once!(self.0, release_all(holder))
    }
}

#[derive(Insertable, AsChangeset, Queryable, Selectable)]
#[diesel(table_name = hubs)]
struct Stored {
    #[diesel(serialize_as = BindId)]
    id: HubId,
    address: String,
    version: String,
    started_at: Stamp,
    renewed_at: Stamp,
    expires_at: Stamp,
    draining: bool,
}

impl Stored {
    fn of(hub: HubRow, now: Stamp, ttl: Duration) -> Self {
        let HubRow { id, address, version, started_at, draining, .. } = hub;
        Self { id, address, version, started_at, renewed_at: now, expires_at: now.plus(ttl), draining }
    }

    fn into_row(self, now: Stamp) -> HubRow {
        let Self { id, address, version, started_at, renewed_at, expires_at, draining } = self;
        HubRow { id, address, version, started_at, draining, renewed_at, remaining_ms: millis_left(expires_at, now) }
    }
}

/// Milliseconds from `now` on, rounded up: a lease that lasts has some.
fn millis_left(expires_at: Stamp, now: Stamp) -> u64 {
    u64::try_from(expires_at.0.saturating_sub(now.0)).unwrap_or(0).div_ceil(1000)
}

backends! {
    use crate::bulk::Bulk;
    use diesel::dsl::sql;
    use diesel::prelude::{BoolExpressionMethods, OptionalExtension, QueryDsl, SelectableHelper};
    use diesel::sql_types::Bool;
    use diesel_async::RunQueryDsl;

    pub(super) async fn renew(c: &mut Conn, hub: HubRow, ttl: Duration) -> Result<Renewed, StoreError> {
        let id = hub.id;
        let now = c.lease_clock().await?;
        diesel::insert_into(hubs::table)
            .values(Stored::of(hub.clone(), now, ttl))
            .on_conflict(hubs::id)
            .do_update()
            .set(Stored::of(hub, now, ttl))
            .execute(c)
            .await?;
        let held = spokes::table
            .filter(spokes::hub_id.eq(BindId::from(id)))
            .filter(spokes::connected.eq(true))
            .order(spokes::name)
            .select(HeldSpoke::as_select())
            .load(c)
            .await?;
        Ok(Renewed { hubs: list(c).await?, held })
    }

    pub(super) async fn leave(c: &mut Conn, id: HubId) -> Result<(), StoreError> {
        diesel::delete(hubs::table.find(BindId::from(id))).execute(c).await?;
        Ok(())
    }

    pub(super) async fn list(c: &mut Conn) -> Result<Vec<HubRow>, StoreError> {
        let now = c.lease_clock().await?;
        let live = hubs::table.filter(hubs::expires_at.gt(now)).order(hubs::id).select(Stored::as_select());
        Ok(live.load::<Stored>(c).await?.into_iter().map(|hub| hub.into_row(now)).collect())
    }

    /// Milliseconds that the hub's lease goes on; 0 without one.
    pub(crate) async fn remaining(c: &mut Conn, id: HubId) -> Result<u64, StoreError> {
        let expires_at = hubs::table.find(BindId::from(id)).select(hubs::expires_at).first::<Stamp>(c).await.optional()?;
        let Some(expires_at) = expires_at else { return Ok(0) };
        Ok(millis_left(expires_at, c.lease_clock().await?))
    }

    pub(super) async fn dead(c: &mut Conn) -> Result<Vec<HubId>, StoreError> {
        // First who is named, then who lives: a hub takes its lease before anything names it.
        let open = calls::table.filter(sql::<Bool>("status IN ('pending', 'running')")).select(calls::hub_id).distinct();
        let mut named: BTreeSet<HubId> = open.load::<HubId>(c).await?.into_iter().collect();
        let connected = spokes::table.filter(spokes::connected.eq(true)).select(spokes::hub_id).distinct();
        named.extend(connected.load::<HubId>(c).await?);
        let now = c.lease_clock().await?;
        let stored = hubs::table.select((hubs::id, hubs::expires_at)).load::<(HubId, Stamp)>(c).await?;
        let stored: BTreeMap<HubId, Stamp> = stored.into_iter().collect();
        named.extend(stored.keys());
        named.retain(|id| stored.get(id).is_none_or(|expires_at| *expires_at <= now));
        Ok(named.into_iter().collect())
    }

    pub(super) async fn hold(c: &mut Conn, name: String, holder: HubId, ttl: Duration) -> Result<bool, StoreError> {
        use diesel::query_dsl::methods::FilterDsl;
        let now = c.lease_clock().await?;
        let values = (leases::holder.eq(BindId::from(holder)), leases::expires_at.eq(now.plus(ttl)));
        let insert = diesel::insert_into(leases::table)
            .values((leases::name.eq(name), values))
            .on_conflict(leases::name)
            .do_update()
            .set(values);
        let free = leases::expires_at.le(now).or(leases::holder.eq(BindId::from(holder)));
        Ok(FilterDsl::filter(insert, free).execute(c).await? > 0)
    }

    pub(super) async fn release(c: &mut Conn, name: String, holder: HubId) -> Result<(), StoreError> {
        let held = leases::table.find(name).filter(leases::holder.eq(BindId::from(holder)));
        diesel::delete(held).execute(c).await?;
        Ok(())
    }

    pub(super) async fn release_all(c: &mut Conn, holder: HubId) -> Result<(), StoreError> {
        diesel::delete(leases::table.filter(leases::holder.eq(BindId::from(holder)))).execute(c).await?;
        Ok(())
    }
}
