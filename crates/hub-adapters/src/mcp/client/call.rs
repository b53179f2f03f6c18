use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{BoxStream, StreamExt, unfold};
use hub_protocol::{CallError, ErrorCode, Json, OperationType};
use rmcp::model::{
    CallToolRequest, CallToolRequestParams, CancelledNotification, CancelledNotificationParam, JsonObject,
    ProgressNotificationParam, RequestId,
};
use rmcp::service::PeerRequestOptions;
use rmcp::{Peer, RoleClient, ServiceError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::McpClient;
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
        let live = self.live().await?;
        let found = self.tools.borrow().iter().find(|i| i.tool == tool).cloned();
        let repeatable = found.as_ref().is_some_and(|found| found.spec.kind == OperationType::Query);
        let mut route = progress.as_ref().map(|_| live.handler.progress.reserve());
        let request = CallToolRequest::new(CallToolRequestParams::new(tool.to_owned()).with_arguments(arguments));
        let sent = live.peer.send_cancellable_request(request.into(), PeerRequestOptions::no_options()).await;
        let mut handle = match sent {
            Ok(handle) => handle,
            Err(error) => return Err(ended(&live, &error, repeatable).await),
        };
        let mut cancel = CancelOnDrop::new(&live.peer, &handle.id, &self.tasks);
        let mut seen = route.as_mut().map(|route| route.read(&handle.progress_token));
        let mut stop = std::pin::pin!(stop);
        let mut late = std::pin::pin!(tokio::time::sleep(self.options.call_timeout));
        let answer = loop {
            tokio::select! {
                biased;
                Some(step) = next(&mut seen) => if let Some(progress) = &progress {
                    // Whoever reads the stream slowly holds back only this call.
                    let _gone = progress.send(step).await;
                },
                answer = &mut handle.rx => break answer.unwrap_or(Err(ServiceError::TransportClosed)),
                () = &mut stop => return Err(CallError::new(ErrorCode::Aborted, "the call was given up")),
                () = &mut late => {
                    let text = format!("the MCP server did not answer within {:?}", self.options.call_timeout);
                    return Err(CallError::new(ErrorCode::Timeout, text));
                }
                () = live.gone.cancelled() => break Err(ServiceError::TransportClosed),
            }
        };
        cancel.disarm();
        match answer {
            Ok(answer) => reply::of(answer)?.kept(found.and_then(|found| found.promise).as_deref()),
            Err(error) => Err(ended(&live, &error, repeatable).await),
        }
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

/// The next progress; never, when nobody wants it or there is no more.
async fn next(seen: &mut Option<mpsc::Receiver<ProgressNotificationParam>>) -> Option<ProgressNotificationParam> {
    match seen {
        Some(steps) => steps.recv().await,
        None => std::future::pending().await,
    }
}

/// The error of a call that has no answer.
async fn ended(live: &Shared, error: &ServiceError, repeatable: bool) -> CallError {
    if matches!(error, ServiceError::TransportClosed) {
        // How it ended is known a moment later.
        let _late = tokio::time::timeout(Duration::from_secs(2), live.gone.cancelled()).await;
    }
    if live.too_long.load(Ordering::Acquire) {
        return reply::too_large();
    }
    if let Some(ending) = live.ending.get() {
        return reply::crashed(ending, repeatable);
    }
    if matches!(error, ServiceError::TransportSend(_)) {
        live.recheck.notify_one();
    }
    reply::failed(error, repeatable)
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
