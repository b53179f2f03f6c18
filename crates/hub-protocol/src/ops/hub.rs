//! `hub.*`: registration, discovery and the state of the hub.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{operation, wire};
use crate::{ConnectionId, HubId, Identity, Json, OperationSpec, OperationType, SpokeId};

/// How a spoke's operation names appear at the hub (protocol §5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Exposure {
    /// `{kind}.{spoke}.{operation}`: which machine it runs on matters.
    Qualified,
    /// `{operation}`: any active provider may serve it.
    Pooled,
}

/// How the hub chooses among the providers of a pooled operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Fewest calls in flight.
    #[default]
    LeastPending,
    /// In turn.
    RoundRobin,
    /// By chance.
    Random,
    /// The one registered first.
    First,
    /// The one registered last.
    Last,
    /// The same provider for the same `metadata.stickyKey`.
    Sticky,
}

/// Most operations that are shown as tools of their own: each costs every MCP host that connects context.
pub const MAX_TOOLS: usize = 64;

/// The tools that every MCP host is shown: no operation's tool has one of their names.
pub const MCP_TOOLS: [&str; 4] = ["list", "search", "schema", "call"];

wire! {
    /// Offers operations on this connection. The first call of a spoke.
    pub struct RegisterSpoke {
        /// Unique among spokes; kept by the key that first registered it.
        name: String,
        /// `dev-env`, `client`, `compute`, or a word of your own.
        spoke_type: String,
        /// What it offers, under its local names.
        operations: Vec<OperationSpec>,
        /// New for each process.
        instance_id: Uuid,
        /// When the process started; a newer one takes the name over.
        started_at: u64,
        /// Free facts about the machine.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_info: Option<Json>,
        /// Project the spoke belongs to.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        project_id: Option<String>,
        /// Version of the spoke's program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Default: qualified for `dev-env`, `client` and words of your own, pooled for `compute`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        exposure: Option<Exposure>,
        /// Choice among providers of its pooled operations.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        policy: Option<Policy>,
        /// Most calls the hub may have running on this spoke; more wait.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        max_in_flight: Option<u32>,
        /// Free labels.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labels: Option<BTreeMap<String, String>>,
    }
    /// Where the spoke stands now.
    pub struct RegisteredSpoke {
        /// Stable id of the spoke's name.
        spoke_id: SpokeId,
        /// This connection.
        connection_id: ConnectionId,
        /// This hub.
        hub_id: HubId,
        /// How often to call `hub.heartbeat`, in milliseconds.
        heartbeat_ms: u64,
        /// Local name and hub-wide id of each operation.
        operations: Vec<RegisteredOperation>,
        /// Whether an older connection of this spoke was closed for it.
        superseded: bool,
    }
    /// One registered operation.
    pub struct RegisteredOperation {
        /// The spoke's name for it.
        local: String,
        /// The hub's name for it.
        id: String,
    }
    /// Takes operations back; all of them when none is named.
    pub struct UnregisterOperations {
        /// Local names.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        operations: Option<Vec<String>>,
    }
    /// What was taken back.
    pub struct UnregisteredOperations {
        /// Local names.
        operations: Vec<String>,
    }
    /// Adds operations, or new versions of them, and takes others back in the same step.
    pub struct UpdateOperations {
        /// Under local names.
        #[serde(default)]
        operations: Vec<OperationSpec>,
        /// Local names of which all versions are taken back but those of `operations`.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        withdraw: Vec<String>,
    }
    /// What the spoke offers now.
    pub struct UpdatedOperations {
        /// All operations of the spoke.
        operations: Vec<RegisteredOperation>,
    }
    /// Finish what runs on this spoke and give it nothing more.
    #[derive(Default)]
    pub struct DrainSpoke {
        /// A spoke by name, for operators; the calling spoke when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spoke: Option<String>,
    }
    /// The state of draining.
    pub struct DrainingSpoke {
        /// Calls still running on the spoke.
        in_flight: u64,
    }
    /// Tells the hub how the spoke fares.
    #[derive(Default)]
    pub struct SpokeHeartbeat {
        /// Load average or any measure where more is busier.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<f64>,
        /// Free state of the spoke's agents.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agents: Option<Json>,
        /// Whether the spoke wants no new calls.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        draining: Option<bool>,
    }
    /// The hub's answer to a heartbeat.
    pub struct HeartbeatSeen {
        /// When the hub saw it.
        at: u64,
    }
    /// Lists operations that the caller may call.
    #[derive(Default)]
    pub struct ListOperations {
        /// Only this namespace and those below it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Only operations with all of these tags.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        tags: Option<Vec<String>>,
        /// Only this type.
        #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
        kind: Option<OperationType>,
        /// Also operations that nobody provides right now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        include_inactive: Option<bool>,
        /// From the previous page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
        /// Page size, 1 to 1,000; default 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 1000))]
        limit: Option<u32>,
    }
    /// A page of operations, by id.
    pub struct OperationPage {
        /// The page.
        operations: Vec<OperationItem>,
        /// For the next page; absent on the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_cursor: Option<String>,
    }
    /// One operation in a list.
    pub struct OperationItem {
        /// `namespace.name`.
        id: String,
        /// Highest version with an active provider.
        version: String,
        /// Query, mutation or subscription.
        #[serde(rename = "type")]
        kind: OperationType,
        /// Short name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        title: Option<String>,
        /// What it does.
        description: String,
        /// Words to find it by.
        #[serde(default)]
        tags: Vec<String>,
        /// Whether it can be called now.
        active: bool,
        /// Spokes that provide it now; empty for the hub's own.
        providers: Vec<String>,
        /// Rank in a search, higher is better.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        score: Option<f64>,
    }
    /// Finds operations by words; tolerates small typos; an exact id comes first.
    pub struct SearchOperations {
        /// Words.
        #[schemars(length(min = 1, max = 1000))]
        query: String,
        /// Only this namespace and those below it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Most results, 1 to 100; default 10.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 100))]
        limit: Option<u32>,
    }
    /// Search results, best first.
    pub struct FoundOperations {
        /// Best first, each with `score`.
        operations: Vec<OperationItem>,
    }
    /// Full specs of operations.
    pub struct GetSchemas {
        /// Ids.
        #[schemars(length(min = 1, max = 100))]
        operation_ids: Vec<String>,
    }
    /// Specs in the order asked for.
    pub struct Schemas {
        /// Full specs.
        operations: Vec<OperationSpec>,
    }
    /// Calls any query or mutation by name, nested under this call.
    pub struct CallOperation {
        /// `namespace.name`, or `namespace.name@spoke`.
        operation_id: String,
        /// Its input.
        #[serde(default)]
        input: Json,
        /// Milliseconds since the epoch.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        deadline: Option<u64>,
        /// Names one execution for 24 hours.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        idempotency_key: Option<String>,
        /// Semver range.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Free data for the callee.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Json>,
        /// Micro-dollars.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        budget: Option<i64>,
    }
    /// Lists spokes.
    #[derive(Default)]
    pub struct ListSpokes {
        /// Only connected ones.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        connected: Option<bool>,
    }
    /// All spokes, by name.
    pub struct Spokes {
        /// By name.
        spokes: Vec<SpokeItem>,
    }
    /// One spoke.
    pub struct SpokeItem {
        /// Stable id.
        spoke_id: SpokeId,
        /// Its name.
        name: String,
        /// `dev-env`, `client`, `compute`, …
        spoke_type: String,
        /// `connected`, also to a hub that lives but is not reached now, or `disconnected`.
        status: SpokeStatus,
        /// Whether it takes no more calls.
        draining: bool,
        /// Process it runs as.
        instance_id: Uuid,
        /// The hub that it is connected to, or was last.
        hub_id: HubId,
        /// Version of its program.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        version: Option<String>,
        /// Hub-wide ids of what it offers; of a disconnected spoke, of all that it ever offered.
        operations: Vec<String>,
        /// Calls running on it now; 0 while its hub is not reached.
        in_flight: u64,
        /// From its last heartbeat.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        load: Option<f64>,
        /// Labels.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        labels: Option<BTreeMap<String, String>>,
        /// Free facts.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host_info: Option<Json>,
        /// Since when.
        connected_at: u64,
        /// Since when not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        disconnected_at: Option<u64>,
        /// Last `hub.heartbeat`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        last_heartbeat_at: Option<u64>,
    }
    /// Asks how the hub fares.
    #[derive(Default)]
    pub struct GetStatus {}
    /// How the hub fares.
    pub struct HubStatus {
        /// This hub.
        hub_id: HubId,
        /// Program version.
        version: String,
        /// Since when.
        started_at: u64,
        /// Whether it is going down.
        draining: bool,
        /// Open WebSocket connections.
        connections: u64,
        /// Connected spokes.
        spokes: u64,
        /// Operations that can be called now, the hub's own included.
        operations: u64,
        /// Calls running now, without the one that asks.
        calls_in_flight: u64,
        /// Call records that wait to be written.
        recorder_backlog: u64,
        /// Position of the newest event.
        last_event: u64,
        /// The hubs of the cluster that live, the one that answers first; empty for a hub on its own.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        hubs: Vec<HubItem>,
    }
    /// One hub of a cluster, as the answering hub last heard it.
    pub struct HubItem {
        /// The hub process.
        hub_id: HubId,
        /// Where it says that it is reached.
        address: String,
        /// Program version.
        version: String,
        /// Since when, in milliseconds since the epoch.
        started_at: u64,
        /// Whether it is going down.
        draining: bool,
        /// Open WebSocket connections.
        connections: u64,
        /// Spokes connected there.
        spokes: u64,
        /// Calls running there now.
        calls_in_flight: u64,
        /// Call records that wait to be written there.
        recorder_backlog: u64,
        /// Whether it is the hub that answers.
        own: bool,
        /// Whether calls can go there and back: they take the bus.
        linked: bool,
        /// Its last sign of life, in milliseconds since the epoch.
        last_heard_at: u64,
    }
    /// Follows the operations that are tools of their own: by `_meta.mcp.tool`, or by the `tools` of the caller's key.
    #[derive(Default)]
    pub struct WatchTools {}
    /// Those that the caller may call now.
    pub struct ToolOperations {
        /// At most [`MAX_TOOLS`], the hub's own first, each part by id.
        operations: Vec<ToolOperation>,
    }
    /// An operation that is a tool.
    #[derive(Eq)]
    pub struct ToolOperation {
        /// Its id.
        id: String,
        /// Version that is called.
        version: String,
        /// The tool's name.
        name: String,
    }
    /// Asks who the caller is.
    #[derive(Default)]
    pub struct WhoAmI {}
    /// Who the caller is.
    pub struct CallerIdentity {
        /// Id, scopes and resources.
        identity: Identity,
        /// Public part of the key in use.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<String>,
        /// Name of the key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key_name: Option<String>,
        /// When the key ends.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<u64>,
    }
}

/// Whether a spoke is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpokeStatus {
    /// Has a connection.
    Connected,
    /// Has none.
    Disconnected,
}

operation!(RegisterSpoke => RegisteredSpoke, "hub.register", Mutation, ["spoke"],
    "Register this connection as a spoke and offer its operations.");
operation!(UnregisterOperations => UnregisteredOperations, "hub.unregister", Mutation, ["spoke"],
    "Take back some or all operations of the calling spoke.");
operation!(UpdateOperations => UpdatedOperations, "hub.update", Mutation, ["spoke"],
    "Add or change operations of the calling spoke.");
operation!(DrainSpoke => DrainingSpoke, "hub.drain", Mutation, ["spoke"],
    "Let a spoke finish what runs and give it no new calls. Naming another spoke needs the scope hub:admin.");
operation!(SpokeHeartbeat => HeartbeatSeen, "hub.heartbeat", Mutation, ["spoke"],
    "Report load and agent state of the calling spoke.");
operation!(ListOperations => OperationPage, "hub.list", Query, [],
    "List the operations you may call, page by page.");
operation!(SearchOperations => FoundOperations, "hub.search", Query, [],
    "Find operations by words in their id, title, description, tags and parameter names.");
operation!(GetSchemas => Schemas, "hub.schema", Query, [],
    "Get the full specification (input, output and error schemas) of operations.");
operation!(WatchTools => ToolOperations, "hub.tools", Subscription, [],
    "Follow the operations that are tools of their own in your MCP hosts: those you may call now, and again whenever that changes.");
operation!(CallOperation => Json, "hub.call", Mutation, [],
    "Call any query or mutation by its id. The answer is that operation's own response.");
operation!(ListSpokes => Spokes, "hub.spokes", Query, ["hub:read"],
    "List spokes with their state, load and operations.");
operation!(GetStatus => HubStatus, "hub.status", Query, ["hub:read"],
    "Show how the hub fares: uptime, connections, calls, backlog.");
operation!(WhoAmI => CallerIdentity, "hub.whoami", Query, [],
    "Show your identity, scopes and key.");
