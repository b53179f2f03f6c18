//! Answers of the document: the schema of what a call gives, and the errors it declares.

use hub_protocol::ErrorDefinition;
use serde_json::{Value, json};

use super::document::{ImportError, object, shortened, text};
use super::import::Options;
use super::parameters::essence;
use super::plan::Answers;
use super::schema::{Converted, Schemas, Side};

/// Largest schema of an error's body, in bytes: there are many of them and few callers look.
const MAX_ERROR_SCHEMA: usize = 2 * 1024;

/// Most successes of one operation whose schemas are told apart.
const MAX_SUCCESSES: usize = 4;

pub(super) struct Output {
    pub(super) answers: Answers,
    pub(super) schema: Value,
    pub(super) errors: Vec<ErrorDefinition>,
}

/// Reads what an operation may answer.
pub(super) fn read(schemas: &mut Schemas<'_>, operation: &Value, options: &Options) -> Result<Output, ImportError> {
    let document = schemas.document;
    let mut successes = Vec::new();
    let mut errors = Vec::new();
    let mut fallback = None;
    for (status, response) in object(operation, "responses").into_iter().flatten() {
        let response = document.resolve(response)?;
        match status.as_bytes() {
            b"default" => fallback = Some(response),
            [b'2', ..] => successes.push(response),
            // Too many requests have one code for every upstream.
            b"429" => {}
            [b'4' | b'5', ..] if status.len() == 3 => errors.push((status.to_uppercase(), response)),
            _ => {}
        }
    }
    if successes.is_empty() {
        successes.extend(fallback);
    }
    let media: Vec<(String, &Value)> = successes.iter().flat_map(|response| media(response)).collect();
    let is_json = |medium: &str| medium == "application/json" || medium.ends_with("+json");
    let streams = media.iter().any(|(medium, _)| medium == "text/event-stream");
    let answers = Answers {
        accept: accept(&media, streams),
        json_only: !media.is_empty() && media.iter().all(|(medium, _)| is_json(medium)),
        streams,
        errors: errors.iter().map(|(status, _)| status.clone()).collect(),
    };
    let schema = success(schemas, &successes, streams, options.max_output_schema)?;
    let errors =
        errors.into_iter().map(|(status, response)| error(schemas, &status, response)).collect::<Result<_, _>>()?;
    Ok(Output { answers, schema, errors })
}

fn media(response: &Value) -> impl Iterator<Item = (String, &Value)> {
    object(response, "content").into_iter().flatten().map(|(medium, value)| (essence(medium), value))
}

/// JSON before all else, so that the answer has a shape.
fn accept(media: &[(String, &Value)], streams: bool) -> String {
    if streams {
        return "text/event-stream".to_owned();
    }
    let mut kinds: Vec<&str> = media.iter().map(|(medium, _)| medium.as_str()).collect();
    kinds.sort_by_key(|medium| (*medium != "application/json", !medium.ends_with("+json")));
    kinds.dedup();
    match kinds.first() {
        None => "application/json, */*;q=0.5".to_owned(),
        Some(first) if first.ends_with("json") => (*first).to_owned(),
        Some(_) => kinds.join(", "),
    }
}

fn success(schemas: &mut Schemas<'_>, successes: &[&Value], streams: bool, limit: usize) -> Result<Value, ImportError> {
    let mut parts: Vec<Converted> = Vec::new();
    for response in successes.iter().take(MAX_SUCCESSES) {
        let part = of_response(schemas, response, streams)?;
        if parts.iter().all(|other| other.value != part.value) {
            parts.push(part);
        }
    }
    let refs = parts.iter().flat_map(|part| part.refs.clone()).collect();
    let mut values: Vec<Value> = parts.into_iter().map(|part| part.value).collect();
    let value = match values.len() {
        0 => Value::Bool(true),
        1 => values.remove(0),
        _ if values.contains(&Value::Bool(true)) => Value::Bool(true),
        _ => json!({ "anyOf": values }),
    };
    let value = if streams { event(value) } else { value };
    schemas.assemble(Converted { value, refs }, Side::Output, limit)
}

/// The value that one response becomes.
fn of_response(schemas: &mut Schemas<'_>, response: &Value, streams: bool) -> Result<Converted, ImportError> {
    let plain = |value: Value| Ok(Converted { value, refs: Vec::new() });
    let wanted = |medium: &str| if streams { medium == "text/event-stream" } else { medium.ends_with("json") };
    let all: Vec<(String, &Value)> = media(response).collect();
    if let Some((_, medium)) = all.iter().find(|(medium, _)| wanted(medium)) {
        return match medium.get("schema").or_else(|| medium.get("itemSchema")) {
            Some(schema) => schemas.convert(schema, Side::Output),
            None => plain(Value::Bool(true)),
        };
    }
    match all.first() {
        None => plain(Value::Bool(true)),
        Some((medium, _)) if medium.starts_with("text/") || medium.ends_with("xml") => {
            plain(json!({ "type": "string" }))
        }
        Some((medium, _)) if medium.contains('*') => plain(Value::Bool(true)),
        Some(_) => plain(json!({ "type": "string", "contentEncoding": "base64" })),
    }
}

/// An item of a stream.
fn event(data: Value) -> Value {
    json!({
        "type": "object",
        "required": ["event", "data"],
        "properties": {
            "event": { "type": "string", "description": "Type of the event; message unless the upstream names one." },
            "id": { "type": "string" },
            "data": data,
        },
    })
}

fn error(schemas: &mut Schemas<'_>, status: &str, response: &Value) -> Result<ErrorDefinition, ImportError> {
    let json = media(response).find(|(medium, _)| medium.ends_with("json"));
    let body = match json.and_then(|(_, medium)| medium.get("schema")) {
        Some(schema) => {
            let converted = schemas.convert(schema, Side::Output)?;
            schemas.assemble(converted, Side::Output, MAX_ERROR_SCHEMA)?
        }
        None => Value::Bool(true),
    };
    let mut schema = json!({ "type": "object", "properties": { "status": { "type": "integer" } } });
    // Definitions belong to the root that references are relative to.
    let mut body = body;
    if let Some(defs) = body.as_object_mut().and_then(|body| body.remove("$defs")) {
        schema["$defs"] = defs;
    }
    schema["properties"]["body"] = body;
    Ok(ErrorDefinition {
        code: format!("HTTP_{status}"),
        description: shortened(text(response, "description").unwrap_or_default(), 300),
        schema,
        http_status: status.parse().ok(),
    })
}
