//! Envelopes and the events of a call (protocol §2 and §3).

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

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

/// Accepts a number with a fraction too: JavaScript clocks give them.
fn lenient_ms<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    let number = Option::<f64>::deserialize(deserializer)?;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
    Ok(number.map(|n| n as u64))
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
    #[serde(default)]
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
    #[serde(default)]
    pub request_id: String,
}

/// `call.aborted`: either side gives the call up. The callee sends it back once its handler has stopped.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CallAborted {
    /// The call.
    #[serde(default)]
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
    #[serde(default)]
    pub request_id: String,
    /// Code.
    pub code: String,
    /// For the peer.
    #[serde(default)]
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

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    id: Cow<'a, str>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
}

// The borrowed twins of the two hot payloads: their JSON members stay slices of the frame.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequested<'a> {
    #[serde(default, borrow)]
    request_id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    operation_id: Cow<'a, str>,
    #[serde(default, borrow)]
    input: Option<&'a RawValue>,
    #[serde(default)]
    parent_request_id: Option<String>,
    #[serde(default, deserialize_with = "lenient_ms")]
    deadline: Option<u64>,
    #[serde(default, deserialize_with = "lenient_ms")]
    idle_timeout: Option<u64>,
    #[serde(default)]
    identity: Option<Identity>,
    #[serde(default, borrow)]
    metadata: Option<&'a RawValue>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    on_disconnect: Option<OnDisconnect>,
    #[serde(default)]
    budget: Option<i64>,
    #[serde(default)]
    version: Option<String>,
    #[serde(default)]
    traceparent: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawResponded<'a> {
    #[serde(default, borrow)]
    request_id: Option<Cow<'a, str>>,
    #[serde(default, borrow)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct TopicPayload {
    topic: String,
}

/// Reads one message. JSON members of the result share `frame`'s memory.
///
/// # Errors
/// A [`Fault`] that can be sent back as it is.
pub fn decode(frame: &Bytes) -> Result<(Event, IdStyle), Fault> {
    let raw: RawEnvelope<'_> =
        serde_json::from_slice(frame).map_err(|e| fault(FaultCode::UnreadableEnvelope, "envelope", &e))?;
    let style = if raw.id.is_empty() { IdStyle::Empty } else { IdStyle::Envelope };
    let text = raw.payload.map_or("null", RawValue::get);
    let own_id = |in_payload: Option<Cow<'_, str>>| in_payload.unwrap_or(Cow::Borrowed(&raw.id)).into_owned();
    let pick = |in_payload: String| if in_payload.is_empty() { raw.id.to_string() } else { in_payload };
    let event = match &*raw.kind {
        "call.requested" => {
            let p: RawRequested<'_> = payload(text)?;
            let request_id = own_id(p.request_id);
            if request_id.is_empty() {
                return Err(Fault {
                    code: FaultCode::BadPayload,
                    message: "call.requested has no requestId and an empty envelope id".to_owned(),
                });
            }
            Event::Requested(CallRequested {
                request_id,
                operation_id: p.operation_id.into_owned(),
                input: p.input.map_or_else(Json::null, |r| Json::slice_of(frame, r)),
                parent_request_id: p.parent_request_id,
                deadline: p.deadline,
                idle_timeout: p.idle_timeout,
                identity: p.identity,
                metadata: p.metadata.map(|r| Json::slice_of(frame, r)),
                idempotency_key: p.idempotency_key,
                on_disconnect: p.on_disconnect,
                budget: p.budget,
                version: p.version,
                traceparent: p.traceparent,
            })
        }
        "call.responded" => {
            let p: RawResponded<'_> = payload(text)?;
            let output = p.output.map_or_else(Json::null, |r| Json::slice_of(frame, r));
            Event::Responded(CallResponded { request_id: own_id(p.request_id), output })
        }
        "call.completed" => {
            let p: CallCompleted = payload(text)?;
            Event::Completed(CallCompleted { request_id: pick(p.request_id) })
        }
        "call.aborted" => {
            let p: CallAborted = payload(text)?;
            Event::Aborted(CallAborted { request_id: pick(p.request_id.clone()), ..p })
        }
        "call.error" => {
            let p: CallFailed = payload(text)?;
            Event::Failed(CallFailed { request_id: pick(p.request_id.clone()), ..p })
        }
        "__subscribe" => Event::Subscribe(payload::<TopicPayload>(text)?.topic),
        "__unsubscribe" => Event::Unsubscribe(payload::<TopicPayload>(text)?.topic),
        "__pause" => Event::Pause(pick(payload::<CallCompleted>(text)?.request_id)),
        "__resume" => Event::Resume(pick(payload::<CallCompleted>(text)?.request_id)),
        "hub.protocol_error" => Event::ProtocolError(payload(text)?),
        kind if kind.starts_with("__") || kind.starts_with("call.") || kind.starts_with("hub.") => {
            let shown: String = kind.chars().take(40).collect();
            return Err(Fault { code: FaultCode::UnknownType, message: format!("unknown type {shown:?}") });
        }
        kind => Event::Topic(Envelope {
            kind: kind.to_owned(),
            id: raw.id.to_string(),
            payload: raw.payload.map_or_else(Json::null, |r| Json::slice_of(frame, r)),
        }),
    };
    Ok((event, style))
}

/// The request id and its style of a message that is too large or broken to decode, when the first bytes show it.
///
/// Lets the hub answer `PAYLOAD_TOO_LARGE` to the call instead of closing the connection.
#[must_use]
pub fn decode_head(head: &[u8]) -> Option<(String, IdStyle)> {
    // Only the part before "input" is looked at, so that nothing a caller quotes can pose as the id.
    let text = String::from_utf8_lossy(head);
    let text = text.split("\"input\"").next()?;
    if !text.contains("\"call.requested\"") {
        return None;
    }
    let member = |name: &str| {
        let rest = text.split_once(&format!("\"{name}\""))?.1.trim_start().strip_prefix(':')?.trim_start();
        serde_json::Deserializer::from_str(rest).into_iter::<String>().next()?.ok().filter(|id| !id.is_empty())
    };
    let envelope_id = member("id");
    let style = if envelope_id.is_some() { IdStyle::Envelope } else { IdStyle::Empty };
    member("requestId").or(envelope_id).map(|id| (id, style))
}

fn payload<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|e| fault(FaultCode::BadPayload, "payload", &e))
}

fn fault(code: FaultCode, part: &str, error: &serde_json::Error) -> Fault {
    // serde quotes offending values; cut so that a fault never carries much of the peer's text back.
    let detail: String = error.to_string().chars().take(200).collect();
    Fault { code, message: format!("{part}: {detail}") }
}

/// Writes one message. JSON members are spliced in as they are.
#[must_use]
pub fn encode(event: &Event, style: IdStyle) -> Bytes {
    match event {
        Event::Requested(p) => encode_requested(p, style),
        Event::Responded(p) => {
            let mut out = Writer::open("call.responded", &p.request_id, style, p.output.size() + 64);
            out.string("requestId", &p.request_id);
            out.raw("output", &p.output);
            out.close()
        }
        Event::Completed(p) => plain("call.completed", &p.request_id, style),
        Event::Aborted(p) => serialized("call.aborted", &p.request_id, style, p),
        Event::Failed(p) => serialized("call.error", &p.request_id, style, p),
        Event::Subscribe(topic) => with_topic("__subscribe", topic),
        Event::Unsubscribe(topic) => with_topic("__unsubscribe", topic),
        Event::Pause(id) => plain("__pause", id, style),
        Event::Resume(id) => plain("__resume", id, style),
        Event::ProtocolError(fault) => serialized("hub.protocol_error", "", IdStyle::Empty, fault),
        Event::Topic(e) => serialized(&e.kind, &e.id, IdStyle::Envelope, &e.payload),
    }
}

fn encode_requested(p: &CallRequested, style: IdStyle) -> Bytes {
    let mut out = Writer::open("call.requested", &p.request_id, style, p.input.size() + 256);
    out.string("requestId", &p.request_id);
    out.string("operationId", &p.operation_id);
    out.raw("input", &p.input);
    out.option("parentRequestId", p.parent_request_id.as_ref());
    out.option("deadline", p.deadline.as_ref());
    out.option("idleTimeout", p.idle_timeout.as_ref());
    out.option("identity", p.identity.as_ref());
    if let Some(metadata) = &p.metadata {
        out.raw("metadata", metadata);
    }
    out.option("idempotencyKey", p.idempotency_key.as_ref());
    out.option("onDisconnect", p.on_disconnect.as_ref());
    out.option("budget", p.budget.as_ref());
    out.option("version", p.version.as_ref());
    out.option("traceparent", p.traceparent.as_ref());
    out.close()
}

fn plain(kind: &str, request_id: &str, style: IdStyle) -> Bytes {
    let mut out = Writer::open(kind, request_id, style, 32);
    out.string("requestId", request_id);
    out.close()
}

fn with_topic(kind: &str, topic: &str) -> Bytes {
    let mut out = Writer::open(kind, "", IdStyle::Empty, topic.len() + 16);
    out.string("topic", topic);
    out.close()
}

fn serialized<T: Serialize>(kind: &str, id: &str, style: IdStyle, payload: &T) -> Bytes {
    let mut out = Writer::head(kind, id, style, 128);
    out.value(payload);
    out.text.push(b'}');
    out.text.into()
}

/// Builds an envelope text member by member. Serializing strings and plain data cannot fail.
struct Writer {
    text: Vec<u8>,
}

impl Writer {
    fn head(kind: &str, id: &str, style: IdStyle, room: usize) -> Self {
        let mut this = Self { text: Vec::with_capacity(room + kind.len() + 2 * id.len() + 48) };
        this.text.extend_from_slice(b"{\"type\":");
        this.value(kind);
        this.text.extend_from_slice(b",\"id\":");
        this.value(match style {
            IdStyle::Empty => "",
            IdStyle::Envelope => id,
        });
        this.text.extend_from_slice(b",\"payload\":");
        this
    }

    fn open(kind: &str, id: &str, style: IdStyle, room: usize) -> Self {
        let mut this = Self::head(kind, id, style, room);
        this.text.push(b'{');
        this
    }

    fn key(&mut self, key: &str) {
        if self.text.last() != Some(&b'{') {
            self.text.push(b',');
        }
        self.value(key);
        self.text.push(b':');
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) {
        let before = self.text.len();
        if serde_json::to_writer(&mut self.text, value).is_err() {
            self.text.truncate(before);
            self.text.extend_from_slice(b"null");
        }
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        self.value(value);
    }

    fn raw(&mut self, key: &str, value: &Json) {
        self.key(key);
        self.text.extend_from_slice(value.as_bytes());
    }

    fn option<T: Serialize>(&mut self, key: &str, value: Option<&T>) {
        if let Some(value) = value {
            self.key(key);
            self.value(value);
        }
    }

    fn close(mut self) -> Bytes {
        self.text.extend_from_slice(b"}}");
        self.text.into()
    }
}
