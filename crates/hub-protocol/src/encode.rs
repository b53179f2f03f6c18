use bytes::Bytes;
use serde::Serialize;

use crate::{CallRequested, Event, Fault, FaultCode, IdStyle, Json};

/// Writes one message. JSON members are spliced in as they are.
#[must_use]
pub fn encode(event: &Event, style: IdStyle) -> Bytes {
    match event {
        Event::Requested(p) => encode_request(p, style),
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
        Event::ProtocolError(fault) => protocol_error(fault),
        // Whoever may publish events must not be able to send a peer something that reads as a call event.
        Event::Topic(e) if e.is_reserved() => protocol_error(&withheld(&e.kind)),
        Event::Topic(e) => serialized(&e.kind, &e.id, IdStyle::Envelope, &e.payload),
    }
}

fn protocol_error(fault: &Fault) -> Bytes {
    serialized("hub.protocol_error", "", IdStyle::Empty, fault)
}

fn withheld(kind: &str) -> Fault {
    let shown: String = kind.chars().take(40).collect();
    Fault { code: FaultCode::UnknownType, message: format!("withheld a topic message of the reserved type {shown:?}") }
}

/// Writes a request, as [`encode`] does, without an [`Event`] of its own around it.
#[must_use]
pub fn encode_request(p: &CallRequested, style: IdStyle) -> Bytes {
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
