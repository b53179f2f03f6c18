//! The keywords of one schema.
//!
//! Only known keywords pass, each only with a value of its own shape: real documents hold plenty of others, and a
//! registry refuses a schema that is not valid.

use std::rc::Rc;

use serde_json::{Map, Value, json};

use super::{Schemas, Side};
use crate::openapi::document::{Edition, ImportError, flag, shortened};

/// Longest description of a member, in characters.
const MAX_DESCRIPTION: usize = 1_000;

/// Largest example, as JSON text.
const MAX_EXAMPLE: usize = 256;

const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// What value a keyword takes.
enum Takes {
    Schema,
    Schemas,
    SchemaMap,
    PatternMap,
    Text,
    Flag,
    Number,
    Count,
    Names,
    List,
    Anything,
}

fn takes(keyword: &str) -> Option<Takes> {
    Some(match keyword {
        "not"
        | "additionalProperties"
        | "propertyNames"
        | "contains"
        | "if"
        | "then"
        | "else"
        | "unevaluatedItems"
        | "unevaluatedProperties" => Takes::Schema,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Takes::Schemas,
        "properties" | "dependentSchemas" => Takes::SchemaMap,
        "patternProperties" => Takes::PatternMap,
        "title" | "description" | "format" | "contentEncoding" | "contentMediaType" => Takes::Text,
        "uniqueItems" | "readOnly" | "writeOnly" | "deprecated" | "x-secret" => Takes::Flag,
        "minimum" | "maximum" | "exclusiveMinimum" | "exclusiveMaximum" => Takes::Number,
        "minLength" | "maxLength" | "minItems" | "maxItems" | "minProperties" | "maxProperties" | "minContains"
        | "maxContains" => Takes::Count,
        "required" => Takes::Names,
        "enum" => Takes::List,
        "const" | "default" => Takes::Anything,
        _ => return None,
    })
}

impl Schemas<'_> {
    pub(super) fn keywords(
        &mut self,
        schema: &Value,
        side: Side,
        refs: &mut Vec<Rc<str>>,
    ) -> Result<Value, ImportError> {
        let Value::Object(members) = schema else {
            return Ok(Value::Bool(schema.as_bool().unwrap_or(true)));
        };
        let is_30 = self.document.edition == Edition::V30;
        let mut out = Map::new();
        if let Some(reference) = members.get("$ref").and_then(Value::as_str) {
            let (pointer, name) = self.name_of(reference)?;
            out.insert("$ref".to_owned(), format!("#/$defs/{name}").into());
            refs.push(pointer);
        }
        let only_notes = is_30 && out.contains_key("$ref");
        for (keyword, value) in members {
            // Beside a reference 3.0 ignores everything; what only explains is kept all the same.
            if only_notes && !matches!(keyword.as_str(), "description" | "title" | "deprecated" | "writeOnly") {
                continue;
            }
            if let Some(value) = self.keyword(keyword, value, side, refs)? {
                out.insert(keyword.clone(), value);
            }
        }
        if side == Side::Output || members.contains_key("discriminator") {
            choice(&mut out);
        }
        self.items(members, side, refs, &mut out)?;
        types(members, &mut out);
        bounds(members, &mut out);
        formats(&mut out);
        examples(members, &mut out);
        self.required(members, side, &mut out);
        Ok(if is_30 && flag(schema, "nullable") == Some(true) { nullable(out) } else { Value::Object(out) })
    }

    fn keyword(
        &mut self,
        keyword: &str,
        value: &Value,
        side: Side,
        refs: &mut Vec<Rc<str>>,
    ) -> Result<Option<Value>, ImportError> {
        let mut all = |this: &mut Self, items: &Vec<Value>| {
            items.iter().map(|item| this.keywords(item, side, refs)).collect::<Result<Vec<_>, _>>()
        };
        Ok(match (takes(keyword), value) {
            (Some(Takes::Schema), Value::Object(_) | Value::Bool(_)) => Some(self.keywords(value, side, refs)?),
            (Some(Takes::Schemas), Value::Array(items)) if !items.is_empty() => Some(all(self, items)?.into()),
            (Some(Takes::SchemaMap), Value::Object(map)) => Some(self.map(map, side, refs, |_, _| true)?),
            (Some(Takes::PatternMap), Value::Object(map)) => Some(self.map(map, side, refs, Self::knows_pattern)?),
            (Some(Takes::Text), Value::String(text)) => Some(shortened(text, MAX_DESCRIPTION).into()),
            (Some(Takes::Flag), Value::Bool(_)) | (Some(Takes::Number), Value::Number(_)) => Some(value.clone()),
            (Some(Takes::Count), Value::Number(number)) => number.as_u64().map(Value::from),
            (Some(Takes::List), Value::Array(_)) | (Some(Takes::Anything), _) => Some(value.clone()),
            (None, Value::String(pattern)) if keyword == "pattern" => {
                self.knows_pattern(pattern).then(|| value.clone())
            }
            (None, Value::Number(number)) if keyword == "multipleOf" => {
                number.as_f64().is_some_and(|n| n > 0.0).then(|| value.clone())
            }
            _ => None,
        })
    }

    fn map(
        &mut self,
        map: &Map<String, Value>,
        side: Side,
        refs: &mut Vec<Rc<str>>,
        accepts: impl Fn(&mut Self, &str) -> bool,
    ) -> Result<Value, ImportError> {
        let mut out = Map::new();
        for (name, schema) in map {
            if accepts(self, name) {
                out.insert(name.clone(), self.keywords(schema, side, refs)?);
            }
        }
        Ok(Value::Object(out))
    }

    /// `items` was a list in older drafts.
    fn items(
        &mut self,
        members: &Map<String, Value>,
        side: Side,
        refs: &mut Vec<Rc<str>>,
        out: &mut Map<String, Value>,
    ) -> Result<(), ImportError> {
        match members.get("items") {
            Some(Value::Array(_)) | None => {}
            Some(_) if out.contains_key("$ref") && self.document.edition == Edition::V30 => {}
            Some(one) => {
                let schema = self.keywords(one, side, refs)?;
                out.insert("items".to_owned(), schema);
            }
        }
        Ok(())
    }

    /// Names once each, without members that this side does not have.
    fn required(&self, members: &Map<String, Value>, side: Side, out: &mut Map<String, Value>) {
        let Some(names) = members.get("required").and_then(Value::as_array) else {
            return;
        };
        if out.contains_key("$ref") && self.document.edition == Edition::V30 {
            return;
        }
        let properties = members.get("properties");
        let absent = |name: &str| match properties.and_then(|all| all.get(name)) {
            Some(schema) => self.document.resolve(schema).is_ok_and(|schema| flag(schema, side.other()) == Some(true)),
            // It is a member of what this is combined with.
            None => self.of_one_side(side.other()).contains(name),
        };
        let mut kept: Vec<&str> = names.iter().filter_map(Value::as_str).filter(|name| !absent(name)).collect();
        kept.sort_unstable();
        kept.dedup();
        if !kept.is_empty() {
            out.insert("required".to_owned(), json!(kept));
        }
    }
}

/// One of several is meant as a choice: the alternatives of documents overlap, above all where a discriminator picks one.
fn choice(out: &mut Map<String, Value>) {
    if !out.contains_key("anyOf")
        && let Some(alternatives) = out.remove("oneOf")
    {
        out.insert("anyOf".to_owned(), alternatives);
    }
}

/// Known types only, each once.
fn types(members: &Map<String, Value>, out: &mut Map<String, Value>) {
    if out.contains_key("$ref") && !members.get("type").is_some_and(Value::is_array) {
        return;
    }
    match members.get("type") {
        Some(Value::String(one)) if TYPES.contains(&one.as_str()) => {
            out.insert("type".to_owned(), one.clone().into());
        }
        Some(Value::Array(several)) => {
            let named = |kind: &&&str| several.iter().any(|one| one.as_str() == Some(**kind));
            let kept: Vec<&str> = TYPES.iter().filter(named).copied().collect();
            if !kept.is_empty() {
                out.insert("type".to_owned(), json!(kept));
            }
        }
        _ => {}
    }
}

/// 3.0 says with a flag whether a bound itself is out of bounds.
fn bounds(members: &Map<String, Value>, out: &mut Map<String, Value>) {
    for (flag, bound) in [("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")] {
        if members.get(flag) == Some(&Value::Bool(true))
            && let Some(value) = out.remove(bound)
        {
            out.insert(flag.to_owned(), value);
        }
    }
}

/// Bytes are base64 in JSON, passwords are secrets.
fn formats(out: &mut Map<String, Value>) {
    let format = out.get("format").and_then(Value::as_str).unwrap_or_default();
    match format {
        "binary" | "byte" => {
            out.remove("format");
            out.entry("type").or_insert_with(|| "string".into());
            out.insert("contentEncoding".to_owned(), "base64".into());
        }
        "password" => {
            out.insert("writeOnly".to_owned(), Value::Bool(true));
        }
        _ => {}
    }
}

fn examples(members: &Map<String, Value>, out: &mut Map<String, Value>) {
    let several = members.get("examples").and_then(Value::as_array).into_iter().flatten();
    let all = members.get("example").into_iter().chain(several);
    let small: Vec<&Value> = all.filter(|example| super::size(example) <= MAX_EXAMPLE).take(3).collect();
    if !small.is_empty() {
        out.insert("examples".to_owned(), json!(small));
    }
}

/// 3.0 says with a flag that a value may be null.
fn nullable(mut out: Map<String, Value>) -> Value {
    if let Some(Value::Array(allowed)) = out.get_mut("enum")
        && !allowed.contains(&Value::Null)
    {
        allowed.push(Value::Null);
    }
    if let Some(kind) = out.get("type").filter(|kind| kind.is_string()).cloned() {
        out.insert("type".to_owned(), json!([kind, "null"]));
        // A combination beside the type would still refuse it.
        let combined = ["allOf", "anyOf", "oneOf"].iter().any(|key| out.contains_key(*key));
        return if combined { or_null(out) } else { Value::Object(out) };
    }
    let constrained = ["$ref", "allOf", "anyOf", "oneOf", "not"].iter().any(|key| out.contains_key(*key));
    if constrained { or_null(out) } else { Value::Object(out) }
}

fn or_null(mut out: Map<String, Value>) -> Value {
    let mut outer = Map::new();
    for note in ["title", "description", "deprecated", "writeOnly", "readOnly", "default", "examples"] {
        outer.extend(out.remove_entry(note));
    }
    outer.insert("anyOf".to_owned(), json!([out, { "type": "null" }]));
    Value::Object(outer)
}
