use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use futures_util::stream::{BoxStream, StreamExt};
use hub_operations::{Definition, Entry, Pending, Reply, now_ms};
use hub_protocol::ops::calls::{CallEventKind, CallStatus};
use hub_protocol::{
    CallError, CallRequested, ErrorCode, Identity, Json, OnDisconnect, OperationType, ResponseEnvelope,
};
use semver::VersionReq;

use super::Caller;
use super::terms::Recording;
use crate::cluster::{fenced, to_serve};
use crate::ctx::Ctx;
use crate::directory::{Found, Lease, SpokeConnection};
use crate::hub::Hub;
use crate::live::LiveCall;

/// Times a call looks for providers when those that it knew took it no more.
const LOOKS: usize = 4;

/// The error of a call whose callee was lost: the spoke, or the way to the hub that it is connected to.
pub(super) fn disconnected(hub: bool) -> CallError {
    let text = match hub {
        true => "the hub that the spoke is connected to can't be reached",
        false => "the spoke's connection was lost during the call",
    };
    CallError::new(ErrorCode::SpokeDisconnected, text).with_retryable(hub)
}

/// A provider that a call was lost with, and what that call is told if there is no other.
pub(super) struct Lost {
    pub(super) spoke: Arc<SpokeConnection>,
    pub(super) error: CallError,
}

/// Where a call's responses come from.
pub(super) enum Source {
    /// Nothing was done yet.
    New,
    /// A handler is being chosen.
    Starting(BoxFuture<'static, Result<Source, CallError>>),
    /// A spoke; the lease gives its place back at the end.
    Spoke(Pending, Lease),
    /// An operation of the hub.
    Own(BoxStream<'static, Result<Json, CallError>>),
    /// Nothing more comes.
    Ended,
}

/// What is needed to hand a call to a spoke, and again to another.
#[derive(Clone)]
pub(super) struct ToSpoke {
    pub(super) hub: Hub,
    pub(super) live: Arc<LiveCall>,
    pub(super) found: Arc<Found>,
    pub(super) request: Arc<CallRequested>,
    pub(super) recording: Arc<Recording>,
    pub(super) on_disconnect: OnDisconnect,
    /// A spoke that may have begun or done this already, and remembers.
    pub(super) prefer: Option<Arc<str>>,
}

impl ToSpoke {
    /// Chooses a provider and gives it the call; `lost` has had it before.
    pub(super) fn start(self, lost: Option<Lost>) -> Source {
        Source::Starting(self.hand_over(lost).boxed())
    }

    async fn hand_over(mut self, lost: Option<Lost>) -> Result<Source, CallError> {
        let (lost, told) = lost.map(|lost| (lost.spoke, lost.error)).unzip();
        // A spoke whose hub was lost, not itself, may be back under the same connection.
        let mut not = lost.filter(|s| s.is_local() || !s.peer.gone().is_cancelled());
        let mut looks = 0;
        self.wait_for_preferred().await;
        loop {
            let lease = match self.lease(not.as_deref()).await {
                Ok(lease) => lease,
                Err(error) if error.is(ErrorCode::OperationUnavailable) => {
                    looks += 1;
                    let waits = self.hub.cluster().is_some();
                    if looks < LOOKS
                        && (self.look_again(not.as_deref())
                            || waits && self.comes_back().await && self.look_again(not.as_deref()))
                    {
                        continue;
                    }
                    return Err(told.unwrap_or(error));
                }
                Err(error) => return Err(error),
            };
            // Only now is it known how long the call has waited for a place.
            self.live.check_deadline()?;
            let spoke = Arc::clone(&lease.provider.spoke);
            if let (true, Some(cluster)) = (spoke.is_local(), self.hub.cluster())
                && !cluster.unfenced().await
            {
                return Err(fenced());
            }
            self.live.dispatched(Arc::clone(&spoke.name), spoke.connection, spoke.peer.clone());
            self.recording.running(&self.hub, &self.live).await;
            let one = self.found.definition.spec().kind != OperationType::Subscription;
            let request = match spoke.hub {
                None => self.wire_request(&lease),
                Some(_) => to_serve(&spoke.name, spoke.connection, one, self.wire_request(&lease)),
            };
            match spoke.peer.start(&request, one).await {
                Ok(pending) => {
                    self.live.sent();
                    return Ok(Source::Spoke(pending, lease));
                }
                // It was never sent, so every kind of call may go to another provider.
                Err(error) if error.is(ErrorCode::SpokeDisconnected) => {
                    self.live.not_dispatched();
                    not = Some(spoke);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// A spoke that is between two hubs is waited for: it knows what became of the call.
    async fn wait_for_preferred(&mut self) {
        let Some(name) = self.prefer.clone() else { return };
        let plain = self.request.operation_id.split('@').next().unwrap_or_default();
        if self.hub.cluster().is_some() {
            // Whatever this hub has seen of it: it may be younger than the loss of the spoke's last hub.
            self.hub.directory().expect(plain);
        }
        if self.hub.directory().comes_back(&format!("{plain}@{name}")).await {
            self.look_again(None);
        }
    }

    async fn comes_back(&self) -> bool {
        self.hub.directory().comes_back(&self.request.operation_id).await
    }

    /// Providers may have changed since the call was admitted: a spoke that a newer instance supersedes takes nothing
    /// more, and the newer one is not among those found then. Answers whether there is one to try.
    fn look_again(&mut self, not: Option<&SpokeConnection>) -> bool {
        let version = VersionReq::parse(&format!("={}", self.found.definition.version())).ok();
        let found = self.hub.directory().find(&self.request.operation_id, version.as_ref(), &self.live.caller);
        let Ok(found) = found else { return false };
        let fresh = found.providers.iter().any(|p| not.is_none_or(|n| n.connection != p.spoke.connection));
        if fresh {
            self.found = Arc::new(found);
        }
        fresh
    }

    async fn lease(&self, not: Option<&SpokeConnection>) -> Result<Lease, CallError> {
        let sticky = self.sticky_key();
        let preferred = self.prefer.as_deref().and_then(|name| self.found.only(name));
        if let Some(preferred) = preferred
            && let Ok(lease) = preferred.choose(None, not).await
        {
            return Ok(lease);
        }
        // A free provider is the usual case and needs no record of having waited.
        if let Some(lease) = self.found.choose(sticky.as_deref(), not).now_or_never() {
            return lease;
        }
        self.recording.pending(&self.hub, &self.live).await;
        self.found.choose(sticky.as_deref(), not).await
    }

    fn sticky_key(&self) -> Option<String> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Sticky {
            sticky_key: Option<String>,
        }
        self.request.metadata.as_ref()?.parse::<Sticky>().ok()?.sticky_key
    }

    /// The request as the callee gets it: under its local name, with the hub's id and the true caller.
    fn wire_request(&self, lease: &Lease) -> CallRequested {
        CallRequested {
            request_id: self.live.id.to_string(),
            operation_id: lease.provider.local.to_string(),
            input: self.request.input.clone(),
            parent_request_id: self.live.parent.map(|p| p.to_string()),
            deadline: self.live.deadline,
            idle_timeout: self.request.idle_timeout,
            identity: Some(Identity::clone(&self.live.caller)),
            metadata: self.request.metadata.clone(),
            idempotency_key: self.request.idempotency_key.clone(),
            // Only another hub looks at it.
            on_disconnect: lease.provider.spoke.hub.map(|_| self.on_disconnect),
            budget: self.live.budget,
            // Exact, so that a spoke with several versions knows which is meant.
            version: Some(self.found.definition.version().to_string()),
            traceparent: self.request.traceparent.clone(),
        }
    }
}

/// Starts an operation of the hub. Its start is in the record before anything that it calls.
pub(super) fn start_own(
    hub: &Hub,
    id: &str,
    live: &Arc<LiveCall>,
    caller: Caller,
    request: &CallRequested,
    recording: &Arc<Recording>,
) -> Source {
    let Some(entry) = hub.registry().get(id) else {
        let error = Definition::not_found(id);
        return Source::Starting(async move { Err(error) }.boxed());
    };
    live.runs_here();
    let name = live.definition.id().to_owned();
    let running = run_entry(entry, Ctx::new(hub.clone(), Arc::clone(live), caller), request.input.clone());
    let (hub, live, recording) = (hub.clone(), Arc::clone(live), Arc::clone(recording));
    Source::Starting(
        async move {
            recording.running(&hub, &live).await;
            let wrap = move |data: Json| ResponseEnvelope::local(&name, now_ms(), data).to_json();
            Ok(Source::Own(match running.await? {
                Reply::Value(data) => one(wrap(data)),
                Reply::Envelope(envelope) => one(envelope),
                Reply::Stream(items) => items.map(move |item| item.map(&wrap)).boxed(),
            }))
        }
        .boxed(),
    )
}

fn run_entry(entry: &Entry<Ctx>, ctx: Ctx, input: Json) -> BoxFuture<'static, Result<Reply, CallError>> {
    entry.run(ctx, input)
}

/// A source that answers once.
pub(super) fn one(envelope: Json) -> BoxStream<'static, Result<Json, CallError>> {
    futures_util::stream::once(async move { Ok(envelope) }).boxed()
}

impl Recording {
    /// Notes that the call waits for a provider.
    pub(super) async fn pending(&self, hub: &Hub, live: &LiveCall) {
        if self.claim_start() {
            self.write_start(hub, live, CallStatus::Pending).await;
        }
    }

    /// Notes that a provider has the call.
    pub(super) async fn running(&self, hub: &Hub, live: &LiveCall) {
        if self.claim_start() {
            self.write_start(hub, live, CallStatus::Running).await;
        } else if self.is_on() {
            let update = Box::new(live.update(CallStatus::Running, None));
            self.write(hub, crate::recorder::Change::Moved(update, None, None)).await;
        }
    }

    async fn write_start(&self, hub: &Hub, live: &LiveCall, status: CallStatus) {
        let row = Box::new(live.row(hub.id(), status));
        let event = live.event(CallEventKind::Requested, None, None);
        let change = crate::recorder::Change::Started(row, event);
        if live.idempotency_key.is_none() {
            return self.write(hub, change).await;
        }
        // Whoever finds the key without an outcome has to know which spoke may have done the work.
        if hub.recorder().committed(change).await.is_err() {
            tracing::warn!("a call's record was not written: the hub is closing");
        }
    }

    async fn write(&self, hub: &Hub, change: crate::recorder::Change) {
        if hub.recorder().write(change).await.is_err() {
            tracing::warn!("a call's record was not written: the hub is closing");
        }
    }
}
