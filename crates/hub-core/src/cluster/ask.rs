//! What this hub asks of the others.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt};
use hub_operations::{Answer, End, Incoming, Pending};
use hub_protocol::ops::calls::{AttachItem, Receipt};
use hub_protocol::{
    CallError, CallId, CallRequested, ConnectionId, ErrorCode, HubId, Json, OnDisconnect, OperationType,
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::link::Link;
use super::relay::{self, NOT_HERE, Relay};
use super::wire::Ask;
use super::{Cluster, Relayed};
use crate::abort::Abort;
use crate::hub::Hub;
use crate::key::Principal;

/// Time beyond an abort's grace that its receipts may be under way.
const UNDER_WAY: Duration = Duration::from_millis(500);

/// A call of a spoke that serves a call of another hub.
pub(crate) struct FromSpoke {
    pub(crate) parent: CallId,
    pub(crate) connection: ConnectionId,
    pub(crate) principal: Principal,
    /// What it asks for, as far as this hub knows the operation.
    pub(crate) kind: OperationType,
}

/// A call as the hub of its spoke gets it.
pub(crate) fn to_serve(spoke: &str, connection: ConnectionId, one: bool, request: CallRequested) -> CallRequested {
    let id = request.request_id.clone();
    let ask = Ask::Serve { spoke: spoke.to_owned(), connection, one, request: Box::new(request) };
    asking(id, &ask)
}

fn asking(id: String, ask: &Ask) -> CallRequested {
    CallRequested::new(id, "hub.ask", Json::from_serialize(ask).unwrap_or_default())
}

impl Cluster {
    /// The hub that has the parent of a call that comes on this connection.
    pub(crate) fn home_of(&self, parent: CallId, connection: ConnectionId) -> Option<HubId> {
        let relays = self.inner.relays.pin();
        relays.get(&parent).filter(|r: &&Relayed| r.connection == connection).map(|r| r.home)
    }

    /// Passes a spoke's call on to the hub that has its parent: there is the tree.
    pub(crate) async fn nested(
        &self,
        hub: &Hub,
        home: HubId,
        from: FromSpoke,
        incoming: Incoming,
    ) -> Result<Answer, CallError> {
        let one = from.kind != OperationType::Subscription;
        let usual = if from.kind == OperationType::Mutation { OnDisconnect::Finish } else { OnDisconnect::Abort };
        let on_disconnect = incoming.request.on_disconnect.unwrap_or(usual);
        let ask = Ask::Nested {
            connection: from.connection,
            parent: from.parent,
            identity: Box::new(from.principal.identity.as_ref().clone()),
            key: from.principal.key.as_deref().cloned().map(Box::new),
            request: Box::new(incoming.request),
        };
        let pending = self.start(home, &ask, one).await?;
        let relay = Relay {
            hub: hub.clone(),
            pending: Some(pending),
            abort: incoming.abort,
            gone: incoming.gone,
            stop: CancellationToken::new(),
            if_lost: relay::tree_lost,
            on_disconnect,
            holds: Box::new(()),
        };
        if one { relay.one().await } else { Ok(relay.many()) }
    }

    /// Aborts a call that runs on another hub.
    ///
    /// # Errors
    /// When that hub can't be reached.
    pub(crate) async fn abort(&self, home: HubId, call_id: CallId, plan: Abort) -> Result<Vec<Receipt>, CallError> {
        let grace_ms = u64::try_from(plan.grace.as_millis()).unwrap_or(u64::MAX);
        let ask = Ask::Abort { call_id, mode: plan.mode, reason: plan.reason, grace_ms };
        self.ask(home, &ask, plan.grace + UNDER_WAY).await
    }

    /// The stream of a call that runs on another hub.
    ///
    /// # Errors
    /// When that hub can't be reached.
    pub(crate) async fn attach(
        &self,
        home: HubId,
        call_id: CallId,
        after: u64,
    ) -> Result<BoxStream<'static, Result<AttachItem, CallError>>, CallError> {
        let pending = self.start(home, &Ask::Attach { call_id, after }, false).await?;
        let items = stream::unfold(Some(pending), move |pending| async move {
            let mut pending = pending?;
            match pending.next().await {
                Ok(item) => Some((item.parse().map_err(|_| unreadable()), Some(pending))),
                Err(End::Completed) => None,
                Err(end) => Some((Err(outward(home, end)), None)),
            }
        });
        Ok(items.boxed())
    }

    /// Lets a spoke of another hub take no new calls; answers how many it runs.
    ///
    /// # Errors
    /// When that hub can't be reached.
    pub(crate) async fn drain(&self, home: HubId, spoke: &str) -> Result<u64, CallError> {
        self.ask(home, &Ask::Drain { spoke: spoke.to_owned() }, Duration::from_secs(5)).await
    }

    /// Waits until the hub that had a spoke's name serves it no more: it says so, or its lease has run out.
    pub(crate) async fn release(&self, home: HubId, spoke: &str, connection: ConnectionId, lease: Duration) {
        let ask = Ask::Release { spoke: spoke.to_owned(), connection };
        let until = tokio::time::Instant::now() + lease;
        if self.ask::<()>(home, &ask, lease).await.is_err() {
            tracing::info!(hub.peer = %home, spoke.name = spoke, "waiting for the lease of a spoke's last hub to run out");
            tokio::time::sleep_until(until).await;
        }
    }

    async fn ask<T: serde::de::DeserializeOwned>(
        &self,
        home: HubId,
        ask: &Ask,
        patience: Duration,
    ) -> Result<T, CallError> {
        let asked = async {
            let answer = self.start(home, ask, true).await?.next().await.map_err(|end| outward(home, end))?;
            answer.parse().map_err(|_| unreadable())
        };
        tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| Err(unreachable(home)))
    }

    async fn start(&self, home: HubId, ask: &Ask, one: bool) -> Result<Pending, CallError> {
        let link: Arc<Link> = self.link(home).ok_or_else(|| unreachable(home))?;
        link.peer.start(&asking(Uuid::new_v4().to_string(), ask), one).await
    }
}

/// What may leave the cluster of how a question to another hub has ended.
fn outward(home: HubId, end: End) -> CallError {
    match end {
        End::Lost => unreachable(home),
        End::Failed(error) if error.code == NOT_HERE => unreachable(home),
        end => Pending::error_of(end),
    }
}

fn unreadable() -> CallError {
    CallError::new(ErrorCode::ExecutionError, "another hub's answer is not readable")
}

fn unreachable(home: HubId) -> CallError {
    CallError::new(ErrorCode::SpokeDisconnected, "the hub that has the call can't be reached")
        .with_retryable(true)
        .with_details(&serde_json::json!({ "hubId": home }))
}
