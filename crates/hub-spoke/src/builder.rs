use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use hub_operations::{Offering, Registry, RegistryBuilder, Reply, now_ms};
use hub_protocol::ops::hub::{Exposure, Policy, RegisterSpoke};
use hub_protocol::ops::{Operation, schema_of};
use hub_protocol::{AccessControl, CallError, DEFAULT_MESSAGE_LIMIT, Json, OperationSpec, OperationType};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::client::ClientBuilder;
use crate::keyed::Keyed;
use crate::serve::Service;
use crate::{Context, Spoke, SpokeError};

/// Declares a spoke: its name, its operations with their handlers, and its settings.
#[must_use]
pub struct SpokeBuilder {
    client: ClientBuilder,
    message_limit: usize,
    registration: RegisterSpoke,
    registry: RegistryBuilder<Context>,
    heartbeat: bool,
    drain_timeout: Duration,
}

impl SpokeBuilder {
    pub(crate) fn new(url: &str, key: &str, name: &str) -> Self {
        let registration = RegisterSpoke {
            name: name.to_owned(),
            spoke_type: "dev-env".to_owned(),
            operations: Vec::new(),
            instance_id: Uuid::new_v4(),
            started_at: now_ms(),
            host_info: None,
            project_id: None,
            version: None,
            exposure: None,
            policy: None,
            max_in_flight: None,
            labels: None,
        };
        Self {
            client: ClientBuilder::new(url, key),
            message_limit: DEFAULT_MESSAGE_LIMIT,
            registration,
            registry: Registry::builder(),
            heartbeat: true,
            drain_timeout: Duration::from_secs(30),
        }
    }

    /// `dev-env` (default), `client`, `compute` or a word of your own.
    pub fn spoke_type(mut self, spoke_type: impl Into<String>) -> Self {
        self.registration.spoke_type = spoke_type.into();
        self
    }

    /// How the operations' names appear at the hub. Default: pooled for `compute`, else qualified.
    pub const fn exposure(mut self, exposure: Exposure) -> Self {
        self.registration.exposure = Some(exposure);
        self
    }

    /// How the hub chooses among the providers of a pooled operation.
    pub const fn policy(mut self, policy: Policy) -> Self {
        self.registration.policy = Some(policy);
        self
    }

    /// Most calls that the hub may have running here; more wait at the hub.
    pub const fn max_in_flight(mut self, calls: u32) -> Self {
        self.registration.max_in_flight = Some(calls);
        self
    }

    /// Adds a free label.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.registration.labels.get_or_insert_with(BTreeMap::new).insert(key.into(), value.into());
        self
    }

    /// Free facts about the machine.
    pub fn host_info(mut self, facts: impl Into<Json>) -> Self {
        self.registration.host_info = Some(facts.into());
        self
    }

    /// Project that the spoke belongs to.
    pub fn project_id(mut self, id: impl Into<String>) -> Self {
        self.registration.project_id = Some(id.into());
        self
    }

    /// Version of the spoke's program.
    pub fn version(mut self, version: impl Into<String>) -> Self {
        self.registration.version = Some(version.into());
        self
    }

    /// Id of this process among those that used the name. Default: random.
    pub const fn instance_id(mut self, id: Uuid) -> Self {
        self.registration.instance_id = id;
        self
    }

    /// When the process started, in milliseconds since the epoch; the newest takes the name. Default: now.
    pub const fn started_at_ms(mut self, at: u64) -> Self {
        self.registration.started_at = at;
        self
    }

    /// Whether to call `hub.heartbeat` as often as the hub asks for; default true.
    pub const fn heartbeat(mut self, heartbeat: bool) -> Self {
        self.heartbeat = heartbeat;
        self
    }

    /// Longest wait for running calls when the spoke is stopped; default 30 s.
    pub const fn drain_timeout(mut self, timeout: Duration) -> Self {
        self.drain_timeout = timeout;
        self
    }

    /// As [`ClientBuilder::connect_timeout`].
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.client = self.client.connect_timeout(timeout);
        self
    }

    /// As [`ClientBuilder::message_limit`].
    pub fn message_limit(mut self, bytes: usize) -> Self {
        self.message_limit = bytes;
        self.client = self.client.message_limit(bytes);
        self
    }

    /// As [`ClientBuilder::liveness`].
    pub fn liveness(mut self, interval: Duration) -> Self {
        self.client = self.client.liveness(interval);
        self
    }

    /// As [`ClientBuilder::ca_certificate_pem`].
    pub fn ca_certificate_pem(mut self, pem: Vec<u8>) -> Self {
        self.client = self.client.ca_certificate_pem(pem);
        self
    }

    /// Serves a query or mutation that is declared by its parameter type.
    #[track_caller]
    pub fn operation<O, E, F>(mut self, handler: impl Fn(Context, O) -> F + Send + Sync + 'static) -> Self
    where
        O: Operation,
        E: Into<CallError>,
        F: Future<Output = Result<O::Reply, E>> + Send + 'static,
    {
        self.registry = self.registry.operation(handler);
        self
    }

    /// Serves a subscription that is declared by its parameter type; the handler answers a stream.
    #[track_caller]
    pub fn subscription<O, E, F, S>(mut self, handler: impl Fn(Context, O) -> F + Send + Sync + 'static) -> Self
    where
        O: Operation,
        E: Into<CallError>,
        F: Future<Output = Result<S, E>> + Send + 'static,
        S: Stream<Item = Result<O::Reply, CallError>> + Send + 'static,
    {
        self.registry = self.registry.subscription(handler);
        self
    }

    /// Serves a query whose schemas are those of the handler's types. Every authenticated caller may call it; to
    /// ask for scopes declare it with [`SpokeBuilder::raw`] or a type of its own.
    #[track_caller]
    pub fn query<P, R, E, F>(
        self,
        id: &str,
        description: &str,
        handler: impl Fn(Context, P) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: Into<CallError>,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.typed(spec::<P, R>(id, description, OperationType::Query), handler)
    }

    /// As [`SpokeBuilder::query`], for an operation that changes something.
    #[track_caller]
    pub fn mutation<P, R, E, F>(
        self,
        id: &str,
        description: &str,
        handler: impl Fn(Context, P) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: Into<CallError>,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.typed(spec::<P, R>(id, description, OperationType::Mutation), handler)
    }

    /// As [`SpokeBuilder::query`], for a handler that answers a stream.
    #[track_caller]
    pub fn stream<P, R, E, F, S>(
        mut self,
        id: &str,
        description: &str,
        handler: impl Fn(Context, P) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + JsonSchema + Send + 'static,
        R: Serialize + JsonSchema + Send + 'static,
        E: Into<CallError>,
        F: Future<Output = Result<S, E>> + Send + 'static,
        S: Stream<Item = Result<R, CallError>> + Send + 'static,
    {
        let spec = spec::<P, R>(id, description, OperationType::Subscription);
        self.registry = self.registry.typed_stream(spec, handler);
        self
    }

    /// Serves any declaration with a handler on JSON text.
    #[track_caller]
    pub fn raw<F>(mut self, spec: OperationSpec, handler: impl Fn(Context, Json) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Reply, CallError>> + Send + 'static,
    {
        self.registry = self.registry.raw(spec, handler);
        self
    }

    /// Serves what `add` declares, such as what adapters import.
    pub fn declare(mut self, add: impl FnOnce(RegistryBuilder<Context>) -> RegistryBuilder<Context>) -> Self {
        self.registry = add(self.registry);
        self
    }

    /// The spoke, not connected yet.
    ///
    /// # Errors
    /// When an operation is malformed or declared twice, or a setting can't be sent.
    pub fn build(self) -> Result<Spoke, SpokeError> {
        let setting = |field, reason: &str| Err(SpokeError::Setting { field, reason: reason.to_owned() });
        if self.registration.name.is_empty() {
            return setting("name", "it is empty");
        }
        if self.registration.max_in_flight == Some(0) {
            return setting("max_in_flight", "it is 0, so that nothing could be called");
        }
        let service = Service {
            offering: Offering::new(self.registry.build()?),
            message_limit: self.message_limit,
            keyed: Keyed::default(),
            executions: TaskTracker::new(),
            over: CancellationToken::new(),
        };
        Ok(Spoke::new(self.client, self.registration, Arc::new(service), self.heartbeat, self.drain_timeout))
    }

    #[track_caller]
    fn typed<P, R, E, F>(
        mut self,
        spec: OperationSpec,
        handler: impl Fn(Context, P) -> F + Send + Sync + 'static,
    ) -> Self
    where
        P: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        E: Into<CallError>,
        F: Future<Output = Result<R, E>> + Send + 'static,
    {
        self.registry = self.registry.typed(spec, handler);
        self
    }
}

impl std::fmt::Debug for SpokeBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpokeBuilder").field("name", &self.registration.name).finish_non_exhaustive()
    }
}

fn spec<P: JsonSchema, R: JsonSchema>(id: &str, description: &str, kind: OperationType) -> OperationSpec {
    OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".to_owned(),
        kind,
        title: None,
        description: description.to_owned(),
        tags: Vec::new(),
        input_schema: schema_of::<P>(),
        output_schema: schema_of::<R>(),
        error_schemas: Vec::new(),
        access_control: AccessControl::default(),
        meta: None,
    }
    .with_id(id)
}
