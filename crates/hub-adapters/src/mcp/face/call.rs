use std::sync::Arc;
use std::time::Duration;

use hub_operations::{AbortSignal, Answer, Items};
use hub_protocol::{CallError, CallId, ErrorCode, Json, ResponseEnvelope};
use rmcp::RoleServer;
use rmcp::model::{
    CallToolRequestParams, CallToolResult, JsonObject, NotificationMetaObject, ProgressNotification,
    ProgressNotificationParam, ProgressToken,
};
use rmcp::service::{Peer, RequestContext};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::result::{self, Collected};
use super::tools::{self, Own};
use crate::mcp::host::{Host, HostAnswer, HostCall};

/// How long a stream is read when the caller does not say.
const STREAM: Duration = Duration::from_secs(30);

/// Items of a stream in one answer, when the caller does not say, and at most.
const ITEMS: f64 = 100.0;
const MAX_ITEMS: f64 = 1_000.0;

/// Bytes of items in one answer: all of it goes into a model's context.
const ITEM_BYTES: usize = 256 * 1024;

/// Characters of an item that a progress notification shows.
const PROGRESS_TEXT: usize = 2_000;

/// Operations in a page of `list`, when the caller does not say.
const PAGE: u64 = 50;

/// Longest time a call is given, in seconds: some 30 years.
const LONGEST: f64 = 1e9;

/// How long an aborted stream is waited for.
const ABORTING: Duration = Duration::from_secs(2);

pub(super) const CANCELLED: &str = "cancelled by the MCP client";

/// What a tool call asks of the hub.
pub(super) struct Asked {
    call: HostCall,
    /// How long a stream is read.
    patience: Duration,
    max_items: usize,
    shape: Shape,
    /// Whether the input is a string that holds JSON, as models write it at times.
    quoted: bool,
    /// Whether it may become a task: whatever runs an operation of others.
    pub(super) may_last: bool,
}

/// On whose behalf a call is made.
pub(super) struct Asking {
    /// Where it is told how far the call is.
    pub(super) progress: Option<Progress>,
    pub(super) cancelled: CancellationToken,
    pub(super) traceparent: Option<String>,
}

/// Tells an MCP client of a request's progress.
#[derive(Clone)]
pub(super) struct Progress {
    peer: Peer<RoleServer>,
    token: ProgressToken,
    /// What every notification is marked with.
    pub(super) meta: Option<NotificationMetaObject>,
}

impl Asking {
    pub(super) fn of(context: &RequestContext<RoleServer>) -> Self {
        Self::told(context, context.meta.get_progress_token())
    }

    /// As [`Asking::of`], where the token of its progress is under another name.
    pub(super) fn of_task(context: &RequestContext<RoleServer>, token: &str) -> Self {
        let token = context.meta.get(token).and_then(|token| ProgressToken::deserialize(token).ok());
        Self::told(context, token)
    }

    fn told(context: &RequestContext<RoleServer>, token: Option<ProgressToken>) -> Self {
        Self {
            progress: token.map(|token| Progress { peer: context.peer.clone(), token, meta: None }),
            cancelled: context.ct.clone(),
            traceparent: context.meta.get("traceparent").and_then(Value::as_str).map(str::to_owned),
        }
    }
}

/// How the answer is packed.
enum Shape {
    /// The data is the result.
    Bare,
    /// `{ data, callId }`.
    Wrapped,
    /// That of a tool of its own: its data as its `outputSchema` says, or else as [`Shape::Wrapped`].
    Own(Option<Arc<JsonObject>>),
}

impl Asked {
    /// What one of the four tools asks for; `None` when it is none of them.
    pub(super) fn of(request: &CallToolRequestParams) -> Option<Result<Self, CallError>> {
        let operation = match request.name.as_ref() {
            "list" => "hub.list",
            "search" => "hub.search",
            "schema" => "hub.schema",
            "call" => "",
            _ => return None,
        };
        let mut arguments = request.arguments.clone().unwrap_or_default();
        if let Some(unknown) = tools::unknown_argument(&request.name, &arguments) {
            return Some(Err(CallError::new(ErrorCode::ValidationError, unknown)));
        }
        if operation.is_empty() {
            return Some(Self::call(arguments));
        }
        if operation == "hub.list" {
            arguments.entry("limit").or_insert_with(|| json!(PAGE));
        }
        Some(Ok(Self { may_last: false, ..Self::plain(operation, arguments, Shape::Bare) }))
    }

    /// A tool that is an operation of its own.
    pub(super) fn own(own: Own, arguments: Option<JsonObject>) -> Self {
        let shape = Shape::Own(own.tool.output_schema);
        Self::plain(&own.operation_id, arguments.unwrap_or_default(), shape)
    }

    fn plain(operation_id: &str, arguments: JsonObject, shape: Shape) -> Self {
        let input = Json::from(Value::Object(arguments));
        let call = HostCall { operation_id: operation_id.to_owned(), input, ..HostCall::default() };
        Self { call, patience: STREAM, max_items: ITEMS as usize, shape, may_last: true, quoted: false }
    }

    fn call(mut arguments: JsonObject) -> Result<Self, CallError> {
        let missing = || wrong("operationId", "is missing: find one with `search`");
        let input = arguments.remove("input").unwrap_or_else(|| json!({}));
        let read = input.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
        let quoted = read.is_some_and(|value| value.is_object() || value.is_array());
        let timeout = argument::<f64>(&mut arguments, "timeoutMs")?;
        if timeout.is_some_and(|ms| ms < 1.0) {
            return Err(wrong("timeoutMs", "is at least 1"));
        }
        let call = HostCall {
            operation_id: argument(&mut arguments, "operationId")?.ok_or_else(missing)?,
            input: Json::from(input),
            timeout: timeout.map(|ms| Duration::from_secs_f64((ms / 1_000.0).min(LONGEST))),
            idempotency_key: argument(&mut arguments, "idempotencyKey")?,
            ..HostCall::default()
        };
        // Whole numbers may be written as `10.0`.
        let max_items = argument::<f64>(&mut arguments, "maxItems")?.unwrap_or(ITEMS);
        if max_items.fract() != 0.0 || max_items < 0.0 {
            return Err(wrong("maxItems", "does not fit: it is a whole number from 0"));
        }
        let max_items = max_items.clamp(1.0, MAX_ITEMS) as usize;
        let patience = call.timeout.unwrap_or(STREAM);
        Ok(Self { call, patience, max_items, shape: Shape::Wrapped, may_last: true, quoted })
    }

    /// As a task: under its id, and with more time unless it says how much it wants, but no more than `most`.
    pub(super) fn for_task(mut self, id: CallId, usual: Duration, most: Duration) -> Self {
        self.call.call_id = Some(id);
        self.call.timeout = Some(self.call.timeout.unwrap_or(usual).min(most));
        self.patience = self.patience.min(most);
        self
    }
}

/// An argument of `call`; null is none.
fn argument<T: DeserializeOwned>(arguments: &mut JsonObject, name: &str) -> Result<Option<T>, CallError> {
    let value = arguments.remove(name).unwrap_or_default();
    serde_json::from_value(value).map_err(|error| wrong(name, &format!("does not fit: {error}")))
}

fn wrong(argument: &str, why: &str) -> CallError {
    CallError::new(ErrorCode::ValidationError, format!("arguments of `call`: `{argument}` {why}"))
}

/// Makes the call and packs its answer. A cancelled request aborts the call and all below it.
pub(super) async fn run<H: Host>(host: &H, asked: Asked, mut asking: Asking) -> CallToolResult {
    let Asked { mut call, patience, max_items, shape, quoted, .. } = asked;
    let abort = AbortSignal::default();
    call.abort = abort.clone();
    call.traceparent = asking.traceparent.take();
    let until = Instant::now() + patience;
    let mut answering = std::pin::pin!(host.call(call));
    // Kept in sight after it was cancelled: the SDK lets a cancelled handler end by itself.
    let HostAnswer { call_id, result } = tokio::select! {
        biased;
        answer = &mut answering => answer,
        () = asking.cancelled.cancelled() => {
            abort.fire(Some(CANCELLED.to_owned()), None);
            (&mut answering).await
        }
    };
    let call_id = call_id.as_deref();
    let packed = match result {
        Ok(Answer::One(envelope)) => match &shape {
            Shape::Bare => result::answered(&envelope, call_id, true),
            Shape::Wrapped | Shape::Own(None) => result::answered(&envelope, call_id, false),
            Shape::Own(Some(schema)) => result::promised(&envelope, schema),
        },
        Ok(Answer::Many(items)) => {
            let mut reading = Reading { got: Vec::new(), bytes: 0, max_items, until, patience };
            match reading.run(items, &asking, &abort).await {
                Ok(stopped) => Ok(result::collected(Collected { items: reading.got, stopped }, call_id)),
                Err(error) => Ok(result::failed(&error, call_id, Some(reading.got))),
            }
        }
        Err(mut error) => {
            if quoted && error.code == ErrorCode::ValidationError.as_str() {
                error.message.push_str("; `input` is a string that holds JSON: give the value itself");
            }
            Err(error)
        }
    };
    let mut result = packed.unwrap_or_else(|error| result::failed(&error, call_id, None));
    if matches!(shape, Shape::Own(_)) && result.is_error == Some(true) {
        // Hosts hold it against the tool's `outputSchema`, and would show that misfit in place of the error.
        result.structured_content = None;
    }
    result
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
        asking: &Asking,
        abort: &AbortSignal,
    ) -> Result<Option<String>, CallError> {
        loop {
            let item = tokio::select! {
                biased;
                () = asking.cancelled.cancelled() => {
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
            if let Some(progress) = &asking.progress {
                // Whoever does not read what it is told still ends by what follows.
                tokio::select! {
                    () = progress.tell(self.got.len(), &data) => {}
                    () = asking.cancelled.cancelled() => {}
                    () = tokio::time::sleep_until(self.until) => {}
                }
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

impl Progress {
    async fn tell(&self, count: usize, data: &Json) {
        #[expect(clippy::cast_precision_loss, reason = "a count of items is far below 2^52")]
        let mut progress = ProgressNotificationParam::new(self.token.clone(), count as f64);
        match data.parse::<Step>() {
            // An imported tool's own progress.
            Ok(step) => {
                (progress.progress, progress.total, progress.message) = (step.progress, step.total, step.message);
            }
            Err(_) => progress.message = Some(data.as_str().chars().take(PROGRESS_TEXT).collect()),
        }
        let mut notification = ProgressNotification::new(progress);
        if let Some(meta) = &self.meta {
            notification.extensions.insert(meta.clone());
        }
        // A client that is gone is noticed by its request being cancelled.
        let _gone = self.peer.send_notification(notification.into()).await;
    }
}
