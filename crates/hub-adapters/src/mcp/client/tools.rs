use std::collections::HashSet;

use hub_operations::Schema;
use hub_protocol::{AccessControl, OperationSpec, OperationType};
use rmcp::model::Tool;
use serde_json::{Map, Value, json};

use super::McpOptions;

/// Most tools of one server that become operations.
pub(super) const MAX_TOOLS: usize = 1_000;

/// The dialect of this project.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Longest segment of an operation id.
const SEGMENT: usize = 64;

/// Longest description, in characters.
const DESCRIPTION: usize = 8_000;

/// A tool as an operation.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Imported {
    pub(super) spec: OperationSpec,
    /// Its name at the server.
    pub(super) tool: String,
    pub(super) stream: bool,
}

/// The tools as operations; what can't be one is left out with a warning. `version` is the server's own.
pub(super) fn import(tools: Vec<Tool>, options: &McpOptions, version: Option<&str>) -> Vec<Imported> {
    let (mut seen, mut taken) = (HashSet::new(), HashSet::new());
    let mut all = Vec::new();
    for tool in tools {
        if all.len() >= MAX_TOOLS {
            tracing::warn!(mcp.client = options.name, limit = MAX_TOOLS, "an MCP server has too many tools");
            break;
        }
        if !seen.insert(tool.name.to_string()) {
            tracing::warn!(mcp.client = options.name, tool = %tool.name, "an MCP server lists a tool twice");
            continue;
        }
        let name = unique(&tool.name, &mut taken);
        all.push(one(&tool, name, options, version));
    }
    all
}

fn one(tool: &Tool, name: String, options: &McpOptions, version: Option<&str>) -> Imported {
    let stream = options.stream.iter().any(|streamed| *streamed == tool.name);
    let hints = tool.annotations.as_ref();
    let kind = match hints.and_then(|hints| hints.read_only_hint) {
        _ if stream => OperationType::Subscription,
        Some(true) => OperationType::Query,
        _ => OperationType::Mutation,
    };
    let input = usable(options, tool, "inputSchema", Some(&tool.input_schema), json!({ "type": "object" }));
    let output = usable(options, tool, "outputSchema", tool.output_schema.as_deref(), json!(true));
    let output = if stream { progress_or(&output) } else { output };
    let mut own = json!({ "name": tool.name, "server": options.name, "annotations": hints });
    if options.as_tools {
        own["tool"] = json!(true);
    }
    let mut spec = OperationSpec {
        name,
        namespace: options.namespace.clone().unwrap_or_else(|| segment(&options.name)),
        version: String::new(),
        kind,
        title: tool.title.clone().or_else(|| hints.and_then(|hints| hints.title.clone())),
        description: tool.description.as_deref().unwrap_or_default().chars().take(DESCRIPTION).collect(),
        tags: vec!["mcp".to_owned()],
        input_schema: input,
        output_schema: output,
        error_schemas: Vec::new(),
        access_control: options
            .access
            .clone()
            .unwrap_or_else(|| AccessControl::scopes(&[&format!("imported:{}", options.name)])),
        meta: Some(json!({ "mcp": own })),
    };
    spec.version = versioned(&spec, version);
    Imported { spec, tool: tool.name.to_string(), stream }
}

/// The server's version if it has one, and a mark of the declaration: a tool may change while the version stays, and
/// a hub takes one version of an operation only once.
fn versioned(spec: &OperationSpec, version: Option<&str>) -> String {
    let numbers = |text: &str| -> Option<String> {
        let plain = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        let parts: Option<Vec<u64>> = plain.split('.').map(|part| part.parse().ok()).collect();
        parts.filter(|parts| parts.len() == 3).map(|p| format!("{}.{}.{}", p[0], p[1], p[2]))
    };
    let base = version.and_then(numbers).unwrap_or_else(|| "1.0.0".to_owned());
    let text = serde_json::to_string(spec).unwrap_or_default();
    format!("{base}+{:016x}", fnv1a(text.as_bytes()))
}

/// The same for all time, unlike the standard library's hashes.
fn fnv1a(bytes: &[u8]) -> u64 {
    let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, mix)
}

/// A schema in the dialect of this project, if it can be compiled; else `otherwise`.
fn usable(
    options: &McpOptions,
    tool: &Tool,
    side: &'static str,
    schema: Option<&Map<String, Value>>,
    otherwise: Value,
) -> Value {
    let Some(schema) = schema else { return otherwise };
    let mut schema = schema.clone();
    // Most others say draft 7 and use what both have in common.
    if schema.get("$schema").and_then(Value::as_str) != Some(DIALECT) {
        schema.remove("$schema");
    }
    let schema = Value::Object(schema);
    match Schema::compile(&schema) {
        Ok(_) => schema,
        Err(error) => {
            tracing::warn!(
                mcp.client = options.name, tool = %tool.name, side, %error,
                "an MCP server has a schema that can't be used"
            );
            otherwise
        }
    }
}

/// Items of a tool as a stream.
fn progress_or(result: &Value) -> Value {
    json!({ "oneOf": [
        {
            "type": "object", "required": ["progress"],
            "properties": { "progress": { "type": "number" }, "total": { "type": "number" }, "message": { "type": "string" } },
        },
        { "type": "object", "required": ["result"], "properties": { "result": result } },
    ] })
}

/// A tool name as the last segment of an id, unlike the others'.
fn unique(name: &str, taken: &mut HashSet<String>) -> String {
    let plain = segment(name);
    let mut unique = plain.clone();
    let mut count = 1;
    while !taken.insert(unique.clone()) {
        count += 1;
        let suffix = format!("_{count}");
        unique = format!("{}{suffix}", &plain[..plain.len().min(SEGMENT - suffix.len())]);
    }
    unique
}

/// Letters, digits, `_` and `-`, 1 to 64 of them.
fn segment(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '_' };
    let plain: String = name.chars().take(SEGMENT).map(plain).collect();
    if plain.is_empty() { "_".to_owned() } else { plain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tool(value: Value) -> Tool {
        serde_json::from_value(value).unwrap()
    }

    fn imported(tools: Vec<Value>) -> Vec<Imported> {
        let mut options = McpOptions::new("files");
        options.stream = vec!["slow".to_owned()];
        import(tools.into_iter().map(tool).collect(), &options, Some("v2.1.0-beta"))
    }

    #[test]
    fn hints_names_and_schemas() {
        let all = imported(vec![
            json!({"name": "read/file.txt", "inputSchema": {"type": "object", "$schema": "http://json-schema.org/draft-07/schema#"},
                "annotations": {"readOnlyHint": true, "title": "Read"}}),
            json!({"name": "read_file_txt", "inputSchema": {"type": "object"}}),
            json!({"name": "read_file_txt", "inputSchema": {"type": "object"}}),
            json!({"name": "slow", "inputSchema": {"type": "object"}, "outputSchema": {"type": "object"}}),
            json!({"name": "liar", "inputSchema": {"type": 7}}),
        ]);
        let ids: Vec<String> = all.iter().map(|i| i.spec.id()).collect();
        assert_eq!(ids, ["files.read_file_txt", "files.read_file_txt_2", "files.slow", "files.liar"]);
        assert_eq!(all[0].spec.kind, OperationType::Query);
        assert_eq!(all[0].spec.title.as_deref(), Some("Read"));
        assert_eq!(all[0].spec.input_schema, json!({"type": "object"}));
        assert!(all[0].spec.version.starts_with("2.1.0+"));
        assert_eq!(all[0].spec.access_control.required_scopes, ["imported:files"]);
        assert_eq!(all[1].spec.kind, OperationType::Mutation);
        assert_eq!((all[2].stream, all[2].spec.kind), (true, OperationType::Subscription));
        assert_eq!(all[3].spec.input_schema, json!({"type": "object"}));
        for import in all {
            hub_operations::Definition::new(import.spec).unwrap();
        }
    }

    #[test]
    fn another_declaration_is_another_version() {
        let of = |description: &str| {
            let tools = vec![json!({"name": "a", "description": description, "inputSchema": {"type": "object"}})];
            imported(tools).remove(0).spec.version
        };
        assert_eq!(of("x"), of("x"));
        assert_ne!(of("x"), of("y"));
    }
}
