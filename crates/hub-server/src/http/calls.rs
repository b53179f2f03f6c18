use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;
use hub_protocol::CallId;
use hub_protocol::ops::calls::{AbortCall, AbortMode, CallStatus, GetCall, GetTree, ListCalls, ObserveCalls};
use hub_protocol::ops::events::SubscribeEvents;
use serde::Deserialize;

use super::auth::Auth;
use super::body::{Params, Segment};
use super::{App, Problem};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListQuery {
    operation_id: Option<String>,
    status: Option<CallStatus>,
    principal: Option<String>,
    spoke: Option<String>,
    roots: Option<bool>,
    tasks: Option<bool>,
    since: Option<u64>,
    before: Option<CallId>,
    limit: Option<u32>,
}

/// `GET /api/calls`
pub(crate) async fn list(
    State(app): State<App>,
    Auth(principal): Auth,
    Params(q): Params<ListQuery>,
) -> Result<Response, Problem> {
    let ListQuery { operation_id, status, principal: of, spoke, roots, tasks, since, before, limit } = q;
    let list = ListCalls { operation_id, status, principal: of, spoke, roots, tasks, since, before, limit };
    app.data(&principal, &list).await
}

/// `GET /api/calls/{id}`
pub(crate) async fn show(
    State(app): State<App>,
    Auth(principal): Auth,
    Segment(id): Segment,
) -> Result<Response, Problem> {
    app.data(&principal, &GetCall { call_id: call_id(&id)? }).await
}

/// `GET /api/calls/{id}/tree`
pub(crate) async fn tree(
    State(app): State<App>,
    Auth(principal): Auth,
    Segment(id): Segment,
) -> Result<Response, Problem> {
    app.data(&principal, &GetTree { call_id: call_id(&id)?, below: None }).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AbortQuery {
    mode: Option<AbortMode>,
    reason: Option<String>,
    grace_ms: Option<u64>,
}

/// `DELETE /api/calls/{id}`: waits for confirmations unless another mode is asked for.
pub(crate) async fn abort(
    State(app): State<App>,
    Auth(principal): Auth,
    Segment(id): Segment,
    Params(q): Params<AbortQuery>,
) -> Result<Response, Problem> {
    let AbortQuery { mode, reason, grace_ms } = q;
    let mode = mode.unwrap_or(AbortMode::Kill);
    app.data(&principal, &AbortCall { call_id: call_id(&id)?, mode, reason, grace_ms }).await
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ObserveQuery {
    after: Option<u64>,
    until_done: Option<bool>,
}

/// `GET /api/calls/{id}/events`: server-sent events; `Last-Event-ID` resumes.
pub(crate) async fn observe(
    State(app): State<App>,
    Auth(principal): Auth,
    Segment(id): Segment,
    Params(q): Params<ObserveQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let after = last_event_id(&headers)?.or(q.after);
    let call_id = Some(call_id(&id)?);
    app.follow(&principal, &ObserveCalls { call_id, after, until_done: q.until_done, ..ObserveCalls::default() }).await
}

#[derive(Deserialize)]
pub(crate) struct EventsQuery {
    topics: Option<String>,
    after: Option<u64>,
}

/// `GET /api/events?topics=a,b&after=`: server-sent events; `Last-Event-ID` resumes.
pub(crate) async fn events(
    State(app): State<App>,
    Auth(principal): Auth,
    Params(q): Params<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let topics = q.topics.unwrap_or_else(|| "**".to_owned()).split(',').map(|t| t.trim().to_owned()).collect();
    let after = last_event_id(&headers)?.or(q.after);
    app.follow(&principal, &SubscribeEvents { topics, after }).await
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    let Some(id) = headers.get("last-event-id") else { return Ok(None) };
    let id = id.to_str().ok().and_then(|id| id.trim().parse().ok());
    id.map(Some).ok_or_else(|| Problem::invalid("last-event-id", "not a position in the event log"))
}

fn call_id(text: &str) -> Result<CallId, Problem> {
    text.parse().map_err(|_| Problem::invalid("callId", "not a UUID"))
}
