use hub_operations::Peer;
use hub_protocol::{CallError, ErrorCode};
use tokio::sync::watch;

/// The call, on one connection, on whose behalf nested calls are made.
#[derive(Clone)]
pub(crate) struct Binding {
    pub(crate) peer: Peer,
    pub(crate) request_id: String,
    pub(crate) deadline_ms: Option<u64>,
}

/// Ties nested calls to the call being served.
///
/// The hub accepts a parent only on the connection that it is served on. A keyed call outlives its connection and is
/// bound anew when the hub asks again; until then its nested calls wait.
#[derive(Clone)]
pub(crate) struct Lineage {
    bound: watch::Receiver<Binding>,
    keyed: bool,
    traceparent: Option<String>,
}

impl Lineage {
    pub(crate) const fn new(bound: watch::Receiver<Binding>, keyed: bool, traceparent: Option<String>) -> Self {
        Self { bound, keyed, traceparent }
    }

    pub(crate) fn deadline_ms(&self) -> Option<u64> {
        self.bound.borrow().deadline_ms
    }

    pub(crate) fn traceparent(&self) -> Option<String> {
        self.traceparent.clone()
    }

    /// The connection and the parent's request id on it.
    pub(crate) async fn current(&mut self) -> Result<(Peer, String), CallError> {
        let lost = || CallError::new(ErrorCode::SpokeDisconnected, "the connection of the calling call was lost");
        let usable = |bound: &Binding| !bound.peer.gone().is_cancelled();
        if !self.keyed && !usable(&self.bound.borrow()) {
            return Err(lost().with_retryable(true));
        }
        let bound = self.bound.wait_for(usable).await.map_err(|_| lost().with_retryable(true))?;
        Ok((bound.peer.clone(), bound.request_id.clone()))
    }
}
