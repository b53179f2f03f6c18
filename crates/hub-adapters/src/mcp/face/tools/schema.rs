//! Schemas of operations as hosts take them: their SDKs refuse the whole list of tools for one that they do not.

use rmcp::model::JsonObject;
use serde_json::{Map, Value, json};

/// Keywords whose value has a schema for each name.
const NAMED: [&str; 5] = ["properties", "patternProperties", "dependentSchemas", "$defs", "definitions"];

/// Keywords whose value is a list of schemas.
const LISTED: [&str; 4] = ["allOf", "anyOf", "oneOf", "prefixItems"];

/// Keywords whose value is a schema.
const SINGLE: [&str; 10] = [
    "items",
    "additionalProperties",
    "contains",
    "propertyNames",
    "not",
    "if",
    "then",
    "else",
    "unevaluatedItems",
    "unevaluatedProperties",
];

/// The dialect that the hub reads all schemas in.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// An input schema that takes the same objects, with `type` "object" and without `true` and `false` for members.
pub(super) fn input(schema: &Value) -> JsonObject {
    let mut shown = match plain(schema) {
        Value::Object(members) => members,
        _ => JsonObject::new(),
    };
    shown.insert("type".to_owned(), json!("object"));
    shown
}

fn plain(schema: &Value) -> Value {
    let Value::Object(members) = schema else { return schema.clone() };
    let shown = members.iter().filter(|(keyword, value)| is_shown(keyword, value));
    let member = |(keyword, value): (&String, &Value)| (keyword.clone(), below(keyword, value, plain));
    Value::Object(shown.map(member).collect())
}

/// Not for hosts to act on: another dialect, and HTTP headers made of arguments, of which a wrong one makes them drop the
/// tool.
fn is_shown(keyword: &str, value: &Value) -> bool {
    match keyword {
        "$schema" => value == DIALECT,
        "x-mcp-header" => false,
        _ => true,
    }
}

/// The value of a keyword with the schemas in it changed.
fn below(keyword: &str, value: &Value, change: fn(&Value) -> Value) -> Value {
    let member = |schema: &Value| spelled_out(change(schema));
    match value {
        Value::Object(named) if NAMED.contains(&keyword) => {
            named.iter().map(|(name, schema)| (name.clone(), member(schema))).collect()
        }
        Value::Array(listed) if LISTED.contains(&keyword) => listed.iter().map(member).collect(),
        single if SINGLE.contains(&keyword) => change(single),
        other => other.clone(),
    }
}

fn spelled_out(schema: Value) -> Value {
    match schema {
        Value::Bool(true) => json!({}),
        Value::Bool(false) => json!({ "not": {} }),
        other => other,
    }
}

/// An output schema that all hosts compile and read alike: the parts of it that say what is where. Everything that fits
/// the operation's own fits it. `None` where results are not always objects.
///
/// Hosts check results by validators of other drafts and with other regular expressions than the hub's, and some refuse
/// the whole list of tools for a schema that theirs does not compile.
pub(super) fn output(schema: &Value) -> Option<JsonObject> {
    let objects = schema.get("type") == Some(&json!("object"));
    // References would be relative to it.
    let placed = schema.to_string().contains("\"$id\"");
    match looser(schema) {
        Value::Object(shown) if objects && !placed => Some(shown),
        _ => None,
    }
}

fn looser(schema: &Value) -> Value {
    let Value::Object(members) = schema else { return schema.clone() };
    let keep = members.iter().filter(|(keyword, value)| keeps(members, keyword, value));
    let member = |(keyword, value): (&String, &Value)| {
        // Of looser alternatives more than one may fit.
        let name = if keyword == "oneOf" { "anyOf" } else { keyword };
        (name.to_owned(), below(keyword, value, looser))
    };
    Value::Object(keep.map(member).collect())
}

fn keeps(members: &Map<String, Value>, keyword: &str, value: &Value) -> bool {
    match keyword {
        "title" | "description" | "type" | "properties" | "required" | "const" | "allOf" | "anyOf" | "$defs"
        | "definitions" => true,
        "enum" => value.as_array().is_some_and(|values| !values.is_empty()),
        "oneOf" => !members.contains_key("anyOf"),
        "items" => !members.contains_key("prefixItems"),
        "additionalProperties" => !members.contains_key("patternProperties"),
        "$ref" => value.as_str().is_some_and(is_definition),
        _ => false,
    }
}

fn is_definition(reference: &str) -> bool {
    let name = ["#/$defs/", "#/definitions/"].iter().find_map(|place| reference.strip_prefix(place));
    name.is_some_and(|name| name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_schema_is_one_of_objects_without_flags_for_members() {
        for any in [json!(true), json!({}), json!({ "type": ["object", "null"] })] {
            assert_eq!(Value::Object(input(&any)), json!({ "type": "object" }), "{any}");
        }
        let odd = json!({
            "$schema": "http://json-schema.org/draft-07/schema#",
            "properties": {
                "x": true, "no": false, "x-mcp-header": { "type": "string", "x-mcp-header": "Two Words" },
                "flag": { "const": true, "default": true, "enum": [true, false] },
            },
            "additionalProperties": false,
            "anyOf": [true, { "items": { "properties": { "deep": true } } }],
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "x": {}, "no": { "not": {} }, "x-mcp-header": { "type": "string" },
                "flag": { "const": true, "default": true, "enum": [true, false] },
            },
            "additionalProperties": false,
            "anyOf": [{}, { "items": { "properties": { "deep": {} } } }],
        });
        assert_eq!(Value::Object(input(&odd)), expected);
    }

    #[test]
    fn an_output_schema_is_no_narrower_and_has_nothing_that_validators_read_differently() {
        let odd = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "nullable": true,
            "properties": {
                "a": { "type": "string", "pattern": "(?i)a", "format": "email" }, "b": true,
                "c": { "oneOf": [{ "minLength": 3 }, { "type": "string" }] },
                "d": { "prefixItems": [{}], "items": false }, "e": { "$ref": "#/properties/a" },
                "f": { "$ref": "#/$defs/f" }, "g": { "enum": [] }, "h": { "not": { "required": ["x"] } },
                "i": { "patternProperties": { "^x": {} }, "additionalProperties": false },
            },
            "required": ["a"], "$defs": { "f": { "type": ["integer", "null"], "multipleOf": 0.01 } },
        });
        let expected = json!({
            "type": "object",
            "properties": {
                "a": { "type": "string" }, "b": {}, "c": { "anyOf": [{}, { "type": "string" }] }, "d": {}, "e": {},
                "f": { "$ref": "#/$defs/f" }, "g": {}, "h": {}, "i": {},
            },
            "required": ["a"], "$defs": { "f": { "type": ["integer", "null"] } },
        });
        assert_eq!(output(&odd).map(Value::Object), Some(expected));
        for none in [json!(true), json!({ "type": ["object", "null"] }), json!({ "type": "object", "$id": "a" })] {
            assert_eq!(output(&none), None, "{none}");
        }
    }
}
