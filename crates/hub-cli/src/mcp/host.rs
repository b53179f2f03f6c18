use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use futures_util::stream::{StreamExt, unfold};
use hub_adapters::mcp::{Host, HostAnswer, HostCall, HostTool};
use hub_operations::{Answer, Items, now_ms};
use hub_protocol::ops::hub::{GetSchemas, WatchTools};
use hub_protocol::{CallError, ErrorCode, OperationType, ResponseEnvelope};
use hub_spoke::{Client, Request};
use tokio::sync::watch;

use super::tools::Tools;

/// Kinds of operations that are remembered; beyond it all are asked for again.
const KINDS: usize = 10_000;

/// Between two tries to follow the tools of a hub.
const AGAIN: Duration = Duration::from_secs(2);

/// A hub at the other end of a connection.
#[derive(Clone)]
pub(super) struct ClientHost {
    client: Client,
    tools: Arc<Tools>,
    /// Whether an operation is a stream. Kinds don't change with versions in practice; a wrong one is an error that
    /// says so.
    kinds: Arc<Mutex<HashMap<String, OperationType>>>,
}

impl ClientHost {
    pub(super) fn new(client: Client) -> Self {
        Self { client, tools: Arc::default(), kinds: Arc::default() }
    }

    /// Keeps the tools as the hub has them; without end.
    pub(super) async fn follow_tools(&self) -> Infallible {
        loop {
            match self.client.subscribe(&WatchTools {}).await {
                Ok(mut items) => {
                    while let Some(Ok(now)) = items.next().await {
                        self.tools.are(now.operations);
                    }
                }
                // A hub of a version without them.
                Err(error) if error.is(ErrorCode::OperationNotFound) => self.tools.are(Vec::new()),
                Err(_) => {}
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn is_stream(&self, operation_id: &str, within: Option<Duration>) -> Result<bool, CallError> {
        // The three that read the catalogue are asked for most.
        if ["hub.list", "hub.search", "hub.schema"].contains(&operation_id) {
            return Ok(false);
        }
        let plain = operation_id.split('@').next().unwrap_or_default().to_owned();
        let known = self.lock().get(&plain).copied();
        let kind = match known {
            Some(kind) => kind,
            None => {
                let asked = GetSchemas { operation_ids: vec![plain.clone()] };
                let asking = self.client.call(&asked);
                let late = |_| CallError::new(ErrorCode::Timeout, "the hub was not reached in the time of the call");
                let found = match within {
                    Some(within) => tokio::time::timeout(within, asking).await.map_err(late)??,
                    None => asking.await?,
                };
                let missing = || CallError::new(ErrorCode::OperationNotFound, format!("no operation {plain:?}"));
                let kind = found.operations.first().map(|spec| spec.kind).ok_or_else(missing)?;
                let mut kinds = self.lock();
                if kinds.len() >= KINDS {
                    kinds.clear();
                }
                kinds.insert(plain, kind);
                kind
            }
        };
        Ok(kind == OperationType::Subscription)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, OperationType>> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, call: HostCall) -> Result<Answer, CallError> {
        let stream = self.is_stream(&call.operation_id, call.timeout).await?;
        let mut request = self.client.request(&call.operation_id).input(call.input);
        if let Some(key) = call.idempotency_key {
            request = request.idempotency_key(key);
        }
        if let Some(trace) = call.traceparent {
            request = request.traceparent(trace);
        }
        if stream {
            return self.items(call.operation_id, request).await.map(Answer::Many);
        }
        if let Some(timeout) = call.timeout {
            request = request.deadline(timeout);
        }
        tokio::select! {
            biased;
            envelope = request.envelope() => envelope.map(Answer::One),
            // Dropping the request aborts the call at the hub.
            () = call.abort.fired() => Err(CallError::new(ErrorCode::Aborted, "cancelled by the MCP client")),
        }
    }

    async fn items(&self, operation_id: String, request: Request) -> Result<Items, CallError> {
        let active = request.start().await?;
        let items = unfold((active, operation_id), |(mut active, id)| async move {
            let item = active.next().await?;
            let envelope = item.map(|data| ResponseEnvelope::local(&id, now_ms(), data).to_json());
            Some((envelope, (active, id)))
        });
        Ok(Items::from(items.boxed()))
    }
}

impl Host for ClientHost {
    fn tools(&self) -> BoxFuture<'static, Vec<HostTool>> {
        let host = self.clone();
        async move { host.tools.all(&host.client).await }.boxed()
    }

    fn tools_changed(&self) -> Option<watch::Receiver<u64>> {
        Some(self.tools.changes.subscribe())
    }

    fn call(&self, call: HostCall) -> BoxFuture<'static, HostAnswer> {
        let host = self.clone();
        async move { HostAnswer { call_id: None, result: host.answer(call).await } }.boxed()
    }
}
