//! A connection whose other side has said that it took nothing more, while calls are still begun on it.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_operations::{Answer, End, Incoming, Outbox, Peer, PeerConfig, Responder};
use hub_protocol::{CallError, CallRequested, ErrorCode, Event, Fault, Json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

/// Whoever looks for a call that falls between two steps must look often.
const ROUNDS: usize = 500;
const CALLERS: usize = 4;

struct Nothing;

impl Responder for Nothing {
    fn call(&self, _incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        std::future::ready(Ok(Answer::One(Json::null()))).boxed()
    }

    fn other(&self, _event: Event) -> Result<(), Fault> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_call_is_refused_or_not_begun_and_never_lost() {
    let refusal = CallError::new(ErrorCode::OperationUnavailable, "it goes elsewhere");
    for _ in 0..ROUNDS {
        let (outbox, _queue) = Outbox::new(1024 * 1024);
        let peer = Peer::new(PeerConfig::default(), outbox, Arc::new(Nothing), TaskTracker::new());
        let together = Arc::new(Barrier::new(CALLERS + 1));
        let mut callers = JoinSet::new();
        for caller in 0..CALLERS {
            let (peer, together) = (peer.clone(), Arc::clone(&together));
            callers.spawn(async move {
                let mut begun = Vec::new();
                together.wait().await;
                for n in 0..200 {
                    let request = CallRequested::new(format!("{caller}-{n}"), "a.b", Json::null());
                    match peer.start(&request, true).await {
                        Ok(pending) => begun.push(pending),
                        Err(error) => {
                            assert!(error.retryable, "{error:?}");
                            break;
                        }
                    }
                }
                begun
            });
        }
        together.wait().await;
        tokio::task::yield_now().await;
        peer.close_refused(&refusal);
        for mut pending in callers.join_all().await.into_iter().flatten() {
            let end = pending.end().await;
            assert!(matches!(&end, End::Failed(error) if error.code == refusal.code), "{end:?}");
        }
    }
}
