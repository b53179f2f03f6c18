//! Keeps one connection up: dial, let the role enter, serve, and again with backoff until something final.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_operations::{Close, Outbox, Peer, PeerConfig, Responder};
use hub_protocol::{CallError, ErrorCode, close};
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::client::Client;
use crate::connection::{Ended, drive};
use crate::dial::{Dialer, Socket};
use crate::{ClosedReason, ConnectError, ConnectionState, SpokeError};

/// Longest pause that a hub can ask for with `retry-after-ms`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(300);

/// A connection that lived this long counts as a success: the next backoff starts from the beginning.
const SETTLED: Duration = Duration::from_secs(5);

/// After a refused registration the hub may say more with a close code.
const EXPLAINING: Duration = Duration::from_millis(250);

/// Longest wait for what is queued to be written when this side closes.
const FLUSHING: Duration = Duration::from_secs(5);

/// Bytes of outgoing messages that are held before senders wait.
const OUTBOX: usize = 1024 * 1024;

/// What this side is on its connections.
pub(crate) trait Role: Send + Sync + 'static {
    /// Serves the hub's calls on one connection.
    fn responder(&self, client: Client) -> Arc<dyn Responder>;
    /// Runs first on each connection, before any call of the client.
    fn enter(&self, peer: Peer) -> BoxFuture<'static, Result<(), CallError>>;
    /// Runs while the connection lives.
    fn attend(&self, peer: Peer) -> BoxFuture<'static, ()>;
}

/// The connection as calls see it.
#[derive(Clone)]
pub(crate) enum Link {
    Down,
    Up(Peer),
    Closed(ClosedReason),
}

/// What the supervisor and all clones of a client share.
pub(crate) struct Shared {
    pub(crate) dialer: Dialer,
    pub(crate) role: Arc<dyn Role>,
    pub(crate) reconnect: bool,
    pub(crate) liveness: Duration,
    pub(crate) link: watch::Sender<Link>,
    pub(crate) state: watch::Sender<ConnectionState>,
    pub(crate) stop: CancellationToken,
    /// The supervisor.
    pub(crate) tasks: TaskTracker,
    /// Calls being served.
    pub(crate) served: TaskTracker,
    /// Random, so that request ids of this side differ from those of the hub.
    pub(crate) id_prefix: u32,
    pub(crate) next_id: AtomicU64,
}

impl Shared {
    pub(crate) fn request_id(&self) -> String {
        format!("{:08x}-{}", self.id_prefix, self.next_id.fetch_add(1, Ordering::Relaxed))
    }

    fn close(&self, reason: ClosedReason) {
        self.link.send_replace(Link::Closed(reason.clone()));
        self.state.send_replace(ConnectionState::Closed(reason));
    }
}

type Ready = oneshot::Sender<Result<(), SpokeError>>;

/// Keeps the connection up until something final. With `ready` the first attempt must succeed and is reported.
pub(crate) async fn supervise(shared: Arc<Shared>, ready: Option<Ready>) {
    let work = std::panic::AssertUnwindSafe(Supervisor::new(&shared, ready).run()).catch_unwind();
    let reason = work.await.unwrap_or_else(|_| {
        tracing::error!("the connection's supervisor panicked");
        ClosedReason::Lost("the connection's supervisor panicked".to_owned())
    });
    tracing::debug!(%reason, "connection closed");
    shared.close(reason);
}

struct Supervisor<'a> {
    shared: &'a Arc<Shared>,
    ready: Option<Ready>,
    attempt: u32,
    count: u64,
}

/// What follows the end of a connection or an attempt.
enum Next {
    Final(ClosedReason),
    Retry { why: ClosedReason, after: Option<Duration> },
}

impl<'a> Supervisor<'a> {
    fn new(shared: &'a Arc<Shared>, ready: Option<Ready>) -> Self {
        Self { shared, ready, attempt: 0, count: 0 }
    }

    async fn run(mut self) -> ClosedReason {
        loop {
            if self.shared.stop.is_cancelled() {
                return ClosedReason::Requested;
            }
            let next = match self.dial().await {
                None => return ClosedReason::Requested,
                Some(Ok(socket)) => self.connection(socket).await,
                Some(Err(error)) => self.undialled(error),
            };
            let (why, after) = match next {
                Next::Final(reason) => return self.report_failure(reason),
                Next::Retry { why, .. } if self.ready.is_some() || !self.shared.reconnect => {
                    return self.report_failure(why);
                }
                Next::Retry { why, after } => (why, after),
            };
            let retry_in = after.unwrap_or_else(|| backoff(self.attempt));
            self.attempt = self.attempt.saturating_add(1);
            tracing::info!(reason = %why, attempt = self.attempt, ?retry_in, "reconnecting to the hub");
            self.shared.state.send_replace(ConnectionState::Reconnecting { attempt: self.attempt, retry_in });
            tokio::select! {
                () = tokio::time::sleep(retry_in) => {}
                () = self.shared.stop.cancelled() => return ClosedReason::Requested,
            }
        }
    }

    /// `None` when this side was told to stop.
    async fn dial(&self) -> Option<Result<Socket, ConnectError>> {
        tokio::select! {
            socket = self.shared.dialer.dial() => Some(socket),
            () = self.shared.stop.cancelled() => None,
        }
    }

    fn undialled(&mut self, error: ConnectError) -> Next {
        let next = match &error {
            ConnectError::Unauthorized { .. } => Next::Final(ClosedReason::Unauthorized),
            error if error.is_final() => Next::Final(ClosedReason::Lost(error.to_string())),
            error => Next::Retry { why: ClosedReason::Lost(error.to_string()), after: None },
        };
        if let Some(ready) = self.ready.take() {
            // Nobody waits any more when the caller gave up; the state tells the same.
            let _given_up = ready.send(Err(SpokeError::Connect(error)));
            return match next {
                Next::Final(reason) | Next::Retry { why: reason, .. } => Next::Final(reason),
            };
        }
        next
    }

    fn report_failure(&mut self, reason: ClosedReason) -> ClosedReason {
        if let Some(ready) = self.ready.take() {
            let _given_up = ready.send(Err(SpokeError::of_closed(reason.clone())));
        }
        reason
    }

    /// One connection from its upgrade to its end.
    async fn connection(&mut self, socket: Socket) -> Next {
        let began = Instant::now();
        let shared = self.shared;
        let (outbox, queue) = Outbox::new(OUTBOX);
        let responder = shared.role.responder(Client::unguarded(shared));
        let config = PeerConfig { message_bytes: shared.dialer.message_limit, ..PeerConfig::default() };
        let peer = Peer::new(config, outbox, responder, shared.served.clone());
        let driving = drive(socket, &peer, queue, shared.liveness, shared.dialer.message_limit);
        tokio::pin!(driving);
        let entering = shared.role.enter(peer.clone());
        let mut refused = false;
        let next = tokio::select! {
            ended = &mut driving => self.after(ended),
            entered = entering => match entered {
                Ok(()) => {
                    self.up(&peer);
                    let ended = self.attend(&peer, &mut driving).await;
                    if began.elapsed() >= SETTLED {
                        self.attempt = 0;
                    }
                    // A hub that drains answers what it has taken before it says so, and takes nothing more.
                    refused = matches!(&ended, Ended::ByHub { code, .. } if *code == close::GOING_AWAY);
                    self.after(ended)
                }
                Err(error) => self.refused(error, tokio::time::timeout(EXPLAINING, &mut driving).await.ok()),
            },
            () = shared.stop.cancelled() => Next::Final(ClosedReason::Requested),
        };
        // First the link, so that no new call takes this connection.
        shared.link.send_replace(Link::Down);
        if refused {
            let refusal = "the other side went away before it took the call";
            peer.close_refused(&CallError::new(ErrorCode::SpokeDisconnected, refusal).with_retryable(true));
        } else {
            peer.close();
        }
        next
    }

    fn up(&mut self, peer: &Peer) {
        self.count += 1;
        self.shared.link.send_replace(Link::Up(peer.clone()));
        self.shared.state.send_replace(ConnectionState::Connected { count: self.count });
        if let Some(ready) = self.ready.take() {
            let _given_up = ready.send(Ok(()));
        }
    }

    async fn attend(&self, peer: &Peer, mut driving: impl Future<Output = Ended> + Unpin) -> Ended {
        let attending = async {
            self.shared.role.attend(peer.clone()).await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            ended = &mut driving => ended,
            () = attending => Ended::Broken("the role ended the connection".to_owned()),
            () = self.shared.stop.cancelled() => {
                peer.outbox().close(Close { code: close::NORMAL, reason: String::new(), flush: true });
                // A hub that reads nothing any more must not keep this side from ending.
                tokio::time::timeout(FLUSHING, driving).await.unwrap_or(Ended::ByUs { code: close::NORMAL })
            }
        }
    }

    fn after(&self, ended: Ended) -> Next {
        if self.shared.stop.is_cancelled() {
            return Next::Final(ClosedReason::Requested);
        }
        match ended {
            Ended::ByHub { code, reason } if close::is_final(code) => Next::Final(ClosedReason::of_code(code, &reason)),
            Ended::ByHub { code, reason } => {
                let after = if code == close::GOING_AWAY { retry_after(&reason) } else { None };
                Next::Retry { why: ClosedReason::of_code(code, &reason), after }
            }
            Ended::ByUs { code } => Next::Retry { why: ClosedReason::of_code(code, "by this side"), after: None },
            Ended::Broken(reason) => Next::Retry { why: ClosedReason::Lost(reason), after: None },
        }
    }

    /// The role could not enter. The close code, if one has come, says more than the error.
    fn refused(&self, error: CallError, ended: Option<Ended>) -> Next {
        let of_close = ended.map(|ended| self.after(ended));
        match of_close {
            Some(Next::Final(reason)) => Next::Final(reason),
            Some(retry) if error.retryable || error.is(ErrorCode::SpokeDisconnected) => retry,
            _ if error.retryable => Next::Retry { why: ClosedReason::Lost(error.to_string()), after: None },
            _ => Next::Final(ClosedReason::Refused(error)),
        }
    }
}

/// Exponential backoff with full jitter: a hub that comes back is not hit by all at once.
pub(crate) fn backoff(attempt: u32) -> Duration {
    const BASE_MS: u64 = 100;
    const MAX_MS: u64 = 10_000;
    let ceiling = BASE_MS.saturating_mul(1 << attempt.min(20)).min(MAX_MS);
    Duration::from_millis(rand::random_range(0..=ceiling))
}

/// The `retry-after-ms=N` of a close reason.
fn retry_after(reason: &str) -> Option<Duration> {
    let digits = reason.split_once("retry-after-ms=")?.1;
    let digits = digits.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok().map(|ms| Duration::from_millis(ms).min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_its_ceiling() {
        for attempt in [0, 1, 5, 30, u32::MAX] {
            let ceiling = Duration::from_millis(100 * (1 << attempt.min(10))).min(Duration::from_secs(10));
            assert!((0..100).all(|_| backoff(attempt) <= ceiling), "{attempt}");
        }
        assert!((0..100).any(|_| backoff(u32::MAX) > Duration::from_secs(1)));
    }

    #[test]
    fn the_hub_says_when_to_come_back() {
        assert_eq!(retry_after("draining, retry-after-ms=1500"), Some(Duration::from_millis(1500)));
        assert_eq!(retry_after("retry-after-ms=99999999999"), Some(MAX_RETRY_AFTER));
        for reason in ["", "retry-after-ms=", "retry-after-ms=x", "soon", "retry-after-ms=99999999999999999999999"] {
            assert_eq!(retry_after(reason), None, "{reason}");
        }
    }
}
