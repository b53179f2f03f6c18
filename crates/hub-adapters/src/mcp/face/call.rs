use std::time::Duration;

use hub_operations::{AbortSignal, Answer, Items};
use hub_protocol::{CallError, ErrorCode, Json, ResponseEnvelope};
use rmcp::RoleServer;
use rmcp::model::{CallToolRequestParams, CallToolResult, JsonObject, ProgressNotificationParam, ProgressToken};
use rmcp::service::{Peer, RequestContext};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::result::{self, Collected};
use super::tools::Own;
use crate::mcp::host::{Host, HostAnswer, HostCall};

/// How long a stream is read when the caller does not say.
const STREAM: Duration = Duration::from_secs(30);

/// Items of a stream in one answer, when the caller does not say, and at most.
const ITEMS: usize = 100;
const MAX_ITEMS: usize = 1_000;

/// Bytes of items in one answer: all of it goes into a model's context.
const ITEM_BYTES: usize = 256 * 1024;

/// Characters of an item that a progress notification shows.
const PROGRESS_TEXT: usize = 2_000;

/// Operations in a page of `list`, when the caller does not say.
const PAGE: u64 = 50;

/// How long an aborted stream is waited for.
const ABORTING: Duration = Duration::from_secs(2);

const CANCELLED: &str = "cancelled by the MCP client";

/// What a tool call asks of the hub.
pub(super) struct Asked {
    call: HostCall,
    max_items: usize,
    shape: Shape,
}

/// How the answer is packed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The data is the result.
    Bare,
    /// `{ data, callId }`.
    Wrapped,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CallArguments {
    operation_id: String,
    input: Option<Value>,
    timeout_ms: Option<u64>,
    max_items: Option<usize>,
    idempotency_key: Option<String>,
}

impl Asked {
    /// What one of the four tools asks for; `None` when it is none of them.
    pub(super) fn of(request: &CallToolRequestParams) -> Option<Result<Self, CallError>> {
        let operation = match request.name.as_ref() {
            "list" => "hub.list",
            "search" => "hub.search",
            "schema" => "hub.schema",
            "call" => return Some(Self::call(request.arguments.clone().unwrap_or_default())),
            _ => return None,
        };
        let mut arguments = request.arguments.clone().unwrap_or_default();
        if operation == "hub.list" {
            arguments.entry("limit").or_insert_with(|| json!(PAGE));
        }
        Some(Ok(Self::plain(operation, arguments, Shape::Bare)))
    }

    /// A tool that is an operation of its own.
    pub(super) fn own(own: Own, arguments: Option<JsonObject>) -> Self {
        let shape = if own.bare { Shape::Bare } else { Shape::Wrapped };
        Self::plain(&own.operation_id, arguments.unwrap_or_default(), shape)
    }

    fn plain(operation_id: &str, arguments: JsonObject, shape: Shape) -> Self {
        let input = Json::from(Value::Object(arguments));
        let call = HostCall { operation_id: operation_id.to_owned(), input, ..HostCall::default() };
        Self { call, max_items: ITEMS, shape }
    }

    fn call(arguments: JsonObject) -> Result<Self, CallError> {
        let arguments: CallArguments = serde_json::from_value(Value::Object(arguments)).map_err(|error| {
            CallError::new(ErrorCode::ValidationError, format!("the arguments of `call` do not fit: {error}"))
        })?;
        let call = HostCall {
            operation_id: arguments.operation_id,
            input: arguments.input.map_or_else(|| Json::from(json!({})), Json::from),
            timeout: arguments.timeout_ms.map(Duration::from_millis),
            idempotency_key: arguments.idempotency_key,
            ..HostCall::default()
        };
        let max_items = arguments.max_items.unwrap_or(ITEMS).clamp(1, MAX_ITEMS);
        Ok(Self { call, max_items, shape: Shape::Wrapped })
    }
}

/// Makes the call and packs its answer. A cancelled request aborts the call and all below it.
pub(super) async fn run<H: Host>(host: &H, asked: Asked, context: &RequestContext<RoleServer>) -> CallToolResult {
    let Asked { mut call, max_items, shape } = asked;
    let abort = AbortSignal::default();
    call.abort = abort.clone();
    call.traceparent = context.meta.get("traceparent").and_then(Value::as_str).map(str::to_owned);
    let patience = call.timeout.unwrap_or(STREAM);
    let until = Instant::now() + patience;
    let mut answering = std::pin::pin!(host.call(call));
    // Kept in sight after it was cancelled: the SDK lets a cancelled handler end by itself.
    let HostAnswer { call_id, result } = tokio::select! {
        biased;
        answer = &mut answering => answer,
        () = context.ct.cancelled() => {
            abort.fire(Some(CANCELLED.to_owned()), None);
            (&mut answering).await
        }
    };
    let call_id = call_id.as_deref();
    let packed = match result {
        Ok(Answer::One(envelope)) => result::answered(&envelope, call_id, shape == Shape::Bare),
        Ok(Answer::Many(items)) => {
            let mut reading = Reading { got: Vec::new(), bytes: 0, max_items, until, patience };
            match reading.run(items, context, &abort).await {
                Ok(stopped) => Ok(result::collected(Collected { items: reading.got, stopped }, call_id)),
                Err(error) => return result::failed(&error, call_id, Some(reading.got)),
            }
        }
        Err(error) => Err(error),
    };
    packed.unwrap_or_else(|error| result::failed(&error, call_id, None))
}

/// Calls a query of the hub for the face's own use; answers its data.
pub(super) async fn data<H: Host>(host: &H, call: HostCall) -> Result<Json, CallError> {
    match host.call(call).await.result? {
        Answer::One(envelope) => ResponseEnvelope::data_of(&envelope)
            .map_err(|_| CallError::new(ErrorCode::ExecutionError, "the response is not readable")),
        Answer::Many(_) => Err(CallError::new(ErrorCode::ExecutionError, "a query answered a stream")),
    }
}

/// A stream being read into one answer.
struct Reading {
    got: Vec<Value>,
    bytes: usize,
    max_items: usize,
    until: Instant,
    patience: Duration,
}

impl Reading {
    /// Reads to the end or to a bound; answers what the bound was. Dropping the items gives the call up.
    async fn run(
        &mut self,
        mut items: Items,
        context: &RequestContext<RoleServer>,
        abort: &AbortSignal,
    ) -> Result<Option<String>, CallError> {
        let progress = context.meta.get_progress_token().map(|token| (context.peer.clone(), token));
        loop {
            let item = tokio::select! {
                biased;
                () = context.ct.cancelled() => {
                    abort.fire(Some(CANCELLED.to_owned()), None);
                    // Read on, so that the call ends by the abort and not by its items being dropped.
                    let rest = async { while let Some(Ok(_)) = items.next().await {} };
                    let _late = tokio::time::timeout(ABORTING, rest).await;
                    return Err(CallError::new(ErrorCode::Aborted, CANCELLED));
                }
                item = items.next() => item,
                () = tokio::time::sleep_until(self.until) => return Ok(Some(self.out_of_time())),
            };
            let data = match item {
                None => return Ok(None),
                Some(Ok(envelope)) => ResponseEnvelope::data_of(&envelope).unwrap_or(envelope),
                Some(Err(error)) => return Err(error),
            };
            self.bytes = self.bytes.saturating_add(data.size());
            if self.bytes > ITEM_BYTES {
                return Ok(Some(format!("stopped at {ITEM_BYTES} bytes: narrow the input")));
            }
            self.got.push(data.parse().unwrap_or(Value::Null));
            if let Some((peer, token)) = &progress {
                notify(peer, token, self.got.len(), &data).await;
            }
            if self.got.len() >= self.max_items {
                return Ok(Some(format!("stopped after {} items: ask for more with maxItems", self.max_items)));
            }
        }
    }

    fn out_of_time(&self) -> String {
        format!("stopped after {} ms: ask for more with timeoutMs", self.patience.as_millis())
    }
}

/// An item that is the progress of an imported tool.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    progress: f64,
    total: Option<f64>,
    message: Option<String>,
}

async fn notify(peer: &Peer<RoleServer>, token: &ProgressToken, count: usize, data: &Json) {
    #[expect(clippy::cast_precision_loss, reason = "a count of items is far below 2^52")]
    let mut progress = ProgressNotificationParam::new(token.clone(), count as f64);
    match data.parse::<Step>() {
        // An imported tool's own progress.
        Ok(step) => {
            (progress.progress, progress.total, progress.message) = (step.progress, step.total, step.message);
        }
        Err(_) => progress.message = Some(data.as_str().chars().take(PROGRESS_TEXT).collect()),
    }
    // A client that is gone is noticed by its request being cancelled.
    let _gone = peer.notify_progress(progress).await;
}
