use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_operations::{AbortSignal, Answer};
use hub_protocol::{CallError, CallId, Json, OperationSpec};
use tokio::sync::watch;

/// One caller's view of a hub: what the [`Face`](super::Face) needs of it.
///
/// Every call is made with the rights of that caller, so what it may not see it is not shown.
pub trait Host: Clone + Send + Sync + 'static {
    /// Calls an operation. A subscription answers its items.
    ///
    /// Dropping the future or the items gives the call up, as does `call.abort`, which also says so to all that the
    /// call has started.
    fn call(&self, call: HostCall) -> BoxFuture<'static, HostAnswer>;

    /// The operations that are tools of their own and that the caller may call now. None is called like one of
    /// [`MCP_TOOLS`](hub_protocol::ops::hub::MCP_TOOLS), and each takes objects.
    fn tools(&self) -> BoxFuture<'static, Vec<HostTool>> {
        std::future::ready(Vec::new()).boxed()
    }

    /// Changes when the answer of [`Host::tools`] may have.
    fn tools_changed(&self) -> Option<watch::Receiver<u64>> {
        None
    }
}

/// An operation that is a tool of its own.
#[derive(Debug, Clone)]
pub struct HostTool {
    /// The tool's name; 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// The operation.
    pub spec: OperationSpec,
}

/// A call to make.
#[derive(Clone, Default)]
pub struct HostCall {
    /// `namespace.name`, or `namespace.name@spoke`.
    pub operation_id: String,
    /// Its input.
    pub input: Json,
    /// Time from now on after which nobody waits any more; the hub's usual when absent. Not for a subscription: that
    /// is read for as long as its reader likes.
    pub timeout: Option<Duration>,
    /// Names one execution for 24 hours.
    pub idempotency_key: Option<String>,
    /// W3C trace context.
    pub traceparent: Option<String>,
    /// The id that the call is to have, also as the caller's: that of a task.
    pub call_id: Option<CallId>,
    /// Fires when the MCP client cancels.
    pub abort: AbortSignal,
}

/// What became of a call.
pub struct HostAnswer {
    /// The hub's id of the call, where it is known.
    pub call_id: Option<String>,
    /// Response envelope, items, or the error.
    pub result: Result<Answer, CallError>,
}
