//! Calls of requests that may be dropped at any moment.

use hub_core::{Called, Caller, Hub, Leash, Principal};
use hub_protocol::{CallError, CallId, CallRequested, ErrorCode};
use tokio::sync::oneshot;

/// Makes a call in a task of its own, so that a requester who goes away counts as gone and the call's own
/// `onDisconnect` rule decides, not the moment at which the request was dropped. So does one whose key ends.
pub(crate) async fn call(hub: &Hub, principal: &Principal, id: CallId, request: CallRequested, leash: Leash) -> Called {
    let gone = leash.gone.clone().drop_guard();
    let (answered, answer) = oneshot::channel();
    let (calling, caller) = (hub.clone(), Caller::new(principal));
    hub.spawn("call of a request", async move {
        let called = calling.call_as(id, caller, request, leash).await;
        // Nobody left to tell; the record has the result.
        let _gone = answered.send(called);
    });
    let refused = |error| Called { call_id: None, result: Err(error) };
    let called = tokio::select! {
        biased;
        called = answer => called
            .unwrap_or_else(|_| refused(CallError::new(ErrorCode::Overloaded, "the hub is draining"))),
        end = principal.over() => return refused(end.error()),
    };
    // From here on dropping the stream is what tells that nobody reads it.
    gone.disarm();
    called
}
