use hub_operations::Schema;
use hub_protocol::{CallError, ErrorCode, Json, ResponseEnvelope, ResponseMeta, Violation};
use rmcp::ServiceError;
use rmcp::model::ServerResult;
use rmcp::transport::DynamicTransportError;
use serde_json::{Value, json};

use super::child::Ending;
use super::http::{self, HttpError};

/// Characters of a tool's own words in an error message; the details have all of it.
const MESSAGE: usize = 1_000;

/// As many as are searched for secrets before the rest is cut off.
const SAID: usize = 2 * MESSAGE;

/// What a tool has answered.
pub(super) struct Done {
    data: Value,
    meta: ResponseMeta,
}

impl Done {
    /// As a response envelope.
    pub(super) fn envelope(self) -> Json {
        ResponseEnvelope { data: Json::from(self.data), meta: self.meta }.to_json()
    }

    /// Holds what the tool has promised of its result against what it is.
    pub(super) fn kept(self, promise: Option<&Schema>) -> Result<Self, CallError> {
        let Some(promise) = promise else { return Ok(self) };
        let ResponseMeta::Mcp { structured_content, content, .. } = &self.meta else { return Ok(self) };
        let (violations, said) = match structured_content {
            None => {
                let message = "structuredContent is missing".to_owned();
                (vec![Violation { path: String::new(), message }], json!({ "content": content }))
            }
            Some(structured) => match promise.check(&Json::from(structured.clone())) {
                Ok(()) => return Ok(self),
                Err(violations) => (violations, json!({ "structuredContent": structured })),
            },
        };
        let first = violations.first().map(|v| format!("{}: {}", v.path, v.message)).unwrap_or_default();
        let message = format!("the tool's result breaks its own outputSchema: {}", first.trim_start_matches(": "));
        let mut details = said;
        details["violations"] = serde_json::to_value(&violations).unwrap_or_default();
        Err(CallError::new(ErrorCode::ExecutionError, message).with_details(&details))
    }

    /// The value alone.
    pub(super) fn into_data(self) -> Value {
        self.data
    }
}

/// A tool's result, or the failure that it reports.
pub(super) fn of(result: ServerResult) -> Result<Done, CallError> {
    let unreadable = || CallError::new(ErrorCode::ExecutionError, "the MCP server's answer is not readable");
    // Blocks of a kind that the SDK does not know make the whole a custom result.
    let value = match result {
        ServerResult::CallToolResult(result) => serde_json::to_value(result).map_err(|_| unreadable())?,
        ServerResult::CustomResult(result) => result.0,
        ServerResult::InputRequiredResult(_) => {
            let text =
                "the MCP server asks for input (elicitation or sampling), which is refused: nobody is here to ask";
            return Err(CallError::new(ErrorCode::ExecutionError, text));
        }
        _ => return Err(unreadable()),
    };
    let Value::Object(mut members) = value else { return Err(unreadable()) };
    let content = match members.remove("content") {
        Some(Value::Array(content)) => content,
        _ => Vec::new(),
    };
    let structured = members.remove("structuredContent");
    if members.get("isError") == Some(&Value::Bool(true)) {
        return Err(reported(&content, structured.as_ref()));
    }
    if content.is_empty() && structured.is_none() && !members.contains_key("isError") {
        return Err(unreadable());
    }
    let data = structured.clone().unwrap_or_else(|| Value::Array(content.iter().map(known).collect()));
    let meta = ResponseMeta::Mcp {
        is_error: false,
        content,
        structured_content: structured,
        meta: members.remove("_meta").filter(Value::is_object),
    };
    Ok(Done { data, meta })
}

/// Blocks of unknown kinds become text with their JSON.
fn known(block: &Value) -> Value {
    let kinds = ["text", "image", "audio", "resource", "resource_link"];
    let kind = block.get("type").and_then(Value::as_str);
    if kind.is_some_and(|kind| kinds.contains(&kind)) {
        block.clone()
    } else {
        json!({ "type": "text", "text": block.to_string() })
    }
}

fn reported(content: &[Value], structured: Option<&Value>) -> CallError {
    let words = content.iter().find_map(|block| block.get("text")?.as_str());
    let message: String = words.unwrap_or("the tool reports a failure").chars().take(SAID).collect();
    let mut details = json!({ "content": content });
    if let Some(structured) = structured {
        details["structuredContent"] = structured.clone();
    }
    CallError::new(ErrorCode::ExecutionError, message).with_details(&details)
}

/// With a message of the usual length.
pub(super) fn shortened(mut error: CallError) -> CallError {
    if let Some((end, _)) = error.message.char_indices().nth(MESSAGE) {
        error.message.truncate(end);
    }
    error
}

/// What became of a call that the tool did not answer. `repeatable`: running it twice does no harm.
pub(super) fn failed(error: &ServiceError, repeatable: bool) -> CallError {
    match error {
        ServiceError::McpError(error) if error.code == rmcp::model::ErrorCode::INVALID_PARAMS => {
            let message: String = error.message.chars().take(SAID).collect();
            let at = Violation { path: String::new(), message: message.clone() };
            CallError::new(ErrorCode::ValidationError, message).with_details(&[at])
        }
        ServiceError::McpError(error) => {
            let message: String = error.message.chars().take(SAID).collect();
            let details = json!({ "mcpCode": error.code.0, "data": error.data });
            CallError::new(ErrorCode::ExecutionError, message).with_details(&details)
        }
        ServiceError::Timeout { .. } => CallError::new(ErrorCode::Timeout, "the MCP server did not answer in time"),
        ServiceError::Cancelled { .. } => CallError::new(ErrorCode::Aborted, "the MCP server cancelled the call"),
        ServiceError::TransportSend(error) => unsent(error, repeatable),
        ServiceError::TransportClosed => lost(None, repeatable),
        _ => CallError::new(ErrorCode::ExecutionError, "the MCP server's answer is not readable"),
    }
}

/// The error of a call whose exchange failed.
fn unsent(error: &DynamicTransportError, repeatable: bool) -> CallError {
    let Some(failure) = http::failure(error.error.as_ref()) else { return lost(None, repeatable) };
    let why = http::why(failure);
    match failure {
        HttpError::ResponseBodyTooLarge { .. } => too_large(),
        HttpError::UnexpectedServerResponse(_) | HttpError::UnexpectedContentType(_) | HttpError::Deserialize(_) => {
            CallError::new(ErrorCode::ExecutionError, format!("the MCP server's answer is not readable: {why}"))
        }
        _ => lost(Some(&why), repeatable),
    }
}

pub(super) fn lost(why: Option<&str>, repeatable: bool) -> CallError {
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    let text = format!("the connection to the MCP server was lost during the call{why}");
    CallError::new(ErrorCode::SpokeDisconnected, text).with_retryable(repeatable)
}

/// The error of a call during which the server's program ended.
pub(super) fn crashed(ending: &Ending, repeatable: bool) -> CallError {
    CallError::new(ErrorCode::SpokeDisconnected, format!("the MCP server crashed during the call: {ending}"))
        .with_retryable(repeatable)
        .with_details(&json!({ "exit": ending.exit, "stderr": ending.stderr }))
}

pub(super) fn too_large() -> CallError {
    let limit = 16 * 1024 * 1024;
    CallError::new(ErrorCode::PayloadTooLarge, format!("the MCP server's answer is above {limit} bytes"))
        .with_details(&json!({ "limit": limit, "of": "mcpMessageBytes" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn custom(value: Value) -> Result<Done, CallError> {
        of(ServerResult::CustomResult(rmcp::model::CustomResult(value)))
    }

    #[test]
    fn structured_content_comes_first_and_unknown_blocks_become_text() {
        let done =
            custom(json!({"content": [{"type": "text", "text": "x"}], "structuredContent": {"a": 1}})).ok().unwrap();
        assert_eq!(done.into_data(), json!({"a": 1}));
        let done = custom(json!({"content": [{"type": "hologram", "x": 1}]})).ok().unwrap();
        assert_eq!(done.into_data(), json!([{"type": "text", "text": "{\"type\":\"hologram\",\"x\":1}"}]));
    }

    #[test]
    fn a_reported_failure_keeps_its_content() {
        let error = custom(json!({"isError": true, "content": [{"type": "text", "text": "no"}]})).err().unwrap();
        assert!(error.is(ErrorCode::ExecutionError) && error.message == "no");
        assert_eq!(error.details.unwrap().parse::<Value>().unwrap()["content"][0]["text"], "no");
    }

    #[test]
    fn what_is_no_result_is_an_error() {
        for value in [json!({}), json!([]), json!({"resultType": "complete"})] {
            assert!(custom(value).is_err());
        }
    }
}
