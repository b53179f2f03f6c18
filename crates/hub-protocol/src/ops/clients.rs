//! `clients.*`: services outside that the hub uses.

pub mod config;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::secrets::SecretItem;
use super::{operation, wire};
use crate::Json;

/// What kind of service a client is; each has its own [configuration](config).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ClientType {
    /// Serves language models.
    LlmProvider,
    /// Keeps repositories.
    Vcs,
    /// Rents machines.
    Compute,
    /// An MCP server, whose tools become operations.
    McpServer,
    /// An HTTP API with an OpenAPI document, whose operations become operations of the hub.
    #[serde(rename = "openapi")]
    OpenApi,
    /// Anything else; its configuration is free.
    Custom,
}

/// How a client fares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum ClientState {
    /// Nothing has been tried since it was last changed.
    Pending,
    /// It serves; a reason says what of it is left out. A client that brings no operations is complete.
    Ready,
    /// It does not serve, or not the newest; the reason says why. It is tried again.
    Degraded,
    /// It is switched off.
    Disabled,
}

wire! {
    /// Adds a client.
    pub struct CreateClient {
        /// Unique; also the namespace of the operations it brings.
        #[schemars(regex(pattern = r"^[A-Za-z][A-Za-z0-9_-]{0,47}$"))]
        name: String,
        /// What kind of service it is.
        r#type: ClientType,
        /// How it is reached, by type. Holds no secrets: those are set by `secrets.set` and named here.
        #[serde(default)]
        #[schemars(extend("x-secret" = true))]
        config: Json,
        /// Whether it is in use; default true.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
        /// Scopes that callers of its operations need, all of them; default `imported:{name}`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scopes: Option<Vec<String>>,
    }
    /// Changes a client; what is left out stays.
    pub struct UpdateClient {
        /// Which one.
        name: String,
        /// The whole new configuration. While the client has secrets, one that sends them elsewhere is refused.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(extend("x-secret" = true))]
        config: Option<Json>,
        /// Scopes that callers of its operations need.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        scopes: Option<Vec<String>>,
    }
    /// Switches a client on or off.
    pub struct EnableClient {
        /// Which one.
        name: String,
        /// Off with `false`; default true.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
    }
    /// Tries to reach a client.
    pub struct TestClient {
        /// Which one.
        name: String,
    }
    /// What a test came to.
    pub struct TestedClient {
        /// Whether it can be used.
        ok: bool,
        /// Why not, or what was found.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Operations it would bring.
        operations: u64,
        /// How long it took, in milliseconds.
        took_ms: u64,
    }
    /// Reads a client's operations anew.
    pub struct RefreshClient {
        /// Which one.
        name: String,
    }
    /// Reads one client.
    pub struct GetClient {
        /// Which one.
        name: String,
    }
    /// Lists clients.
    #[derive(Default)]
    pub struct ListClients {
        /// Only this type.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        r#type: Option<ClientType>,
        /// Only those switched on, or only those switched off.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        enabled: Option<bool>,
    }
    /// Clients, by name.
    pub struct Clients {
        /// By name.
        clients: Vec<ClientItem>,
    }
    /// Removes a client with its secrets.
    pub struct DeleteClient {
        /// Which one.
        name: String,
    }
    /// A client that is gone.
    pub struct DeletedClient {
        /// Which one it was.
        name: String,
    }
    /// A service outside that the hub uses.
    pub struct ClientItem {
        /// Row id.
        id: Uuid,
        /// Unique name.
        name: String,
        /// What kind of service it is.
        r#type: ClientType,
        /// How it is reached.
        config: Json,
        /// Whether it is in use.
        enabled: bool,
        /// Scopes that callers of its operations need.
        scopes: Vec<String>,
        /// Its secrets, without their values.
        secrets: Vec<SecretItem>,
        /// How it fares.
        state: ClientState,
        /// Why it fares so.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Since when.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        state_at: Option<u64>,
        /// Operations it brings now.
        operations: u64,
        /// When it was made.
        created_at: u64,
        /// When it was last changed.
        updated_at: u64,
    }
}

operation!(CreateClient => ClientItem, "clients.create", Mutation, ["clients:admin"],
    "Add a service outside that the hub uses: an MCP server or HTTP API whose operations it offers, a model provider, a forge, a cloud. Secrets are set apart, by secrets.set.");
operation!(UpdateClient => ClientItem, "clients.update", Mutation, ["clients:admin"],
    "Change the configuration or scopes of an external service; its operations are read anew.");
operation!(EnableClient => ClientItem, "clients.enable", Mutation, ["clients:admin"],
    "Switch an external service on or off; when it is off, its operations have no provider.");
operation!(TestClient => TestedClient, "clients.test", Mutation, ["clients:admin"],
    "Try to reach an external service with its configuration and secrets, changing nothing.");
operation!(RefreshClient => ClientItem, "clients.refresh", Mutation, ["clients:admin"],
    "Connect to an external service anew and read its operations.");
operation!(GetClient => ClientItem, "clients.get", Query, ["clients:read"],
    "Read one external service: configuration, state, names of its secrets.");
operation!(ListClients => Clients, "clients.list", Query, ["clients:read"],
    "List external services with their state; of secrets only the names.");
operation!(DeleteClient => DeletedClient, "clients.delete", Mutation, ["clients:admin"],
    "Remove an external service with its secrets and operations.");
