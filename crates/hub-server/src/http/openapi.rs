use axum::extract::State;
use axum::response::Response;
use hub_core::Principal;
use hub_operations::place::{self, placed};
use hub_protocol::ops::hub::{GetSchemas, ListOperations};
use hub_protocol::{ErrorCode, OperationSpec, OperationType};
use serde_json::{Map, Value, json};

use super::auth::Auth;
use super::operations::json as respond;
use super::{App, Problem};

/// Operations asked for at once.
const PAGE: u32 = 100;

/// `GET /openapi.json`: OpenAPI 3.1 with a path per operation that the caller may see.
pub(crate) async fn serve(State(app): State<App>, Auth(principal): Auth) -> Result<Response, Problem> {
    let specs = app.visible_specs(&principal).await?;
    Ok(respond(&document(&app.config.base_path, &specs).into()))
}

impl App {
    async fn visible_specs(&self, principal: &Principal) -> Result<Vec<OperationSpec>, Problem> {
        let mut specs = Vec::new();
        let mut cursor = None;
        loop {
            let list = ListOperations { cursor, limit: Some(PAGE), ..ListOperations::default() };
            let page = self.typed(principal, &list).await?;
            let operation_ids: Vec<String> = page.operations.into_iter().map(|o| o.id).collect();
            if !operation_ids.is_empty() {
                specs.extend(self.typed(principal, &GetSchemas { operation_ids }).await?.operations);
            }
            cursor = page.next_cursor;
            if cursor.is_none() {
                return Ok(specs);
            }
        }
    }
}

/// The OpenAPI document for these operations.
#[must_use]
pub fn document(base_path: &str, specs: &[OperationSpec]) -> Value {
    let mut paths = fixed_paths();
    for spec in specs {
        let path = format!("/api/operations/{}", spec.id());
        let item = operation_path(spec, &format!("/paths/{}/post", place::segment(&path)));
        paths.insert(path, item);
    }
    let server = if base_path.is_empty() { "/" } else { base_path };
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "hub",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Every operation of the hub and its spokes. The same operations are reachable over WebSocket.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" }
        },
        "servers": [{ "url": server }],
        "security": [{ "bearer": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "bearer": { "type": "http", "scheme": "bearer" } },
            "schemas": { "Problem": problem_schema(), "Envelope": envelope_schema(json!({})) },
            "responses": { "Problem": {
                "description": "The call failed; `code` tells why.",
                "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } }
            } }
        }
    })
}

/// A path whose one operation stands at the place `at` of the document.
fn operation_path(spec: &OperationSpec, at: &str) -> Value {
    let input = placed(&spec.input_schema, &format!("{at}/requestBody/content/application~1json/schema"));
    let content = if spec.kind == OperationType::Subscription {
        json!({ "text/event-stream": { "schema": { "type": "string", "description": "one response envelope per `data:` line" } } })
    } else {
        let data = format!("{at}/responses/200/content/application~1json/schema/properties/data");
        json!({ "application/json": { "schema": envelope_schema(placed(&spec.output_schema, &data)) } })
    };
    let mut responses =
        json!({ "200": { "description": "The response.", "content": content }, "default": problem_ref() });
    for error in &spec.error_schemas {
        let status = error.http_status.unwrap_or(500).to_string();
        responses[status] = json!({
            "description": format!("{}: {}", error.code, error.description),
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } }
        });
    }
    json!({
        "post": {
            "operationId": spec.id(),
            "summary": spec.title.clone().unwrap_or_else(|| spec.id()),
            "description": spec.description,
            "tags": [spec.namespace],
            "x-hub-type": spec.kind.as_str(),
            "x-hub-version": spec.version,
            "parameters": call_headers(),
            "requestBody": { "content": { "application/json": { "schema": input } } },
            "responses": responses
        }
    })
}

fn envelope_schema(data: Value) -> Value {
    json!({
        "type": "object",
        "required": ["meta"],
        "properties": {
            "data": data,
            "meta": { "type": "object", "required": ["source"], "properties": { "source": { "enum": ["local", "http", "mcp"] } } }
        }
    })
}

fn problem_schema() -> Value {
    let codes: Vec<&str> = ErrorCode::ALL.iter().map(|c| c.as_str()).collect();
    json!({
        "type": "object",
        "required": ["type", "title", "status", "code", "message", "retryable"],
        "properties": {
            "type": { "type": "string" },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "code": { "type": "string", "examples": codes },
            "message": { "type": "string" },
            "details": {},
            "callId": { "type": "string", "format": "uuid" },
            "retryable": { "type": "boolean" }
        }
    })
}

fn problem_ref() -> Value {
    json!({ "$ref": "#/components/responses/Problem" })
}

fn call_headers() -> Value {
    json!([
        { "name": "Idempotency-Key", "in": "header", "schema": { "type": "string", "maxLength": 255 },
          "description": "Names one execution for 24 hours." },
        { "name": "X-Hub-Deadline-Ms", "in": "header", "schema": { "type": "integer", "minimum": 0 },
          "description": "Milliseconds from now after which nobody waits." },
        { "name": "X-Hub-On-Disconnect", "in": "header", "schema": { "enum": ["abort", "finish", "detach"] },
          "description": "What becomes of the call when the client goes away." },
        { "name": "traceparent", "in": "header", "schema": { "type": "string" }, "description": "W3C trace context." }
    ])
}

fn fixed_paths() -> Map<String, Value> {
    let query = |name: &str, kind: &str| json!({ "name": name, "in": "query", "schema": { "type": kind } });
    let id = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let get = |op: &str, text: &str, parameters: Value| json!({ "get": { "operationId": op, "summary": text, "tags": ["http"], "parameters": parameters, "responses": ok("application/json") } });
    let events = |op: &str, text: &str, parameters: Value| json!({ "get": { "operationId": op, "summary": text, "tags": ["http"], "parameters": parameters, "responses": ok("text/event-stream") } });
    let list = json!([
        query("q", "string"),
        query("namespace", "string"),
        query("includeInactive", "boolean"),
        query("cursor", "string"),
        query("limit", "integer")
    ]);
    let calls = json!([
        query("operationId", "string"),
        query("status", "string"),
        query("principal", "string"),
        query("spoke", "string"),
        query("roots", "boolean"),
        query("since", "integer"),
        query("before", "string"),
        query("limit", "integer")
    ]);
    let mut call = get("http.getCall", "One call record.", json!([id("callId")]));
    call["delete"] = json!({
        "operationId": "http.abortCall", "summary": "Abort a call and all below it.", "tags": ["http"],
        "parameters": [id("callId"), query("mode", "string"), query("reason", "string"), query("graceMs", "integer")],
        "responses": ok("application/json")
    });
    let body = |schema: Value| json!({ "required": true, "content": { "application/json": { "schema": schema } } });
    let post = |op: &str, text: &str, schema: Value| json!({ "post": { "operationId": op, "summary": text, "tags": ["http"], "requestBody": body(schema), "responses": ok("application/json") } });
    [
        ("/api/operations", get("http.listOperations", "List or, with q, search operations.", list)),
        ("/api/operations/{id}", get("http.getOperation", "Full specification of an operation.", json!([id("id")]))),
        ("/api/call", post("http.call", "Call an operation.", call_schema())),
        (
            "/api/batch",
            post(
                "http.batch",
                "Call several operations; answers in order.",
                json!({ "type": "array", "maxItems": 100, "items": call_schema() }),
            ),
        ),
        ("/api/calls", get("http.listCalls", "Call records, newest first.", calls)),
        ("/api/calls/{callId}", call),
        ("/api/calls/{callId}/tree", get("http.getCallTree", "A call tree.", json!([id("callId")]))),
        (
            "/api/calls/{callId}/events",
            events(
                "http.observeCall",
                "Events of a call tree.",
                json!([id("callId"), query("after", "integer"), query("untilDone", "boolean")]),
            ),
        ),
        (
            "/api/events",
            events(
                "http.events",
                "The event log and then live.",
                json!([query("topics", "string"), query("after", "integer")]),
            ),
        ),
        ("/healthz", open("http.alive", "The process answers.")),
        ("/readyz", open("http.ready", "Whether the hub should be given work.")),
    ]
    .into_iter()
    .map(|(path, item)| (path.to_owned(), item))
    .collect()
}

fn ok(content: &str) -> Value {
    json!({ "200": { "description": "The answer.", "content": { content: { "schema": {} } } }, "default": problem_ref() })
}

fn open(op: &str, text: &str) -> Value {
    json!({ "get": {
        "operationId": op, "summary": text, "tags": ["http"], "security": [],
        "responses": {
            "200": { "description": "Yes.", "content": { "application/json": { "schema": { "type": "object" } } } },
            "503": { "description": "No.", "content": { "application/json": { "schema": { "type": "object" } } } }
        }
    } })
}

fn call_schema() -> Value {
    json!({
        "type": "object",
        "required": ["operationId"],
        "additionalProperties": false,
        "properties": {
            "operationId": { "type": "string" },
            "input": {},
            "deadline": { "type": "integer", "description": "milliseconds since the epoch" },
            "idleTimeout": { "type": "integer", "description": "milliseconds" },
            "idempotencyKey": { "type": "string", "maxLength": 255 },
            "onDisconnect": { "enum": ["abort", "finish", "detach"] },
            "version": { "type": "string", "description": "semver range" },
            "metadata": {},
            "budget": { "type": "integer", "description": "micro-dollars" }
        }
    })
}
