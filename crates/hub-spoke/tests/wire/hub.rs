//! A hub as a spoke sees it: accepts WebSockets on loopback and answers with a closure.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, SinkExt, StreamExt};
use hub_operations::{Answer, Close, Incoming, Outbox, OutboxReader, Peer, PeerConfig, Pending, Responder};
use hub_protocol::ops::hub::{DrainingSpoke, HeartbeatSeen, RegisterSpoke, RegisteredOperation, RegisteredSpoke};
use hub_protocol::{
    CallError, CallRequested, ConnectionId, Event, Fault, HubId, Identity, Json, ResponseEnvelope, SpokeId,
};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) const KEY: &str = "hk_very_secret_key";

pub(crate) type Handler = Arc<dyn Fn(Incoming, usize) -> BoxFuture<'static, Result<Answer, CallError>> + Send + Sync>;

pub(crate) struct FakeHub {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

struct Shared {
    handler: Handler,
    /// HTTP status to refuse upgrades with; 0 accepts.
    refuse: AtomicU16,
    register_error: Mutex<Option<CallError>>,
    seen: Mutex<Vec<CallRequested>>,
    upgrades: Mutex<Vec<(String, String)>>,
    connections: watch::Sender<Vec<Connection>>,
    registrations: watch::Sender<Vec<RegisterSpoke>>,
}

#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) peer: Peer,
    kill: CancellationToken,
    raw: Arc<Mutex<Vec<Message>>>,
}

impl Connection {
    /// Drops the socket without a word.
    pub(crate) fn kill(&self) {
        self.kill.cancel();
    }

    pub(crate) fn close(&self, code: u16, reason: &str) {
        self.peer.outbox().close(Close { code, reason: reason.to_owned(), flush: true });
    }

    /// Sends frames as they are, with the next message.
    pub(crate) fn send_raw(&self, messages: Vec<Message>) {
        self.raw.lock().unwrap().extend(messages);
        self.peer.push(&Event::Unsubscribe("x:y".into()));
    }

    /// Calls the spoke as a hub does.
    pub(crate) async fn start(&self, request: CallRequested, one: bool) -> Pending {
        let identity = request.identity.clone().or_else(|| Some(Identity { id: "ann".into(), ..Identity::default() }));
        self.peer.start(&CallRequested { identity, ..request }, one).await.unwrap()
    }

    /// Calls the spoke; answers the data.
    pub(crate) async fn call(&self, operation: &str, input: Json) -> Result<Json, CallError> {
        self.request(CallRequested::new(uuid::Uuid::new_v4().to_string(), operation, input)).await
    }

    pub(crate) async fn request(&self, request: CallRequested) -> Result<Json, CallError> {
        let mut pending = self.start(request, true).await;
        let envelope = pending.next().await.map_err(Pending::error_of)?;
        Ok(ResponseEnvelope::data_of(&envelope).unwrap())
    }
}

impl FakeHub {
    pub(crate) async fn start<F>(handler: impl Fn(Incoming, usize) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Answer, CallError>> + Send + 'static,
    {
        let handler: Handler = Arc::new(move |incoming, n| handler(incoming, n).boxed());
        let shared = Arc::new(Shared {
            handler,
            refuse: AtomicU16::new(0),
            register_error: Mutex::default(),
            seen: Mutex::default(),
            upgrades: Mutex::default(),
            connections: watch::Sender::new(Vec::new()),
            registrations: watch::Sender::new(Vec::new()),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(accept(listener, Arc::clone(&shared), tasks.clone(), stop.clone()));
        Self { address, shared, tasks, stop }
    }

    /// A hub that answers each call with its own input.
    pub(crate) async fn echo() -> Self {
        Self::start(|incoming, _| async move { Ok(one(&incoming.request.input)) }).await
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn refuse_upgrades(&self, status: u16) {
        self.shared.refuse.store(status, Ordering::SeqCst);
    }

    pub(crate) fn refuse_registration(&self, error: Option<CallError>) {
        *self.shared.register_error.lock().unwrap() = error;
    }

    /// Calls that have come in for the operation.
    pub(crate) fn seen(&self, operation: &str) -> Vec<CallRequested> {
        self.shared.seen.lock().unwrap().iter().filter(|r| r.operation_id == operation).cloned().collect()
    }

    /// Path and `Authorization` of each upgrade.
    pub(crate) fn upgrades(&self) -> Vec<(String, String)> {
        self.shared.upgrades.lock().unwrap().clone()
    }

    /// The connection with this number, from 0, once it is there.
    pub(crate) async fn connection(&self, number: usize) -> Connection {
        let mut connections = self.shared.connections.subscribe();
        soon(connections.wait_for(|all| all.len() > number)).await.unwrap()[number].clone()
    }

    pub(crate) async fn registration(&self, number: usize) -> RegisterSpoke {
        let mut registrations = self.shared.registrations.subscribe();
        soon(registrations.wait_for(|all| all.len() > number)).await.unwrap()[number].clone()
    }

    /// Waits until `check` holds.
    pub(crate) async fn until(&self, check: impl Fn(&Self) -> bool) {
        soon(async {
            while !check(self) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }
}

impl Drop for FakeHub {
    fn drop(&mut self) {
        self.stop.cancel();
        self.tasks.close();
    }
}

/// Fails a test that would hang.
pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("took longer than 20 s")
}

pub(crate) fn envelope(value: &impl Serialize) -> Json {
    ResponseEnvelope::local("fake", 1, Json::from_serialize(value).unwrap()).to_json()
}

pub(crate) fn one(value: &impl Serialize) -> Answer {
    Answer::One(envelope(value))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => accepted.unwrap().0,
            () = stop.cancelled() => return,
        };
        tasks.spawn(serve(stream, Arc::clone(&shared), tasks.clone(), stop.clone()));
    }
}

async fn serve(stream: TcpStream, shared: Arc<Shared>, tasks: TaskTracker, stop: CancellationToken) {
    stream.set_nodelay(true).unwrap();
    let for_upgrade = Arc::clone(&shared);
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let upgrade = move |request: &Request, response: Response| upgrade(&for_upgrade, request, response);
    let Ok(socket) = tokio_tungstenite::accept_hdr_async(stream, upgrade).await else { return };
    let (outbox, queue) = Outbox::new(1024 * 1024);
    let number = shared.connections.borrow().len();
    let responder = Arc::new(Hub { shared: Arc::clone(&shared), number });
    let peer = Peer::new(PeerConfig::default(), outbox, responder, tasks);
    let connection = Connection { peer: peer.clone(), kill: CancellationToken::new(), raw: Arc::default() };
    shared.connections.send_modify(|all| all.push(connection.clone()));
    tokio::select! {
        () = drive(socket, &peer, queue, &connection.raw) => {}
        () = connection.kill.cancelled() => {}
        () = stop.cancelled() => {}
    }
    peer.close();
}

#[expect(clippy::result_large_err, reason = "tungstenite's signature")]
fn upgrade(shared: &Shared, request: &Request, mut response: Response) -> Result<Response, ErrorResponse> {
    let header = |name: &str| request.headers().get(name).map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default();
    shared.upgrades.lock().unwrap().push((request.uri().path().to_owned(), header("authorization")));
    assert_eq!(header("sec-websocket-protocol"), "hub.v1");
    let refuse = shared.refuse.load(Ordering::SeqCst);
    if refuse != 0 {
        let mut refusal = ErrorResponse::new(None);
        *refusal.status_mut() = refuse.try_into().unwrap();
        return Err(refusal);
    }
    response.headers_mut().insert("sec-websocket-protocol", "hub.v1".parse().unwrap());
    Ok(response)
}

async fn drive(socket: WebSocketStream<TcpStream>, peer: &Peer, mut queue: OutboxReader, raw: &Mutex<Vec<Message>>) {
    let (mut sink, mut stream) = socket.split();
    let reading = async {
        while let Some(Ok(message)) = stream.next().await {
            if let Message::Text(text) = message {
                peer.receive(&Bytes::from(text)).unwrap();
            }
        }
    };
    let writing = async {
        let mut batch = Vec::new();
        loop {
            if let Some(close) = queue.next_batch(&mut batch, 64 * 1024).await {
                let frame = CloseFrame { code: close.code.into(), reason: close.reason.into() };
                let _gone = sink.send(Message::Close(Some(frame))).await;
                return;
            }
            let extra = std::mem::take(&mut *raw.lock().unwrap());
            let queued = batch.drain(..).map(|frame| Message::Text(frame.try_into().unwrap()));
            for message in extra.into_iter().chain(queued) {
                if sink.feed(message).await.is_err() {
                    return;
                }
            }
            if sink.flush().await.is_err() {
                return;
            }
        }
    };
    tokio::pin!(reading);
    tokio::select! {
        () = &mut reading => {}
        () = writing => reading.await,
    }
}

struct Hub {
    shared: Arc<Shared>,
    number: usize,
}

impl Responder for Hub {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let request = incoming.request.clone();
        self.shared.seen.lock().unwrap().push(request.clone());
        let shared = Arc::clone(&self.shared);
        match request.operation_id.as_str() {
            "hub.register" => async move { register(&shared, &request.input) }.boxed(),
            "hub.heartbeat" => async { Ok(one(&HeartbeatSeen { at: 1 })) }.boxed(),
            "hub.drain" => async { Ok(one(&DrainingSpoke { in_flight: 0 })) }.boxed(),
            _ => (shared.handler)(incoming, self.number),
        }
    }

    fn other(&self, _event: Event) -> Result<(), Fault> {
        Ok(())
    }
}

fn register(shared: &Shared, input: &Json) -> Result<Answer, CallError> {
    let registration: RegisterSpoke = input.parse().unwrap();
    if let Some(error) = shared.register_error.lock().unwrap().clone() {
        return Err(error);
    }
    let local = |spec: &hub_protocol::OperationSpec| spec.id();
    let operations = registration.operations.iter().map(local);
    let operations = operations.map(|local| RegisteredOperation { id: format!("dev.x.{local}"), local }).collect();
    shared.registrations.send_modify(|all| all.push(registration));
    Ok(one(&RegisteredSpoke {
        spoke_id: SpokeId::new(),
        connection_id: ConnectionId::new(),
        hub_id: HubId::new(),
        heartbeat_ms: 100,
        operations,
        superseded: false,
    }))
}
