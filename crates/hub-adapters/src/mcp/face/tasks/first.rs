//! Tasks as 2025-11-25 has them, in its core: the client asks for one.
//!
//! The SDK knows only the extension that came after. So that it passes these requests on unread, the HTTP face gives
//! them names of their own, below [`PREFIX`].

use hub_protocol::CallId;
use rmcp::model::{
    CallToolRequestParams, CustomNotification, CustomRequest, CustomResult, ErrorCode, JsonObject,
    NotificationMetaObject, ServerNotification, ServerResult,
};
use rmcp::service::RequestContext;
use rmcp::{ErrorData, RoleServer, ServerHandler};
use serde::Deserialize;
use serde_json::{Value, json};

use super::extension::timestamp;
use super::{Ended, Entry, POLL, State, TTL, Task, Tasks, result, table};
use crate::mcp::face::call::Asking;
use crate::mcp::face::{Face, invalid};
use crate::mcp::host::Host;
use crate::mcp::http::Owner;

/// The revision.
pub(in crate::mcp) const REVISION: &str = "2025-11-25";

/// What the names of its requests begin with.
pub(in crate::mcp) const PREFIX: &str = "2025-11-25/";

/// Where a task's request has its progress token. The SDK would tell of progress in the answer to the request as long as
/// that is open, then elsewhere, and what comes by two ways may come in the wrong order.
pub(in crate::mcp) const TOKEN: &str = "2025-11-25/progressToken";

const RELATED: &str = "io.modelcontextprotocol/related-task";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    task_id: String,
}

#[derive(Deserialize)]
struct Page {
    cursor: Option<CallId>,
}

/// What the server declares in the answer to `initialize`.
pub(in crate::mcp) fn capability() -> Value {
    json!({ "list": {}, "cancel": {}, "requests": { "tools": { "call": {} } } })
}

/// Answers a request.
pub(in crate::mcp::face) async fn answer<H: Host>(
    face: &Face<H>,
    tasks: &Tasks,
    request: &CustomRequest,
    context: RequestContext<RoleServer>,
) -> Result<CustomResult, ErrorData> {
    let (host, owner) = (face.host(&context.extensions)?, face.owner(&context.extensions)?);
    let named = || invalid::params::<Named>(request).map(|named| named.task_id);
    let value = match request.method.as_str() {
        "tools/list" => return tools(face, context).await,
        "tools/call" => created(face, tasks, &host, owner, request, &context).await?,
        "tasks/get" => shape(&tasks.find(&host, &owner, &named()?).await?),
        "tasks/list" => listed(tasks, &host, &owner, request).await?,
        "tasks/cancel" => cancelled(tasks, &host, &owner, &named()?).await?,
        "tasks/result" => match tasks.wait(&host, &owner, &named()?, &context.ct).await? {
            Some((task, ended)) => of_tool(&task, &ended),
            None => return Err(ErrorData::internal_error("the request was cancelled", None)),
        },
        _ => return Err(invalid::unknown(request)),
    };
    Ok(CustomResult(value))
}

/// `tools/list`, and which of them can be tasks.
async fn tools<H: Host>(face: &Face<H>, context: RequestContext<RoleServer>) -> Result<CustomResult, ErrorData> {
    let mut listed = ServerResult::ListToolsResult(face.list_tools(None, context).await?);
    listed.strip_result_type_for_legacy_peer();
    let unreadable = |error: serde_json::Error| ErrorData::internal_error(error.to_string(), None);
    let mut value = serde_json::to_value(listed).map_err(unreadable)?;
    for tool in value["tools"].as_array_mut().into_iter().flatten() {
        let reads = ["list", "search", "schema"].iter().any(|name| tool["name"] == *name);
        tool["execution"] = json!({ "taskSupport": if reads { "forbidden" } else { "optional" } });
    }
    Ok(CustomResult(value))
}

/// `tools/call` with `task`.
async fn created<H: Host>(
    face: &Face<H>,
    tasks: &Tasks,
    host: &H,
    owner: Owner,
    request: &CustomRequest,
    context: &RequestContext<RoleServer>,
) -> Result<Value, ErrorData> {
    let params = invalid::params::<CallToolRequestParams>(request)?;
    let name = params.name.clone();
    let asked = face.asked(host, params).await?;
    if matches!(&asked, Ok(asked) if !asked.may_last) {
        let error = format!("{name:?} is no task: call it without `task`");
        return Err(ErrorData::new(ErrorCode::METHOD_NOT_FOUND, error, None));
    }
    let entry = Entry::new(owner);
    if !tasks.table.keep(&entry) {
        let error = format!("{} tasks run already: wait for one, or cancel one", table::PER_OWNER);
        return Err(ErrorData::internal_error(error, None));
    }
    match asked {
        Ok(asked) => {
            let mut asking = Asking::of_task(context, TOKEN);
            if let Some(progress) = &mut asking.progress {
                progress.meta = Some(NotificationMetaObject::from(related(&entry.task())));
            }
            tasks.run(host, &entry, asked, asking, Some(context.peer.clone()));
        }
        Err(error) => entry.end(&result::failed(&error, None, None)),
    }
    Ok(json!({ "task": shape(&entry.task()) }))
}

async fn listed<H: Host>(tasks: &Tasks, host: &H, owner: &Owner, request: &CustomRequest) -> Result<Value, ErrorData> {
    let Page { cursor } = invalid::params(request)?;
    let (tasks, next) = tasks.page(host, owner, cursor).await?;
    let mut page = json!({ "tasks": tasks.iter().map(shape).collect::<Vec<Value>>() });
    if let Some(next) = next {
        page["nextCursor"] = json!(next);
    }
    Ok(page)
}

async fn cancelled<H: Host>(tasks: &Tasks, host: &H, owner: &Owner, id: &str) -> Result<Value, ErrorData> {
    let task = tasks.find(host, owner, id).await?;
    if task.ended.is_some() {
        let error = format!("the task has ended: it is {}", status(task.state()));
        return Err(ErrorData::invalid_params(error, None));
    }
    tasks.cancel(host, owner, task).await.map(|task| shape(&task))
}

/// What the tool answered.
fn of_tool(task: &Task, ended: &Ended) -> Value {
    let mut value = ended.value();
    if let Some(result) = value.as_object_mut() {
        result.remove("resultType");
        result.insert("_meta".to_owned(), Value::Object(related(task)));
    }
    value
}

fn related(task: &Task) -> JsonObject {
    JsonObject::from_iter([(RELATED.to_owned(), json!({ "taskId": task.id }))])
}

/// Tells of a task's end.
pub(super) fn status_notification(task: &Task) -> ServerNotification {
    CustomNotification::new("notifications/tasks/status", Some(shape(task))).into()
}

fn shape(task: &Task) -> Value {
    let mut value = json!({
        "taskId": task.id,
        "status": status(task.state()),
        "createdAt": timestamp(task.started),
        "lastUpdatedAt": timestamp(task.changed()),
        "ttl": TTL.as_millis(),
        "pollInterval": POLL.as_millis(),
    });
    if let Some(message) = task.ended.as_ref().and_then(|ended| ended.message.as_deref()) {
        value["statusMessage"] = json!(message);
    }
    value
}

fn status(state: State) -> &'static str {
    match state {
        State::Working => "working",
        State::Completed => "completed",
        State::Failed => "failed",
        State::Cancelled => "cancelled",
    }
}
