//! What is posted, as far as it is read before the SDK reads it.

use std::borrow::Cow;
use std::convert::Infallible;

use bytes::Bytes;
use http::{Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use rmcp::ErrorData;
use rmcp::model::{InitializeRequest, JsonRpcError};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::mcp::face::first;

/// Messages of a batch.
const BATCH: usize = 64;

/// What a body holds.
pub(super) enum Posted {
    One(Message),
    Many(Vec<Result<Message, Fault>>),
}

/// One message.
pub(super) struct Message {
    /// The JSON text of a request's id.
    pub(super) request: Option<String>,
    method: Option<String>,
    asks_for_task: bool,
    pub(super) body: Bytes,
}

/// Why something is no message.
pub(super) struct Fault(Box<ErrorData>);

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    params: Option<Params>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Params {
    task: Option<IgnoredAny>,
}

/// Reads a body.
pub(super) fn read(body: &Bytes) -> Result<Posted, Fault> {
    if body.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'[') {
        return Message::read(body.clone()).map(Posted::One);
    }
    let members: Vec<&RawValue> = serde_json::from_slice(body).map_err(Fault::unreadable)?;
    if members.is_empty() || members.len() > BATCH {
        return Err(Fault::invalid(format!("a batch has 1 to {BATCH} messages, not {}", members.len())));
    }
    let one = |member: &RawValue| Message::read(body.slice_ref(member.get().as_bytes()));
    Ok(Posted::Many(members.into_iter().map(one).collect()))
}

impl Message {
    fn read(body: Bytes) -> Result<Self, Fault> {
        let Head { id, method, params } = serde_json::from_slice(&body).map_err(Fault::unreadable)?;
        let request = id.filter(|_| method.is_some()).map(|id| id.get().to_owned());
        let method = method.map(Cow::into_owned);
        let asks_for_task = params.is_some_and(|params| params.task.is_some());
        Ok(Self { request, method, asks_for_task, body })
    }

    /// As the SDK is given it outside of sessions. One that would begin a session and cannot be read is not to hear that
    /// it has none.
    pub(super) fn without_session(self) -> Result<Bytes, Fault> {
        if self.method.as_deref() == Some("initialize") {
            let read = serde_json::from_slice::<InitializeRequest>(&self.body);
            read.map_err(|error| Fault(Box::new(ErrorData::invalid_params(error.to_string(), None))))?;
        }
        Ok(self.body)
    }

    /// As the SDK is given it in a session of `revision`: what it would read as of another revision under a name that
    /// it does not know.
    pub(super) fn in_session_of(self, revision: &str) -> Result<Bytes, Fault> {
        let renamed = self.method.filter(|method| match method.as_str() {
            "tools/list" => revision == first::REVISION,
            "tools/call" => revision == first::REVISION && self.asks_for_task,
            method => method.starts_with("tasks/"),
        });
        let Some(method) = renamed else { return Ok(self.body) };
        let mut message: Value = serde_json::from_slice(&self.body).map_err(Fault::unreadable)?;
        message["method"] = Value::String(format!("{}{method}", first::PREFIX));
        let meta = message.pointer_mut("/params/_meta").and_then(Value::as_object_mut);
        if let Some((meta, token)) = meta.and_then(|meta| meta.remove("progressToken").map(|token| (meta, token))) {
            meta.insert(first::TOKEN.to_owned(), token);
        }
        Ok(message.to_string().into())
    }
}

impl Fault {
    fn unreadable(error: serde_json::Error) -> Self {
        if error.is_data() {
            return Self::invalid(format!("the body is no JSON-RPC message: {error}"));
        }
        Self(Box::new(ErrorData::parse_error(format!("the body is not JSON: {error}"), None)))
    }

    pub(super) fn invalid(why: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(ErrorData::invalid_request(why, None)))
    }

    /// Without an id: what a message is that can't be read is not known.
    fn text(self) -> String {
        serde_json::to_string(&JsonRpcError::new(None, *self.0)).unwrap_or_default()
    }

    /// As the answer to a request.
    pub(super) fn response(self) -> Response<BoxBody<Bytes, Infallible>> {
        let mut response = Response::new(Full::from(self.text()).boxed());
        *response.status_mut() = StatusCode::BAD_REQUEST;
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        response
    }

    /// As a server-sent event.
    pub(super) fn event(self) -> BoxBody<Bytes, Infallible> {
        Full::from(format!("data: {}\n\n", self.text())).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> i32 {
        read(&Bytes::copy_from_slice(body.as_bytes())).err().map_or(0, |fault| fault.0.code.0)
    }

    #[test]
    fn what_is_no_json_is_told_from_what_is_no_message() {
        for body in ["", " ", "{", "x", "[{}", "[1,]", "{\"id\":1,}"] {
            assert_eq!(code(body), -32700, "{body:?}");
        }
        let many = format!("[{}]", vec!["{}"; BATCH + 1].join(","));
        for body in ["1", "null", "\"x\"", "{\"method\":1}", "[]", &many] {
            assert_eq!(code(body), -32600, "{body:?}");
        }
        for body in ["{}", "{\"id\":null}", " [1,{}]", "{\"id\":1,\"method\":\"a\\n\",\"params\":{}}"] {
            assert_eq!(code(body), 0, "{body:?}");
        }
    }

    #[test]
    fn requests_of_the_first_tasks_get_names_of_their_own() {
        let given = |revision: &str, method: &str, params: &str| {
            let body = format!("{{\"id\":1,\"method\":\"{method}\",\"params\":{params}}}");
            let message = Message::read(body.into()).ok().unwrap();
            let body = message.in_session_of(revision).ok().unwrap();
            serde_json::from_slice::<Value>(&body).unwrap()["method"].as_str().unwrap().to_owned()
        };
        assert_eq!(given("2025-11-25", "tools/call", "{}"), "tools/call");
        assert_eq!(given("2025-11-25", "tools/call", "{\"task\":{}}"), "2025-11-25/tools/call");
        assert_eq!(given("2025-06-18", "tools/call", "{\"task\":{}}"), "tools/call");
        assert_eq!(given("2025-06-18", "tools/list", "{}"), "tools/list");
        assert_eq!(given("2025-06-18", "tasks/get", "{}"), "2025-11-25/tasks/get");
    }
}
