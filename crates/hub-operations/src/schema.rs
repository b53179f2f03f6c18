mod graph;
mod message;
mod objects;
pub mod place;
mod shape;

use hub_protocol::{Json, Violation};
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

use graph::Graph;
use message::message;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Most violations reported for one input.
const MAX_VIOLATIONS: usize = 32;

/// A compiled JSON Schema (2020-12). A schema never makes the hub read a file or a URL.
#[derive(Debug)]
pub struct Schema {
    /// `None` when everything fits, so that nothing need be parsed.
    validator: Option<Validator>,
    /// `None` when it need not be followed.
    graph: Option<Graph>,
    takes_objects: bool,
}

/// A schema that does not compile.
#[derive(Debug, thiserror::Error)]
#[error("schema is not valid JSON Schema 2020-12: {0}")]
pub struct SchemaError(String);

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// When it is not a valid schema or refers to another document.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let anything = schema.as_bool() == Some(true) || schema.as_object().is_some_and(serde_json::Map::is_empty);
        if anything {
            return Ok(Self { validator: None, graph: None, takes_objects: true });
        }
        let (shape, parts) = shape::check(schema)?;
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            // Patterns come from peers: an engine without backtracking can't be stalled by one.
            .with_pattern_options(PatternOptions::regex())
            .build(schema)
            .map_err(|e| SchemaError(e.masked().to_string()))?;
        let graph = Graph::of(&shape, schema, &parts);
        Ok(Self { validator: Some(validator), graph, takes_objects: objects::may_fit(schema, &shape) })
    }

    /// Whether every value fits and nothing is secret.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.validator.is_none()
    }

    /// Whether an object may fit, as far as types and listed values tell.
    #[must_use]
    pub fn takes_objects(&self) -> bool {
        self.takes_objects
    }

    /// Checks a value. Messages name the rule, never the offending value: it may be a secret.
    ///
    /// # Errors
    /// The violations, at most 32.
    pub fn check(&self, input: &Json) -> Result<(), Vec<Violation>> {
        let Some(validator) = &self.validator else {
            return Ok(());
        };
        let value: Value = parse(input)?;
        if self.graph.as_ref().is_some_and(|graph| graph.is_explosive(&value, input.size())) {
            return Err(vec![Violation { path: String::new(), message: "nests too deep for this schema".to_owned() }]);
        }
        if validator.is_valid(&value) {
            return Ok(());
        }
        Err(validator
            .iter_errors(&value)
            .take(MAX_VIOLATIONS)
            .map(|e| Violation { path: e.instance_path().to_string(), message: message(&e) })
            .collect())
    }

    /// Whether it marks anything `writeOnly` or `x-secret`.
    #[must_use]
    pub fn has_secrets(&self) -> bool {
        self.graph.as_ref().is_some_and(Graph::has_secrets)
    }

    /// The value with every member that the schema marks `writeOnly` or `x-secret` replaced.
    #[must_use]
    pub fn redact(&self, value: &Json) -> Json {
        self.redacted(value, false)
    }

    /// As [`Schema::redact`]; where it marks anything, also without members that it does not name in a place where it
    /// names some: a secret may stand under a misspelt name.
    #[must_use]
    pub fn redact_unnamed(&self, value: &Json) -> Json {
        self.redacted(value, true)
    }

    fn redacted(&self, value: &Json, unnamed: bool) -> Json {
        let Some(secrets) = self.graph.as_ref().filter(|graph| graph.has_secrets()) else {
            return value.clone();
        };
        let Ok(mut parsed) = value.parse::<Value>() else {
            // Unreadable, so nothing in it can be told apart from a secret.
            return Value::from(REDACTED).into();
        };
        secrets.blank(&mut parsed, unnamed);
        parsed.into()
    }
}

fn parse(input: &Json) -> Result<Value, Vec<Violation>> {
    input.parse().map_err(|e: serde_json::Error| {
        // Line and column only: serde's text may quote the value.
        let message = format!("cannot be read: {:?} at line {} column {}", e.classify(), e.line(), e.column());
        vec![Violation { path: String::new(), message }]
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn compiled(schema: Value) -> Schema {
        Schema::compile(&schema).unwrap()
    }

    #[test]
    fn violations_name_the_place_and_not_the_value() {
        let schema = compiled(json!({"type": "object", "properties": {"tags": {"items": {"type": "string"}}}}));
        let violations = schema.check(&json!({"tags": ["a", 4242]}).into()).unwrap_err();
        assert_eq!(violations.len(), 1);
        assert_eq!(violations[0].path, "/tags/1");
        assert!(!violations[0].message.contains("4242"), "{}", violations[0].message);
    }

    #[test]
    fn what_no_parser_can_hold_is_a_violation() {
        let schema = compiled(json!({"type": "object"}));
        for text in [r#"{"a": 1e400}"#, r#"{"a": "\ud800"}"#] {
            assert_eq!(schema.check(&Json::from_text(text).unwrap()).unwrap_err().len(), 1, "{text}");
        }
    }

    #[test]
    fn a_schema_reaches_no_other_document() {
        assert!(Schema::compile(&json!({"$ref": "http://127.0.0.1:1/schema"})).is_err());
        assert!(Schema::compile(&json!({"$ref": "file:///etc/passwd"})).is_err());
    }

    #[test]
    fn secrets_are_blanked_wherever_the_schema_puts_them() {
        let schema = compiled(json!({
            "type": "object",
            "$defs": {"login": {"properties": {"password": {"writeOnly": true}}}},
            "properties": {
                "token": {"x-secret": true},
                "logins": {"items": {"$ref": "#/$defs/login"}},
                "either": {"anyOf": [{"properties": {"pin": {"writeOnly": true}}}, {"type": "null"}]},
            }
        }));
        let value =
            json!({"token": {"a": 1}, "logins": [{"password": "p", "user": "u"}], "either": {"pin": 1}, "x": 2});
        let redacted: Value = schema.redact(&value.into()).parse().unwrap();
        assert_eq!(
            redacted,
            json!({"token": REDACTED, "logins": [{"password": REDACTED, "user": "u"}], "either": {"pin": REDACTED}, "x": 2})
        );
    }

    #[test]
    fn secrets_are_found_however_the_schema_leads_to_them() {
        for schema in [
            json!({"properties": {"s": {"$ref": "#here"}}, "$defs": {"x": {"$anchor": "here", "writeOnly": true}}}),
            json!({"properties": {"s": {"$ref": "#/%24defs/x"}}, "$defs": {"x": {"x-secret": true}}}),
            json!({"properties": {"s": {"$ref": "X"}}, "$defs": {"y": {"$id": "X", "x-secret": true}}}),
            json!({"patternProperties": {"^s$": {"writeOnly": true}}, "properties": {"o": true}}),
            json!({"if": true, "then": {"properties": {"s": {"writeOnly": true}}}}),
            json!({"properties": {"o": true}, "additionalProperties": {"writeOnly": true}}),
            // Many ways to recur before the secret is named.
            json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}, "c": {"$ref": "#"}, "s": {"writeOnly": true}}}),
        ] {
            let redacted = compiled(schema.clone()).redact(&json!({"s": "canary", "t": 2}).into());
            assert!(!redacted.as_str().contains("canary"), "{schema}: {}", redacted.as_str());
        }
        let named = compiled(json!({"properties": {"o": true}, "additionalProperties": {"writeOnly": true}}));
        let redacted: Value = named.redact(&json!({"s": 1, "o": 2}).into()).parse().unwrap();
        assert_eq!(redacted, json!({"s": REDACTED, "o": 2}));
        let tree = compiled(json!({"properties": {"c": {"items": {"$ref": "#"}}, "s": {"writeOnly": true}}}));
        let deep = (0..40).fold(json!({"s": "canary"}), |below, _| json!({"c": [below]}));
        assert!(!tree.redact(&deep.into()).as_str().contains("canary"));
    }

    #[test]
    fn a_schema_that_recurs_in_several_ways_is_not_followed_for_ever() {
        let next = json!({"properties": {"c": {"$ref": "#"}}});
        let cell = json!({"items": {"$ref": "#"}});
        for (schema, open, close) in [
            (json!({"anyOf": [next, next, {"type": "string"}], "required": ["never"]}), "{\"c\":", "}"),
            (json!({"allOf": [next, next]}), "{\"c\":", "}"),
            (json!({"oneOf": [cell, cell, cell]}), "[", "]"),
            (json!({"items": {"$ref": "#"}, "contains": {"$ref": "#"}}), "[", "]"),
            (
                json!({"properties": {"c": {"$ref": "#"}}, "patternProperties": {"c": {"$ref": "#"}}, "not": false}),
                "{\"c\":",
                "}",
            ),
        ] {
            let compiled = compiled(schema.clone());
            let deep = |n: usize| Json::from_text(open.repeat(n) + "1" + &close.repeat(n)).unwrap();
            let started = std::time::Instant::now();
            let violations = compiled.check(&deep(100)).unwrap_err();
            assert_eq!(violations[0].message, "nests too deep for this schema", "{schema}");
            assert!(started.elapsed().as_secs() < 5, "{schema}");
            let shallow = compiled.check(&deep(6)).err().unwrap_or_default();
            assert!(shallow.iter().all(|v| !v.message.contains("too deep")), "{schema}: {shallow:?}");
        }
    }

    #[test]
    fn a_tuple_of_tuples_is_no_recursion_in_several_ways() {
        let tuple = compiled(json!({"anyOf": [{"type": "integer"}, {"prefixItems": [{"$ref": "#"}, {"$ref": "#"}]}]}));
        let deep = (0..15).fold(json!(1), |below, _| json!([below, 2]));
        tuple.check(&deep.into()).unwrap();
    }

    #[test]
    fn a_schema_that_recurs_in_one_way_takes_deep_values() {
        let list =
            compiled(json!({"anyOf": [{"type": "null"}, {"type": "object", "properties": {"n": {"$ref": "#"}}}]}));
        let deep = "{\"n\":".repeat(120) + "null" + &"}".repeat(120);
        list.check(&Json::from_text(deep).unwrap()).unwrap();
        let wide: Vec<Value> = (0..300_000).map(|n| json!({"n": n})).collect();
        let rows =
            compiled(json!({"items": {"anyOf": [{"type": "null"}, {"properties": {"n": {"type": "integer"}}}]}}));
        rows.check(&Json::from(Value::from(wide))).unwrap();
    }

    #[test]
    fn a_cyclic_schema_ends() {
        let schema = compiled(json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {"anyOf": [{"type": "null"}, {"properties": {"next": {"$ref": "#/$defs/node"}, "key": {"writeOnly": true}}}]}}
        }));
        let value = json!({"key": 1, "next": {"key": 2}});
        let redacted: Value = schema.redact(&value.into()).parse().unwrap();
        assert_eq!(redacted, json!({"key": REDACTED, "next": {"key": REDACTED}}));
    }
}
