use std::collections::HashSet;
use std::sync::Arc;

use hub_operations::{MAX_DECLARATION, Schema, Scrubber};
use hub_protocol::{AccessControl, OperationSpec, OperationType};
use rmcp::model::Tool;
use serde_json::{Map, Value, json};

use super::McpOptions;
use crate::mark::marked;

/// Most tools of one server that become operations.
pub(super) const MAX_TOOLS: usize = 1_000;

/// Most tools of one list that are looked at, and bytes of those that become operations: every hub holds them compiled.
const MAX_LISTED: usize = 10 * MAX_TOOLS;
const MAX_BYTES: usize = 8 * 1024 * 1024;

/// Characters of what is wrong with a tool.
const WRONG: usize = 100;

/// The dialect of this project.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Longest segment of an operation id.
const SEGMENT: usize = 64;

/// Longest description, in characters.
const DESCRIPTION: usize = 8_000;

/// A tool as an operation.
#[derive(Debug, Clone)]
pub(super) struct Imported {
    pub(super) spec: OperationSpec,
    /// Its name at the server.
    pub(super) tool: String,
    pub(super) stream: bool,
    /// What it has promised of `structuredContent`.
    pub(super) promise: Option<Arc<Schema>>,
}

/// A server's tools.
#[derive(Debug, Default)]
pub(super) struct Listed {
    tools: Vec<Tool>,
    /// Bytes of all of them.
    bytes: usize,
    /// How many it lists, those that are left out included.
    count: usize,
    /// Whether there are more than are looked at.
    pub(super) more: bool,
    /// What can't be offered, and why.
    pub(super) left_out: Vec<String>,
}

impl Listed {
    /// Adds the next of the list: a tool, or the name of what is none and what is wrong with it.
    pub(super) fn add(&mut self, tool: Result<Tool, (Option<&str>, serde_json::Error)>) {
        if self.is_full() {
            self.more = true;
            return;
        }
        self.count += 1;
        match tool {
            Err((name, error)) => {
                let name = name.map(|name| format!("{:?}, ", short(name))).unwrap_or_default();
                let error: String = error.to_string().chars().take(WRONG).collect();
                self.left_out.push(format!("a malformed tool ({name}the {}. of the list): {error}", self.count));
            }
            Ok(tool) => {
                let bytes = size(&tool);
                if bytes > MAX_DECLARATION {
                    self.left_out.push(too_large(&tool, bytes));
                    return;
                }
                self.bytes += bytes;
                self.tools.push(tool);
            }
        }
    }

    /// Whether nothing of what follows is taken.
    pub(super) fn is_full(&self) -> bool {
        self.tools.len() > MAX_TOOLS || self.count >= MAX_LISTED || self.bytes > MAX_BYTES
    }

    /// The tools as operations. `version` is the server's own.
    pub(super) fn import(
        self,
        options: &McpOptions,
        version: Option<&str>,
        secrets: &Scrubber,
    ) -> (Vec<Imported>, Vec<String>) {
        let Self { mut tools, bytes, mut more, mut left_out, .. } = self;
        let mut why = String::new();
        if bytes > MAX_BYTES {
            more = tools.pop().is_some();
            why = format!(": they have more than {MAX_BYTES} bytes");
        }
        let (mut seen, mut taken) = (HashSet::new(), HashSet::new());
        let mut all = Vec::new();
        for tool in tools {
            if all.len() >= MAX_TOOLS {
                more = true;
                break;
            }
            if secrets.text(&tool.name).is_some() {
                left_out.push("a tool with a secret in its name".to_owned());
                continue;
            }
            if !seen.insert(tool.name.to_string()) {
                left_out.push(format!("a second tool {:?}", short(&tool.name)));
                continue;
            }
            // A program may tell what it was given in its environment.
            let Some(tool) = secrets.declared(tool) else {
                left_out.push("a tool with a secret in its declaration".to_owned());
                continue;
            };
            let one = one(&tool, unique(&tool.name, &mut taken), options, version);
            let bytes = size(&one.spec);
            if bytes > MAX_DECLARATION {
                left_out.push(too_large(&tool, bytes));
                continue;
            }
            all.push(one);
        }
        if more {
            left_out.insert(0, format!("all tools after the first {}{why}", all.len()));
        }
        let left_out = left_out.into_iter().map(|what| secrets.text(&what).unwrap_or(what)).collect();
        (all, left_out)
    }
}

/// A tool's name, as much of it as people want to read.
fn short(name: &str) -> String {
    name.chars().take(SEGMENT).collect()
}

fn too_large(tool: &Tool, bytes: usize) -> String {
    format!("the tool {:?}: its declaration has {bytes} bytes, more than {MAX_DECLARATION}", short(&tool.name))
}

fn size(value: &impl serde::Serialize) -> usize {
    serde_json::to_string(value).map_or(usize::MAX, |text| text.len())
}

fn one(tool: &Tool, name: String, options: &McpOptions, version: Option<&str>) -> Imported {
    let stream = options.stream.iter().any(|streamed| *streamed == tool.name);
    let hints = tool.annotations.as_ref();
    let kind = match hints.and_then(|hints| hints.read_only_hint) {
        _ if stream => OperationType::Subscription,
        Some(true) => OperationType::Query,
        _ => OperationType::Mutation,
    };
    let (input, _) = usable(options, tool, "inputSchema", &tool.input_schema, json!({ "type": "object" }));
    let (output, promise) = match tool.output_schema.as_deref() {
        Some(schema) => usable(options, tool, "outputSchema", schema, json!(true)),
        None => (json!(true), None),
    };
    let output = match stream {
        true => Some(progress_or(&output)).filter(|whole| Schema::compile(whole).is_ok()),
        false => Some(output),
    };
    let output = output.unwrap_or_else(|| progress_or(&json!(true)));
    let mut own = json!({ "name": tool.name, "server": options.name, "annotations": hints });
    if options.as_tools {
        own["tool"] = json!(true);
    }
    let spec = OperationSpec {
        name,
        namespace: options.namespace.clone().unwrap_or_else(|| segment(&options.name)),
        version: plain(version),
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
    Imported { spec: marked(spec), tool: tool.name.to_string(), stream, promise }
}

/// The server's version, if it is one.
fn plain(version: Option<&str>) -> String {
    let numbers = |text: &str| -> Option<String> {
        let plain = text.trim_start_matches('v').split(['-', '+']).next().unwrap_or_default();
        let parts: Option<Vec<u64>> = plain.split('.').map(|part| part.parse().ok()).collect();
        parts.filter(|parts| parts.len() == 3).map(|p| format!("{}.{}.{}", p[0], p[1], p[2]))
    };
    version.and_then(numbers).unwrap_or_else(|| "1.0.0".to_owned())
}

/// A schema in the dialect of this project, and compiled, if it can be; else `otherwise`.
fn usable(
    options: &McpOptions,
    tool: &Tool,
    side: &'static str,
    schema: &Map<String, Value>,
    otherwise: Value,
) -> (Value, Option<Arc<Schema>>) {
    let mut schema = schema.clone();
    // Most others say draft 7 and use what both have in common.
    if schema.get("$schema").and_then(Value::as_str) != Some(DIALECT) {
        schema.remove("$schema");
    }
    let schema = Value::Object(schema);
    match Schema::compile(&schema) {
        Ok(compiled) => (schema, Some(Arc::new(compiled))),
        Err(error) => {
            tracing::warn!(
                mcp.client = options.name, tool = %tool.name, side, %error,
                "an MCP server has a schema that can't be used"
            );
            (otherwise, None)
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

    fn listed(tools: impl IntoIterator<Item = Value>) -> Listed {
        let mut listed = Listed::default();
        tools.into_iter().for_each(|one| listed.add(Ok(tool(one))));
        listed
    }

    fn imported(tools: Vec<Value>) -> Vec<Imported> {
        let mut options = McpOptions::new("files");
        options.stream = vec!["slow".to_owned()];
        listed(tools).import(&options, Some("v2.1.0-beta"), &Scrubber::of([])).0
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
    fn what_is_left_out_is_told() {
        let plain = |n: usize| json!({"name": format!("t{n}"), "inputSchema": {"type": "object"}});
        let long = "x".repeat(MAX_DECLARATION);
        let large = json!({"name": "large", "inputSchema": {"type": "object", "description": long}});
        let mut listed = listed([large, plain(0)]);
        for (name, value) in [(Some("odd"), json!({"name": "odd"})), (None, json!({"title": "None"}))] {
            listed.add(serde_json::from_value(value).map_err(|error| (name, error)));
        }
        (0..=MAX_TOOLS).for_each(|n| listed.add(Ok(tool(plain(n)))));
        let (all, left_out) = listed.import(&McpOptions::new("files"), None, &Scrubber::of([]));
        assert_eq!(all.len(), MAX_TOOLS);
        assert_eq!(left_out[0], "all tools after the first 1000");
        assert!(left_out[1].starts_with("the tool \"large\": its declaration has "), "{left_out:?}");
        assert_eq!(left_out[2], "a malformed tool (\"odd\", the 3. of the list): missing field `inputSchema`");
        assert_eq!(left_out[3], "a malformed tool (the 4. of the list): missing field `name`");
        let told = crate::left_out::summary(&left_out).unwrap();
        assert!(told.starts_with("left out: all tools after the first 1000; the tool \"large\""), "{told}");
        assert!(told.ends_with("; and 2 more"), "{told}");
    }

    #[test]
    fn tools_that_are_too_many_bytes_are_not_taken() {
        let long = "x".repeat(MAX_DECLARATION / 2);
        let tools =
            (0..40).map(|n| json!({"name": format!("t{n}"), "inputSchema": {"type": "object", "$comment": long}}));
        let (all, left_out) = listed(tools).import(&McpOptions::new("files"), None, &Scrubber::of([]));
        assert!(all.len() > 10 && all.len() < 20, "{}", all.len());
        assert_eq!(
            left_out,
            [format!("all tools after the first {}: they have more than {MAX_BYTES} bytes", all.len())]
        );
    }

    #[test]
    fn what_is_declared_holds_no_secret() {
        let secret = "s3cret/of-files";
        let all = [
            json!({"name": "a", "title": secret, "description": format!("uses {secret}"), "inputSchema": {"type": "object",
                "properties": {"p": {"default": secret, "description": "s3cret%2Fof-files", "enum": [secret]}}},
                "outputSchema": {"type": "object", "title": secret}, "annotations": {"title": secret}}),
            json!({"name": format!("at_{secret}"), "inputSchema": {"type": "object"}}),
        ];
        let (all, left_out) = listed(all).import(&McpOptions::new("files"), None, &Scrubber::of([secret]));
        let told = serde_json::to_string(&all[0].spec).unwrap();
        assert!(all.len() == 1 && !told.contains("s3cret") && told.contains("uses [redacted]"), "{told}");
        assert_eq!(left_out, ["a tool with a secret in its name"]);
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
