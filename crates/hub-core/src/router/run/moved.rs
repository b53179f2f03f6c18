//! A call whose spoke went away, or is at another hub by now.

use std::sync::Arc;

use hub_protocol::ops::calls::AbortOutcome;
use hub_protocol::{CallError, Json, OperationType};

use super::{Run, Source};
use crate::directory::SpokeConnection;
use crate::router::dispatch::Lost;
use crate::router::terms::Target;

/// Times a call may find that its spoke has moved to another hub.
const MAX_MOVES: u32 = 4;

/// Times a call is given to a provider at most: once more when the first is lost before it began.
const MAX_ATTEMPTS: i32 = 2;

impl Run {
    /// The spoke that has the call.
    pub(super) fn provider(&self) -> Option<Arc<SpokeConnection>> {
        match &self.source {
            Source::Spoke(_, lease) => Some(Arc::clone(&lease.provider.spoke)),
            _ => None,
        }
    }

    /// Whether a spoke of another hub has the call.
    pub(super) fn is_remote(&self) -> bool {
        self.provider().is_some_and(|spoke| !spoke.is_local())
    }

    /// The hub that was asked does not have the spoke: nothing has happened, so any call may look for it again.
    pub(super) async fn elsewhere(&mut self) -> Option<Result<Json, CallError>> {
        let (Target::Spoke(found), Some(spoke)) = (&self.target, self.provider()) else { return None };
        self.live.not_dispatched();
        self.moves += 1;
        if self.moves > MAX_MOVES {
            let error = crate::directory::unavailable(self.live.definition.id());
            return Some(Err(self.fail(error).await));
        }
        self.hub.directory().expect_back(&spoke.name);
        if let Some(cluster) = self.hub.cluster() {
            cluster.refresh(&self.hub, &spoke.name).await;
        }
        self.source = self.to_spoke(found).start(None);
        None
    }

    /// The provider went away: another one may take the call over if nothing can have happened twice. Where `error` may
    /// be tried again, it was rather its hub, while the spoke may be well and come back at another; a keyed call then goes
    /// back to the same spoke, which knows what it has begun.
    pub(super) async fn lost(&mut self, error: CallError) -> Option<Result<Json, CallError>> {
        let (Target::Spoke(found), Some(spoke)) = (&self.target, self.provider()) else { return None };
        let hub = error.retryable;
        let error = error.with_details(&serde_json::json!({ "spoke": &*spoke.name }));
        let safe = (self.kind() == OperationType::Query || self.key.is_some()) && self.items == 0;
        if safe && (found.pooled || hub) && self.live.attempts() < MAX_ATTEMPTS {
            if self.key.is_some() {
                self.prefer = Some(Arc::clone(&spoke.name));
            }
            self.source = self.to_spoke(found).start(Some(Lost { spoke, error: error.with_retryable(true) }));
            return None;
        }
        // Whoever reads it may subscribe anew: the spoke is at another hub by then.
        let stream = self.kind() == OperationType::Subscription && (hub || self.hub.is_draining());
        let error = error.with_retryable(safe || stream);
        self.finish(Err(error.clone()), AbortOutcome::Stopped).await;
        Some(Err(error))
    }
}
