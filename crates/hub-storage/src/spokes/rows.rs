use diesel::prelude::{AsChangeset, ExpressionMethods, Insertable, Queryable, Selectable};
use hub_protocol::{ConnectionId, HubId, Json, SpokeId};
use uuid::Uuid;

use crate::Stamp;
use crate::schema::spokes;
use crate::types::{BindDoc, BindId};

/// One spoke name and what last connected under it.
#[derive(Debug, Clone, PartialEq, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = spokes, treat_none_as_default_value = false, treat_none_as_null = true)]
pub struct SpokeRow {
    /// Id of the name, kept across connections.
    #[diesel(serialize_as = BindId)]
    pub id: SpokeId,
    /// Unique name.
    pub name: String,
    /// Principal that first registered it.
    pub owner: String,
    /// What kind of program it is.
    pub spoke_type: String,
    /// The process that connected.
    #[diesel(serialize_as = BindId)]
    pub instance_id: Uuid,
    /// When that process started.
    pub started_at: Stamp,
    /// The connection that holds the name.
    #[diesel(serialize_as = BindId)]
    pub connection_id: ConnectionId,
    /// The hub it is connected to.
    #[diesel(serialize_as = BindId)]
    pub hub_id: HubId,
    /// Whether it is connected now.
    pub connected: bool,
    /// Whether it takes no new calls.
    pub draining: bool,
    /// Version of the program.
    pub version: Option<String>,
    /// Project it works for.
    pub project_id: Option<String>,
    /// About its machine.
    #[diesel(serialize_as = BindDoc)]
    pub host_info: Option<Json>,
    /// Labels it gave itself.
    #[diesel(serialize_as = BindDoc)]
    pub labels: Option<Json>,
    /// Load, 0 to 1, as it last reported.
    pub load: Option<f64>,
    /// Agents that run in it, as it last reported.
    #[diesel(serialize_as = BindDoc)]
    pub agents: Option<Json>,
    /// Who sees its operations.
    pub exposure: String,
    /// Who may call them.
    pub policy: String,
    /// Most calls it runs at once.
    pub max_in_flight: Option<i32>,
    /// When it last connected.
    pub connected_at: Stamp,
    /// When that connection ended.
    pub disconnected_at: Option<Stamp>,
    /// When it last reported.
    pub last_heartbeat_at: Option<Stamp>,
}

/// An operation as a spoke registers it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DefinitionRow {
    /// Hub-wide operation id.
    pub operation_id: String,
    /// Version of the definition.
    pub version: String,
    /// Canonical spec under the hub-wide id; texts are compared byte by byte.
    pub spec: Json,
    /// Name of the operation at the spoke.
    pub local: String,
}

/// An operation of a spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistrationRow {
    /// Hub-wide operation id.
    pub operation_id: String,
    /// Version of the definition.
    pub version: String,
    /// The stored spec.
    pub spec: Json,
    /// Name of the operation at the spoke.
    pub local: String,
    /// Name of the spoke.
    pub spoke: String,
    /// Id of the spoke.
    pub spoke_id: SpokeId,
    /// Whether the spoke serves it at present.
    pub active: bool,
    /// Who sees it, as the spoke says.
    pub exposure: String,
    /// Who may call it, as the spoke says.
    pub policy: String,
}

/// The connection, at another hub, that held the name of a spoke until it registered here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreviousHolder {
    /// The hub it is connected to.
    pub hub_id: HubId,
    /// The connection.
    pub connection_id: ConnectionId,
    /// Milliseconds that the hub's lease goes on; 0 for a hub that is dead.
    pub lease_remaining_ms: u64,
    /// The process that connected.
    pub instance_id: Uuid,
    /// When that process started.
    pub started_at: Stamp,
}
