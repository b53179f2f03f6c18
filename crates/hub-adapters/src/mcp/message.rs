//! What a client says, as far as it is read before the SDK reads it.

use std::borrow::Cow;

use bytes::Bytes;
use rmcp::ErrorData;
use rmcp::model::{ClientJsonRpcMessage, InitializeRequest, RequestId};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::face::first;

/// Messages of a batch.
const BATCH: usize = 64;

/// What a body or a line holds.
pub(super) enum Posted {
    One(Message),
    Many(Vec<Result<Message, Fault>>),
}

/// One message.
pub(super) struct Message {
    /// The JSON text of a request's id.
    pub(super) request: Option<String>,
    method: Option<String>,
    asks_for_task: Option<Asks>,
    body: Bytes,
}

/// What stands in the place where a task is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asks {
    Well,
    /// It is no object.
    Badly,
}

/// Why something is not answered as it asks.
pub(super) struct Fault {
    /// Of the request, where it can be read.
    id: Option<RequestId>,
    error: Box<ErrorData>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Head<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct Params<'a> {
    #[serde(borrow)]
    task: Option<&'a RawValue>,
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
        let unreadable = |error| Fault { id: id_in(&body), ..Fault::unreadable(error) };
        let Head { id, method, params } = serde_json::from_slice(&body).map_err(unreadable)?;
        let request = id.filter(|_| method.is_some()).map(|id| id.get().to_owned());
        let method = method.map(Cow::into_owned);
        let task = params.and_then(|params| params.task);
        let asks_for_task = task.map(|task| if task.get().starts_with('{') { Asks::Well } else { Asks::Badly });
        Ok(Self { request, method, asks_for_task, body })
    }

    pub(super) fn id(&self) -> Option<RequestId> {
        self.request.as_deref().and_then(|id| serde_json::from_str(id).ok())
    }

    /// As the SDK knows it.
    pub(super) fn parsed(self) -> Result<ClientJsonRpcMessage, Fault> {
        serde_json::from_slice(&self.body).map_err(|_| Fault::no_message().to(self.id()))
    }

    pub(super) fn begins(&self) -> bool {
        self.method.as_deref() == Some("initialize")
    }

    /// Why it does not begin a session.
    pub(super) fn begins_late(&self) -> Fault {
        let error = "a session is begun by one `initialize`, in a message of its own";
        self.refused(ErrorData::invalid_request(error, None))
    }

    fn refused(&self, error: ErrorData) -> Fault {
        Fault { id: self.id(), error: Box::new(error) }
    }

    /// As the SDK is given it outside of sessions. One that would begin a session and cannot be read is not to hear that
    /// it has none.
    pub(super) fn without_session(self) -> Result<Bytes, Fault> {
        if self.begins() {
            let read = serde_json::from_slice::<InitializeRequest>(&self.body);
            read.map_err(|error| self.refused(ErrorData::invalid_params(error.to_string(), None)))?;
        }
        Ok(self.body)
    }

    /// As the SDK is given it in a session of `revision`: what it would read as of another revision under a name that
    /// it does not know.
    pub(super) fn in_session_of(self, revision: &str) -> Result<Bytes, Fault> {
        let of_first = revision == first::REVISION;
        let renamed = match self.method.as_deref() {
            Some("initialize") => return Err(self.begins_late()),
            Some("tools/call") if of_first && self.asks_for_task == Some(Asks::Badly) => {
                return Err(self.refused(ErrorData::invalid_params("`task` is an object, such as {}", None)));
            }
            Some("tools/call") => of_first && self.asks_for_task.is_some(),
            Some("tools/list") => of_first,
            method => method.is_some_and(|method| method.starts_with("tasks/")),
        };
        let Some(method) = self.method.filter(|_| renamed) else { return Ok(self.body) };
        let mut message: Value = serde_json::from_slice(&self.body).map_err(Fault::unreadable)?;
        message["method"] = Value::String(format!("{}{method}", first::PREFIX));
        let meta = message.pointer_mut("/params/_meta").and_then(Value::as_object_mut);
        if let Some((meta, token)) = meta.and_then(|meta| meta.remove("progressToken").map(|token| (meta, token))) {
            meta.insert(first::TOKEN.to_owned(), token);
        }
        Ok(message.to_string().into())
    }
}

/// The id of what would be a request.
fn id_in(body: &[u8]) -> Option<RequestId> {
    let message: Value = serde_json::from_slice(body).ok()?;
    message.get("method").and_then(|_| serde_json::from_value(message.get("id")?.clone()).ok())
}

impl Fault {
    fn unreadable(error: serde_json::Error) -> Self {
        if error.is_data() {
            return Self::invalid(format!("no JSON-RPC message: {error}"));
        }
        let error = ErrorData::parse_error(format!("not JSON: {error}"), None);
        Self { id: None, error: Box::new(error) }
    }

    pub(super) fn invalid(why: impl Into<Cow<'static, str>>) -> Self {
        Self { id: None, error: Box::new(ErrorData::invalid_request(why, None)) }
    }

    pub(super) fn no_message() -> Self {
        Self::invalid("no request, notification or response of MCP")
    }

    /// As the answer to a request that has an id.
    pub(super) fn to(self, id: Option<RequestId>) -> Self {
        Self { id, ..self }
    }

    /// The error of JSON-RPC; its id is null where none can be read.
    pub(super) fn value(&self) -> Value {
        json!({ "jsonrpc": "2.0", "id": self.id, "error": self.error })
    }

    /// As a server-sent event.
    pub(super) fn event(&self) -> String {
        format!("data: {}\n\n", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(body: &str) -> i32 {
        read(&Bytes::copy_from_slice(body.as_bytes())).err().map_or(0, |fault| fault.error.code.0)
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
        assert_eq!(given("2025-06-18", "tools/call", "{\"task\":true}"), "tools/call");
    }

    #[test]
    fn a_fault_has_the_id_of_its_request_or_null() {
        let id = |body: &str| {
            let message = read(&Bytes::copy_from_slice(body.as_bytes()));
            let fault = match message {
                Ok(Posted::One(message)) => message.in_session_of("2025-11-25").err(),
                Ok(Posted::Many(_)) => None,
                Err(fault) => Some(fault),
            };
            fault.unwrap().value()["id"].to_string()
        };
        assert_eq!(id("{\"id\":1,\"method\":2}"), "1");
        assert_eq!(id("{\"id\":\"a\",\"method\":\"ping\",\"params\":7}"), "\"a\"");
        assert_eq!(id("{\"id\":3,\"method\":\"tools/call\",\"params\":{\"task\":true}}"), "3");
        assert_eq!(id("{\"id\":4,\"method\":\"initialize\"}"), "4");
        // An answer is not answered.
        for none in ["{\"id\":1,\"params\":7}", "{\"id\":[],\"method\":2}", "7", "{"] {
            assert_eq!(id(none), "null", "{none}");
        }
    }
}
