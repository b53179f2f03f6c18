mod schema;

use std::sync::Arc;

use hub_protocol::OperationType;
use rmcp::model::{JsonObject, Tool, ToolAnnotations};
use serde_json::{Value, json};

use crate::mcp::host::{Host, HostTool};

/// Longest description of such a tool, in characters.
const MAX_DESCRIPTION: usize = 1_000;

/// Characters that are shown of an argument's name.
const MAX_NAME: usize = 64;

/// The four tools, whatever operations there are.
pub(super) fn fixed() -> Vec<Tool> {
    vec![
        reading(
            "list",
            "List operations",
            "List the operations you may call, by id, a page at a time. Prefer `search` when you know what you need. \
             `type` is query (reads), mutation (changes something) or subscription (a stream).",
            json!({
                "namespace": { "type": "string", "description": "Only this namespace and those below it, e.g. \"dev.laptop\"." },
                "type": { "enum": ["query", "mutation", "subscription"] },
                "tags": { "type": "array", "items": { "type": "string" }, "description": "Only operations with all of these." },
                "includeInactive": { "type": "boolean", "description": "Also operations that nobody provides right now." },
                "limit": { "type": "integer", "minimum": 1, "maximum": 1000, "description": "Page size; default 50." },
                "cursor": { "type": "string", "description": "nextCursor of the page before." },
            }),
            &[],
        ),
        reading(
            "search",
            "Find operations",
            "Find operations by words in their id, title, description, tags and parameter names; best first. Tolerates \
             small typos.",
            json!({
                "query": { "type": "string", "description": "Words, e.g. \"read file\"." },
                "namespace": { "type": "string", "description": "Only this namespace and those below it." },
                "limit": { "type": "integer", "minimum": 1, "maximum": 100, "description": "Default 10." },
            }),
            &["query"],
        ),
        reading(
            "schema",
            "Show operations",
            "Full specifications of operations: description, input and output JSON Schema, errors. Read it before the \
             first `call` of an operation.",
            json!({
                "operationIds": { "type": "array", "items": { "type": "string" }, "minItems": 1, "maxItems": 100 },
            }),
            &["operationIds"],
        ),
        call(),
    ]
}

fn call() -> Tool {
    let schema = object(
        json!({
            "operationId": { "type": "string", "description": "Id as `list` and `search` show it; id@spoke picks one provider." },
            "input": { "description": "The operation's input, as its inputSchema says." },
            "timeoutMs": {
                "type": "integer", "minimum": 1,
                "description": "Longest wait; default 30000, for a task that is no stream 3600000. A stream answers what it gave until then.",
            },
            "maxItems": { "type": "integer", "minimum": 1, "maximum": 1000, "description": "Of a stream; default 100." },
            "idempotencyKey": {
                "type": "string",
                "description": "Calling again with the same key and input within 24 h runs nothing twice.",
            },
        }),
        &["operationId"],
    );
    let hints = ToolAnnotations::with_title("Call an operation").read_only(false).destructive(true).open_world(true);
    Tool::new(
        "call",
        "Call an operation. Answers { data, callId }, or for a stream { items, count, truncated, callId }. A failure \
         has code, message, details and retryable; after VALIDATION_ERROR see `schema`, after OPERATION_NOT_FOUND \
         `search`.",
        schema,
    )
    .with_annotations(hints)
}

fn reading(
    name: &'static str,
    title: &'static str,
    description: &'static str,
    properties: Value,
    required: &[&str],
) -> Tool {
    let hints = ToolAnnotations::with_title(title).read_only(true).idempotent(true).open_world(false);
    Tool::new(name, description, object(properties, required)).with_annotations(hints)
}

fn object(properties: Value, required: &[&str]) -> Arc<JsonObject> {
    let mut schema = JsonObject::new();
    schema.insert("type".to_owned(), json!("object"));
    schema.insert("properties".to_owned(), properties);
    if !required.is_empty() {
        schema.insert("required".to_owned(), json!(required));
    }
    schema.insert("additionalProperties".to_owned(), json!(false));
    Arc::new(schema)
}

/// What is to be said of an argument that one of the four tools does not have.
pub(super) fn unknown_argument(tool: &str, arguments: &JsonObject) -> Option<String> {
    let tool = fixed().into_iter().find(|fixed| fixed.name == tool)?;
    let known = tool.input_schema.get("properties")?.as_object()?;
    let unknown: String = arguments.keys().find(|name| !known.contains_key(*name))?.chars().take(MAX_NAME).collect();
    let known = known.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    Some(format!("`{}` has no argument {unknown:?}: it has {known}", tool.name))
}

/// An operation that is a tool of its own.
pub(super) struct Own {
    pub(super) tool: Tool,
    pub(super) operation_id: String,
}

/// Which tools there are, for who asks for another one.
pub(super) fn unknown(name: &str, own: &[Own]) -> String {
    let name: String = name.chars().take(2 * MAX_NAME).collect();
    let own = own.iter().map(|own| own.tool.name.as_ref());
    let names = fixed().iter().map(|tool| tool.name.to_string()).chain(own.map(str::to_owned)).collect::<Vec<_>>();
    format!("unknown tool {name:?}: there are {}; operations are run by `call`", names.join(", "))
}

/// Operations as tools that every host takes.
pub(super) fn own(tools: Vec<HostTool>) -> Vec<Own> {
    tools.into_iter().map(own_of).collect()
}

/// What tells one set of tools from another.
pub(super) async fn names<H: Host>(host: &H) -> Vec<String> {
    let of = |tool: HostTool| format!("{} {} {}", tool.name, tool.spec.id(), tool.spec.version);
    host.tools().await.into_iter().map(of).collect()
}

fn own_of(HostTool { name, spec }: HostTool) -> Own {
    let description: String = spec.description.chars().take(MAX_DESCRIPTION).collect();
    let reads = spec.kind != OperationType::Mutation;
    // An imported tool has said more of itself.
    let said = spec.meta.as_ref().and_then(|meta| meta.get("mcp")?.get("annotations"));
    let said = |hint: &str| said.and_then(|said| said.get(hint)?.as_bool());
    let mut hints = ToolAnnotations::new().read_only(reads).destructive(said("destructiveHint").unwrap_or(!reads));
    hints.idempotent_hint = said("idempotentHint");
    let operation_id = spec.id();
    let mut tool = Tool::new(name, description, Arc::new(schema::input(&spec.input_schema))).with_annotations(hints);
    tool.title = spec.title;
    if spec.kind != OperationType::Subscription {
        tool.output_schema = schema::output(&spec.output_schema).map(Arc::new);
    }
    Own { tool, operation_id }
}

#[cfg(test)]
mod tests {
    use hub_protocol::ops::hub::MCP_TOOLS;

    use super::*;

    /// A token of common vocabularies is about four characters of JSON; three is the safe side.
    #[test]
    fn the_four_tools_cost_less_than_2000_tokens() {
        let text = serde_json::to_string(&fixed()).unwrap();
        assert!(text.len() < 3 * 2_000, "{} characters", text.len());
        assert_eq!(fixed().iter().map(|t| t.name.as_ref()).collect::<Vec<_>>(), MCP_TOOLS);
    }

    #[test]
    fn a_tool_has_what_its_operation_has() {
        let spec = json!({
            "namespace": "a", "name": "b", "version": "1.0.0", "type": "query", "description": "d", "title": "t",
            "inputSchema": true, "outputSchema": { "type": "object" }, "accessControl": { "requiredScopes": [] },
        });
        let tools = own(vec![HostTool { name: "n".to_owned(), spec: serde_json::from_value(spec).unwrap() }]);
        let (tool, id) = (&tools[0].tool, &tools[0].operation_id);
        assert_eq!((tool.name.as_ref(), tool.title.as_deref(), id.as_str()), ("n", Some("t"), "a.b"));
        assert_eq!(tool.input_schema["type"], json!("object"));
        assert!(tool.output_schema.is_some());
    }

    #[test]
    fn an_imported_tool_keeps_its_hints() {
        let hints = |said: serde_json::Value| {
            let spec = json!({
                "namespace": "a", "name": "b", "version": "1.0.0", "type": "mutation", "description": "d",
                "inputSchema": true, "outputSchema": true, "accessControl": { "requiredScopes": [] },
                "_meta": { "mcp": { "annotations": said } },
            });
            let tools = own(vec![HostTool { name: "n".to_owned(), spec: serde_json::from_value(spec).unwrap() }]);
            let hints = tools[0].tool.annotations.clone().unwrap();
            (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint)
        };
        let mild = json!({ "destructiveHint": false, "idempotentHint": true });
        assert_eq!(hints(mild), (Some(false), Some(false), Some(true)));
        assert_eq!(hints(json!({ "destructiveHint": "no" })), (Some(false), Some(true), None));
        assert_eq!(hints(json!(null)), (Some(false), Some(true), None));
    }
}
