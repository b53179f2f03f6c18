//! Passing a call on between a link and a connection: responses one way, aborts and the caller's loss the other.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use hub_operations::{AbortSignal, Answer, End, Items, Pending};
use hub_protocol::{CallError, ErrorCode, Json, OnDisconnect};
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;

/// Answered by a hub that does not have the spoke (any more): the call has not begun. Never leaves the cluster.
pub(crate) const NOT_HERE: &str = "HUB_NOT_HERE";

/// How long the callee may take to confirm an abort.
const GRACE: Duration = crate::abort::GRACE;

/// The call was not begun here.
pub(super) fn not_here() -> CallError {
    let mut error = CallError::new(ErrorCode::SpokeDisconnected, "the spoke is not connected here");
    NOT_HERE.clone_into(&mut error.code);
    error
}

/// The spoke was lost while it had the call.
pub(super) fn spoke_lost() -> CallError {
    CallError::new(ErrorCode::SpokeDisconnected, "the spoke's connection was lost during the call")
}

/// The hub that has the tree is lost, and the tree with it.
pub(super) fn tree_lost() -> CallError {
    CallError::new(ErrorCode::Aborted, "the call was aborted: the hub of its caller can't be reached")
}

/// A call that is passed on. Dropping it gives the call up.
pub(super) struct Relay {
    pub(super) hub: Hub,
    /// Taken when the call goes on without the side that asked.
    pub(super) pending: Option<Pending>,
    pub(super) abort: AbortSignal,
    /// The side that asked is lost.
    pub(super) gone: CancellationToken,
    /// This hub goes down and can't pass it on any longer.
    pub(super) stop: CancellationToken,
    /// What the asking side is told when the side that was asked is lost.
    pub(super) if_lost: fn() -> CallError,
    pub(super) on_disconnect: OnDisconnect,
    /// Kept until the call has ended.
    pub(super) holds: Box<dyn Send + Sync>,
}

impl Relay {
    /// The one answer of a query or mutation.
    pub(super) async fn one(mut self) -> Result<Answer, CallError> {
        match self.next().await {
            Some(item) => item.map(Answer::One),
            None => Err(CallError::new(ErrorCode::ExecutionError, "the call was completed without a response")),
        }
    }

    /// The items of a subscription.
    pub(super) fn many(self) -> Answer {
        let (abort, gone, stop) = (self.abort.clone(), self.gone.clone(), self.stop.clone());
        let over = async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = abort.fired() => {}
                () = gone.cancelled() => {}
            }
        };
        let items = stream::unfold(Some(self), |relay| async move {
            let mut relay = relay?;
            let item = relay.next().await?;
            let rest = item.is_ok().then_some(relay);
            Some((item, rest))
        });
        Answer::Many(Items::new(items.boxed(), Box::pin(over)))
    }

    async fn next(&mut self) -> Option<Result<Json, CallError>> {
        let pending = self.pending.as_mut()?;
        let end = tokio::select! {
            biased;
            () = self.abort.fired() => return Some(Err(aborted(pending, &self.abort).await)),
            () = self.gone.cancelled() => return Some(Err(self.orphaned())),
            () = self.stop.cancelled() => {
                pending.abort(Some("the hub is draining".to_owned()), None);
                let error = CallError::new(ErrorCode::SpokeDisconnected, "the hub of the spoke is draining");
                return Some(Err(error.with_retryable(true)));
            }
            item = pending.next() => match item {
                Ok(item) => return Some(Ok(item)),
                Err(end) => end,
            },
        };
        match end {
            End::Completed => None,
            End::Lost => Some(Err((self.if_lost)())),
            End::Failed(error) if error.code == NOT_HERE => Some(Err((self.if_lost)())),
            end => Some(Err(Pending::error_of(end))),
        }
    }

    /// The side that asked is lost: an effect that is under way may finish, everything else stops.
    fn orphaned(&mut self) -> CallError {
        let Some(mut pending) = self.pending.take() else { return lost() };
        if self.on_disconnect == OnDisconnect::Abort {
            pending.abort(Some("the caller was lost".to_owned()), None);
        } else {
            let holds = std::mem::replace(&mut self.holds, Box::new(()));
            self.hub.tasks().spawn("orphaned relay", async move {
                pending.end().await;
                drop(holds);
            });
        }
        lost()
    }
}

/// Tells the callee and waits for its word, which is the confirmation that goes back.
async fn aborted(pending: &mut Pending, abort: &AbortSignal) -> CallError {
    pending.abort(abort.reason(), Some(abort.mode()));
    match tokio::time::timeout(GRACE, pending.end()).await {
        Ok(End::Aborted { receipts, .. }) => {
            if let Some(receipts) = receipts {
                abort.set_receipts(receipts);
            }
            CallError::new(ErrorCode::Aborted, "the call was aborted")
        }
        Ok(End::Lost) => CallError::new(ErrorCode::Aborted, "the call was aborted"),
        Ok(End::Failed(error)) => error,
        // Anything but an abort tells that there was nothing left to stop.
        Ok(End::Completed) => CallError::new(ErrorCode::Conflict, "the call had ended"),
        Err(_) => CallError::new(ErrorCode::Timeout, "the callee did not confirm the abort"),
    }
}

fn lost() -> CallError {
    CallError::new(ErrorCode::SpokeDisconnected, "the caller was lost")
}
