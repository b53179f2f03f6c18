use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use hub_protocol::{CallError, ErrorCode, Json, OperationType};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotification, CancelledNotificationParam, JsonObject,
    ProgressNotificationParam, RequestId, ServerResult,
};
use rmcp::service::PeerRequestOptions;
use rmcp::{Peer, RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::McpClient;
use super::http::{self, HttpError};
use super::link::Shared;
use super::reply::{self, Done};

/// How long a call waits for a connection that is coming back.
const PATIENCE: Duration = Duration::from_secs(5);

type Progress = mpsc::Sender<ProgressNotificationParam>;

impl McpClient {
    /// Calls a tool; its progress goes to `progress`.
    pub(super) async fn run_tool(
        &self,
        tool: &str,
        input: &Json,
        progress: Option<Progress>,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Done, CallError> {
        let arguments: JsonObject = match input.is_null() {
            true => JsonObject::new(),
            false => input
                .parse()
                .map_err(|_| CallError::new(ErrorCode::ValidationError, "the input of an MCP tool is an object"))?,
        };
        let found = self.tools.borrow().iter().find(|i| i.tool == tool).cloned();
        let repeatable = found.as_ref().is_some_and(|found| found.spec.kind == OperationType::Query);
        let mut stop = std::pin::pin!(stop);
        let mut live = self.live().await?;
        let mut answer = self.ask(&live, tool, &arguments, progress.as_ref(), stop.as_mut()).await;
        if answer.as_ref().is_err_and(Failed::never_begun) {
            // Nobody has run it: it is for the next connection.
            let _found_out = tokio::time::timeout(PATIENCE, live.gone.cancelled()).await;
            live = self.live().await?;
            answer = self.ask(&live, tool, &arguments, progress.as_ref(), stop).await;
        }
        let repeatable = repeatable || answer.as_ref().is_err_and(Failed::never_begun);
        match answer {
            Ok(answer) => reply::of(answer)?.kept(found.and_then(|found| found.promise).as_deref()),
            Err(Failed::Here(error)) => Err(error),
            Err(Failed::Unsent) => Err(reply::lost(live.why.get().map(String::as_str), repeatable)),
            Err(Failed::Sdk(error)) => Err(ended(&live, &error, repeatable).await),
        }
    }

    /// Sends a call over one connection and waits for its answer.
    async fn ask(
        &self,
        live: &Shared,
        tool: &str,
        arguments: &JsonObject,
        progress: Option<&Progress>,
        mut stop: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<ServerResult, Failed> {
        let mut route = progress.map(|_| live.handler.progress.reserve());
        let request =
            CallToolRequest::new(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments.clone()));
        let sent = live.peer.send_cancellable_request(request.into(), PeerRequestOptions::no_options()).await;
        let mut handle = sent.map_err(|_| Failed::Unsent)?;
        let mut cancel = CancelOnDrop::new(&live.peer, &handle.id, &self.tasks);
        let mut seen = route.as_mut().map(|route| route.read(&handle.progress_token));
        let mut late = std::pin::pin!(tokio::time::sleep(self.options.call_timeout));
        let answer = loop {
            tokio::select! {
                biased;
                Some(step) = next(&mut seen) => if let Some(progress) = progress {
                    // Whoever reads the stream slowly holds back only this call.
                    let _gone = progress.send(step).await;
                },
                answer = &mut handle.rx => break answer.unwrap_or(Err(ServiceError::TransportClosed)),
                () = &mut stop => return Err(Failed::Here(CallError::new(ErrorCode::Aborted, "the call was given up"))),
                () = &mut late => {
                    let text = format!("the MCP server did not answer within {:?}", self.options.call_timeout);
                    return Err(Failed::Here(CallError::new(ErrorCode::Timeout, text)));
                }
                () = live.gone.cancelled() => break Err(ServiceError::TransportClosed),
            }
        };
        cancel.disarm();
        if live.http.as_ref().is_some_and(|http| http.was_too_long(&handle.id)) {
            return Err(Failed::Here(reply::too_large()));
        }
        answer.map_err(Failed::Sdk)
    }

    /// A tool as a stream: its progress, then `{ result }`.
    pub(super) fn stream_tool(
        self: Arc<Self>,
        tool: String,
        input: Json,
    ) -> BoxStream<'static, Result<Json, CallError>> {
        let (progress, steps) = mpsc::channel(1);
        let running = async move { self.run_tool(&tool, &input, Some(progress), std::future::pending()).await };
        let state = Some((Box::pin(running).fuse(), None, steps));
        unfold(state, |state| async move {
            let (mut running, mut done, mut steps) = state?;
            loop {
                tokio::select! {
                    biased;
                    Some(step) = steps.recv() => return Some((Ok(shown(&step)), Some((running, done, steps)))),
                    answer = &mut running, if done.is_none() => done = Some(answer),
                    // The answer is here, and nothing is left of what came before it.
                    else => break,
                }
            }
            let last = done?.map(|done| json!({ "result": done.into_data() }).into());
            Some((last, None))
        })
        .boxed()
    }

    /// The connection, waiting a little for one.
    async fn live(&self) -> Result<Shared, CallError> {
        let mut link = self.link.clone();
        let up = tokio::time::timeout(PATIENCE, link.wait_for(Option::is_some)).await;
        if let Ok(Ok(link)) = up
            && let Some(live) = &*link
        {
            return Ok(live.clone());
        }
        let why = self.trouble().unwrap_or_else(|| "it is gone".to_owned());
        let text = format!("the MCP server {} is not connected: {why}", self.options.name);
        Err(CallError::new(ErrorCode::OperationUnavailable, text))
    }
}

/// Why a call has no answer.
enum Failed {
    /// It was given up here.
    Here(CallError),
    /// The connection had ended before.
    Unsent,
    /// As the SDK has it.
    Sdk(ServiceError),
}

impl Failed {
    /// Whether the server has surely not begun to run it.
    fn never_begun(&self) -> bool {
        let error = match self {
            Self::Here(_) => return false,
            Self::Unsent => return true,
            Self::Sdk(ServiceError::TransportSend(error)) => http::failure(error.error.as_ref()),
            Self::Sdk(_) => None,
        };
        match error {
            Some(HttpError::SessionExpired) => true,
            Some(HttpError::Client(error)) => error.is_connect(),
            _ => false,
        }
    }
}

/// The next progress; never, when nobody wants it or there is no more.
async fn next(seen: &mut Option<mpsc::Receiver<ProgressNotificationParam>>) -> Option<ProgressNotificationParam> {
    match seen {
        Some(steps) => steps.recv().await,
        None => std::future::pending().await,
    }
}

/// The error of a call that has no answer.
async fn ended(live: &Shared, error: &ServiceError, repeatable: bool) -> CallError {
    if matches!(error, ServiceError::TransportClosed | ServiceError::TransportSend(_)) {
        live.doubt(error);
    }
    if live.http.is_none() && matches!(error, ServiceError::TransportClosed) {
        // How it ended is known a moment later.
        let _late = tokio::time::timeout(Duration::from_secs(2), live.gone.cancelled()).await;
    }
    if live.too_long.load(Ordering::Acquire) {
        return reply::too_large();
    }
    if let Some(ending) = live.ending.get() {
        return reply::crashed(ending, repeatable);
    }
    match (error, live.why.get()) {
        (ServiceError::TransportClosed, Some(why)) => reply::lost(Some(why), repeatable),
        _ => reply::failed(error, repeatable),
    }
}

fn shown(step: &ProgressNotificationParam) -> Json {
    let mut item = json!({ "progress": step.progress });
    if let Some(total) = step.total {
        item["total"] = json!(total);
    }
    if let Some(message) = &step.message {
        item["message"] = Value::from(message.as_str());
    }
    item.into()
}

/// Tells the server when nobody waits for an answer any more.
struct CancelOnDrop<'a> {
    peer: &'a Peer<RoleClient>,
    id: Option<RequestId>,
    tasks: &'a TaskTracker,
}

impl<'a> CancelOnDrop<'a> {
    fn new(peer: &'a Peer<RoleClient>, id: &RequestId, tasks: &'a TaskTracker) -> Self {
        Self { peer, id: Some(id.clone()), tasks }
    }

    fn disarm(&mut self) {
        self.id = None;
    }
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id.take() else { return };
        let params = CancelledNotificationParam::new(Some(id), Some("the caller has given up".to_owned()));
        let peer = self.peer.clone();
        let told: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(async move {
            // A server that is gone needs not be told.
            let _gone = peer.send_notification(CancelledNotification::new(params).into()).await;
        });
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.tasks.spawn_on(told, &runtime);
        }
    }
}
