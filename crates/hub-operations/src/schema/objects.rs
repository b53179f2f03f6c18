//! Whether a schema takes objects.

use serde_json::Value;

use super::shape::Shape;

/// Whether an object may fit; `true` where that can't be told. The shape has been checked: what it leads to is not endless.
pub(super) fn may_fit<'a>(schema: &'a Value, shape: &Shape<'a>) -> bool {
    let Value::Object(members) = schema else { return schema != &Value::Bool(false) };
    members.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
        ("type", Value::String(name)) => name == "object",
        ("type", Value::Array(names)) => names.iter().any(|name| name == "object"),
        ("const", value) => value.is_object(),
        ("enum", Value::Array(values)) => values.iter().any(Value::is_object),
        ("allOf", Value::Array(parts)) => parts.iter().all(|part| may_fit(part, shape)),
        ("anyOf" | "oneOf", Value::Array(parts)) => parts.iter().any(|part| may_fit(part, shape)),
        ("$ref", Value::String(_)) => shape
            .references(schema)
            .map_or(true, |parts| parts.is_empty() || parts.into_iter().any(|part| may_fit(part, shape))),
        _ => true,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::Schema;

    #[test]
    fn what_takes_no_object_is_told() {
        let taking = [
            json!(true),
            json!({}),
            json!({ "type": ["object", "null"] }),
            json!({ "properties": { "x": false } }),
            json!({ "anyOf": [{ "type": "string" }, { "type": "object" }] }),
            json!({ "$defs": { "a": { "type": "object" } }, "$ref": "#/$defs/a" }),
            json!({ "enum": [1, {}] }),
            // The reference means `x%`, and not the one that leads to itself.
            json!({ "$ref": "#/$defs/x%25", "$defs": { "x%25": { "$ref": "#/$defs/x%25" }, "x%": { "type": "object" } } }),
            json!({ "$defs": { "a": { "$id": "urn:a", "$ref": "#/$defs/b", "$defs": { "b": { "type": "object" } } },
                "b": { "type": "string" } }, "$ref": "#/$defs/a" }),
        ];
        let not = [
            json!(false),
            json!({ "type": "string" }),
            json!({ "type": ["array", "null"] }),
            json!({ "allOf": [{}, { "type": "integer" }] }),
            json!({ "oneOf": [{ "type": "string" }, { "const": 1 }] }),
            json!({ "$defs": { "a": { "enum": ["x"] } }, "$ref": "#/$defs/a" }),
        ];
        for (schemas, expected) in [(&taking[..], true), (&not[..], false)] {
            for schema in schemas {
                assert_eq!(Schema::compile(schema).unwrap().takes_objects(), expected, "{schema}");
            }
        }
    }
}
