use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use hub_operations::Answer;
use hub_protocol::ops::Operation;
use hub_protocol::{CallError, CallId, CallRequested, ErrorCode, Identity, Json};
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::live::LiveCall;
use crate::router::{Caller, Leash, decode};
use crate::session::Session;

/// How long the answer of a call may hold up what is to follow it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(1);

/// What a handler inside the hub is given.
#[derive(Clone)]
pub struct Ctx {
    hub: Hub,
    live: Arc<LiveCall>,
    caller: Caller,
}

impl Ctx {
    pub(crate) fn new(hub: Hub, live: Arc<LiveCall>, caller: Caller) -> Self {
        Self { hub, live, caller }
    }

    /// The hub.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> &Identity {
        &self.live.caller
    }

    /// This call.
    #[must_use]
    pub fn call_id(&self) -> CallId {
        self.live.id
    }

    /// Milliseconds since the epoch after which nobody waits.
    #[must_use]
    pub fn deadline(&self) -> Option<u64> {
        self.live.deadline
    }

    /// Cancelled when the call is given up. The handler's future is dropped then; long work of its own should watch it.
    #[must_use]
    pub fn aborted(&self) -> &CancellationToken {
        self.live.stop.token()
    }

    /// Does something once this call was answered: what it does may cut off the very caller. Not later than a second
    /// from now, since a record that is slow to write must not keep a revoked key alive.
    pub(crate) fn after_answer(&self, name: &'static str, act: impl FnOnce() + Send + 'static) {
        let (hub, live) = (self.hub.clone(), Arc::clone(&self.live));
        self.hub.tasks().spawn(name, async move {
            let _ended_or_late = tokio::time::timeout(ANSWERED_WITHIN, live.finished()).await;
            hub.after_answer(name, act);
        });
    }

    pub(crate) fn as_caller(&self) -> &Caller {
        &self.caller
    }

    pub(crate) fn session(&self) -> Option<&Arc<Session>> {
        self.caller.session.as_ref()
    }

    /// Calls another operation as a child of this call, with the authority that this operation declares
    /// (`_meta.authority`, a list of scopes), not with its caller's.
    ///
    /// # Errors
    /// As the operation and the router give them.
    pub async fn call<O: Operation>(&self, params: &O) -> Result<O::Reply, CallError> {
        let input = Json::from_serialize(params)
            .map_err(|_| CallError::new(ErrorCode::ValidationError, "the parameters cannot be serialized"))?;
        decode(&self.call_raw(O::ID, input).await?)
    }

    /// As [`Ctx::call`], on JSON text; answers the response envelope.
    ///
    /// # Errors
    /// As the operation and the router give them.
    pub async fn call_raw(&self, operation_id: &str, input: Json) -> Result<Json, CallError> {
        let spec = self.live.definition.spec();
        let declared = spec.meta.as_ref().and_then(|m| m.get("authority")?.as_array());
        let scopes = declared.into_iter().flatten().filter_map(|s| s.as_str().map(str::to_owned)).collect();
        let identity = Identity { id: format!("hub/{}", self.live.definition.id()), scopes, ..Identity::default() };
        let caller = Caller { identity: Arc::new(identity), key: None, session: None, parent: None, rerun: None };
        self.nested(caller, CallRequested::new(CallId::new().to_string(), operation_id, input)).await
    }

    /// Calls as a child of this call in the name of `caller`.
    pub(crate) fn nested(&self, caller: Caller, request: CallRequested) -> BoxFuture<'static, Result<Json, CallError>> {
        let (hub, live) = (self.hub.clone(), Arc::clone(&self.live));
        // Boxed: a call may contain calls, so its future would contain itself.
        Box::pin(async move {
            let operation = request.operation_id.clone();
            match hub.call(caller.below(live), request, Leash::default()).await.result? {
                Answer::One(envelope) => Ok(envelope),
                Answer::Many(_) => Err(CallError::new(
                    ErrorCode::ValidationError,
                    format!("{operation} is a subscription: subscribe to it directly"),
                )),
            }
        })
    }
}
