//! The one way in for every face: find → access → validate → limits → keyed → dispatch → record.

mod admit;
mod dispatch;
mod keyed;
mod record;
mod run;
mod terms;

use std::sync::Arc;

use hub_operations::{AbortSignal, Answer, now_ms};
use hub_protocol::{CallError, CallId, CallRequested, ErrorCode, Identity, OperationType, ResponseEnvelope};
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::key::{KeyInfo, Principal};
use crate::live::LiveCall;
use crate::rerun::Rerun;
use crate::session::Session;

pub(crate) use record::payload_of;
pub(crate) use run::Run;

/// Who calls, and from where.
#[derive(Clone)]
pub struct Caller {
    pub(crate) identity: Arc<Identity>,
    pub(crate) key: Option<Arc<KeyInfo>>,
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) parent: Option<Arc<LiveCall>>,
    pub(crate) rerun: Option<Arc<Rerun>>,
}

impl Caller {
    /// A caller that is no WebSocket connection.
    #[must_use]
    pub fn new(principal: &Principal) -> Self {
        Self {
            identity: Arc::clone(&principal.identity),
            key: principal.key.clone(),
            session: None,
            parent: None,
            rerun: None,
        }
    }

    pub(crate) fn below(mut self, parent: Arc<LiveCall>) -> Self {
        self.parent = Some(parent);
        self
    }
}

/// How the caller of a call can give it up.
#[derive(Clone, Default)]
pub struct Leash {
    /// Fires when the caller aborts.
    pub abort: AbortSignal,
    /// Fires when the caller is gone; what then happens is up to `onDisconnect`.
    pub gone: CancellationToken,
}

/// What became of a call.
pub struct Called {
    /// The hub's id of the call, once it was admitted.
    pub call_id: Option<CallId>,
    /// Its answer.
    pub result: Result<Answer, CallError>,
}

impl Hub {
    /// Makes a call, as every face does. A query or mutation has ended when this returns; a subscription has begun
    /// and ends with its stream, and dropping the stream gives the call up by its `onDisconnect` rule.
    pub async fn call(&self, caller: Caller, request: CallRequested, leash: Leash) -> Called {
        self.call_as(CallId::new(), caller, request, leash).await
    }

    /// As [`Hub::call`], under an id that is new and that the face has made: it can tell it before the call has ended.
    pub async fn call_as(&self, id: CallId, caller: Caller, request: CallRequested, leash: Leash) -> Called {
        // In a box, as is what ends the call: one that waits for its callee would hold the room for both all the time.
        match Box::pin(self.admit(id, caller, request, leash)).await {
            Err((call_id, error)) => {
                metrics::counter!("hub_calls_refused_total").increment(1);
                Called { call_id, result: Err(error) }
            }
            Ok(mut run) => {
                let call_id = Some(run.call_id());
                let result = if run.kind() == OperationType::Subscription {
                    run.begin().await.map(|()| Answer::Many(run.into_items()))
                } else {
                    match run.next().await {
                        Some(result) => result.map(Answer::One),
                        None => Err(CallError::new(ErrorCode::ExecutionError, "the handler ended without a response")),
                    }
                };
                Called { call_id, result }
            }
        }
    }

    /// The HTTP status of a failed call: what the operation declares for its own codes, else the code's; a failure
    /// inside a spoke is a bad gateway.
    #[must_use]
    pub fn http_status(&self, operation_id: &str, error: &CallError) -> u16 {
        let own = self.registry().get(operation_id).map(|e| Arc::clone(e.definition()));
        let by_spoke = own.is_none();
        let plain = operation_id.split('@').next().unwrap_or_default();
        let definition = own.or_else(|| self.directory().show(plain));
        match error.known() {
            Some(ErrorCode::ExecutionError | ErrorCode::UnknownError) if by_spoke => 502,
            Some(code) => code.http_status(),
            None => definition
                .and_then(|d| d.spec().error_schemas.iter().find(|e| e.code == error.code).and_then(|e| e.http_status))
                .filter(|status| (400..600).contains(status))
                .unwrap_or(500),
        }
    }

    /// Calls a typed query or mutation as `principal`; the way in for embedders.
    ///
    /// # Errors
    /// As the operation and the router give them.
    pub async fn invoke<O: hub_protocol::ops::Operation>(
        &self,
        principal: &Principal,
        params: &O,
    ) -> Result<O::Reply, CallError> {
        let input = hub_protocol::Json::from_serialize(params)
            .map_err(|_| CallError::new(ErrorCode::ValidationError, "the parameters cannot be serialized"))?;
        let request = CallRequested::new(CallId::new().to_string(), O::ID, input);
        let called = self.call(Caller::new(principal), request, Leash::default()).await;
        let Answer::One(envelope) = called.result? else {
            return Err(CallError::new(ErrorCode::ValidationError, format!("{} is a subscription", O::ID)));
        };
        decode(&envelope)
    }
}

/// The typed value in a response envelope.
pub(crate) fn decode<T: serde::de::DeserializeOwned>(envelope: &hub_protocol::Json) -> Result<T, CallError> {
    ResponseEnvelope::data_of(envelope)
        .and_then(|data| data.parse())
        .map_err(|_| CallError::new(ErrorCode::ExecutionError, "the response does not have the expected type"))
}

/// The deadline that a call gets: what it asks for, else the usual one; never past its parent's.
fn deadline_of(kind: OperationType, asked: Option<u64>, parent: Option<&LiveCall>) -> Option<u64> {
    let usual = match kind {
        OperationType::Subscription => None,
        OperationType::Query | OperationType::Mutation => Some(now_ms() + hub_protocol::DEFAULT_DEADLINE_MS),
    };
    let own = asked.or(usual);
    match (own, parent.and_then(|p| p.deadline)) {
        (Some(own), Some(above)) => Some(own.min(above)),
        (own, above) => own.or(above),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn size<H, C, R, L, F>(_: impl Fn(H, C, R, L) -> F) -> usize {
        size_of::<F>()
    }

    /// Each call in flight holds it: what few calls need belongs in a box.
    #[test]
    fn the_future_of_a_call_is_small() {
        let size = size(|hub: &'static Hub, caller, request, leash| hub.call(caller, request, leash));
        assert!(size <= 4_096, "{size} bytes");
    }
}
