//! What this hub does for the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt as _, StreamExt as _};
use hub_operations::{Answer, Close, Incoming, Responder};
use hub_protocol::{
    CallError, CallId, CallRequested, ConnectionId, ErrorCode, Event, Fault, HubId, Json, OnDisconnect, close,
};
use hub_storage::Stamp;
use tokio_util::sync::CancellationToken;

use super::relay::{self, Relay, not_here};
use super::wire::Ask;
use super::{Cluster, Relayed, fenced};
use crate::abort::{self, Abort};
use crate::directory::{Lease, SpokeConnection};
use crate::hub::{Hub, WeakHub};
use crate::router::{Caller, Leash};
use crate::{CoreError, ops};

/// Serves one link.
pub(super) struct ForLink {
    hub: WeakHub,
    other: HubId,
}

impl ForLink {
    pub(super) fn new(hub: &Hub, other: HubId) -> Self {
        Self { hub: hub.downgrade(), other }
    }
}

impl Responder for ForLink {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let (hub, other) = (self.hub.upgrade(), self.other);
        async move {
            let hub = hub.ok_or_else(not_here)?;
            let cluster = hub.cluster().cloned().ok_or_else(not_here)?;
            let ask = incoming.request.input.parse::<Ask>().map_err(|error| {
                tracing::error!(hub.peer = %other, %error, "another hub asks for something unknown");
                CallError::new(ErrorCode::ExecutionError, "the hub of the callee does not know this request")
            })?;
            cluster.answer(&hub, other, ask, incoming).await
        }
        .boxed()
    }

    fn other(&self, _event: Event) -> Result<(), Fault> {
        Ok(())
    }
}

/// Shows a call of another hub while it runs here.
struct Shown {
    cluster: Cluster,
    call: CallId,
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.cluster.inner.relays.pin().remove(&self.call);
    }
}

impl Cluster {
    async fn answer(&self, hub: &Hub, other: HubId, ask: Ask, incoming: Incoming) -> Result<Answer, CallError> {
        match ask {
            Ask::Serve { spoke, connection, one, request } => {
                let relay = self.serve(hub, other, (&spoke, connection), &request, one, incoming).await?;
                if one { relay.one().await } else { Ok(relay.many()) }
            }
            Ask::Nested { connection, parent, identity, key, request } => {
                let parent = hub.calls().get(parent).filter(|live| live.runs_on(connection)).ok_or_else(no_parent)?;
                let caller = Caller {
                    identity: identity.into(),
                    key: key.map(Arc::from),
                    session: None,
                    parent: Some(parent),
                    rerun: None,
                };
                let leash = Leash { abort: incoming.abort, gone: incoming.gone };
                hub.call(caller, *request, leash).await.result
            }
            Ask::Abort { call_id, mode, reason, grace_ms } => {
                let plan = Abort { mode, reason, grace: Duration::from_millis(grace_ms) };
                reply(&abort::tree(hub.calls(), call_id, plan).await)
            }
            Ask::Attach { call_id, after } => {
                let items = ops::held_items(hub, call_id, after)?;
                let items = items.map(|item| item.and_then(|item| to_json(&item)));
                Ok(Answer::Many(items.boxed().into()))
            }
            Ask::Drain { spoke } => {
                let spoke = hub.directory().spoke(&spoke).filter(|s| s.is_local()).ok_or_else(not_here)?;
                spoke.set_draining(true);
                let spokes = hub.store().spokes();
                spokes.heartbeat(spoke.id, None, None, Some(true), Stamp::now()).await.map_err(CoreError::from)?;
                self.spoke_changed(&spoke.name, false).await;
                reply(&spoke.in_flight())
            }
            Ask::Release { spoke, connection } => {
                self.release_here(hub, &spoke, connection);
                reply(&())
            }
        }
    }

    /// Gives another hub's call to the spoke.
    async fn serve(
        &self,
        hub: &Hub,
        home: HubId,
        (spoke, connection): (&str, ConnectionId),
        request: &CallRequested,
        one: bool,
        incoming: Incoming,
    ) -> Result<Relay, CallError> {
        let spoke = hub.directory().spoke(spoke).filter(|s| s.connection == connection && s.is_local());
        let spoke = spoke.ok_or_else(not_here)?;
        let call = request.request_id.parse().map_err(|_| not_here())?;
        let lease = tokio::select! {
            lease = self.place_on(hub, &spoke) => lease?,
            () = incoming.abort.fired() => return Err(CallError::new(ErrorCode::Aborted, "the call was aborted")),
            () = incoming.gone.cancelled() => return Err(not_here()),
        };
        // Before it is sent: the spoke may call on at once.
        let stop = CancellationToken::new();
        let of_stream = (!one).then(|| stop.clone());
        self.inner.relays.pin().insert(call, Relayed { connection, home, stop: of_stream });
        let shown = Shown { cluster: self.clone(), call };
        let pending = spoke
            .peer
            .start(request, one)
            .await
            .map_err(|error| if error.is(ErrorCode::SpokeDisconnected) { not_here() } else { error })?;
        Ok(Relay {
            hub: hub.clone(),
            pending: Some(pending),
            abort: incoming.abort,
            gone: incoming.gone,
            stop,
            if_lost: relay::spoke_lost,
            on_disconnect: request.on_disconnect.unwrap_or(OnDisconnect::Abort),
            holds: Box::new((lease, shown)),
        })
    }

    /// A place for another hub's call, once this hub may use its spokes.
    async fn place_on(&self, hub: &Hub, spoke: &Arc<SpokeConnection>) -> Result<Lease, CallError> {
        let refused = |e: CallError| if e.is(ErrorCode::Overloaded) { e } else { not_here() };
        let lease = hub.directory().lease(spoke).await.map_err(refused)?;
        tokio::select! {
            unfenced = self.unfenced() => if unfenced { Ok(lease) } else { Err(fenced()) },
            // Another hub may have it by now.
            () = spoke.peer.gone().cancelled() => Err(not_here()),
        }
    }

    /// Closes a connection whose name another hub has; nothing is given to it from here on.
    pub(super) fn release_here(&self, hub: &Hub, name: &str, connection: ConnectionId) {
        let Some(spoke) = hub.directory().spoke(name).filter(|s| s.connection == connection && s.is_local()) else {
            return;
        };
        hub.directory().disconnect(&spoke);
        let reason = "superseded by a newer instance".to_owned();
        spoke.peer.outbox().close(Close { code: close::SUPERSEDED, reason, flush: true });
    }
}

fn no_parent() -> CallError {
    CallError::new(ErrorCode::AccessDenied, "parentRequestId names no call that runs on this connection")
}

fn reply<T: serde::Serialize>(value: &T) -> Result<Answer, CallError> {
    to_json(value).map(Answer::One)
}

fn to_json<T: serde::Serialize>(value: &T) -> Result<Json, CallError> {
    Json::from_serialize(value).map_err(|_| CallError::new(ErrorCode::ExecutionError, "not serializable"))
}
