//! Serves the hub's calls with the spoke's handlers.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use futures_util::stream::{BoxStream, once, unfold};
use futures_util::{FutureExt, StreamExt};
use hub_operations::{
    AbortSignal, Answer, Definition, Entry, Incoming, Items, Offering, Reply, Responder, now_ms, until,
};
use hub_protocol::ops::calls::AbortMode;
use hub_protocol::{CallError, CallRequested, ErrorCode, Event, Fault, Json, ResponseEnvelope};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::Context;
use crate::client::{Client, log_other};
use crate::keyed::{Entered, Execution, Keyed, Outcome};
use crate::lineage::{Binding, Lineage};
use crate::request::check_size;
use crate::timer::Timer;

/// Longest time that [`Context::cleanup`] holds the end of a call back.
const CLEANUP: Duration = Duration::from_secs(5);

/// The handlers of a spoke and what outlives its connections.
pub(crate) struct Service {
    pub(crate) offering: Offering<Context>,
    pub(crate) message_limit: usize,
    pub(crate) keyed: Keyed,
    /// Runs of keyed calls.
    pub(crate) executions: TaskTracker,
    /// The spoke is over: what still runs is stopped.
    pub(crate) over: CancellationToken,
}

/// Serves one connection.
pub(crate) struct Server {
    pub(crate) service: Arc<Service>,
    pub(crate) client: Client,
}

impl Responder for Server {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let (service, client) = (Arc::clone(&self.service), self.client.clone());
        async move { service.serve(client, incoming).await }.boxed()
    }

    fn other(&self, event: Event) -> Result<(), Fault> {
        log_other(&event);
        Ok(())
    }
}

impl Service {
    async fn serve(self: Arc<Self>, client: Client, mut incoming: Incoming) -> Result<Answer, CallError> {
        let request = &mut incoming.request;
        let Some(entry) = self.offering.get(&request.operation_id) else {
            return Err(Definition::not_found(&request.operation_id));
        };
        let input = std::mem::take(&mut request.input);
        match request.idempotency_key.clone().filter(|_| !entry.is_subscription()) {
            Some(key) => self.serve_keyed(client, incoming, input, key).await.map(Answer::One),
            None => self.serve_once(&entry, client, incoming, input).await,
        }
    }

    /// The usual way: the handler lives as long as its caller waits.
    async fn serve_once(
        &self,
        entry: &Entry<Context>,
        client: Client,
        incoming: Incoming,
        input: Json,
    ) -> Result<Answer, CallError> {
        let Incoming { request, abort, gone, peer } = incoming;
        let (deadline, idle) = (request.deadline, request.idle_timeout);
        let over = CancellationToken::new();
        // Whoever got the token from the context sees every kind of end.
        let guard = Some(over.clone().drop_guard());
        let binding = Binding { peer, request_id: request.request_id.clone(), deadline_ms: deadline };
        let context = Context::new(request.clone(), over, lineage(&request, watch::channel(binding).1), client);
        let cleanups = context.cleanups();
        let mut ends = Ends { abort, gone, timer: Timer::new(deadline, None), over: guard, cleanups };
        let ended = tokio::select! {
            reply = entry.run(context, input) => Ok(reply.inspect_err(|_| ends.done())?),
            error = ends.ended() => Err(error),
        };
        let reply = match ended {
            Ok(reply) => reply,
            Err(error) => {
                ends.cleaned_up().await;
                return Err(error);
            }
        };
        let id = entry.definition().id();
        let items = match reply {
            Reply::Stream(items) if entry.is_subscription() => items,
            Reply::Value(value) if entry.is_subscription() => once(async { Ok(value) }).boxed(),
            Reply::Envelope(envelope) if entry.is_subscription() => {
                ends.done();
                return Ok(Answer::Many(once(async { Ok(envelope) }).boxed().into()));
            }
            reply => {
                ends.done();
                return self.envelope(id, reply).map(Answer::One);
            }
        };
        ends.timer = Timer::new(deadline, idle.map(Duration::from_millis));
        let over = ends.sign(deadline);
        Ok(Answer::Many(Items::new(self.stream(id, items, ends), over.boxed())))
    }

    /// Wraps items into envelopes and ends the stream with its call, even while an item is awaited.
    fn stream(
        &self,
        id: &str,
        items: BoxStream<'static, Result<Json, CallError>>,
        ends: Ends,
    ) -> BoxStream<'static, Result<Json, CallError>> {
        let (id, limit): (Arc<str>, usize) = (id.into(), self.message_limit);
        unfold(Some((items, ends)), move |state| {
            let id = Arc::clone(&id);
            async move {
                let (mut items, mut ends) = state?;
                ends.timer.touch();
                let item = tokio::select! {
                    biased;
                    error = ends.ended() => Err(error),
                    item = items.next() => match item {
                        Some(item) => item.and_then(|data| wrap(&id, data, limit)),
                        None => {
                            ends.done();
                            return None;
                        }
                    },
                };
                if item.is_err() {
                    drop(items);
                    ends.cleaned_up().await;
                    return Some((item, None));
                }
                Some((item, Some((items, ends))))
            }
        })
        .boxed()
    }

    /// A call with an idempotency key: its handler runs once, apart from the connection.
    async fn serve_keyed(self: Arc<Self>, client: Client, incoming: Incoming, input: Json, key: String) -> Outcome {
        let Incoming { request, abort, gone, peer } = incoming;
        let mut timer = Timer::new(request.deadline, None);
        let binding = Binding { peer, request_id: request.request_id.clone(), deadline_ms: request.deadline };
        let caller = request.identity.as_ref().map(|identity| identity.id.clone()).unwrap_or_default();
        let key = (caller, request.operation_id.clone(), key);
        let waiter = loop {
            match self.keyed.enter(key.clone(), binding.clone())? {
                // Its callers gave it up, and this one did not: it runs after it instead of sharing its end.
                Entered::Again(execution) if execution.is_stopping() => execution.ended().await,
                Entered::Again(execution) => break execution.wait(),
                Entered::First(execution, key) => {
                    let waiter = execution.wait();
                    let run = Arc::clone(&self).execute(client, request, input, execution, key);
                    self.executions.spawn(run);
                    break waiter;
                }
            }
        };
        tokio::select! {
            outcome = waiter.outcome() => return outcome,
            () = killed(&abort) => {}
            error = timer.expired() => return Err(error),
            () = gone.cancelled() => return Err(lost()),
        }
        waiter.abort().await;
        Err(aborted())
    }

    /// Runs the handler of a keyed call to its end.
    async fn execute(
        self: Arc<Self>,
        client: Client,
        request: CallRequested,
        input: Json,
        execution: Arc<Execution>,
        key: Arc<crate::keyed::Key>,
    ) {
        let id = request.operation_id.clone();
        let bound = execution.bound.subscribe();
        let over = CancellationToken::new();
        let guard = over.clone().drop_guard();
        let context = Context::new(request.clone(), over, lineage(&request, bound.clone()), client);
        let work = async {
            match self.offering.get(&id) {
                Some(entry) => entry.run(context, input).await,
                None => Err(Definition::not_found(&id)),
            }
        };
        // `None` for an end from outside: that is no outcome of the handler.
        let reply = tokio::select! {
            reply = AssertUnwindSafe(work).catch_unwind() => Ok(reply.unwrap_or_else(|_| Err(panicked(&id)))),
            () = execution.stop.cancelled() => Err(aborted()),
            () = self.over.cancelled() => Err(aborted()),
            error = overdue(bound) => Err(error),
        };
        let (outcome, lasting) = match reply {
            Ok(reply) => {
                guard.disarm();
                let outcome = reply.and_then(|reply| self.envelope(&id, reply));
                let lasting = outcome.as_ref().err().is_none_or(|error| !error.retryable);
                (outcome, lasting)
            }
            Err(error) => {
                drop(guard);
                (Err(error), false)
            }
        };
        self.keyed.finish(&key, &execution, outcome, lasting);
    }

    fn envelope(&self, id: &str, reply: Reply) -> Outcome {
        match reply {
            Reply::Value(data) => wrap(id, data, self.message_limit),
            Reply::Envelope(envelope) => {
                check_size("the reply", envelope.size(), self.message_limit).map(|()| envelope)
            }
            Reply::Stream(_) => {
                Err(CallError::new(ErrorCode::ExecutionError, format!("{id} answers a stream but is no subscription")))
            }
        }
    }
}

/// What ends a call from outside its handler.
struct Ends {
    abort: AbortSignal,
    gone: CancellationToken,
    timer: Timer,
    /// Tells holders of [`Context::aborted`] unless the call ends by itself.
    over: Option<DropGuard>,
    cleanups: TaskTracker,
}

impl Ends {
    /// Tells whoever watches the context, and waits for what the handler has left to end.
    async fn cleaned_up(&mut self) {
        self.over.take();
        self.cleanups.close();
        // What takes longer is not waited for: the caller is told that the handler has stopped, which it has.
        let _late = tokio::time::timeout(CLEANUP, self.cleanups.wait()).await;
    }

    /// The handler is done by itself.
    fn done(&mut self) {
        if let Some(guard) = self.over.take() {
            guard.disarm();
        }
    }

    /// Ends with the call, for whoever holds the stream back without asking for its next item.
    fn sign(&self, deadline: Option<u64>) -> impl Future<Output = ()> + Send + use<> {
        let (abort, gone) = (self.abort.clone(), self.gone.clone());
        let mut timer = Timer::new(deadline, None);
        async move {
            tokio::select! {
                () = killed(&abort) => {}
                () = gone.cancelled() => {}
                _ = timer.expired() => {}
            }
        }
    }

    async fn ended(&mut self) -> CallError {
        tokio::select! {
            () = killed(&self.abort) => aborted(),
            () = self.gone.cancelled() => lost(),
            error = self.timer.expired() => error,
        }
    }
}

/// Fires on an abort that is meant to stop the handler.
async fn killed(abort: &AbortSignal) {
    abort.fired().await;
    if abort.mode() == AbortMode::Skip {
        std::future::pending::<()>().await;
    }
}

/// The latest deadline of all who wait for an execution.
async fn overdue(mut bound: watch::Receiver<Binding>) -> CallError {
    loop {
        let deadline = bound.borrow_and_update().deadline_ms;
        let sleep = async {
            match deadline {
                Some(ms) => tokio::time::sleep(until(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep => return CallError::new(ErrorCode::Timeout, "the deadline has passed"),
            changed = bound.changed() => if changed.is_err() { std::future::pending::<()>().await },
        }
    }
}

fn lineage(request: &CallRequested, bound: watch::Receiver<Binding>) -> Lineage {
    Lineage::new(bound, request.idempotency_key.is_some(), request.traceparent.clone())
}

fn wrap(id: &str, data: Json, limit: usize) -> Outcome {
    check_size("the reply", data.size(), limit)?;
    Ok(ResponseEnvelope::local(id, now_ms(), data).to_json())
}

fn aborted() -> CallError {
    CallError::new(ErrorCode::Aborted, "the call was aborted")
}

fn lost() -> CallError {
    CallError::new(ErrorCode::SpokeDisconnected, "the connection was lost")
}

fn panicked(id: &str) -> CallError {
    tracing::error!(operation = id, "a handler panicked");
    CallError::new(ErrorCode::ExecutionError, "the handler panicked")
}
