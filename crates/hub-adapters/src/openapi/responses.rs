//! Answers of the document: the schema of what a call gives, and the errors it declares.

use std::sync::OnceLock;

use http::Method;
use hub_operations::ERROR_STATUS;
use hub_protocol::ErrorDefinition;
use serde_json::{Value, json};

use super::document::{Document, ImportError, object, shortened, text};
use super::import::Options;
use super::media::{essence, is_event_stream, is_json, is_text};
use super::plan::Answers;
use super::promise::{Promise, Success, has_no_body};
use super::schema::{Converted, Schemas, Side};

/// Largest schema of an error's body, in bytes: there are many of them and few callers look.
const MAX_ERROR_SCHEMA: usize = 2 * 1024;

/// Most successes of one operation whose schemas are told apart.
const MAX_SUCCESSES: usize = 4;

/// A schema that says nothing.
const OPEN: &Value = &Value::Bool(true);

pub(super) struct Output {
    pub(super) answers: Answers,
    pub(super) schema: Value,
    pub(super) errors: Vec<ErrorDefinition>,
}

/// Reads what an operation may answer.
pub(super) fn read(
    schemas: &mut Schemas<'_>,
    method: &Method,
    operation: &Value,
    options: &Options,
) -> Result<Output, ImportError> {
    let document = schemas.document;
    let mut successes = Vec::new();
    let mut errors = Vec::new();
    let mut fallback = None;
    for (status, response) in object(operation, "responses").into_iter().flatten() {
        let response = document.resolve(response)?;
        match status.as_bytes() {
            b"default" => fallback = Some((status.clone(), response)),
            [b'2', ..] | b"304" => successes.push((status.to_uppercase(), response)),
            // Too many requests have one code for every upstream.
            b"429" => {}
            [b'4' | b'5', ..] if status.len() == 3 => errors.push((status.to_uppercase(), response)),
            _ => {}
        }
    }
    // Beside successes it is what errors look like, as in the specification's own example.
    if !successes.iter().any(|(status, _)| status.starts_with('2')) {
        successes.extend(fallback);
    }
    let media: Vec<(String, &Value)> = successes.iter().flat_map(|(_, response)| media(response)).collect();
    let streams = *method != Method::HEAD && media.iter().any(|(medium, _)| is_event_stream(medium));
    let accept = accept(&media, streams);
    let (successes, output) = union(schemas, method, &successes, streams)?;
    let answers =
        Answers { accept, streams, successes, errors: errors.iter().map(|(status, _)| status.clone()).collect() };
    let schema = schemas.assemble(output, Side::Output, options.max_output_schema)?;
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
    kinds.sort_by_key(|medium| rank(medium, streams));
    kinds.dedup();
    match kinds.first() {
        None => "application/json, */*;q=0.5".to_owned(),
        Some(first) if is_json(first) => (*first).to_owned(),
        Some(_) => kinds.join(", "),
    }
}

fn rank(medium: &str, streams: bool) -> u8 {
    match medium {
        _ if streams && is_event_stream(medium) => 0,
        "application/json" => 1,
        _ if is_json(medium) => 2,
        _ => 3,
    }
}

/// The successes, and one schema for what they give.
fn union(
    schemas: &mut Schemas<'_>,
    method: &Method,
    declared: &[(String, &Value)],
    streams: bool,
) -> Result<(Vec<Success>, Converted), ImportError> {
    let mut parts: Vec<Converted> = Vec::new();
    let mut successes = Vec::new();
    for (status, response) in declared {
        let no_body = *method == Method::HEAD || has_no_body(status);
        let media = if no_body { Vec::new() } else { media(response).map(|(medium, _)| medium).collect() };
        let mut success = Success { status: status.clone(), media, promise: None };
        if successes.len() < MAX_SUCCESSES {
            let (medium, part) = of_response(schemas, response, no_body, streams)?;
            let known = parts.iter().position(|other| other.value == part.value);
            let place = known.unwrap_or(parts.len());
            if known.is_none() {
                parts.push(part);
            }
            success.promise =
                medium.map(|medium| Promise { medium, at: format!("/anyOf/{place}"), compiled: OnceLock::new() });
        }
        successes.push(success);
    }
    let several = parts.len() > 1;
    let refs = parts.iter().flat_map(|part| part.refs.clone()).collect();
    let mut values: Vec<Value> = parts.into_iter().map(|part| part.value).collect();
    let value = match values.len() {
        0 => Value::Bool(true),
        1 => values.remove(0),
        _ => json!({ "anyOf": values }),
    };
    for promise in successes.iter_mut().filter_map(|success| success.promise.as_mut()) {
        let part = if several { promise.at.as_str() } else { "" };
        promise.at = format!("{}{part}", if streams { "/properties/data" } else { "" });
    }
    let value = if streams { event(value) } else { value };
    Ok((successes, Converted { value, refs }))
}

/// The value that one response becomes, and the medium whose schema that is.
fn of_response(
    schemas: &mut Schemas<'_>,
    response: &Value,
    no_body: bool,
    streams: bool,
) -> Result<(Option<String>, Converted), ImportError> {
    let plain = |value: Value| Ok((None, Converted { value, refs: Vec::new() }));
    if no_body {
        return plain(json!({ "type": "null" }));
    }
    let Some((medium, described)) = media(response).min_by_key(|(medium, _)| rank(medium, streams)) else {
        return plain(Value::Bool(true));
    };
    let schema = match described.get("schema") {
        _ if streams && is_event_stream(&medium) => of_event(schemas.document, described)?,
        Some(schema) if is_json(&medium) => schema,
        None if is_json(&medium) => OPEN,
        _ if is_text(&medium) => return plain(json!({ "type": "string" })),
        _ if medium.contains('*') => return plain(Value::Bool(true)),
        _ => return plain(json!({ "type": "string", "contentEncoding": "base64" })),
    };
    Ok((Some(medium), schemas.convert(schema, Side::Output)?))
}

/// The schema of an event's data. `itemSchema` is of the event; `schema` is too, or of its data, or of the whole stream as
/// a text or a list, which says nothing of one event.
fn of_event<'a>(document: &'a Document, medium: &'a Value) -> Result<&'a Value, ImportError> {
    if let Some(item) = medium.get("itemSchema") {
        return Ok(document.resolve(item)?.pointer("/properties/data/contentSchema").unwrap_or(OPEN));
    }
    let Some(schema) = medium.get("schema") else { return Ok(OPEN) };
    let resolved = document.resolve(schema)?;
    let whole = |schema: &Value| matches!(text(schema, "type"), Some("string" | "array"));
    let member = |name: &str| resolved.pointer(&format!("/properties/{name}"));
    Ok(match (member("event"), member("data")) {
        (Some(_), Some(data)) if whole(document.resolve(data)?) => OPEN,
        (Some(_), Some(data)) => data,
        _ if whole(resolved) => OPEN,
        _ => schema,
    })
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
    let json = media(response).find(|(medium, _)| is_json(medium));
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
        http_status: status.parse().ok().filter(|status| ERROR_STATUS.contains(status)),
    })
}
