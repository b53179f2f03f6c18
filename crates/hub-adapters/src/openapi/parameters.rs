//! Parameters and bodies of the document.

use std::collections::{BTreeMap, HashSet};
use std::rc::Rc;

use http::HeaderName;
use serde_json::{Map, Value, json};

use super::auth::KeyPlace;
use super::document::{Document, ImportError, flag, object, shortened, text};
use super::media::essence;
use super::plan::{Body, BodyKind, Field, Form, Parameter, Place, Scheme, Style};
use super::schema::{Converted, Schemas, Side};

/// Headers that the client itself is responsible for; the specification has the first three ignored.
const OWN_HEADERS: [&str; 11] = [
    "accept",
    "content-type",
    "authorization",
    "host",
    "content-length",
    "transfer-encoding",
    "connection",
    "upgrade",
    "te",
    "expect",
    "proxy-authorization",
];

/// The input of an operation, as a schema and as parts of its request.
pub(super) struct Input {
    pub(super) parameters: Vec<Parameter>,
    pub(super) body: Option<Body>,
    pub(super) schema: Converted,
}

/// Reads what an operation takes; `levels` are its path item and the operation, the later wins.
pub(super) fn read(
    schemas: &mut Schemas<'_>,
    levels: [&Value; 2],
    security: Option<&[Vec<Scheme>]>,
) -> Result<Input, ImportError> {
    let document = schemas.document;
    let body = match levels[1].get("requestBody") {
        Some(body) => read_body(schemas, document.resolve(body)?)?,
        None => None,
    };
    let mut members = Members::default();
    if body.is_some() {
        members.taken.insert("body".to_owned());
    }
    let mut parameters = Vec::new();
    for declared in declared(document, levels)? {
        let credential = security.into_iter().flatten().flatten().any(|scheme| is_credential(declared, scheme));
        if let Some(parameter) = (!credential).then(|| parameter(declared)).transpose()?.flatten() {
            let member = members.add(schemas, declared, &parameter)?;
            parameters.push(Parameter { member, ..parameter });
        }
    }
    let body = body.map(|(body, schema, required)| {
        members.insert("body".to_owned(), schema, required);
        body
    });
    Ok(Input { parameters, body, schema: members.finish() })
}

/// The parameters of both levels, by place and name.
fn declared<'a>(document: &'a Document, levels: [&'a Value; 2]) -> Result<Vec<&'a Value>, ImportError> {
    let mut found: Vec<&Value> = Vec::new();
    let id = |value: &Value| (text(value, "in").map(str::to_owned), text(value, "name").map(str::to_owned));
    for parameter in levels.iter().filter_map(|level| level.get("parameters")?.as_array()).flatten() {
        let parameter = document.resolve(parameter)?;
        match found.iter_mut().find(|other| id(other) == id(parameter)) {
            Some(other) => *other = parameter,
            None => found.push(parameter),
        }
    }
    Ok(found)
}

/// Whether a parameter is what a security scheme describes already: the client fills that in.
fn is_credential(parameter: &Value, scheme: &Scheme) -> bool {
    let Scheme::Key(place) = scheme else {
        return false;
    };
    let (kind, name) = match place {
        KeyPlace::Header(name) => ("header", name),
        KeyPlace::Query(name) => ("query", name),
        KeyPlace::Cookie(name) => ("cookie", name),
    };
    text(parameter, "in") == Some(kind) && text(parameter, "name").is_some_and(|own| own.eq_ignore_ascii_case(name))
}

/// One parameter; `None` for headers that are not the caller's.
fn parameter(declared: &Value) -> Result<Option<Parameter>, ImportError> {
    let name = text(declared, "name").ok_or_else(|| ImportError::shape("parameters", "a parameter has no name"))?;
    let place = match text(declared, "in") {
        Some("path") => Place::Path,
        Some("query" | "querystring") => Place::Query,
        Some("cookie") => Place::Cookie,
        Some("header") if OWN_HEADERS.contains(&name.to_ascii_lowercase().as_str()) => return Ok(None),
        Some("header") => Place::Header(
            HeaderName::from_bytes(name.as_bytes())
                .map_err(|_| ImportError::shape(format!("parameter {name:?}"), "it is no name of a header"))?,
        ),
        _ => {
            return Err(ImportError::shape(
                format!("parameter {name:?}"),
                "it is not in path, query, header or cookie",
            ));
        }
    };
    let form = if declared.get("content").is_some() {
        Form { style: Style::Json, explode: false, allow_reserved: false }
    } else {
        form(declared, if matches!(place, Place::Query | Place::Cookie) { Style::Form } else { Style::Simple })
    };
    Ok(Some(Parameter { member: String::new(), name: name.to_owned(), place, form }))
}

fn form(declared: &Value, default: Style) -> Form {
    let style = match text(declared, "style") {
        Some("simple") => Style::Simple,
        Some("label") => Style::Label,
        Some("matrix") => Style::Matrix,
        Some("form") => Style::Form,
        Some("spaceDelimited") => Style::SpaceDelimited,
        Some("pipeDelimited") => Style::PipeDelimited,
        Some("deepObject") => Style::DeepObject,
        _ => default,
    };
    let explode = flag(declared, "explode").unwrap_or(style == Style::Form);
    Form { style, explode, allow_reserved: flag(declared, "allowReserved").unwrap_or(false) }
}

/// The members of the input.
#[derive(Default)]
struct Members {
    taken: HashSet<String>,
    properties: Map<String, Value>,
    required: Vec<String>,
    refs: Vec<Rc<str>>,
}

impl Members {
    /// Adds a parameter under its name, or with its place in front when that is taken.
    fn add(
        &mut self,
        schemas: &mut Schemas<'_>,
        declared: &Value,
        parameter: &Parameter,
    ) -> Result<String, ImportError> {
        let place = text(declared, "in").unwrap_or_default();
        let mut member = parameter.name.clone();
        while self.taken.contains(&member) {
            member = format!("{place}_{member}");
        }
        self.taken.insert(member.clone());
        let of_content = || object(declared, "content")?.values().next()?.get("schema");
        let schema = declared.get("schema").or_else(of_content).unwrap_or(&Value::Bool(true));
        let mut converted = schemas.convert(schema, Side::Input)?;
        describe(&mut converted.value, declared);
        let required = parameter.place == Place::Path || flag(declared, "required") == Some(true);
        self.insert(member.clone(), converted, required);
        Ok(member)
    }

    fn insert(&mut self, member: String, schema: Converted, required: bool) {
        self.refs.extend(schema.refs);
        if required {
            self.required.push(member.clone());
        }
        self.properties.insert(member, schema.value);
    }

    fn finish(self) -> Converted {
        let mut value = json!({
            "type": "object", "properties": self.properties, "additionalProperties": false
        });
        if !self.required.is_empty() {
            value["required"] = json!(self.required);
        }
        Converted { value, refs: self.refs }
    }
}

/// A parameter explains itself beside its schema.
fn describe(schema: &mut Value, declared: &Value) {
    if schema.as_bool() == Some(true) {
        *schema = json!({});
    }
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    if let Some(description) = text(declared, "description") {
        schema.insert("description".to_owned(), shortened(description, 1_000).into());
    }
    if flag(declared, "deprecated") == Some(true) {
        schema.insert("deprecated".to_owned(), true.into());
    }
}

/// The body in the medium that serves best, its schema, and whether it is required.
fn read_body(schemas: &mut Schemas<'_>, body: &Value) -> Result<Option<(Body, Converted, bool)>, ImportError> {
    let Some(content) = object(body, "content") else {
        return Ok(None);
    };
    let best = content.iter().min_by_key(|(media_type, _)| rank(media_type));
    let Some((media_type, medium)) = best else {
        return Ok(None);
    };
    let schema = medium.get("schema").unwrap_or(&Value::Bool(true));
    let resolved = schemas.document.resolve(schema)?;
    let kind = match rank(media_type) {
        0 | 1 => BodyKind::Json,
        2 => BodyKind::Form(fields(schemas.document, resolved, medium)),
        3 => BodyKind::Multipart(fields(schemas.document, resolved, medium)),
        4 => BodyKind::Text,
        _ => BodyKind::Bytes,
    };
    let mut converted = match kind {
        BodyKind::Text => Converted { value: json!({ "type": "string" }), refs: Vec::new() },
        BodyKind::Bytes => {
            Converted { value: json!({ "type": "string", "contentEncoding": "base64" }), refs: Vec::new() }
        }
        BodyKind::Multipart(ref fields) => binaries(schemas.convert(resolved, Side::Input)?, fields),
        BodyKind::Json | BodyKind::Form(_) => schemas.convert(schema, Side::Input)?,
    };
    if converted.value.get("description").is_none() {
        describe(&mut converted.value, body);
    }
    // A wildcard names no medium that could be sent.
    let media_type = if media_type.contains('*') { "application/octet-stream" } else { media_type.as_str() };
    let required = flag(body, "required").unwrap_or(false);
    Ok(Some((Body { media_type: media_type.to_owned(), kind }, converted, required)))
}

fn rank(media_type: &str) -> u8 {
    match essence(media_type).as_str() {
        "application/json" => 0,
        json if json.ends_with("+json") => 1,
        "application/x-www-form-urlencoded" => 2,
        "multipart/form-data" => 3,
        text if text.starts_with("text/") || text.ends_with("/xml") || text.ends_with("+xml") => 4,
        "application/octet-stream" => 5,
        _ => 6,
    }
}

/// What the document says of the members of a form.
fn fields(document: &Document, schema: &Value, medium: &Value) -> BTreeMap<String, Field> {
    let encoding = object(medium, "encoding");
    let mut fields = BTreeMap::new();
    for (name, property) in properties(document, schema, 0) {
        let encoded = encoding.and_then(|all| all.get(&name));
        let styled = |e: &&Value| ["style", "explode", "allowReserved"].iter().any(|key| e.get(*key).is_some());
        let own = || text(document.resolve(property).ok()?, "contentMediaType");
        let field = Field {
            form: encoded.filter(styled).map(|e| form(e, Style::Form)),
            content_type: encoded.and_then(|e| text(e, "contentType")).or_else(own).map(str::to_owned),
            binary: is_binary(document, property),
        };
        fields.insert(name, field);
    }
    fields
}

/// The properties of an object and of what it is combined from.
fn properties<'a>(document: &'a Document, schema: &'a Value, level: usize) -> Vec<(String, &'a Value)> {
    let Ok(schema) = document.resolve(schema) else {
        return Vec::new();
    };
    let mut found: Vec<_> =
        object(schema, "properties").into_iter().flatten().map(|(name, schema)| (name.clone(), schema)).collect();
    if level < 8 {
        let parts = ["allOf", "anyOf", "oneOf"].iter().filter_map(|key| schema.get(*key)?.as_array()).flatten();
        found.extend(parts.flat_map(|part| properties(document, part, level + 1)));
    }
    found
}

/// Whether a member goes out as bytes; of a list, whether its items do.
fn is_binary(document: &Document, schema: &Value) -> bool {
    let Ok(schema) = document.resolve(schema) else {
        return false;
    };
    if let Some(items) = schema.get("items") {
        return document.resolve(items).is_ok_and(|items| items.get("items").is_none() && is_binary(document, items));
    }
    let raw = schema.get("contentMediaType").is_some() && schema.get("contentEncoding").is_none();
    raw || text(schema, "format") == Some("binary")
}

/// Tells callers which members are base64: 3.1 only says which have a medium.
fn binaries(mut schema: Converted, fields: &BTreeMap<String, Field>) -> Converted {
    let base64 = json!({ "type": "string", "contentEncoding": "base64" });
    for (name, _) in fields.iter().filter(|(_, field)| field.binary) {
        let Some(property) = schema.value.pointer_mut("/properties").and_then(|all| all.get_mut(name)) else {
            continue;
        };
        let place = if property.get("items").is_some() { &mut property["items"] } else { property };
        match place.as_object_mut() {
            Some(place) => place.extend(base64.as_object().into_iter().flatten().map(|(k, v)| (k.clone(), v.clone()))),
            None => *place = base64.clone(),
        }
    }
    schema
}
