//! Whether a schema takes objects.

use serde_json::Value;

/// Whether an object may fit; `true` where that can't be told. The schema's shape has been checked: it is not endless.
pub(super) fn may_fit(schema: &Value, root: &Value) -> bool {
    let Value::Object(members) = schema else { return schema != &Value::Bool(false) };
    members.iter().all(|(keyword, value)| match (keyword.as_str(), value) {
        ("type", Value::String(name)) => name == "object",
        ("type", Value::Array(names)) => names.iter().any(|name| name == "object"),
        ("const", value) => value.is_object(),
        ("enum", Value::Array(values)) => values.iter().any(Value::is_object),
        ("allOf", Value::Array(parts)) => parts.iter().all(|part| may_fit(part, root)),
        ("anyOf" | "oneOf", Value::Array(parts)) => parts.iter().any(|part| may_fit(part, root)),
        ("$ref", Value::String(target)) => {
            target.strip_prefix('#').and_then(|path| root.pointer(path)).is_none_or(|part| may_fit(part, root))
        }
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
