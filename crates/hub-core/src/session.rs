//! One connection of a peer, without its socket.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt};
use hub_operations::{Answer, Close, Incoming, Outbox, Peer, PeerConfig, Responder};
use hub_protocol::{
    CallError, CallId, CallRequested, ConnectionId, Envelope, ErrorCode, Event, Fault, FaultCode, HubId, Identity,
    Json, OperationType, Violation, close,
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::CoreError;
use crate::cluster::{Cluster, FromSpoke};
use crate::directory::SpokeConnection;
use crate::hub::Hub;
use crate::key::{KeyEnd, Principal};
use crate::log::LogItem;
use crate::router::{Caller, Leash};
use crate::topics;

/// Longest request id, in bytes. It is recorded with each call and sent back with each response.
const MAX_REQUEST_ID: usize = 256;

/// Topics that one connection may follow by `__subscribe`.
const MAX_TOPICS: usize = 256;

/// Pause before the topics of a connection are read on after the store has failed.
const AGAIN: Duration = Duration::from_secs(1);

/// Scope of peers whose claim of who calls is believed.
const IMPERSONATE: &str = "hub:impersonate";

/// A connected peer. The owner of the socket feeds it messages and writes what its outbox yields.
pub struct Session {
    id: ConnectionId,
    principal: Principal,
    hub: Hub,
    peer: OnceLock<Peer>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    spoke: Option<Arc<SpokeConnection>>,
    /// Followed by `__subscribe`.
    topics: HashSet<String>,
    /// Stops the task that forwards them.
    forward: Option<DropGuard>,
    ended: bool,
}

impl Session {
    /// Opens a session over an outbox that the caller writes from.
    #[must_use]
    pub(crate) fn open(hub: &Hub, principal: Principal, outbox: Outbox, config: PeerConfig) -> Arc<Self> {
        let session = Arc::new(Self {
            id: ConnectionId::new(),
            principal,
            hub: hub.clone(),
            peer: OnceLock::new(),
            state: Mutex::default(),
        });
        let responder = Arc::new(ForSession(Arc::downgrade(&session)));
        let peer = Peer::new(config, outbox, responder, hub.tasks().serving.clone());
        session.peer.get_or_init(|| peer);
        session
    }

    /// This connection.
    #[must_use]
    pub fn id(&self) -> ConnectionId {
        self.id
    }

    /// Who is connected.
    #[must_use]
    pub fn principal(&self) -> &Principal {
        &self.principal
    }

    /// Takes one message. Never waits.
    ///
    /// # Errors
    /// A [`Fault`] when it can't be read; the session goes on.
    pub fn receive(&self, frame: &Bytes) -> Result<(), Fault> {
        self.peer().map_or(Ok(()), |peer| peer.receive(frame))
    }

    /// Sends an event that belongs to no call.
    pub fn push(&self, event: &Event) {
        if let Some(peer) = self.peer() {
            peer.push(event);
        }
    }

    /// Sends a message as it is.
    pub fn push_frame(&self, frame: Bytes) {
        if let Some(peer) = self.peer() {
            peer.outbox().push(frame);
        }
    }

    /// Waits until the key in use has ended; answers how the connection is to be closed then.
    pub async fn key_over(&self) -> Close {
        close_of(self.principal.over().await)
    }

    /// Asks for the connection to be closed.
    pub fn close(&self, code: u16, reason: impl Into<String>, flush: bool) {
        if let Some(peer) = self.peer() {
            peer.outbox().close(Close { code, reason: reason.into(), flush });
        }
    }

    /// Whether nothing runs for the peer or on it.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.peer().is_none_or(|p| p.serving() == 0) && self.spoke().is_none_or(|s| s.in_flight() == 0)
    }

    /// The connection is lost: what it waited for and what ran on it ends.
    pub async fn end(&self) {
        let spoke = {
            let mut state = self.lock();
            state.ended = true;
            state.topics.clear();
            state.forward = None;
            state.spoke.take()
        };
        if let Some(peer) = self.peer() {
            peer.close();
        }
        self.hub.sessions().remove(self.id);
        if let Some(spoke) = spoke {
            self.hub.spoke_lost(&spoke).await;
        }
    }

    pub(crate) fn peer(&self) -> Option<&Peer> {
        self.peer.get()
    }

    /// The spoke that this connection has registered.
    pub(crate) fn spoke(&self) -> Option<Arc<SpokeConnection>> {
        self.lock().spoke.clone()
    }

    /// Notes the registration; false when the connection is lost already.
    pub(crate) fn set_spoke(&self, spoke: Arc<SpokeConnection>) -> bool {
        let mut state = self.lock();
        if state.ended {
            return false;
        }
        state.spoke = Some(spoke);
        true
    }

    /// Whether the connection is lost.
    pub(crate) fn is_ended(&self) -> bool {
        self.lock().ended
    }

    /// Whether a call may still be made while the hub drains: on behalf of one that runs, or a spoke's own affairs.
    fn may_finish(&self, request: &CallRequested) -> bool {
        let affair = ["hub.drain", "hub.heartbeat", "hub.unregister"].contains(&request.operation_id.as_str());
        request.parent_request_id.is_some() || affair && self.spoke().is_some()
    }

    /// The hub whose call this connection serves, if the request is made on behalf of such a call.
    fn serves_for(&self, request: &CallRequested) -> Option<(Cluster, HubId, FromSpoke)> {
        let cluster = self.hub.cluster()?;
        let parent = request.parent_request_id.as_ref()?.parse::<CallId>().ok()?;
        let home = cluster.home_of(parent, self.id)?;
        let mut principal = self.principal.clone();
        let believed = principal.identity.has_scope(IMPERSONATE);
        if let (Some(claimed), true) = (&request.identity, believed) {
            principal.identity = Arc::new(self.impersonated(claimed));
        }
        // An operation that is not known here is refused there, with one answer.
        let kind = self.hub.kind_of(&principal, &request.operation_id).unwrap_or(OperationType::Query);
        Some((cluster.clone(), home, FromSpoke { parent, connection: self.id, principal, kind }))
    }

    /// Who makes this request: the peer, on behalf of the call it names if that runs here.
    fn caller_of(self: &Arc<Self>, request: &CallRequested) -> Result<Caller, CallError> {
        let mut caller = Caller::new(&self.principal);
        caller.session = Some(Arc::clone(self));
        let believed = self.principal.identity.has_scope(IMPERSONATE);
        if let (Some(claimed), true) = (&request.identity, believed) {
            caller.identity = Arc::new(self.impersonated(claimed));
        }
        if let Some(parent) = &request.parent_request_id {
            let parent = parent.parse::<CallId>().ok().and_then(|id| self.hub.calls().get(id));
            let parent = parent.filter(|live| live.runs_on(self.id)).ok_or_else(|| {
                CallError::new(ErrorCode::AccessDenied, "parentRequestId names no call that runs on this connection")
            })?;
            caller.parent = Some(parent);
        }
        Ok(caller)
    }

    /// A claimed identity never gets more than the key has itself.
    fn impersonated(&self, claimed: &Identity) -> Identity {
        let own = &self.principal.identity;
        let scopes = claimed.scopes.iter().filter(|s| own.has_scope(s)).cloned().collect();
        let resources = if own.has_scope("*") { claimed.resources.clone() } else { own.resources.clone() };
        Identity { id: claimed.id.clone(), scopes, resources, chain: Vec::new() }
    }

    fn subscribe(self: &Arc<Self>, topic: String) -> Result<(), CallError> {
        // A TypeScript peer asks for the call events that every connection gets anyway, its own only.
        if topic.starts_with("call.") && topic.ends_with(':') {
            return Ok(());
        }
        if !topics::may_read(&self.principal.identity, &topic) {
            return Err(CallError::new(ErrorCode::AccessDenied, "you may not read this topic"));
        }
        let mut state = self.lock();
        if state.ended || state.topics.contains(&topic) {
            return Ok(());
        }
        if state.topics.len() >= MAX_TOPICS || topic.len() > 200 {
            return Err(CallError::new(
                ErrorCode::Overloaded,
                format!("a connection follows at most {MAX_TOPICS} topics"),
            ));
        }
        state.topics.insert(topic);
        if state.forward.is_some() {
            return Ok(());
        }
        // One reader of the log for all topics of a connection: each more would look at every event again.
        let stop = CancellationToken::new();
        state.forward = Some(stop.clone().drop_guard());
        drop(state);
        let session = Arc::downgrade(self);
        let hub = self.hub.clone();
        self.hub.tasks().spawn("topics", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = forward(hub, session) => {}
            }
        });
        Ok(())
    }

    fn unsubscribe(&self, topic: &str) {
        let mut state = self.lock();
        state.topics.remove(topic);
        if state.topics.is_empty() {
            state.forward = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the events of a connection's topics as they come: live hints. While the store is away they wait.
async fn forward(hub: Hub, session: Weak<Session>) {
    let mut position = None;
    while forward_from(&hub, &session, &mut position).await.is_err() {
        tokio::time::sleep(AGAIN).await;
    }
}

/// Ends with the session, or with what the store met.
async fn forward_from(hub: &Hub, session: &Weak<Session>, position: &mut Option<u64>) -> Result<(), CoreError> {
    if position.is_none() {
        *position = Some(hub.log().last().await?);
    }
    let mut items = std::pin::pin!(hub.log().read(*position, None).await?);
    while let Some(item) = items.next().await {
        let LogItem::Event(row) = item? else { continue };
        *position = Some(row.seq);
        let Some(session) = session.upgrade() else { return Ok(()) };
        if !session.lock().topics.contains(&row.topic) {
            continue;
        }
        let (kind, id) = row.topic.split_once(':').unwrap_or((&row.topic, ""));
        let (kind, id) = (kind.to_owned(), id.to_owned());
        let payload =
            serde_json::json!({ "seq": row.seq, "type": row.kind, "at": row.at.millis(), "payload": row.payload });
        session.push(&Event::Topic(Envelope { kind, id, payload: Json::from(payload) }));
    }
    Ok(())
}

fn close_of(end: KeyEnd) -> Close {
    Close { code: close::KEY_REVOKED, reason: format!("key {}", end.as_str()), flush: false }
}

fn check_request_id(id: &str) -> Result<(), CallError> {
    if id.len() <= MAX_REQUEST_ID {
        return Ok(());
    }
    let message = format!("a request id has at most {MAX_REQUEST_ID} bytes");
    let violation = Violation { path: "/requestId".to_owned(), message: message.clone() };
    Err(CallError::new(ErrorCode::ValidationError, message).with_details(&[violation]))
}

/// The session as the peer engine sees it; weak, since the session owns the peer.
struct ForSession(Weak<Session>);

impl Responder for ForSession {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let Some(session) = self.0.upgrade() else {
            return async { Err(CallError::new(ErrorCode::Aborted, "the connection is closed")) }.boxed();
        };
        async move {
            if let Some(end) = session.principal.key.as_ref().and_then(|key| key.end()) {
                let Close { code, reason, flush } = close_of(end);
                session.close(code, reason, flush);
                return Err(end.error());
            }
            if session.hub.is_draining() && !session.may_finish(&incoming.request) {
                return Err(CallError::new(ErrorCode::Overloaded, "the hub is draining"));
            }
            check_request_id(&incoming.request.request_id)?;
            if let Some((cluster, home, from)) = session.serves_for(&incoming.request) {
                return cluster.nested(&session.hub, home, from, incoming).await;
            }
            let caller = session.caller_of(&incoming.request)?;
            let leash = Leash { abort: incoming.abort, gone: incoming.gone };
            session.hub.call(caller, incoming.request, leash).await.result
        }
        .boxed()
    }

    fn other(&self, event: Event) -> Result<(), Fault> {
        let Some(session) = self.0.upgrade() else { return Ok(()) };
        match event {
            Event::Subscribe(topic) => {
                session.subscribe(topic).map_err(|e| Fault { code: FaultCode::BadPayload, message: e.message })
            }
            Event::Unsubscribe(topic) => {
                session.unsubscribe(&topic);
                Ok(())
            }
            // Published by a peer on its own: the hub passes nothing on that was not registered.
            Event::Topic(message) => {
                let shown: String = message.kind.chars().take(40).collect();
                Err(Fault { code: FaultCode::UnknownType, message: format!("unknown type {shown:?}") })
            }
            // A fault that the peer tells of is for people; to answer it would have no end.
            _ => Ok(()),
        }
    }
}
