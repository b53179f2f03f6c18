use std::borrow::Cow;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    CallAborted, CallCompleted, CallFailed, CallRequested, CallResponded, Envelope, Event, Fault, FaultCode, IdStyle,
    Identity, Json, OnDisconnect,
};

#[derive(Deserialize)]
struct RawEnvelope<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    id: Option<Text<'a>>,
    #[serde(default, borrow)]
    payload: Option<&'a RawValue>,
}

/// A text that stays a slice of the frame where it can. In an option a plain `Cow` would always be copied.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

// The borrowed twins of the two hot payloads: their JSON members stay slices of the frame.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawRequested<'a> {
    #[serde(default)]
    request_id: Option<String>,
    operation_id: String,
    #[serde(default, borrow)]
    input: Option<&'a RawValue>,
    #[serde(default)]
    parent_request_id: Option<String>,
    #[serde(default, borrow)]
    deadline: Option<&'a RawValue>,
    #[serde(default, borrow)]
    idle_timeout: Option<&'a RawValue>,
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
    #[serde(default)]
    request_id: Option<String>,
    #[serde(default, borrow)]
    output: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct TopicPayload {
    topic: String,
}

/// Reads one message. JSON members of the result share `frame`'s memory: keep one for long only as
/// [`Json::compact`].
///
/// # Errors
/// A [`Fault`] that can be sent back as it is.
pub fn decode(frame: &Bytes) -> Result<(Event, IdStyle), Fault> {
    let raw: RawEnvelope<'_> = object(frame, FaultCode::UnreadableEnvelope, "envelope")?;
    let id = raw.id.map(|id| id.0).unwrap_or_default();
    let style = if id.is_empty() { IdStyle::Empty } else { IdStyle::Envelope };
    let text = raw.payload.map_or("null", RawValue::get);
    let own_id = |in_payload: String| match (in_payload.is_empty(), id.is_empty()) {
        (false, _) => Ok(in_payload),
        (true, false) => Ok(id.to_string()),
        (true, true) => Err(Fault {
            code: FaultCode::BadPayload,
            message: "payload: neither requestId nor the envelope's id names a call".to_owned(),
        }),
    };
    let event = match &*raw.kind {
        "call.requested" => {
            let p: RawRequested<'_> = payload(text)?;
            Event::Requested(CallRequested {
                request_id: own_id(p.request_id.unwrap_or_default())?,
                operation_id: p.operation_id,
                input: p.input.map_or_else(Json::null, |r| Json::slice_of(frame, r)),
                parent_request_id: p.parent_request_id,
                deadline: p.deadline.map(ms).transpose()?,
                idle_timeout: p.idle_timeout.map(ms).transpose()?,
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
            Event::Responded(CallResponded { request_id: own_id(p.request_id.unwrap_or_default())?, output })
        }
        "call.completed" => Event::Completed(CallCompleted { request_id: own_id(only_id(text)?)? }),
        "call.aborted" => {
            let mut p: CallAborted = payload(text)?;
            p.request_id = own_id(p.request_id)?;
            Event::Aborted(p)
        }
        "call.error" => {
            let mut p: CallFailed = payload(text)?;
            p.request_id = own_id(p.request_id)?;
            Event::Failed(p)
        }
        "__subscribe" => Event::Subscribe(payload::<TopicPayload>(text)?.topic),
        "__unsubscribe" => Event::Unsubscribe(payload::<TopicPayload>(text)?.topic),
        "__pause" => Event::Pause(own_id(only_id(text)?)?),
        "__resume" => Event::Resume(own_id(only_id(text)?)?),
        "hub.protocol_error" => Event::ProtocolError(payload(text)?),
        _ => {
            let message = Envelope {
                id: id.to_string(),
                payload: raw.payload.map_or_else(Json::null, |r| Json::slice_of(frame, r)),
                kind: raw.kind.into_owned(),
            };
            if message.is_reserved() {
                let shown: String = message.kind.chars().take(40).collect();
                return Err(Fault { code: FaultCode::UnknownType, message: format!("unknown type {shown:?}") });
            }
            Event::Topic(message)
        }
    };
    Ok((event, style))
}

fn payload<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Fault> {
    object(text.as_bytes(), FaultCode::BadPayload, "payload")
}

/// A number of milliseconds in any spelling, cut to what can be told. One beyond every float fails in the parser
/// itself, so that it is read as text here.
fn ms(raw: &RawValue) -> Result<u64, Fault> {
    let text = raw.get();
    let is_number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(ms) => Ok(ms),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
        Err(_) if is_number => Ok(text.parse::<f64>().map_or(0, |ms| ms as u64)),
        Err(_) => {
            let message = "payload: expected a number of milliseconds".to_owned();
            Err(Fault { code: FaultCode::BadPayload, message })
        }
    }
}

fn only_id(text: &str) -> Result<String, Fault> {
    payload::<CallCompleted>(text).map(|p| p.request_id)
}

/// Parses a JSON object. Without the look at the first byte serde would take an array for a struct, member by member.
fn object<'a, T: Deserialize<'a>>(text: &'a [u8], code: FaultCode, part: &str) -> Result<T, Fault> {
    if text.trim_ascii_start().first() != Some(&b'{') {
        return Err(Fault { code, message: format!("{part}: expected an object") });
    }
    serde_json::from_slice(text).map_err(|e| Fault { code, message: format!("{part}: {}", describe(&e)) })
}

/// What is wrong, in words of ours only: serde quotes the offending value, which may be a secret and ends in logs.
pub(crate) fn describe(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if !error.is_data() || text.starts_with("missing field") || text.starts_with("duplicate field") {
        return text;
    }
    // The quoted value comes first, so the last ", expected" is serde's own.
    text.rsplit_once(", expected ").map_or_else(
        || format!("a value does not fit at line {} column {}", error.line(), error.column()),
        |(_, wanted)| {
            let what = if text.starts_with("unknown field") { "no such member, " } else { "" };
            format!("{what}expected {wanted}")
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message_of(frame: &'static str) -> String {
        decode(&Bytes::from_static(frame.as_bytes())).unwrap_err().message
    }

    #[test]
    fn faults_tell_what_is_wrong_without_quoting() {
        for (frame, message) in [
            (r#"["call.requested"]"#, "envelope: expected an object"),
            (r#"{"id":""}"#, "envelope: missing field `type` at line 1 column 9"),
            (r#"{"type":"__ping"}"#, r#"unknown type "__ping""#),
            (
                r#"{"type":"call.requested","id":"r","payload":{"operationId":"a.b","deadline":"hunter2, expected x"}}"#,
                "payload: expected a number of milliseconds",
            ),
            (
                r#"{"type":"call.requested","id":"r","payload":{"operationId":"a.b","onDisconnect":"hunter2"}}"#,
                "payload: expected one of `abort`, `finish`, `detach` at line 1 column 45",
            ),
        ] {
            assert_eq!(message_of(frame), message);
        }
    }

    #[test]
    fn values_share_the_frame() {
        let frame =
            Bytes::from_static(br#"{"type":"call.requested","id":"r","payload":{"operationId":"a.b","input":[1]}}"#);
        let (Event::Requested(request), _) = decode(&frame).unwrap() else { panic!("not a request") };
        assert!(frame.as_ptr_range().contains(&request.input.as_bytes().as_ptr()));
        assert!(!frame.as_ptr_range().contains(&request.input.compact().as_bytes().as_ptr()));
    }
}
