use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use hub_protocol::{CallError, CallId, Json};
use serde::Deserialize;

/// How often an idle stream shows that it lives.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// The members that a value may be numbered by: its own position, or that of the event in its envelope.
#[derive(Deserialize)]
struct Numbered {
    seq: Option<u64>,
    #[serde(rename = "type")]
    kind: Option<String>,
    data: Option<Inner>,
}

#[derive(Deserialize)]
struct Inner {
    seq: Option<u64>,
}

/// Values as server-sent events: one `data:` line each, `id:` where there is a position, `event: completed` or
/// `event: error` at the end. Dropping the response gives the call up.
pub(super) fn respond(items: BoxStream<'static, Result<Json, CallError>>, call_id: Option<CallId>) -> Response {
    let events = stream::unfold(Some(items), move |items| async move {
        let mut items = items?;
        match items.next().await {
            Some(Ok(value)) => Some((Ok::<_, Infallible>(value_event(&value)), Some(items))),
            Some(Err(error)) => Some((Ok(error_event(&error, call_id)), None)),
            None => Some((Ok(Event::default().event("completed").data("{}")), None)),
        }
    });
    let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("heartbeat");
    let mut response = Sse::new(events).keep_alive(heartbeat).into_response();
    // Proxies must not hold a stream back.
    response.headers_mut().insert("x-accel-buffering", http::HeaderValue::from_static("no"));
    if let Some(id) = call_id.and_then(|id| http::HeaderValue::from_str(&id.to_string()).ok()) {
        response.headers_mut().insert("x-hub-call-id", id);
    }
    response
}

fn value_event(value: &Json) -> Event {
    let event = Event::default();
    let numbered = value.parse::<Numbered>().ok();
    let seq = numbered.as_ref().and_then(|n| n.seq.or_else(|| n.data.as_ref()?.seq));
    let gap = numbered.is_some_and(|n| n.kind.as_deref() == Some("gap"));
    let event = seq.map_or(event.clone(), |seq| event.id(seq.to_string()));
    let event = if gap { event.event("gap") } else { event };
    event.data(one_line(value))
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
