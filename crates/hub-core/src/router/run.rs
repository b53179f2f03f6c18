mod end;
mod given_up;
mod moved;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream;
use futures_util::{FutureExt, StreamExt};
use hub_operations::{End, Items, Pending, until};
use hub_protocol::ops::calls::{AbortOutcome, CallEventKind};
use hub_protocol::{
    CallError, CallId, CallRequested, ErrorCode, Json, MAX_NESTING, OnDisconnect, OperationType, READABLE_NESTING,
    ResponseEnvelope,
};
use tokio::time::{Instant, Sleep};

use super::dispatch::{self, Source, ToSpoke, one, start_own};
use super::keyed::Outcome;
use super::terms::{Recording, Target, Terms};
use super::{Caller, Leash};
use crate::abort::{self, Abort};
use crate::cluster::NOT_HERE;
use crate::directory::Found;
use crate::hub::Hub;
use crate::live::LiveCall;
use crate::recorder::Change;
use crate::redact::{self, Kept};
use given_up::aborted;

/// Items of one stream that are recorded; later ones are only counted.
const RECORDED_ITEMS: u64 = 1_000;

/// One call on its way: everything that can end it meets here.
///
/// Dropping it before its end gives the call up by its `onDisconnect` rule.
pub(crate) struct Run {
    hub: Hub,
    live: Arc<LiveCall>,
    caller: Caller,
    request: Arc<CallRequested>,
    target: Target,
    terms: Terms,
    source: Source,
    recording: Arc<Recording>,
    /// The idempotency key that this call holds.
    key: Option<String>,
    /// A spoke that may have begun or done the work already.
    prefer: Option<Arc<str>>,
    moves: u32,
    deadline: Timer,
    idle: Timer,
    items: u64,
    last: Kept,
    /// Whether the caller no longer listens.
    orphaned: bool,
    finished: bool,
    /// Whether its end, which had to be stored before it is told, was not by its deadline.
    unrecorded: bool,
}

/// A timer that may not be set. One per call, re-armed in place.
type Timer = Option<Pin<Box<Sleep>>>;

/// What can happen next.
enum Step {
    Stopped,
    Skipped,
    CallerAborts,
    CallerGone,
    Deadline,
    Idle,
    Started(Result<Source, CallError>),
    Item(Json),
    End(End),
}

impl Run {
    pub(super) fn new(
        hub: Hub,
        live: Arc<LiveCall>,
        caller: Caller,
        request: CallRequested,
        target: Target,
        terms: Terms,
    ) -> Self {
        let own = matches!(target, Target::Own(_));
        let recording = Recording::new(live.is_recorded(own));
        let deadline = live.deadline.map(|at| Box::pin(tokio::time::sleep(until(at))));
        let idle = terms.idle_ms.map(|ms| Box::pin(tokio::time::sleep(Duration::from_millis(ms))));
        Self {
            hub,
            live,
            caller,
            request: Arc::new(request),
            target,
            terms,
            source: Source::New,
            recording: Arc::new(recording),
            key: None,
            prefer: None,
            moves: 0,
            deadline,
            idle,
            items: 0,
            last: Kept::default(),
            orphaned: false,
            finished: false,
            unrecorded: false,
        }
    }

    pub(super) fn call_id(&self) -> CallId {
        self.live.id
    }

    pub(super) fn kind(&self) -> OperationType {
        self.live.definition.spec().kind
    }

    pub(super) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(super) fn live(&self) -> &Arc<LiveCall> {
        &self.live
    }

    pub(super) fn request(&self) -> &CallRequested {
        &self.request
    }

    pub(super) fn leash(&self) -> &Leash {
        &self.terms.leash
    }

    pub(super) fn is_recorded(&self) -> bool {
        self.recording.is_on()
    }

    pub(super) fn hold_key(&mut self, key: String) {
        self.key = Some(key);
    }

    /// Notes the spoke that may have begun or done the work, for this call and, should it come to nothing or its hub
    /// be lost, for the next one with its key.
    pub(super) async fn prefer(&mut self, spoke: &str) {
        let spoke: Arc<str> = spoke.into();
        self.live.may_run_at(Arc::clone(&spoke));
        self.prefer = Some(spoke);
        let (recording, hub, live) = (Arc::clone(&self.recording), self.hub.clone(), Arc::clone(&self.live));
        recording.pending(&hub, &live).await;
    }

    /// Whether there is time and money left.
    pub(super) fn check_terms(&self) -> Result<(), CallError> {
        self.live.check_deadline()?;
        match self.live.budget {
            Some(left) if left <= 0 => {
                Err(CallError::new(ErrorCode::BudgetExceeded, "the call tree has no money left")
                    .with_details(&serde_json::json!({ "budget": left })))
            }
            _ => Ok(()),
        }
    }

    /// Ends the call before it began.
    pub(super) async fn refuse(mut self, error: CallError) -> CallError {
        self.finish(Err(error.clone()), AbortOutcome::AlreadyFinished).await;
        error
    }

    /// Ends the call with the result of the one that has its key.
    pub(super) fn answered(mut self, outcome: Outcome) -> Self {
        self.source = match (outcome.response, outcome.error) {
            (Some(envelope), _) => Source::Own(one(envelope)),
            (None, Some(error)) => Source::Own(stream::once(async move { Err(error) }).boxed()),
            (None, None) => Source::Ended,
        };
        self
    }

    /// Chooses a handler, so that a subscription that can't begin fails at once and not as a stream.
    ///
    /// # Errors
    /// As the router and the handler give them.
    pub(super) async fn begin(&mut self) -> Result<(), CallError> {
        self.start();
        while let Source::Starting(_) = self.source {
            let step = self.step().await;
            if let Some(ended) = self.take_step(step).await {
                return ended.map(|_| ());
            }
        }
        Ok(())
    }

    /// The next response envelope. After an error or `None` the call has ended and is recorded.
    pub(super) async fn next(&mut self) -> Option<Result<Json, CallError>> {
        self.start();
        while !self.finished {
            let step = self.step().await;
            if let Some(answer) = self.take_step(step).await {
                return Some(answer);
            }
        }
        None
    }

    /// The responses of a subscription.
    pub(super) fn into_items(self) -> Items {
        let over = Box::pin(self.over());
        let stream = stream::unfold(self, |mut run| async move { run.next().await.map(|item| (item, run)) });
        Items::new(stream.boxed(), over)
    }

    /// Ends when [`Run::step`] would end the call without a response, for readers that are not asking for one.
    fn over(&self) -> impl Future<Output = ()> + Send + use<> {
        let (live, leash) = (Arc::clone(&self.live), self.terms.leash.clone());
        let on_gone = self.terms.on_disconnect == OnDisconnect::Abort;
        async move {
            let mut deadline: Timer = live.deadline.map(|at| Box::pin(tokio::time::sleep(until(at))));
            tokio::select! {
                () = live.stop.fired() => {}
                () = live.skip.cancelled() => {}
                () = leash.abort.fired() => {}
                () = leash.gone.cancelled(), if on_gone => {}
                () = expired(&mut deadline) => {}
            }
        }
    }

    fn start(&mut self) {
        if !matches!(self.source, Source::New) {
            return;
        }
        if let Err(late) = self.live.check_deadline() {
            self.source = Source::Starting(std::future::ready(Err(late)).boxed());
            return;
        }
        self.source = match (&self.live.rerun, &self.target) {
            // What leaves no record can't be answered from one.
            (Some(rerun), _) if self.live.parent.is_some() && self.recording.is_on() && rerun.covers(&self.live) => {
                let recorded = rerun.answer(&self.live);
                Source::Starting(async move { recorded.map(|envelope| Source::Own(one(envelope))) }.boxed())
            }
            (_, Target::Own(own)) => {
                start_own(&self.hub, &own.id, &self.live, self.caller.clone(), &self.request, &self.recording)
            }
            (_, Target::Spoke(found)) => self.to_spoke(found).start(None),
        };
    }

    fn to_spoke(&self, found: &Arc<Found>) -> ToSpoke {
        ToSpoke {
            hub: self.hub.clone(),
            live: Arc::clone(&self.live),
            found: Arc::clone(found),
            request: Arc::clone(&self.request),
            recording: Arc::clone(&self.recording),
            on_disconnect: self.terms.on_disconnect,
            prefer: self.prefer.clone(),
        }
    }

    /// Waits for whatever comes first.
    async fn step(&mut self) -> Step {
        let leash = &self.terms.leash;
        let on_gone = self.terms.on_disconnect == OnDisconnect::Abort;
        tokio::select! {
            biased;
            () = self.live.stop.fired() => Step::Stopped,
            () = self.live.skip.cancelled(), if !self.orphaned => Step::Skipped,
            () = leash.abort.fired(), if !self.orphaned => Step::CallerAborts,
            () = leash.gone.cancelled(), if on_gone && !self.orphaned => Step::CallerGone,
            () = expired(&mut self.deadline) => Step::Deadline,
            () = expired(&mut self.idle) => Step::Idle,
            step = response(&mut self.source) => step,
        }
    }

    /// Acts on what came; `Some` is what the caller gets.
    async fn take_step(&mut self, step: Step) -> Option<Result<Json, CallError>> {
        match step {
            Step::Item(envelope) => self.item(envelope).await,
            Step::Started(Ok(source)) => {
                self.source = source;
                None
            }
            Step::End(End::Failed(error)) if self.is_remote() && error.code == NOT_HERE => self.elsewhere().await,
            Step::End(End::Failed(error)) if self.is_remote() && error.is(ErrorCode::SpokeDisconnected) => {
                self.lost(error).await
            }
            Step::Started(Err(error)) | Step::End(End::Failed(error)) => Some(Err(self.fail(error).await)),
            Step::End(End::Completed) => self.completed().await,
            Step::End(End::Aborted { reason, receipts }) => {
                // The callee gave up by itself.
                Some(Err(self.fail(Pending::error_of(End::Aborted { reason, receipts })).await))
            }
            Step::End(End::Lost) => {
                let error = dispatch::disconnected(self.is_remote());
                self.lost(error).await
            }
            Step::Stopped => Some(Err(self.stopped().await)),
            Step::Skipped => Some(Err(self.skip(aborted(Some("answered early"))))),
            Step::CallerAborts => {
                let abort = &self.terms.leash.abort;
                let plan = Abort { mode: abort.mode(), reason: abort.reason(), grace: abort::GRACE };
                let (receipts, error) = self.abort_all(plan, None).await;
                self.terms.leash.abort.set_receipts(receipts);
                Some(Err(error))
            }
            Step::CallerGone => Some(Err(self.abort_all(Abort::now("the caller's connection was lost"), None).await.1)),
            Step::Deadline => {
                let error = self.live.timeout();
                Some(Err(self.abort_all(Abort::now("the deadline has passed"), Some(error)).await.1))
            }
            Step::Idle => {
                let error = CallError::new(ErrorCode::Timeout, "no response within the idle timeout")
                    .with_details(&serde_json::json!({ "idleTimeout": self.terms.idle_ms }));
                Some(Err(self.abort_all(Abort::now("idle timeout"), Some(error)).await.1))
            }
        }
    }

    async fn item(&mut self, envelope: Json) -> Option<Result<Json, CallError>> {
        let Ok(data) = ResponseEnvelope::data_of(&envelope) else {
            let error = CallError::new(ErrorCode::ExecutionError, "the response is not a response envelope");
            return Some(Err(self.abort_all(Abort::now("malformed response"), Some(error)).await.1));
        };
        let levels = match self.target {
            Target::Own(_) => READABLE_NESTING,
            Target::Spoke(_) => MAX_NESTING,
        };
        // The envelope is one level more.
        if envelope.nests_deeper_than(levels + 1) {
            let message = format!("the response nests deeper than {levels} levels");
            let error = CallError::new(ErrorCode::ExecutionError, message);
            return Some(Err(self.abort_all(Abort::now("malformed response"), Some(error)).await.1));
        }
        self.items += 1;
        self.check_output(&data);
        if self.kind() != OperationType::Subscription {
            let kept = redact::output(self.live.gives.as_deref(), &data);
            self.finish(Ok((envelope.clone(), kept)), AbortOutcome::AlreadyFinished).await;
            return Some(if self.unrecorded { Err(end::unrecorded(&self.live)) } else { Ok(envelope) });
        }
        if let (Some(idle), Some(ms)) = (self.idle.as_mut(), self.terms.idle_ms) {
            idle.as_mut().reset(Instant::now() + Duration::from_millis(ms));
        }
        if let Target::Spoke(_) = self.target {
            let number = self.live.held.push(&envelope);
            self.record_item(number, &data).await;
        }
        Some(Ok(envelope))
    }

    async fn record_item(&mut self, number: u64, data: &Json) {
        if !self.recording.is_on() || number > RECORDED_ITEMS {
            return;
        }
        self.last = redact::output(self.live.gives.as_deref(), data);
        let event = self.live.event(CallEventKind::Responded, Some((number, self.last.text.clone())), None);
        if self.hub.recorder().write(Change::Item(event)).await.is_err() {
            tracing::warn!("a stream's item was not recorded: the hub is closing");
        }
    }

    /// A callee that breaks its own promise is told of in the log; its caller still gets the answer.
    fn check_output(&self, data: &Json) {
        let definition = &self.live.definition;
        if data.size() > redact::KEEP || definition.output().is_trivial() {
            return;
        }
        if let Err(violations) = definition.output().check(data) {
            metrics::counter!("hub_output_violations_total").increment(1);
            let path = violations.first().map(|v| v.path.clone()).unwrap_or_default();
            tracing::warn!(operation.id = definition.id(), call.id = %self.live.id, violation.path = %path,
                "an output does not fit its schema");
        }
    }

    async fn completed(&mut self) -> Option<Result<Json, CallError>> {
        if self.kind() != OperationType::Subscription {
            let error = CallError::new(ErrorCode::ExecutionError, "the call was completed without a response");
            return Some(Err(self.fail(error).await));
        }
        let last = std::mem::take(&mut self.last);
        self.finish(Ok((Json::null(), last)), AbortOutcome::AlreadyFinished).await;
        None
    }

    async fn fail(&mut self, mut error: CallError) -> CallError {
        error.details = error.details.filter(|details| !details.nests_deeper_than(MAX_NESTING));
        let outcome = if error.is(ErrorCode::Aborted) { AbortOutcome::Stopped } else { AbortOutcome::AlreadyFinished };
        self.finish(Err(error.clone()), outcome).await;
        error
    }
}

async fn expired(timer: &mut Timer) {
    match timer {
        Some(timer) => timer.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn response(source: &mut Source) -> Step {
    match source {
        Source::New | Source::Ended => Step::End(End::Completed),
        Source::Starting(starting) => Step::Started(starting.as_mut().await),
        Source::Spoke(pending, _) => match pending.next().await {
            Ok(item) => Step::Item(item),
            Err(end) => Step::End(end),
        },
        Source::Own(items) => match items.next().await {
            Some(Ok(item)) => Step::Item(item),
            Some(Err(error)) => Step::End(End::Failed(error)),
            None => Step::End(End::Completed),
        },
    }
}
