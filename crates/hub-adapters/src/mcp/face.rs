//! A hub as an MCP server.

mod call;
mod invalid;
mod result;
mod tasks;
mod tools;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hub_protocol::{CallError, Json};
use rmcp::model::{
    CacheScope, CallToolRequestParams, CallToolResponse, CancelTaskMethod, CancelTaskParams, CompleteRequestMethod,
    CompleteRequestParams, CompleteResult, CustomRequest, CustomResult, GetTaskMethod, GetTaskParams, GetTaskResult,
    Implementation, InitializeRequestParams, InitializeResult, JsonObject, ListPromptsRequestMethod, ListPromptsResult,
    ListResourceTemplatesResult, ListToolsResult, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams,
    ReadResourceResponse, ReadResourceResult, ResourceContents, ResourceTemplate, ServerCapabilities, ServerConfig,
    SubscriptionFilter, TASKS_EXTENSION_ID, Tool, UpdateTaskMethod, UpdateTaskParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde_json::json;
use tokio::sync::watch;

use super::host::{Host, HostCall};
use super::http::Owner;
use call::{Asked, Asking};
use tasks::{Task, extension};

pub(super) use tasks::{Tasks, first};

/// What a host's model reads before anything else.
const INSTRUCTIONS: &str = "This server is a hub: it reaches every operation of a cluster through four tools. Use \
    `search` (or `list`) to find an operation, `schema` to see its input, `call` to run it.";

/// Pause after a change of the tools, so that a spoke that registers many is one change.
const SETTLE: Duration = Duration::from_millis(200);

/// How often a session that waits for changes looks whether it is still there.
const LOOK: Duration = Duration::from_secs(15);

/// How long a client may keep a list of tools or a call record, in milliseconds.
const FRESH_MS: u64 = 5_000;

/// Shows a [`Host`] as an MCP server.
///
/// Over HTTP each request brings its own host, made by whoever authenticated it; over stdio one host serves all.
#[derive(Clone)]
pub struct Face<H> {
    fixed: Option<H>,
    list_changes: bool,
    /// Whose owners come with the requests, as their hosts do.
    tasks: Option<Tasks>,
    /// Whether the session is told of changes.
    follows: Arc<AtomicBool>,
}

impl<H: Host> Face<H> {
    /// Serves one caller.
    #[must_use]
    pub fn of(host: H) -> Self {
        let list_changes = host.tools_changed().is_some();
        Self { fixed: Some(host), list_changes, tasks: None, follows: Arc::default() }
    }

    /// Serves whoever each HTTP request comes from: its host is an extension of the request.
    pub(super) fn per_request(tasks: Tasks) -> Self {
        Self { fixed: None, list_changes: true, tasks: Some(tasks), follows: Arc::default() }
    }

    fn host(&self, extensions: &rmcp::model::Extensions) -> Result<H, ErrorData> {
        let of_request = extensions.get::<http::request::Parts>().and_then(|parts| parts.extensions.get::<H>());
        let host = of_request.or(self.fixed.as_ref()).cloned();
        host.ok_or_else(|| ErrorData::internal_error("the request has no caller", None))
    }

    fn owner(&self, extensions: &rmcp::model::Extensions) -> Result<Owner, ErrorData> {
        let owner = extensions.get::<http::request::Parts>().and_then(|parts| parts.extensions.get::<Owner>());
        owner.cloned().ok_or_else(|| ErrorData::internal_error("the request has no owner", None))
    }

    /// What a tool call asks for. Arguments that do not fit are for the model to read, a tool that is not there is not.
    async fn asked(&self, host: &H, request: CallToolRequestParams) -> Result<Result<Asked, CallError>, ErrorData> {
        if let Some(asked) = Asked::of(&request) {
            return Ok(asked);
        }
        let mut own = tools::own(host.tools().await);
        match own.iter().position(|own| own.tool.name == request.name) {
            Some(at) => Ok(Ok(Asked::own(own.swap_remove(at), request.arguments))),
            None => Err(ErrorData::invalid_params(tools::unknown(&request.name, &own), None)),
        }
    }

    /// What a request of the tasks extension is about.
    async fn task(
        &self,
        id: &str,
        context: &RequestContext<RoleServer>,
    ) -> Result<Option<FoundTask<'_, H>>, ErrorData> {
        let Some(tasks) = self.tasks.as_ref().filter(|_| extension::speaks(context)) else { return Ok(None) };
        let (host, owner) = (self.host(&context.extensions)?, self.owner(&context.extensions)?);
        let task = tasks.find(&host, &owner, id).await?;
        Ok(Some(FoundTask { tasks, host, owner, task }))
    }
}

/// A task, and what it takes to act on it.
struct FoundTask<'a, H> {
    tasks: &'a Tasks,
    host: H,
    owner: Owner,
    task: Task,
}

impl<H: Host> ServerHandler for Face<H> {
    fn get_info(&self) -> ServerConfig {
        let tools = ServerCapabilities::builder().enable_resources().enable_tools();
        let mut capabilities = if self.list_changes { tools.enable_tool_list_changed().build() } else { tools.build() };
        if self.tasks.is_some() {
            let extensions = capabilities.extensions.get_or_insert_default();
            extensions.insert(TASKS_EXTENSION_ID.to_owned(), JsonObject::new());
        }
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("hub", env!("CARGO_PKG_VERSION")).with_title("Hub"))
            .with_instructions(INSTRUCTIONS)
    }

    async fn initialize(
        &self,
        request: InitializeRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<InitializeResult, ErrorData> {
        context.peer.set_peer_info(request.clone());
        let mut begun = self.negotiate_initialize(&request)?;
        // Only older revisions begin like this, and they have no extensions.
        begun.capabilities.extensions = None;
        Ok(begun)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        let host = self.host(&context.extensions)?;
        let mut all: Vec<Tool> = tools::fixed();
        all.extend(tools::own(host.tools().await).into_iter().map(|own| own.tool));
        // The list is that of one caller.
        Ok(ListToolsResult::with_all_items(all).with_ttl_ms(FRESH_MS).with_cache_scope(CacheScope::Private))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let host = self.host(&context.extensions)?;
        let asked = match self.asked(&host, request).await? {
            Ok(asked) => asked,
            Err(error) => return Ok(result::failed(&error, None, None).into()),
        };
        match self.tasks.as_ref().filter(|_| asked.may_last && extension::takes(&context)) {
            Some(tasks) => tasks.answer(&host, self.owner(&context.extensions)?, asked, &context).await,
            None => Ok(call::run(&host, asked, Asking::of(&context)).await.into()),
        }
    }

    async fn get_task(
        &self,
        request: GetTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<GetTaskResult, ErrorData> {
        let found = self.task(&request.task_id, &context).await?;
        let found = found.ok_or_else(ErrorData::method_not_found::<GetTaskMethod>)?;
        Ok(extension::detailed(&found.task))
    }

    async fn update_task(
        &self,
        request: UpdateTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        // Nothing is ever asked of the client, so there is nothing to take.
        let found = self.task(&request.task_id, &context).await?;
        found.map(drop).ok_or_else(ErrorData::method_not_found::<UpdateTaskMethod>)
    }

    async fn cancel_task(
        &self,
        request: CancelTaskParams,
        context: RequestContext<RoleServer>,
    ) -> Result<(), ErrorData> {
        let found = self.task(&request.task_id, &context).await?;
        let FoundTask { tasks, host, owner, task } =
            found.ok_or_else(ErrorData::method_not_found::<CancelTaskMethod>)?;
        tasks.cancel(&host, &owner, task).await.map(drop)
    }

    async fn on_custom_request(
        &self,
        mut request: CustomRequest,
        context: RequestContext<RoleServer>,
    ) -> Result<CustomResult, ErrorData> {
        let Some(method) = request.method.strip_prefix(first::PREFIX) else { return Err(invalid::why(&request)) };
        request.method = method.to_owned();
        let of_first = context.protocol_version().is_some_and(|version| version == ProtocolVersion::V_2025_11_25);
        match self.tasks.as_ref().filter(|_| of_first) {
            Some(tasks) => first::answer(self, tasks, &request, context).await,
            None => Err(invalid::unknown(&request)),
        }
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListPromptsResult, ErrorData> {
        // What is not declared is not there; the SDK would answer an empty list.
        Err(ErrorData::method_not_found::<ListPromptsRequestMethod>())
    }

    async fn complete(
        &self,
        _: CompleteRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CompleteResult, ErrorData> {
        Err(ErrorData::method_not_found::<CompleteRequestMethod>())
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        let Ok(host) = self.host(&context.extensions) else { return };
        let Some(mut changed) = host.tools_changed() else { return };
        if self.follows.swap(true, Ordering::Relaxed) {
            return;
        }
        let mut known = tools::names(&host).await;
        // The SDK runs this in a task of the session.
        while !context.peer.is_transport_closed() {
            if !changes_within(&mut changed, LOOK).await || !differs(&host, &mut known).await {
                continue;
            }
            if context.peer.notify_tool_list_changed().await.is_err() {
                return;
            }
        }
    }

    fn accepted_subscription_filter(&self, _: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        self.list_changes.then(|| SubscriptionFilter::builder().tools_list_changed().build())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        let host = self.host(&context.request_context().extensions)?;
        let Some(mut changed) = host.tools_changed() else {
            context.cancelled().await;
            return Ok(());
        };
        let mut known = tools::names(&host).await;
        loop {
            let moved = tokio::select! {
                () = context.cancelled() => return Ok(()),
                moved = changes_within(&mut changed, LOOK) => moved,
            };
            if moved && differs(&host, &mut known).await && context.sink().notify_tool_list_changed().await.is_err() {
                return Ok(());
            }
        }
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let record = ResourceTemplate::new("hub://calls/{callId}", "call")
            .with_title("Call record")
            .with_description("What became of a call: state, error, times, tree position.")
            .with_mime_type("application/json");
        let all = ListResourceTemplatesResult::with_all_items(vec![record]);
        Ok(all.with_ttl_ms(FRESH_MS).with_cache_scope(CacheScope::Private))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let host = self.host(&context.extensions)?;
        let asked = json!({ "uri": request.uri });
        let unknown = || ErrorData::resource_not_found("no such resource: they are hub://calls/{callId}", Some(asked));
        let Some(call_id) = request.uri.strip_prefix("hub://calls/") else { return Err(unknown()) };
        let call = HostCall {
            operation_id: "calls.get".to_owned(),
            input: Json::from(json!({ "callId": call_id })),
            ..HostCall::default()
        };
        // Whatever is wrong with the id: there is no such record for this caller.
        let data = call::data(&host, call).await.map_err(|_| unknown())?;
        let contents = ResourceContents::text(data.as_str(), request.uri).with_mime_type("application/json");
        let read = ReadResourceResult::new(vec![contents]).with_ttl_ms(0).with_cache_scope(CacheScope::Private);
        Ok(read.into())
    }
}

/// Whether there was a change before the time was over; a burst counts once.
async fn changes_within(changed: &mut watch::Receiver<u64>, time: Duration) -> bool {
    match tokio::time::timeout(time, changed.changed()).await {
        Ok(Ok(())) => {
            tokio::time::sleep(SETTLE).await;
            changed.mark_unchanged();
            true
        }
        // Nothing will ever change; not a busy loop.
        Ok(Err(_)) => {
            tokio::time::sleep(time).await;
            false
        }
        Err(_) => false,
    }
}

/// Whether the caller's tools are other ones than `known`, which becomes what they are.
async fn differs<H: Host>(host: &H, known: &mut Vec<String>) -> bool {
    let now = tools::names(host).await;
    let differ = now != *known;
    *known = now;
    differ
}
