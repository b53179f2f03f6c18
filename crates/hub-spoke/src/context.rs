use std::sync::Arc;

use hub_protocol::ops::Operation;
use hub_protocol::{CallError, CallRequested, Identity, Json};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::client::Client;
use crate::lineage::Lineage;
use crate::{Request, Subscription};

/// What a handler is given beside its input: who calls, and the way to call on.
///
/// Calls made through it are nested: they carry the served call as their parent and what is left of its deadline,
/// and they are aborted with it. The handler's future is dropped when its call is aborted or its deadline passes;
/// [`Context::aborted`] is for work that it has handed to other tasks.
#[derive(Clone)]
pub struct Context {
    inner: Arc<Inner>,
}

struct Inner {
    /// Without its input and identity.
    head: CallRequested,
    caller: Identity,
    aborted: CancellationToken,
    cleanup: TaskTracker,
    lineage: Lineage,
    client: Client,
}

impl Context {
    pub(crate) fn new(mut head: CallRequested, aborted: CancellationToken, lineage: Lineage, client: Client) -> Self {
        let caller = head.identity.take().unwrap_or_default();
        Self { inner: Arc::new(Inner { head, caller, aborted, cleanup: TaskTracker::new(), lineage, client }) }
    }

    /// What still has to end after the handler is dropped.
    pub(crate) fn cleanups(&self) -> TaskTracker {
        self.inner.cleanup.clone()
    }

    /// Who calls, as the hub has checked it.
    #[must_use]
    pub fn caller(&self) -> &Identity {
        &self.inner.caller
    }

    /// Free data of the caller. It is not passed on to nested calls.
    #[must_use]
    pub fn metadata(&self) -> Option<&Json> {
        self.inner.head.metadata.as_ref()
    }

    /// The hub's id of the call.
    #[must_use]
    pub fn call_id(&self) -> &str {
        &self.inner.head.request_id
    }

    /// The operation by its local name.
    #[must_use]
    pub fn operation_id(&self) -> &str {
        &self.inner.head.operation_id
    }

    /// When nobody waits any more, in milliseconds since the epoch.
    #[must_use]
    pub fn deadline_ms(&self) -> Option<u64> {
        self.inner.lineage.deadline_ms()
    }

    /// Names this execution; the same key never runs twice in this process while it is remembered.
    #[must_use]
    pub fn idempotency_key(&self) -> Option<&str> {
        self.inner.head.idempotency_key.as_deref()
    }

    /// Money that this call and all below it may still spend, in micro-dollars.
    #[must_use]
    pub fn budget(&self) -> Option<i64> {
        self.inner.head.budget
    }

    /// W3C trace context of the call.
    #[must_use]
    pub fn traceparent(&self) -> Option<&str> {
        self.inner.head.traceparent.as_deref()
    }

    /// Fires when the call ends otherwise than by its handler: aborted, past its deadline, or its connection lost.
    #[must_use]
    pub fn aborted(&self) -> &CancellationToken {
        &self.inner.aborted
    }

    /// Holds the confirmation of an abort back, for at most 5 s, until the token is dropped: for handlers whose work
    /// ends a moment after they are dropped, such as a process that has to be killed.
    pub fn cleanup(&self) -> TaskTrackerToken {
        self.inner.cleanup.token()
    }

    /// Calls a typed query or mutation on behalf of this call.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call<O: Operation>(&self, params: &O) -> Result<O::Reply, CallError> {
        self.request(O::ID).typed(params)?.call_as().await
    }

    /// Calls a query or mutation by its id on behalf of this call; answers the `data` of its response.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_raw(&self, operation_id: &str, input: impl Into<Json>) -> Result<Json, CallError> {
        self.request(operation_id).input(input).call().await
    }

    /// Starts a typed subscription on behalf of this call. Dropping it aborts it.
    ///
    /// # Errors
    /// As [`Client::subscribe`].
    pub async fn subscribe<O: Operation>(&self, params: &O) -> Result<Subscription<O::Reply>, CallError> {
        self.request(O::ID).typed(params)?.subscribe_as().await
    }

    /// Prepares a nested call with settings of its own. Its deadline is never later than that of this call.
    pub fn request(&self, operation_id: impl Into<String>) -> Request {
        self.inner.client.request(operation_id).under(self.inner.lineage.clone())
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("call_id", &self.call_id()).finish_non_exhaustive()
    }
}
