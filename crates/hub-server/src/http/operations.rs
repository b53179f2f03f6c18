use axum::extract::State;
use axum::response::{IntoResponse, Response};
use futures_util::StreamExt;
use futures_util::stream;
use http::{HeaderMap, StatusCode, header};
use hub_core::{Called, Leash, Principal};
use hub_operations::{Answer, now_ms};
use hub_protocol::ops::Operation;
use hub_protocol::ops::hub::{GetSchemas, ListOperations, SearchOperations};
use hub_protocol::{CallError, CallId, CallRequested, ErrorCode, Json, OnDisconnect, ResponseEnvelope};
use serde::{Deserialize, Serialize};

use super::auth::Auth;
use super::body::{JsonBody, Params, Segment};
use super::{App, Problem, sse};
use crate::detached;

/// Calls in one batch.
const MAX_BATCH: usize = 100;

/// Calls of a batch that run at once.
const BATCH_PARALLEL: usize = 16;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListQuery {
    q: Option<String>,
    namespace: Option<String>,
    include_inactive: Option<bool>,
    cursor: Option<String>,
    limit: Option<u32>,
}

/// `GET /api/operations`: the list, or with `?q=` the search.
pub(crate) async fn list(
    State(app): State<App>,
    Auth(principal): Auth,
    Params(query): Params<ListQuery>,
) -> Result<Response, Problem> {
    let ListQuery { q, namespace, include_inactive, cursor, limit } = query;
    match q {
        Some(query) => app.data(&principal, &SearchOperations { query, namespace, limit }).await,
        None => {
            let list = ListOperations { namespace, include_inactive, cursor, limit, ..ListOperations::default() };
            app.data(&principal, &list).await
        }
    }
}

/// `GET /api/operations/{id}`: the full spec.
pub(crate) async fn show(
    State(app): State<App>,
    Auth(principal): Auth,
    Segment(id): Segment,
) -> Result<Response, Problem> {
    let schemas = app.typed(&principal, &GetSchemas { operation_ids: vec![id] }).await?;
    Ok(json(&Json::from_serialize(&schemas.operations.first()).unwrap_or_default()))
}

/// `POST /api/operations/{id}`: the body is the input.
pub(crate) async fn call(
    State(app): State<App>,
    Auth(principal): Auth,
    Segment(id): Segment,
    headers: HeaderMap,
    JsonBody(input): JsonBody,
) -> Result<Response, Problem> {
    let mut request = CallRequested::new(CallId::new().to_string(), id, input);
    from_headers(&headers, &mut request)?;
    app.answer(&principal, request, wants_stream(&headers)).await
}

/// What `POST /api/call` and each item of `POST /api/batch` hold.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CallBody {
    operation_id: String,
    #[serde(default)]
    input: Json,
    deadline: Option<u64>,
    idle_timeout: Option<u64>,
    idempotency_key: Option<String>,
    on_disconnect: Option<OnDisconnect>,
    version: Option<String>,
    metadata: Option<Json>,
    budget: Option<i64>,
}

impl CallBody {
    fn into_request(self) -> CallRequested {
        CallRequested {
            deadline: self.deadline,
            idle_timeout: self.idle_timeout,
            idempotency_key: self.idempotency_key,
            on_disconnect: self.on_disconnect,
            version: self.version,
            metadata: self.metadata,
            budget: self.budget,
            ..CallRequested::new(CallId::new().to_string(), self.operation_id, self.input)
        }
    }
}

/// `POST /api/call`: everything in the body.
pub(crate) async fn call_by_body(
    State(app): State<App>,
    Auth(principal): Auth,
    headers: HeaderMap,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut request = body.parse::<CallBody>()?.into_request();
    from_headers(&headers, &mut request)?;
    app.answer(&principal, request, wants_stream(&headers)).await
}

/// One answer of a batch.
#[derive(Serialize)]
struct BatchItem {
    status: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Problem>,
}

impl BatchItem {
    fn failed(problem: Problem) -> Self {
        Self { status: problem.status(), response: None, error: Some(problem) }
    }
}

/// `POST /api/batch`: calls run side by side, answers come in order, failures stay with their item.
pub(crate) async fn batch(State(app): State<App>, Auth(principal): Auth, body: JsonBody) -> Result<Response, Problem> {
    let calls: Vec<Json> = body.parse()?;
    if calls.len() > MAX_BATCH {
        return Err(Problem::invalid("", &format!("a batch has at most {MAX_BATCH} calls")));
    }
    let answers = stream::iter(calls.into_iter().map(|call| app.batched(&principal, call)));
    let items: Vec<BatchItem> = answers.buffered(BATCH_PARALLEL).collect().await;
    Ok(json(&Json::from_serialize(&items).unwrap_or_default()))
}

impl App {
    async fn batched(&self, principal: &Principal, call: Json) -> BatchItem {
        let request = match call.read::<CallBody>() {
            Ok(call) => call.into_request(),
            Err(at) => return BatchItem::failed(Problem::invalid(&at.path, &at.message)),
        };
        let operation = request.operation_id.clone();
        let called = self.run(principal, request).await;
        let result = match called.result {
            Ok(Answer::One(envelope)) => Ok(envelope),
            Ok(Answer::Many(_)) => {
                let message = format!("{operation} is a subscription: call it by POST /api/operations/{operation}");
                Err(CallError::new(ErrorCode::ValidationError, message))
            }
            Err(error) => Err(error),
        };
        match result {
            Ok(envelope) => BatchItem { status: 200, response: Some(envelope), error: None },
            Err(error) => {
                let status = self.hub.http_status(&operation, &error);
                BatchItem::failed(Problem::of(error, status, called.call_id))
            }
        }
    }

    async fn run(&self, principal: &Principal, request: CallRequested) -> Called {
        detached::call(&self.hub, principal, CallId::new(), request, Leash::default()).await
    }

    /// Makes a call and answers it as HTTP.
    async fn answer(&self, principal: &Principal, request: CallRequested, stream: bool) -> Result<Response, Problem> {
        let operation = request.operation_id.clone();
        let called = self.run(principal, request).await;
        match called.result {
            Ok(Answer::One(envelope)) if !stream => Ok(sse::with_call_id(json(&envelope), called.call_id)),
            Ok(Answer::One(envelope)) => {
                let once = stream::iter([Ok(envelope)]).boxed().into();
                Ok(sse::respond(&self.hub, principal, once, Ok, called.call_id))
            }
            Ok(Answer::Many(items)) => Ok(sse::respond(&self.hub, principal, items, Ok, called.call_id)),
            Err(error) => {
                let status = self.hub.http_status(&operation, &error);
                Err(Problem::of(error, status, called.call_id))
            }
        }
    }

    /// Calls one of the hub's own queries or mutations and answers the bare value.
    pub(super) async fn data<O: Operation>(&self, principal: &Principal, params: &O) -> Result<Response, Problem> {
        Ok(json(&self.value(principal, params).await?))
    }

    /// Calls one of the hub's own queries or mutations.
    pub(super) async fn typed<O: Operation>(&self, principal: &Principal, params: &O) -> Result<O::Reply, Problem> {
        self.value(principal, params).await?.parse().map_err(|_| Problem::bad_request("unreadable reply"))
    }

    async fn value<O: Operation>(&self, principal: &Principal, params: &O) -> Result<Json, Problem> {
        let input = Json::from_serialize(params).map_err(|_| Problem::bad_request("unreadable parameters"))?;
        let called = self.run(principal, CallRequested::new(CallId::new().to_string(), O::ID, input)).await;
        match called.result {
            Ok(Answer::One(envelope)) => Ok(ResponseEnvelope::data_of(&envelope).unwrap_or_default()),
            Ok(Answer::Many(_)) => Err(Problem::bad_request("this is a stream")),
            Err(error) => {
                let status = self.hub.http_status(O::ID, &error);
                Err(Problem::of(error, status, called.call_id))
            }
        }
    }

    /// Calls one of the hub's own subscriptions and answers its values as server-sent events.
    pub(super) async fn follow<O: Operation>(&self, principal: &Principal, params: &O) -> Result<Response, Problem> {
        let input = Json::from_serialize(params).map_err(|_| Problem::bad_request("unreadable parameters"))?;
        let called = self.run(principal, CallRequested::new(CallId::new().to_string(), O::ID, input)).await;
        match called.result {
            Ok(Answer::Many(items)) => {
                let value = |envelope: Json| Ok(ResponseEnvelope::data_of(&envelope).unwrap_or_default());
                Ok(sse::respond(&self.hub, principal, items, value, called.call_id))
            }
            Ok(Answer::One(envelope)) => Ok(json(&envelope)),
            Err(error) => {
                let status = self.hub.http_status(O::ID, &error);
                Err(Problem::of(error, status, called.call_id))
            }
        }
    }
}

/// A JSON answer.
pub(super) fn json(value: &Json) -> Response {
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], value.as_str().to_owned()).into_response()
}

fn wants_stream(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok());
    accept.is_some_and(|a| a.contains("text/event-stream"))
}

/// `Idempotency-Key`, `X-Hub-Deadline-Ms` (milliseconds from now), `X-Hub-On-Disconnect`, `traceparent`.
fn from_headers(headers: &HeaderMap, request: &mut CallRequested) -> Result<(), Problem> {
    let text = |name: &str| {
        let value = headers.get(name).map(|v| v.to_str().map(str::to_owned));
        value.transpose().map_err(|_| Problem::invalid(name, "not plain text"))
    };
    if let Some(key) = text("idempotency-key")? {
        request.idempotency_key = Some(key);
    }
    if let Some(ms) = text("x-hub-deadline-ms")? {
        let ms: u64 =
            ms.trim().parse().map_err(|_| Problem::invalid("x-hub-deadline-ms", "not a number of milliseconds"))?;
        request.deadline = Some(now_ms().saturating_add(ms));
    }
    if let Some(rule) = text("x-hub-on-disconnect")? {
        let rule = Json::from(serde_json::Value::from(rule)).parse();
        request.on_disconnect =
            Some(rule.map_err(|_| Problem::invalid("x-hub-on-disconnect", "not abort, finish or detach"))?);
    }
    if let Some(trace) = text("traceparent")? {
        request.traceparent = Some(trace);
    }
    Ok(())
}
