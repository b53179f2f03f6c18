use std::time::Duration;

use hub_operations::{Peer, Pending, now_ms};
use hub_protocol::ops::Operation;
use hub_protocol::{
    CallError, CallRequested, DEFAULT_DEADLINE_MS, ErrorCode, Json, OnDisconnect, OperationType, ResponseEnvelope,
};
use serde::de::DeserializeOwned;

use crate::Subscription;
use crate::active::ActiveCall;
use crate::client::Client;
use crate::lineage::Lineage;
use crate::reconnect::Link;
use crate::timer::Timer;

/// Room in a message for everything beside its payload.
pub(crate) const HEAD_ROOM: usize = 4096;

/// First pause before a keyed call is tried again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);

const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A call being prepared.
#[must_use = "a request does nothing until it is called"]
#[derive(Clone)]
pub struct Request {
    client: Client,
    wire: CallRequested,
    deadline_ms: Option<u64>,
    parent: Option<Lineage>,
    /// Whether running it twice does no harm.
    repeatable: bool,
}

impl Request {
    pub(crate) fn new(client: Client, operation_id: String) -> Self {
        let wire = CallRequested::new(String::new(), operation_id, Json::null());
        Self { client, wire, deadline_ms: None, parent: None, repeatable: false }
    }

    /// The operation's input; default null.
    pub fn input(mut self, input: impl Into<Json>) -> Self {
        self.wire.input = input.into();
        self
    }

    /// Time from now on after which nobody waits any more. Default: 30 s for a call, none for a subscription.
    pub fn deadline(self, after: Duration) -> Self {
        let after = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.deadline_at_ms(now_ms().saturating_add(after))
    }

    /// As [`Request::deadline`], in milliseconds since the epoch.
    pub const fn deadline_at_ms(mut self, at: u64) -> Self {
        self.deadline_ms = Some(at);
        self
    }

    /// Longest pause before each response.
    pub fn idle_timeout(mut self, idle: Duration) -> Self {
        self.wire.idle_timeout = Some(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX));
        self
    }

    /// Names one execution for 24 hours: calling again with the same key and input runs nothing twice.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.wire.idempotency_key = Some(key.into());
        self.repeatable = true;
        self
    }

    /// Semver range of the operation's version; default the highest with a provider.
    pub fn version(mut self, range: impl Into<String>) -> Self {
        self.wire.version = Some(range.into());
        self
    }

    /// Free data for the callee.
    pub fn metadata(mut self, metadata: impl Into<Json>) -> Self {
        self.wire.metadata = Some(metadata.into());
        self
    }

    /// What becomes of the call when this side's connection is lost.
    pub const fn on_disconnect(mut self, rule: OnDisconnect) -> Self {
        self.wire.on_disconnect = Some(rule);
        self
    }

    /// Money that the call and all below it may spend, in micro-dollars.
    pub const fn budget(mut self, micro_dollars: i64) -> Self {
        self.wire.budget = Some(micro_dollars);
        self
    }

    /// W3C trace context.
    pub fn traceparent(mut self, traceparent: impl Into<String>) -> Self {
        self.wire.traceparent = Some(traceparent.into());
        self
    }

    /// Calls a query or mutation; answers the `data` of its response.
    ///
    /// With an idempotency key it is called again while it fails in a way that a retry can mend (a lost connection, a hub
    /// that goes down, a spoke that is away), until its deadline: the key sees to it that nothing runs twice.
    ///
    /// # Errors
    /// What the operation answers, or `TIMEOUT`, `SPOKE_DISCONNECTED`, `ABORTED` or `PAYLOAD_TOO_LARGE`.
    pub async fn call(self) -> Result<Json, CallError> {
        let envelope = self.envelope().await?;
        ResponseEnvelope::data_of(&envelope).map_err(|_| no_envelope())
    }

    /// As [`Request::call`], answering the whole response envelope: `{ data, meta }`.
    ///
    /// # Errors
    /// As [`Request::call`].
    pub async fn envelope(mut self) -> Result<Json, CallError> {
        if self.wire.idempotency_key.is_none() {
            return self.once().await;
        }
        let until = *self.deadline_ms.get_or_insert_with(|| now_ms().saturating_add(DEFAULT_DEADLINE_MS));
        let mut pause = FIRST_PAUSE;
        loop {
            let error = match self.clone().once().await {
                Err(error) if error.retryable && is_passing(&error) => error,
                ended => return ended,
            };
            let left = hub_operations::until(until);
            let pause_now = error.retry_after().unwrap_or(pause).min(LONGEST_PAUSE);
            if left <= pause_now || self.client.is_closed() {
                return Err(error);
            }
            tokio::time::sleep(pause_now).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn once(self) -> Result<Json, CallError> {
        let mut active = self.open(true).await?;
        match active.next_envelope().await {
            Some(response) => response,
            None => Err(CallError::new(ErrorCode::ExecutionError, "the call was completed without a response")),
        }
    }

    /// Starts a subscription. Dropping it aborts it.
    ///
    /// # Errors
    /// When the connection can't be used; what the hub refuses comes as the first item.
    pub async fn subscribe(mut self) -> Result<Subscription<Json>, CallError> {
        self.repeatable = true;
        Ok(Subscription::new(self.open(false).await?, Ok))
    }

    /// Starts a subscription and hands out its receiving half. A query or mutation gives its one item, too, but the
    /// wire does not tell that none follows: for those use [`Request::start_one`].
    ///
    /// # Errors
    /// When the connection can't be used; what the hub refuses comes as the first item.
    pub async fn start(self) -> Result<ActiveCall, CallError> {
        self.open(false).await
    }

    /// Starts a query or mutation and hands out its receiving half, which ends after one item.
    ///
    /// # Errors
    /// As [`Request::start`].
    pub async fn start_one(self) -> Result<ActiveCall, CallError> {
        self.open(true).await
    }

    pub(crate) fn under(mut self, parent: Lineage) -> Self {
        self.wire.traceparent = parent.traceparent();
        self.parent = Some(parent);
        self
    }

    pub(crate) fn typed<O: Operation>(mut self, params: &O) -> Result<Self, CallError> {
        self.repeatable |= O::KIND != OperationType::Mutation;
        let input = Json::from_serialize(params).map_err(|e| {
            CallError::new(ErrorCode::ValidationError, format!("the input of {} can't be serialized: {e}", O::ID))
        })?;
        Ok(self.input(input))
    }

    pub(crate) async fn call_as<T: DeserializeOwned>(self) -> Result<T, CallError> {
        parse(self.call().await?)
    }

    pub(crate) async fn subscribe_as<T: DeserializeOwned>(self) -> Result<Subscription<T>, CallError> {
        Ok(Subscription::new(self.open(false).await?, parse))
    }

    /// Sends the request once there is a connection, within its deadline.
    async fn open(mut self, one: bool) -> Result<ActiveCall, CallError> {
        let usual = one.then(|| now_ms().saturating_add(DEFAULT_DEADLINE_MS));
        let above = self.parent.as_ref().and_then(Lineage::deadline_ms);
        self.wire.deadline = [self.deadline_ms.or(usual), above].into_iter().flatten().min();
        self.check_size()?;
        let mut timer = Timer::new(self.wire.deadline, self.wire.idle_timeout.map(Duration::from_millis));
        let pending = tokio::select! {
            pending = self.send(one) => pending?,
            error = timer.expired() => return Err(error),
        };
        timer.touch();
        Ok(ActiveCall::new(self.client, self.wire.request_id, pending, timer, self.repeatable))
    }

    fn check_size(&self) -> Result<(), CallError> {
        let limit = self.client.shared.dialer.message_limit;
        let size = self.wire.input.size() + self.wire.metadata.as_ref().map_or(0, Json::size);
        check_size("the input", size, limit)
    }

    async fn send(&mut self, one: bool) -> Result<Pending, CallError> {
        loop {
            let (peer, parent) = match &mut self.parent {
                Some(parent) => parent.current().await.map(|(peer, id)| (peer, Some(id)))?,
                None => (self.client.peer().await?, None),
            };
            self.wire.parent_request_id = parent;
            self.wire.request_id = self.client.shared.request_id();
            match peer.start(&self.wire, one).await {
                // Not sent, so it can go out on the next connection.
                Err(error) if error.is(ErrorCode::SpokeDisconnected) => peer.gone().cancelled().await,
                started => return started,
            }
        }
    }
}

impl Client {
    /// Whether there will be no connection any more.
    fn is_closed(&self) -> bool {
        matches!(*self.shared.link.borrow(), Link::Closed(_))
    }

    /// The connection, waiting for one.
    pub(crate) async fn peer(&self) -> Result<Peer, CallError> {
        let mut link = self.shared.link.subscribe();
        let usable = |link: &Link| match link {
            Link::Up(peer) => !peer.gone().is_cancelled(),
            Link::Down => false,
            Link::Closed(_) => true,
        };
        match link.wait_for(usable).await.as_deref() {
            Ok(Link::Up(peer)) => Ok(peer.clone()),
            Ok(Link::Closed(reason)) => Err(CallError::new(ErrorCode::SpokeDisconnected, reason.to_string())),
            _ => Err(CallError::new(ErrorCode::SpokeDisconnected, "the client is closed")),
        }
    }
}

/// Whether the failure is of the way to the operation, which another moment may mend. What an operation itself asks to
/// be tried again is its caller's to decide.
fn is_passing(error: &CallError) -> bool {
    let code = error.known();
    code.is_some_and(|code| !matches!(code, ErrorCode::Timeout | ErrorCode::RateLimited))
}

pub(crate) fn no_envelope() -> CallError {
    CallError::new(ErrorCode::ExecutionError, "the response is no envelope { data, meta }")
}

pub(crate) fn check_size(what: &str, size: usize, limit: usize) -> Result<(), CallError> {
    if size + HEAD_ROOM <= limit {
        return Ok(());
    }
    let message = format!("{what} has {size} bytes; a message may have {limit}");
    Err(CallError::new(ErrorCode::PayloadTooLarge, message)
        .with_details(&serde_json::json!({ "limit": limit, "size": size })))
}

fn parse<T: DeserializeOwned>(data: Json) -> Result<T, CallError> {
    data.parse().map_err(|e| {
        CallError::new(ErrorCode::ExecutionError, format!("the reply does not fit its type: {:?}", e.classify()))
    })
}
