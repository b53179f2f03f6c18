use hub_operations::Schema;
use hub_protocol::{CallError, Json, ResponseEnvelope, ResponseMeta};
use rmcp::model::{CallToolResult, ContentBlock, JsonObject};
use serde_json::{Value, json};

/// What a stream gave.
pub(super) struct Collected {
    pub(super) items: Vec<Value>,
    /// Why it was not read to its end.
    pub(super) stopped: Option<String>,
}

/// The answer of a query or mutation. `bare`: its data is the structured result, not a member of it.
pub(super) fn answered(envelope: &Json, call_id: Option<&str>, bare: bool) -> Result<CallToolResult, CallError> {
    let (content, data) = opened(envelope)?;
    let structured = if bare && data.is_object() { data } else { with_id(json!({ "data": data }), call_id) };
    let mut result = CallToolResult::success(content);
    result.structured_content = Some(structured);
    Ok(result)
}

/// The answer of a tool that has promised what its structured result is like. Clients raise when it is not, also when it
/// is not there, but for results with `isError`: then it is content alone, which says so.
pub(super) fn promised(envelope: &Json, schema: &JsonObject) -> Result<CallToolResult, CallError> {
    let (mut content, data) = opened(envelope)?;
    let Some(misfit) = misfit(schema, &data) else {
        let mut result = CallToolResult::success(content);
        result.structured_content = Some(data);
        return Ok(result);
    };
    let note =
        format!("The call succeeded, but its answer does not fit the tool's outputSchema: {misfit}. The answer:");
    content.insert(0, ContentBlock::text(note));
    Ok(CallToolResult::error(content))
}

/// Where a value breaks a schema. One that does not compile is broken by nothing.
fn misfit(schema: &JsonObject, data: &Value) -> Option<String> {
    let schema = Schema::compile(&Value::Object(schema.clone())).ok()?;
    let violation = schema.check(&data.clone().into()).err()?.into_iter().next()?;
    let place = if violation.path.is_empty() { "its root" } else { &violation.path };
    Some(format!("{place}: {}", violation.message))
}

/// Content and data of a response.
fn opened(envelope: &Json) -> Result<(Vec<ContentBlock>, Value), CallError> {
    let unreadable = |_| CallError::new(hub_protocol::ErrorCode::ExecutionError, "the response is not readable");
    let envelope: ResponseEnvelope = envelope.parse().map_err(unreadable)?;
    let data: Value = envelope.data.parse().map_err(unreadable)?;
    let content = match envelope.meta {
        // Another MCP server has made blocks of it, pictures among them.
        ResponseMeta::Mcp { content, .. } if !content.is_empty() => blocks(content, &data),
        _ => vec![text(&data)],
    };
    Ok((content, data))
}

/// What a stream gave, as far as it was read.
pub(super) fn collected(stream: Collected, call_id: Option<&str>) -> CallToolResult {
    let mut value = json!({ "count": stream.items.len(), "truncated": stream.stopped.is_some() });
    if let Some(note) = stream.stopped {
        value["note"] = json!(note);
    }
    value["items"] = Value::Array(stream.items);
    CallToolResult::structured(with_id(value, call_id))
}

/// A call that failed: the model sees code, message and details, and may act on them.
pub(super) fn failed(error: &CallError, call_id: Option<&str>, items: Option<Vec<Value>>) -> CallToolResult {
    let mut value = json!({ "code": error.code, "message": error.message, "retryable": error.retryable });
    if let Some(details) = error.details.as_ref().and_then(|details| details.parse::<Value>().ok()) {
        value["details"] = details;
    }
    if let Some(items) = items.filter(|items| !items.is_empty()) {
        value["items"] = Value::Array(items);
    }
    let mut line = format!("{}: {}", error.code, error.message);
    if let Some(details) = value.get("details") {
        line.push_str(&format!("\n{details}"));
    }
    let mut result = CallToolResult::error(vec![ContentBlock::text(line)]);
    result.structured_content = Some(with_id(value, call_id));
    result
}

/// A value as a model reads it: text as it is, everything else as JSON.
fn text(data: &Value) -> ContentBlock {
    ContentBlock::text(data.as_str().map_or_else(|| data.to_string(), str::to_owned))
}

fn blocks(content: Vec<Value>, data: &Value) -> Vec<ContentBlock> {
    let known: Option<Vec<ContentBlock>> =
        content.into_iter().map(|block| serde_json::from_value(block).ok()).collect();
    known.unwrap_or_else(|| vec![text(data)])
}

fn with_id(mut value: Value, call_id: Option<&str>) -> Value {
    if let Some(call_id) = call_id {
        value["callId"] = json!(call_id);
    }
    value
}
