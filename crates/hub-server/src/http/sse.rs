use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use hub_core::{Hub, Principal};
use hub_operations::Items;
use hub_protocol::{CallError, CallId, Json};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::sync::mpsc;

/// Events that may wait for a client; above it the call's stream is held back.
const QUEUE: usize = 64;

/// How often an idle stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The members that a value may be numbered by: its own position, or that of the event in its envelope.
#[derive(Deserialize)]
struct Numbered<'a> {
    seq: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    /// Of an envelope; anything at all in a value.
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    /// Only envelopes have it.
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

/// Values as server-sent events: one `data:` line each, `id:` where there is a position, `event: completed` or
/// `event: error` at the end. `show` turns a response envelope into what is sent. Dropping the response gives the call
/// up; the end of the principal's key ends both.
pub(super) fn respond(
    hub: &Hub,
    principal: &Principal,
    items: Items,
    show: fn(Json) -> Result<Json, CallError>,
    call_id: Option<CallId>,
) -> Response {
    // One place more, so that there is always room for why the stream ends.
    let (events, queued) = mpsc::channel(QUEUE + 1);
    let (over, last) = (principal.over(), events.clone().try_reserve_owned());
    hub.spawn("event stream", async move {
        tokio::select! {
            () = pump(items, events, show, call_id) => {}
            end = over => {
                if let Ok(last) = last {
                    last.send(error_event(&end.error(), call_id));
                }
            }
        }
    });
    let events = stream::unfold(queued, |mut queued| async move {
        queued.recv().await.map(|event| (Ok::<_, Infallible>(event), queued))
    });
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let mut response = Sse::new(events).keep_alive(heartbeat).into_response();
    // Proxies must not hold a stream back.
    response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    with_call_id(response, call_id)
}

/// Names the call in a header, for answers that have no other place for it.
pub(super) fn with_call_id(mut response: Response, call_id: Option<CallId>) -> Response {
    if let Some(id) = call_id.and_then(|id| http::HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert("x-hub-call-id", id);
    }
    response
}

/// Moves items to the response in a task of its own: a client that does not read must not hide the stream's end.
async fn pump(
    mut items: Items,
    events: mpsc::Sender<Event>,
    show: fn(Json) -> Result<Json, CallError>,
    call_id: Option<CallId>,
) {
    let mut over = false;
    loop {
        let item = tokio::select! {
            item = items.next() => item,
            () = events.closed() => return,
        };
        let (event, last) = match item {
            Some(value) => match value.and_then(show) {
                Ok(value) => (value_event(&value), false),
                Err(error) => (error_event(&error, call_id), true),
            },
            None => (Event::default().event("completed").data("{}"), true),
        };
        tokio::select! {
            biased;
            sent = events.send(event) => if last || sent.is_err() { return },
            () = items.over(), if !over && !last => over = true,
        }
    }
}

fn value_event(value: &Json) -> Event {
    let event = Event::default();
    let numbered = numbered(value.as_str());
    let inner = numbered.as_ref().filter(|n| n.meta.is_some()).and_then(|n| self::numbered(n.data?.get()));
    let seq = numbered.as_ref().and_then(|n| n.seq).or_else(|| inner?.seq);
    let gap = numbered.is_some_and(|n| n.kind.as_deref() == Some("gap"));
    let event = seq.map_or(event.clone(), |seq| event.id(seq.to_string()));
    let event = if gap { event.event("gap") } else { event };
    event.data(one_line(value))
}

/// The members of an object; whatever has other ones or none is not numbered.
fn numbered(text: &str) -> Option<Numbered<'_>> {
    text.trim_start().starts_with('{').then(|| serde_json::from_str(text).ok())?
}

fn error_event(error: &CallError, call_id: Option<CallId>) -> Event {
    let problem = serde_json::json!({
        "code": error.code, "message": error.message, "details": error.details, "retryable": error.retryable,
        "callId": call_id,
    });
    Event::default().event("error").data(problem.to_string())
}

/// Line breaks in JSON text stand only between its tokens, so blanks in their place mean the same.
fn one_line(value: &Json) -> String {
    value.as_str().replace(['\n', '\r'], " ")
}
