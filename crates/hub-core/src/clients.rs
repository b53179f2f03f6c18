//! What connects the hub to its clients: who does it is not part of this crate.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use hub_protocol::{CallError, ErrorCode, Violation};
use hub_storage::{ClientRow, ClientState, Stamp};
use serde_json::json;
use tokio::sync::watch;

use crate::hub::Hub;
use crate::ops::clients::event;
use crate::vault::{OpenedClient, Vault};
use crate::{CoreError, KeyringSource};

/// Connects to clients.
pub trait Connector: Send + Sync + 'static {
    /// Tries to reach a client; the error is for people, and is cleaned of the client's secrets by the hub.
    fn test<'a>(&'a self, client: &'a OpenedClient) -> BoxFuture<'a, Result<Tested, String>>;
}

/// What a test found.
#[derive(Debug, Default)]
pub struct Tested {
    /// Something worth knowing.
    pub note: Option<String>,
    /// Operations that the client would bring.
    pub operations: u64,
}

/// What the hub knows of clients beside their rows.
#[derive(Default)]
pub(crate) struct Desk {
    pub(crate) vault: Vault,
    pub(crate) connector: Option<Arc<dyn Connector>>,
    /// Counts changes made at this hub.
    changes: watch::Sender<u64>,
}

impl Desk {
    pub(crate) fn new(source: Option<KeyringSource>, connector: Option<Arc<dyn Connector>>) -> Self {
        Self { vault: Vault::new(source), connector, changes: watch::Sender::default() }
    }
}

impl Hub {
    /// A client with the values of its secrets.
    ///
    /// # Errors
    /// [`CoreError::NotFound`], [`CoreError::Keyring`] when a secret does not open, else what the store met.
    pub async fn open_client(&self, name: &str) -> Result<OpenedClient, CoreError> {
        let row = self.store().clients().by_name(name).await?.ok_or(CoreError::NotFound { what: "client" })?;
        self.open_client_row(row).await
    }

    pub(crate) async fn open_client_row(&self, row: ClientRow) -> Result<OpenedClient, CoreError> {
        self.vault().open(self.store(), row).await
    }

    /// Changes with each change of a client made at this hub; those made at others are found in the store.
    #[must_use]
    pub fn client_changes(&self) -> watch::Receiver<u64> {
        self.desk().changes.subscribe()
    }

    /// Notes how a client fares, unless it has changed since `row` was read. The reason must hold no secret.
    ///
    /// # Errors
    /// What the store met.
    pub async fn note_client_state(&self, row: &ClientRow, state: ClientState) -> Result<(), CoreError> {
        let told = json!({ "reason": state.reason, "operations": state.operations });
        let told = event(&row.name, &state.state, told);
        let noted = self.store().clients().set_state(row.id, row.revision, state, Stamp::now(), told).await?;
        self.log().announce(noted.map(|event| event.seq)).await;
        Ok(())
    }

    /// Looks whether the keyring can be used with the store.
    ///
    /// # Errors
    /// [`CoreError::Keyring`] when it can't, else what the store met.
    pub async fn check_keyring(&self) -> Result<(), CoreError> {
        self.vault().check(self.store()).await
    }

    /// Why secrets can't be used now, for people.
    #[must_use]
    pub fn keyring_trouble(&self) -> Option<String> {
        self.vault().trouble()
    }

    pub(crate) async fn client_changed(&self, seq: u64) {
        self.desk().changes.send_modify(|count| *count += 1);
        self.log().announce(Some(seq)).await;
    }

    pub(crate) fn vault(&self) -> &Vault {
        &self.desk().vault
    }

    pub(crate) fn connector(&self) -> Option<&Arc<dyn Connector>> {
        self.desk().connector.as_ref()
    }
}

/// Whether clients of this type become operations, below the client's name.
#[must_use]
pub fn brings_operations(row: &ClientRow) -> bool {
    matches!(row.kind.as_str(), "mcp-server" | "openapi")
}

/// Id of the principal that offers a client's operations. No key has it: theirs have no such prefix.
#[must_use]
pub fn importer(client: &str) -> String {
    format!("client/{client}")
}

/// Name of the spoke that offers a client's operations.
#[must_use]
pub fn import_spoke(client: &str) -> String {
    format!("import-{client}")
}

/// Whether a spoke name is one of [`import_spoke`] that is not this principal's.
pub(crate) fn is_reserved(name: &str, principal: &str) -> bool {
    name.strip_prefix("import-").is_some_and(|client| principal != importer(client))
}

/// Scopes that callers of a client's operations need.
#[must_use]
pub fn scopes_of(row: &ClientRow) -> Vec<String> {
    let own = row.scopes.as_ref().and_then(|scopes| scopes.parse().ok());
    own.unwrap_or_else(|| vec![format!("imported:{}", row.name)])
}

/// Violations within a member of the input.
pub(crate) fn violations(below: &str, found: Vec<Violation>) -> CallError {
    let place = |v: Violation| Violation { path: format!("{below}{}", v.path), message: v.message };
    let found: Vec<Violation> = found.into_iter().map(place).collect();
    let first = found.first().map(|v| format!(": {}: {}", v.path, v.message)).unwrap_or_default();
    CallError::new(ErrorCode::ValidationError, format!("the configuration does not fit its type{first}"))
        .with_details(&found)
}
