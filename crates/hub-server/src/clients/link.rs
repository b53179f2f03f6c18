//! A spoke in this process.

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use hub_adapters::openapi::CallLimits;
use hub_core::{Hub, Principal, Session, import_spoke, importer};
use hub_operations::{
    Answer, Close, Definition, Incoming, Items, Offering, Outbox, OutboxReader, Peer, PeerConfig, Registry, Reply,
    Responder, Scrubber, now_ms,
};
use hub_protocol::ops::hub::{Exposure, RegisterSpoke};
use hub_protocol::{CallError, ErrorCode, Event, Fault, Identity, Json, ResponseEnvelope, close};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// Bytes that may wait on either way.
const QUEUE: usize = 1024 * 1024;

/// Bytes that are carried at once.
const BATCH: usize = 64 * 1024;

/// Most calls of one client at a time; more wait at the hub.
const IN_FLIGHT: u32 = 64;

/// How long calls may take to be told that they have ended.
const TELLING: Duration = Duration::from_secs(1);

/// How often is looked whether calls run.
const IDLE_LOOK: Duration = Duration::from_millis(100);

/// Both ends; dropping it loses the connection.
pub(super) struct Link {
    session: Arc<Session>,
    hub: Hub,
    lost: CancellationToken,
    peer: Peer,
    tasks: TaskTracker,
    serve: Arc<Serve>,
}

impl Link {
    /// Connects and registers what the registry has, under its own ids.
    pub(super) async fn open(
        hub: &Hub,
        client: &str,
        registry: Registry<CallLimits>,
        scrubber: Arc<Scrubber>,
    ) -> Result<Self, CallError> {
        let principal = Principal {
            identity: Arc::new(Identity {
                id: importer(client),
                scopes: vec!["spoke".to_owned()],
                ..Identity::default()
            }),
            key: None,
        };
        let now = RwLock::new(Now { scrubber, refusal: None });
        let serve = Arc::new(Serve {
            offering: Offering::new(registry),
            now,
            over: CancellationToken::new(),
            ending: OnceLock::new(),
        });
        let ((near_box, near_queue), (far_box, far_queue)) = (Outbox::new(QUEUE), Outbox::new(QUEUE));
        let session = hub.connect(principal, near_box);
        let tasks = TaskTracker::new();
        let peer = Peer::new(PeerConfig::default(), far_box, Arc::new(Responding(Arc::clone(&serve))), tasks.clone());
        let lost = CancellationToken::new();
        let (to_peer, to_session) = (peer.clone(), Arc::clone(&session));
        let (over, ended) = (lost.clone(), Arc::clone(&session));
        let gone = peer.clone();
        hub.spawn("client link", async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = carry(near_queue, move |frame| to_peer.receive(frame).is_ok()) => {}
                () = carry(far_queue, move |frame| to_session.receive(frame).is_ok()) => {}
            }
            over.cancel();
            gone.close();
            ended.end().await;
        });
        let link = Self { session, hub: hub.clone(), lost, peer, tasks, serve };
        link.serve.offering.register(&link.peer, &registration(client)).await?;
        Ok(link)
    }

    /// Offers these from now on; calls that run go on.
    pub(super) async fn offer(&self, registry: Registry<CallLimits>) -> Result<(), CallError> {
        self.serve.offering.change(|| Some(self.peer.clone()), registry).await.map(drop)
    }

    /// Offers what another connection has in the place of what is offered; calls that run go on.
    pub(super) async fn replace(
        &self,
        registry: Registry<CallLimits>,
        scrubber: Arc<Scrubber>,
    ) -> Result<(), CallError> {
        // Calls reach the new connection while the hub is told of it.
        let before = self.clean_with(|before| Arc::new(before.with(&scrubber)));
        let offered = self.offer(registry).await;
        match &offered {
            Ok(()) => *self.now() = Now { scrubber, refusal: None },
            Err(_) => drop(self.clean_with(|_| before)),
        }
        offered
    }

    /// Cleans what calls answer that begin from now on with another scrubber; returns the one before.
    fn clean_with(&self, other: impl FnOnce(&Scrubber) -> Arc<Scrubber>) -> Arc<Scrubber> {
        let mut now = self.now();
        let other = other(&now.scrubber);
        std::mem::replace(&mut now.scrubber, other)
    }

    fn now(&self) -> RwLockWriteGuard<'_, Now> {
        self.serve.now.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers calls with this from now on, until another connection is offered; those that run go on.
    pub(super) fn refuse(&self, error: CallError) {
        self.now().refusal = Some(error);
    }

    /// Waits until no call runs.
    pub(super) fn idle(&self) -> impl Future<Output = ()> + Send + 'static {
        let tasks = self.tasks.clone();
        async move {
            while !tasks.is_empty() {
                tokio::time::sleep(IDLE_LOOK).await;
            }
        }
    }

    /// Ends the connection, and calls that run with this.
    pub(super) async fn end(self, error: CallError) {
        let reason = error.message.chars().take(60).collect();
        let _first = self.serve.ending.set(error);
        self.serve.over.cancel();
        self.tasks.close();
        let told = async {
            self.tasks.wait().await;
            self.peer.outbox().close(Close { code: close::NORMAL, reason, flush: true });
            self.lost().await;
        };
        let _late = tokio::time::timeout(TELLING, told).await;
    }

    /// How many operations it offers.
    pub(super) fn operations(&self) -> i32 {
        i32::try_from(self.serve.offering.count()).unwrap_or(i32::MAX)
    }

    /// Waits until the connection is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.lost.cancel();
        // The carrying task may have been cut off already.
        let session = Arc::clone(&self.session);
        self.hub.spawn("client link end", async move { session.end().await });
    }
}

fn registration(client: &str) -> RegisterSpoke {
    RegisterSpoke {
        name: import_spoke(client),
        spoke_type: "import".to_owned(),
        operations: Vec::new(),
        instance_id: Uuid::new_v4(),
        started_at: now_ms(),
        host_info: None,
        project_id: None,
        version: Some(env!("CARGO_PKG_VERSION").to_owned()),
        // Under the client's own name, wherever in the cluster it is imported.
        exposure: Some(Exposure::Pooled),
        policy: None,
        max_in_flight: Some(IN_FLIGHT),
        labels: None,
    }
}

async fn carry(mut from: OutboxReader, to: impl Fn(&bytes::Bytes) -> bool) {
    let mut batch = Vec::new();
    while from.next_batch(&mut batch, BATCH).await.is_none() {
        for frame in batch.drain(..) {
            if !to(&frame) {
                tracing::error!("a message between the hub and a client of its own was not understood");
            }
        }
        tokio::task::yield_now().await;
    }
}

/// Executes what the hub asks for.
struct Serve {
    offering: Offering<CallLimits>,
    now: RwLock<Now>,
    /// Cancelled when all that runs ends with `ending`.
    over: CancellationToken,
    ending: OnceLock<CallError>,
}

/// What is so for calls that begin.
struct Now {
    /// Some upstreams say back what they were sent, and the hub records what they say.
    scrubber: Arc<Scrubber>,
    refusal: Option<CallError>,
}

impl Serve {
    fn ending(&self) -> CallError {
        self.ending.get().cloned().unwrap_or_else(|| CallError::new(ErrorCode::SpokeDisconnected, "the client is gone"))
    }

    /// What cleans what a call answers, unless there are to be none.
    fn begin(&self) -> Result<Arc<Scrubber>, CallError> {
        let now = self.now.read().unwrap_or_else(PoisonError::into_inner);
        now.refusal.clone().map_or_else(|| Ok(Arc::clone(&now.scrubber)), Err)
    }

    /// Items until all ends, and then why.
    fn until_over(
        self: Arc<Self>,
        items: impl Stream<Item = Result<Json, CallError>> + Send + 'static,
    ) -> impl Stream<Item = Result<Json, CallError>> + Send + 'static {
        let over = self.over.clone();
        let items = items.take_until(over.cancelled_owned());
        let last = stream::once(async move { self.ending.get().cloned().map(Err) });
        items.chain(last.filter_map(std::future::ready))
    }
}

struct Responding(Arc<Serve>);

impl Responder for Responding {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let (serve, request) = (Arc::clone(&self.0), incoming.request);
        let id = request.operation_id;
        let (entry, scrubber) = match (serve.offering.get(&id), serve.begin()) {
            (Some(entry), Ok(scrubber)) => (entry, scrubber),
            (None, _) => return std::future::ready(Err(Definition::not_found(&id))).boxed(),
            (_, Err(refusal)) => return std::future::ready(Err(refusal)).boxed(),
        };
        let limits = CallLimits {
            deadline_ms: request.deadline,
            idempotency_key: request.idempotency_key,
            traceparent: request.traceparent,
        };
        let (streams, work) = (entry.is_subscription(), entry.run(limits, request.input));
        let abort = incoming.abort;
        async move {
            let reply = tokio::select! {
                () = abort.fired() => return Err(CallError::new(ErrorCode::Aborted, "the call was aborted")),
                () = serve.over.cancelled() => return Err(serve.ending()),
                reply = work => reply,
            };
            let reply = match reply {
                Ok(Reply::Envelope(envelope)) => Reply::Envelope(scrubber.json(envelope).await),
                Ok(Reply::Value(data)) => Reply::Value(scrubber.json(data).await),
                Ok(stream @ Reply::Stream(_)) => stream,
                Err(error) => return Err(scrubber.error(error).await),
            };
            let wrapped = |data| ResponseEnvelope::local(&id, now_ms(), data).to_json();
            Ok(match reply {
                Reply::Envelope(envelope) if !streams => Answer::One(envelope),
                Reply::Value(data) if !streams => Answer::One(wrapped(data)),
                Reply::Envelope(envelope) => Answer::Many(stream::iter([Ok(envelope)]).boxed().into()),
                Reply::Value(data) => Answer::Many(stream::iter([Ok(wrapped(data))]).boxed().into()),
                Reply::Stream(items) => {
                    let items = items.then(move |item| {
                        let (id, scrubber) = (id.clone(), Arc::clone(&scrubber));
                        async move {
                            match item {
                                Ok(data) => {
                                    let data = scrubber.json(data).await;
                                    Ok(ResponseEnvelope::local(&id, now_ms(), data).to_json())
                                }
                                Err(error) => Err(scrubber.error(error).await),
                            }
                        }
                    });
                    let until = abort.clone();
                    let items = items.take_until(async move { until.fired().await });
                    let items = serve.until_over(items);
                    Answer::Many(Items::new(items.boxed(), async move { abort.fired().await }.boxed()))
                }
            })
        }
        .boxed()
    }

    fn other(&self, _event: Event) -> Result<(), Fault> {
        Ok(())
    }
}
