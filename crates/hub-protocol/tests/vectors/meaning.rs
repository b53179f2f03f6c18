use hub_protocol::{
    CallAborted, CallCompleted, CallFailed, CallRequested, CallResponded, Envelope, Event, Fault, FaultCode, Identity,
    OnDisconnect, ops,
};
use serde::Deserialize;

use crate::format::Text;

/// The `event` of a frame case.
#[derive(Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
#[expect(clippy::large_enum_variant, reason = "it mirrors Event and lives for one case")]
pub(crate) enum Meaning {
    #[serde(rename = "call.requested", rename_all = "camelCase")]
    Requested {
        request_id: String,
        operation_id: String,
        input: Text,
        parent_request_id: Option<String>,
        deadline: Option<u64>,
        idle_timeout: Option<u64>,
        identity: Option<Identity>,
        metadata: Option<Text>,
        idempotency_key: Option<String>,
        on_disconnect: Option<OnDisconnect>,
        budget: Option<i64>,
        version: Option<String>,
        traceparent: Option<String>,
    },
    #[serde(rename = "call.responded", rename_all = "camelCase")]
    Responded { request_id: String, output: Text },
    #[serde(rename = "call.completed", rename_all = "camelCase")]
    Completed { request_id: String },
    #[serde(rename = "call.aborted", rename_all = "camelCase")]
    Aborted {
        request_id: String,
        reason: Option<String>,
        mode: Option<ops::calls::AbortMode>,
        receipts: Option<Vec<ops::calls::Receipt>>,
    },
    #[serde(rename = "call.error", rename_all = "camelCase")]
    Failed { request_id: String, code: String, message: String, details: Option<Text>, retryable: Option<bool> },
    #[serde(rename = "__subscribe")]
    Subscribe { topic: String },
    #[serde(rename = "__unsubscribe")]
    Unsubscribe { topic: String },
    #[serde(rename = "__pause", rename_all = "camelCase")]
    Pause { request_id: String },
    #[serde(rename = "__resume", rename_all = "camelCase")]
    Resume { request_id: String },
    #[serde(rename = "hub.protocol_error")]
    ProtocolError { code: FaultCode, message: String },
    #[serde(rename = "topic", rename_all = "camelCase")]
    Topic { topic_type: String, id: String, payload: Text },
}

impl Meaning {
    pub(crate) fn event(self) -> Event {
        match self {
            Self::Requested {
                request_id,
                operation_id,
                input,
                parent_request_id,
                deadline,
                idle_timeout,
                identity,
                metadata,
                idempotency_key,
                on_disconnect,
                budget,
                version,
                traceparent,
            } => Event::Requested(CallRequested {
                request_id,
                operation_id,
                input: input.json(),
                parent_request_id,
                deadline,
                idle_timeout,
                identity,
                metadata: metadata.as_ref().map(Text::json),
                idempotency_key,
                on_disconnect,
                budget,
                version,
                traceparent,
            }),
            Self::Responded { request_id, output } => {
                Event::Responded(CallResponded { request_id, output: output.json() })
            }
            Self::Completed { request_id } => Event::Completed(CallCompleted { request_id }),
            Self::Aborted { request_id, reason, mode, receipts } => {
                Event::Aborted(CallAborted { request_id, reason, mode, receipts })
            }
            Self::Failed { request_id, code, message, details, retryable } => {
                let details = details.as_ref().map(Text::json);
                Event::Failed(CallFailed { request_id, code, message, details, retryable })
            }
            Self::Subscribe { topic } => Event::Subscribe(topic),
            Self::Unsubscribe { topic } => Event::Unsubscribe(topic),
            Self::Pause { request_id } => Event::Pause(request_id),
            Self::Resume { request_id } => Event::Resume(request_id),
            Self::ProtocolError { code, message } => Event::ProtocolError(Fault { code, message }),
            Self::Topic { topic_type, id, payload } => {
                Event::Topic(Envelope { kind: topic_type, id, payload: payload.json() })
            }
        }
    }
}
