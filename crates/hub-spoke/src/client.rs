use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_operations::{Answer, Definition, Incoming, Peer, Responder};
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::ObserveCalls;
use hub_protocol::{CallError, DEFAULT_MESSAGE_LIMIT, Event, Fault, Json};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::dial::Dialer;
use crate::endpoint::{Endpoint, Key};
use crate::reconnect::{Link, Role, Shared, supervise};
use crate::request::Request;
use crate::{CallEventStream, ClosedReason, ConnectError, EventStream, SpokeError, Subscription, tls};

/// A connection to a hub that reconnects by itself. Clones share it; dropping the last one closes it.
///
/// Calls made while it reconnects wait for the connection up to their deadline. Calls in flight when a connection
/// is lost fail with `SPOKE_DISCONNECTED`, which is retryable only where running them twice does no harm.
#[derive(Clone)]
pub struct Client {
    pub(crate) shared: Arc<Shared>,
    /// Closes the connection with the last clone that has one. Contexts of handlers have none.
    _guard: Option<Arc<DropGuard>>,
}

/// Where a client's connection stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionState {
    /// Calls go through.
    Connected {
        /// How many connections there have been, this one included.
        count: u64,
    },
    /// Calls wait.
    Reconnecting {
        /// Which attempt comes next, from 1; 0 while the first connection is made.
        attempt: u32,
        /// Pause before it.
        retry_in: Duration,
    },
    /// Calls fail.
    Closed(ClosedReason),
}

impl Client {
    /// Connects with default settings.
    ///
    /// `url` is the hub's base URL (`ws`, `wss`, `http` or `https`); `/ws` is appended if it is missing.
    ///
    /// # Errors
    /// When the first connection can't be made.
    pub async fn connect(url: &str, key: &str) -> Result<Self, ConnectError> {
        Self::builder(url, key).connect().await
    }

    /// A client with settings of its own.
    pub fn builder(url: &str, key: &str) -> ClientBuilder {
        ClientBuilder::new(url, key)
    }

    /// Calls a typed query or mutation. Without a deadline of its own it has 30 s.
    ///
    /// # Errors
    /// What the operation answers, or `TIMEOUT`, `SPOKE_DISCONNECTED` or `ABORTED`.
    pub async fn call<O: Operation>(&self, params: &O) -> Result<O::Reply, CallError> {
        self.request(O::ID).typed(params)?.call_as().await
    }

    /// Calls a query or mutation by its id; answers the `data` of its response.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_raw(&self, operation_id: &str, input: impl Into<Json>) -> Result<Json, CallError> {
        self.request(operation_id).input(input).call().await
    }

    /// Starts a typed subscription. Dropping it aborts it.
    ///
    /// # Errors
    /// When the connection can't be used; what the hub refuses comes as the first item.
    pub async fn subscribe<O: Operation>(&self, params: &O) -> Result<Subscription<O::Reply>, CallError> {
        self.request(O::ID).typed(params)?.subscribe_as().await
    }

    /// Prepares a call with a deadline, an idempotency key or other settings of its own.
    pub fn request(&self, operation_id: impl Into<String>) -> Request {
        Request::new(self.clone(), operation_id.into())
    }

    /// Follows the event log, also across reconnects: nothing is missed and nothing comes twice.
    ///
    /// `after` is the position to continue after; `Some(0)` is the beginning, `None` from now on.
    pub fn follow_events(&self, topics: Vec<String>, after: Option<u64>) -> EventStream {
        EventStream::new(self.clone(), topics, after)
    }

    /// Follows what happens to calls, also across reconnects: nothing is missed and nothing comes twice.
    pub fn observe_calls(&self, params: ObserveCalls) -> CallEventStream {
        CallEventStream::new(self.clone(), params)
    }

    /// Where the connection stands, now and from now on.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ConnectionState> {
        self.shared.state.subscribe()
    }

    /// Closes the connection with code 1000 and waits until that is done. Calls in flight fail.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        self.closed().await;
    }

    pub(crate) async fn closed(&self) -> ClosedReason {
        let mut link = self.shared.link.subscribe();
        let closed = link.wait_for(|link| matches!(link, Link::Closed(_))).await;
        match closed.as_deref() {
            Ok(Link::Closed(reason)) => reason.clone(),
            _ => ClosedReason::Requested,
        }
    }

    /// Of the inside: does not keep the connection up.
    pub(crate) fn unguarded(shared: &Arc<Shared>) -> Self {
        Self { shared: Arc::clone(shared), _guard: None }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("url", &self.shared.dialer.endpoint.url).finish_non_exhaustive()
    }
}

/// Settings of a [`Client`].
#[must_use]
#[derive(Clone)]
pub struct ClientBuilder {
    url: String,
    key: String,
    reconnect: bool,
    timeout: Duration,
    message_limit: usize,
    liveness: Duration,
    ca: Option<Vec<u8>>,
}

impl ClientBuilder {
    pub(crate) fn new(url: &str, key: &str) -> Self {
        Self {
            url: url.to_owned(),
            key: key.to_owned(),
            reconnect: true,
            timeout: Duration::from_secs(10),
            message_limit: DEFAULT_MESSAGE_LIMIT,
            liveness: Duration::from_secs(15),
            ca: None,
        }
    }

    /// Whether to connect again after a loss; default true.
    pub const fn reconnect(mut self, reconnect: bool) -> Self {
        self.reconnect = reconnect;
        self
    }

    /// Longest time for one attempt to connect; default 10 s.
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Largest message in bytes that is sent or accepted; default 1 MiB, as at the hub.
    pub const fn message_limit(mut self, bytes: usize) -> Self {
        self.message_limit = bytes;
        self
    }

    /// How often the hub is pinged; silent for two intervals it counts as lost. Default 15 s.
    pub const fn liveness(mut self, interval: Duration) -> Self {
        self.liveness = interval;
        self
    }

    /// Also trusts the certificates of this PEM, for hubs with a certificate of their own.
    pub fn ca_certificate_pem(mut self, pem: Vec<u8>) -> Self {
        self.ca = Some(pem);
        self
    }

    /// Connects.
    ///
    /// # Errors
    /// When the first connection can't be made.
    pub async fn connect(self) -> Result<Client, ConnectError> {
        let (ready, first) = oneshot::channel();
        let client = self.launch(Arc::new(Caller), Some(ready))?;
        match first.await {
            Ok(Ok(())) => Ok(client),
            Ok(Err(SpokeError::Connect(error))) => Err(error),
            Ok(Err(SpokeError::Closed(reason))) => Err(ConnectError::Closed(reason)),
            _ => Err(ConnectError::Closed(ClosedReason::Requested)),
        }
    }

    /// Starts the supervisor; with `ready` its first attempt must succeed.
    pub(crate) fn launch(
        self,
        role: Arc<dyn Role>,
        ready: Option<oneshot::Sender<Result<(), SpokeError>>>,
    ) -> Result<Client, ConnectError> {
        let endpoint = Endpoint::parse(&self.url)?;
        let key = Key::new(&self.key)?;
        let tls = endpoint.secure.then(|| tls::connector(self.ca.as_deref())).transpose();
        let tls = tls.map_err(|reason| ConnectError::Certificates { url: endpoint.url.clone(), reason })?;
        let stop = CancellationToken::new();
        let guard = Arc::new(stop.clone().drop_guard());
        let connecting = ConnectionState::Reconnecting { attempt: 0, retry_in: Duration::ZERO };
        let shared = Arc::new(Shared {
            dialer: Dialer { endpoint, key, tls, timeout: self.timeout, message_limit: self.message_limit },
            role,
            reconnect: self.reconnect,
            liveness: self.liveness.max(Duration::from_millis(10)),
            link: watch::Sender::new(Link::Down),
            state: watch::Sender::new(connecting),
            stop,
            tasks: TaskTracker::new(),
            served: TaskTracker::new(),
            id_prefix: rand::random(),
            next_id: AtomicU64::new(1),
        });
        shared.tasks.spawn(supervise(Arc::clone(&shared), ready));
        Ok(Client { shared, _guard: Some(guard) })
    }
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientBuilder").field("reconnect", &self.reconnect).finish_non_exhaustive()
    }
}

/// The role of a client that serves nothing.
struct Caller;

impl Role for Caller {
    fn responder(&self, _client: Client) -> Arc<dyn Responder> {
        Arc::new(Self)
    }

    fn enter(&self, _peer: Peer) -> BoxFuture<'static, Result<(), CallError>> {
        async { Ok(()) }.boxed()
    }

    fn attend(&self, _peer: Peer) -> BoxFuture<'static, ()> {
        async {}.boxed()
    }
}

impl Responder for Caller {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        async move { Err(Definition::not_found(&incoming.request.operation_id)) }.boxed()
    }

    fn other(&self, event: Event) -> Result<(), Fault> {
        log_other(&event);
        Ok(())
    }
}

/// Nothing outside calls is asked for by this side, so nothing is expected.
pub(crate) fn log_other(event: &Event) {
    match event {
        Event::ProtocolError(fault) => {
            tracing::warn!(code = ?fault.code, fault = %fault.message, "the hub could not read a message of this side");
        }
        _ => tracing::debug!("a message outside calls is ignored"),
    }
}
