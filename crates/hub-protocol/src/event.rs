//! Envelopes and the events of a call (protocol §2 and §3).

use std::fmt;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{CallError, Identity, Json};

/// The frame of every message: `{ "type", "id", "payload" }`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Envelope {
    /// Event type.
    #[serde(rename = "type")]
    pub kind: String,
    /// Correlation id or empty.
    #[serde(default)]
    pub id: String,
    /// Event data; missing means null.
    #[serde(default)]
    pub payload: Json,
}

impl Envelope {
    /// Whether the type belongs to the protocol itself, so that no topic message may bear it.
    #[must_use]
    pub fn is_reserved(&self) -> bool {
        ["__", "call.", "hub."].iter().any(|prefix| self.kind.starts_with(prefix))
    }
}

/// Where a peer puts the request id. The hub answers in the style it was asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum IdStyle {
    /// Envelope `id` is empty, the id is in the payload (the published TypeScript library).
    #[default]
    Empty,
    /// Envelope `id` is the request id.
    Envelope,
}

/// What becomes of a call when its caller's connection is lost (protocol §4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnDisconnect {
    /// Abort it and all below it. Default for queries and subscriptions.
    Abort,
    /// Run to the end and keep the result in the call record. Default for mutations.
    Finish,
    /// As finish, and its stream stays readable by `calls.attach`.
    Detach,
}

/// `call.requested`: the caller asks for a call.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallRequested {
    /// Chosen by the caller, unique on its connection while in flight.
    #[serde(default)]
    pub request_id: String,
    /// `namespace.name`, or `namespace.name@spoke` for one provider.
    pub operation_id: String,
    /// The operation's input; missing means null.
    #[serde(default)]
    pub input: Json,
    /// The call being served by the sender, if this one is made on its behalf.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent_request_id: Option<String>,
    /// Milliseconds since the epoch after which nobody waits any more.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient_ms")]
    pub deadline: Option<u64>,
    /// Longest pause between two responses of a subscription, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient_ms")]
    pub idle_timeout: Option<u64>,
    /// Who calls. Set by the hub on what it forwards; ignored from a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// Free data for the callee; never passed on to nested calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Json>,
    /// Names one execution for 24 hours (protocol §4).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// What becomes of the call when the caller's connection is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// Money that the call and all below it may spend, in micro-dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<i64>,
    /// Semver range of the operation's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// W3C trace context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Accepts a fraction, a negative number and one beyond 64 bits too: JavaScript clocks and sums give them. They are
/// cut to the nearest time that can be told; an integer that fits stays exact, which a detour over f64 would not do.
pub(crate) fn lenient_ms<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    struct Ms(u64);
    struct AnyNumber;
    impl Visitor<'_> for AnyNumber {
        type Value = Ms;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a number of milliseconds")
        }
        fn visit_u64<E>(self, ms: u64) -> Result<Ms, E> {
            Ok(Ms(ms))
        }
        fn visit_i64<E>(self, ms: i64) -> Result<Ms, E> {
            Ok(Ms(ms.try_into().unwrap_or(0)))
        }
        fn visit_f64<E>(self, ms: f64) -> Result<Ms, E> {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
            Ok(Ms(ms as u64))
        }
    }
    impl<'de> Deserialize<'de> for Ms {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            // Not through an untagged enum: that would first copy whatever stands here, number or not.
            deserializer.deserialize_u64(AnyNumber)
        }
    }
    Ok(Option::<Ms>::deserialize(deserializer)?.map(|ms| ms.0))
}

/// Reads null as absent, as every other optional member of the contract does.
pub(crate) fn null_is_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(d: D) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl CallRequested {
    /// A request with nothing but what is needed.
    #[must_use]
    pub fn new(request_id: impl Into<String>, operation_id: impl Into<String>, input: Json) -> Self {
        Self { request_id: request_id.into(), operation_id: operation_id.into(), input, ..Self::default() }
    }
}

/// `call.responded`: one response.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallResponded {
    /// The call.
    #[serde(default, deserialize_with = "null_is_default")]
    pub request_id: String,
    /// A [`ResponseEnvelope`](crate::ResponseEnvelope) as text, passed on unchanged.
    #[serde(default)]
    pub output: Json,
}

/// `call.completed`: the end of a subscription.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallCompleted {
    /// The call.
    #[serde(default, deserialize_with = "null_is_default")]
    pub request_id: String,
}

/// `call.aborted`: either side gives the call up. The callee sends it back once its handler has stopped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallAborted {
    /// The call.
    #[serde(default, deserialize_with = "null_is_default")]
    pub request_id: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From a caller: how to abort; `kill_nowait` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<crate::ops::calls::AbortMode>,
    /// From the hub: what the abort reached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub receipts: Option<Vec<crate::ops::calls::Receipt>>,
}

/// `call.error`: the call failed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallFailed {
    /// The call.
    #[serde(default, deserialize_with = "null_is_default")]
    pub request_id: String,
    /// Code.
    pub code: String,
    /// For the peer.
    #[serde(default, deserialize_with = "null_is_default")]
    pub message: String,
    /// In a shape that the code decides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub details: Option<Json>,
    /// Whether the same call may succeed later; absent from peers that don't know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retryable: Option<bool>,
}

impl CallFailed {
    /// The event for an error.
    #[must_use]
    pub fn of(request_id: impl Into<String>, error: CallError) -> Self {
        let CallError { code, message, details, retryable } = error;
        Self { request_id: request_id.into(), code, message, details, retryable: Some(retryable) }
    }

    /// The error of the event; retryability falls back to the code's usual one.
    #[must_use]
    pub fn into_error(self) -> CallError {
        let usual = crate::ErrorCode::parse(&self.code).is_some_and(crate::ErrorCode::retryable);
        CallError {
            code: self.code,
            message: self.message,
            details: self.details,
            retryable: self.retryable.unwrap_or(usual),
        }
    }
}

/// A decoded message.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "a request is the commonest event; boxing it would cost every call")]
pub enum Event {
    /// `call.requested`
    Requested(CallRequested),
    /// `call.responded`
    Responded(CallResponded),
    /// `call.completed`
    Completed(CallCompleted),
    /// `call.aborted`
    Aborted(CallAborted),
    /// `call.error`
    Failed(CallFailed),
    /// `__subscribe`: send live messages of this topic.
    Subscribe(String),
    /// `__unsubscribe`
    Unsubscribe(String),
    /// `__pause`: hold this call's stream back; its reader is behind (flow control, ADR 0006).
    Pause(String),
    /// `__resume`: go on with this call's stream.
    Resume(String),
    /// `hub.protocol_error`: the hub could not read what the peer sent.
    ProtocolError(Fault),
    /// A message of a subscribed topic: type, id, payload.
    Topic(Envelope),
}

/// What is wrong with a message that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Fault {
    /// Kind of fault.
    pub code: FaultCode,
    /// Where and what, without the message's own text.
    pub message: String,
}

/// Kinds of [`Fault`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum FaultCode {
    /// Not JSON, or not an envelope.
    UnreadableEnvelope,
    /// A type this version does not know.
    UnknownType,
    /// A known type whose payload does not fit.
    BadPayload,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_goes_there_and_back() {
        let error = CallError::domain("TANK_EMPTY", "refill").with_details(&1).with_retryable(true);
        assert_eq!(CallFailed::of("r1", error.clone()).into_error(), error);
    }

    #[test]
    fn silence_about_retrying_means_the_codes_usual() {
        let silent = |code: &str| CallFailed {
            request_id: "r1".to_owned(),
            code: code.to_owned(),
            message: String::new(),
            details: None,
            retryable: None,
        };
        assert!(silent("OVERLOADED").into_error().retryable);
        assert!(!silent("CONFLICT").into_error().retryable);
        assert!(!silent("TANK_EMPTY").into_error().retryable);
    }
}
