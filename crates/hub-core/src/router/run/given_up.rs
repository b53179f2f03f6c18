//! A call that is given up: by its caller, by an ancestor, by time, or because nobody listens any more.

use std::sync::Arc;
use std::time::Duration;

use hub_operations::End;
use hub_protocol::ops::calls::{AbortMode, AbortOutcome, Receipt};
use hub_protocol::{CallError, ErrorCode, OnDisconnect, OperationType};

use super::{Run, Source};
use crate::abort::{self, Abort};

impl Run {
    /// Aborts this call and all below it; the caller gets `error`, or that the call was aborted.
    pub(super) async fn abort_all(&mut self, plan: Abort, error: Option<CallError>) -> (Vec<Receipt>, CallError) {
        let (hub, id) = (self.hub.clone(), self.live.id);
        let error = error.unwrap_or_else(|| aborted(plan.reason.as_deref()));
        if plan.mode == AbortMode::Skip {
            let receipts = abort::tree(hub.calls(), id, plan).await;
            return (receipts, self.skip(error));
        }
        let mode = plan.mode;
        let (receipts, ()) = tokio::join!(abort::tree(hub.calls(), id, plan), self.wind_up(mode, &error));
        (receipts, error)
    }

    /// Somebody else aborts this call: an ancestor's end, or `calls.abort`.
    pub(super) async fn stopped(&mut self) -> CallError {
        // A read that a hub ends because it goes down can be asked of another one.
        let again = self.hub.is_draining() && self.kind() != OperationType::Mutation && self.live.parent.is_none();
        let error = aborted(self.live.stop.reason().as_deref()).with_retryable(again);
        self.wind_up(self.live.stop.mode(), &error).await;
        error
    }

    /// Answers the caller and lets the call run on without it.
    pub(super) fn skip(&mut self, error: CallError) -> CallError {
        let mut rest = self.take();
        rest.orphaned = true;
        self.hub.tasks().spawn("skipped call", async move { rest.drain().await });
        error
    }

    /// Gives the callee up; with `kill` waits for its confirmation.
    async fn wind_up(&mut self, mode: AbortMode, error: &CallError) {
        let outcome = match std::mem::replace(&mut self.source, Source::Ended) {
            Source::Spoke(mut pending, _lease) => {
                // The frame went out with the abort of the tree, unless the request was not yet sent then.
                self.live.tell_callee(self.live.stop.reason().as_deref());
                pending.told();
                let wait = if mode == AbortMode::Kill { self.live.grace() } else { Duration::ZERO };
                match tokio::time::timeout(wait, pending.end()).await {
                    Ok(End::Aborted { .. } | End::Lost) => AbortOutcome::Stopped,
                    Ok(End::Failed(e)) if e.is(ErrorCode::Aborted) => AbortOutcome::Stopped,
                    Ok(End::Completed | End::Failed(_)) => AbortOutcome::AlreadyFinished,
                    Err(_) => AbortOutcome::NoAnswer,
                }
            }
            // Dropping a handler of the hub stops it where it waits.
            Source::Own(_) | Source::Starting(_) | Source::New | Source::Ended => AbortOutcome::Stopped,
        };
        self.finish(Err(error.clone()), outcome).await;
    }

    /// Runs to the end without a reader.
    async fn drain(&mut self) {
        while self.next().await.is_some() {}
    }

    /// Moves the call out of `self`, which then has nothing left to end.
    fn take(&mut self) -> Self {
        Self {
            hub: self.hub.clone(),
            live: Arc::clone(&self.live),
            caller: self.caller.clone(),
            request: Arc::clone(&self.request),
            target: self.target.clone(),
            terms: self.terms.clone(),
            source: std::mem::replace(&mut self.source, Source::Ended),
            recording: Arc::clone(&self.recording),
            key: self.key.take(),
            prefer: self.prefer.clone(),
            moves: self.moves,
            deadline: self.deadline.take(),
            idle: self.idle.take(),
            items: self.items,
            last: std::mem::take(&mut self.last),
            orphaned: self.orphaned,
            finished: std::mem::replace(&mut self.finished, true),
            unrecorded: self.unrecorded,
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        if std::thread::panicking() {
            // Whatever panicked must not be polled again.
            self.source = Source::Ended;
        }
        if self.orphaned {
            // The task that ends orphans was itself dropped: runtime or hub are going down, and another would be too.
            tracing::warn!(call.id = %self.live.id, "a call was dropped: the hub is down");
            self.hub.calls().remove(self.live.id);
            return;
        }
        let mut rest = self.take();
        rest.orphaned = true;
        self.hub.tasks().spawn("orphaned call", async move {
            if rest.terms.on_disconnect == OnDisconnect::Abort || rest.leash().abort.is_fired() {
                rest.abort_all(Abort::now("nobody listens any more"), None).await;
            } else {
                rest.drain().await;
            }
        });
    }
}

pub(super) fn aborted(reason: Option<&str>) -> CallError {
    let message = reason.map_or_else(|| "the call was aborted".to_owned(), |r| format!("the call was aborted: {r}"));
    CallError::new(ErrorCode::Aborted, message)
}
