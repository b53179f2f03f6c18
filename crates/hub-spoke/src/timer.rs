use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hub_operations::until;
use hub_protocol::{CallError, ErrorCode};
use tokio::time::{Instant, Sleep, sleep_until};

/// Deadline and idle timeout of one call.
pub(crate) struct Timer {
    deadline: Option<Instant>,
    idle: Option<Duration>,
    idle_at: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    /// Starts now. `deadline_ms` is in milliseconds since the epoch.
    pub(crate) fn new(deadline_ms: Option<u64>, idle: Option<Duration>) -> Self {
        let now = Instant::now();
        // A year at most, so that adding can't overflow.
        let idle = idle.map(|idle| idle.min(Duration::from_secs(365 * 24 * 3600)));
        Self {
            deadline: deadline_ms.map(|ms| now + until(ms)),
            idle,
            idle_at: idle.map(|idle| now + idle),
            sleep: None,
        }
    }

    /// Restarts the idle time.
    pub(crate) fn touch(&mut self) {
        self.idle_at = self.idle.map(|idle| Instant::now() + idle);
    }

    /// Ready with the error once one of the times has passed.
    pub(crate) fn poll_expired(&mut self, cx: &mut Context<'_>) -> Poll<CallError> {
        let Some(due) = [self.deadline, self.idle_at].into_iter().flatten().min() else {
            return Poll::Pending;
        };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(sleep_until(due)));
        // Touching does not move the timer: it is put right only when it fires too early.
        while sleep.as_mut().poll(cx).is_ready() {
            if Instant::now() >= due {
                return Poll::Ready(timeout(self.deadline == Some(due)));
            }
            sleep.as_mut().reset(due);
        }
        Poll::Pending
    }

    /// Waits until one of the times has passed.
    pub(crate) async fn expired(&mut self) -> CallError {
        std::future::poll_fn(|cx| self.poll_expired(cx)).await
    }
}

fn timeout(deadline: bool) -> CallError {
    let what = if deadline { "the deadline has passed" } else { "nothing has come for the idle timeout" };
    CallError::new(ErrorCode::Timeout, what)
}
