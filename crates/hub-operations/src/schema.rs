mod shape;

use hub_protocol::{Json, Violation};
use jsonschema::{Draft, PatternOptions, Validator};
use serde_json::Value;

/// What stands in the place of a secret.
pub const REDACTED: &str = "[redacted]";

/// Most violations reported for one input.
const MAX_VIOLATIONS: usize = 32;

/// Deepest path of a value that is searched for secrets.
const MAX_DEPTH: usize = 16;

/// Deepest nesting of subschemas that is searched for secrets: a long chain of `$ref`s must not exhaust the stack.
const MAX_NESTING: usize = 128;

/// Most subschemas that are searched for secrets; guards against `$ref` cycles.
const MAX_VISITS: usize = 10_000;

/// A compiled JSON Schema (2020-12). A schema never makes the hub read a file or a URL.
#[derive(Debug)]
pub struct Schema {
    /// `None` when everything fits, so that nothing need be parsed.
    validator: Option<Validator>,
    secrets: Vec<Vec<Step>>,
}

/// A schema that does not compile.
#[derive(Debug, thiserror::Error)]
#[error("schema is not valid JSON Schema 2020-12: {0}")]
pub struct SchemaError(String);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Member(String),
    /// Every item of an array, or every member of an object.
    Each,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// When it is not a valid schema or refers to another document.
    pub fn compile(schema: &Value) -> Result<Self, SchemaError> {
        let anything = schema.as_bool() == Some(true) || schema.as_object().is_some_and(serde_json::Map::is_empty);
        if anything {
            return Ok(Self { validator: None, secrets: Vec::new() });
        }
        shape::check(schema)?;
        let validator = jsonschema::options()
            .with_draft(Draft::Draft202012)
            // Patterns come from peers: an engine without backtracking can't be stalled by one.
            .with_pattern_options(PatternOptions::regex())
            .build(schema)
            .map_err(|e| SchemaError(e.masked().to_string()))?;
        let mut finder =
            SecretFinder { root: schema, path: Vec::new(), found: Vec::new(), budget: MAX_VISITS, nesting: 0 };
        finder.find(schema);
        Ok(Self { validator: Some(validator), secrets: finder.found })
    }

    /// Whether every value fits and nothing is secret.
    #[must_use]
    pub fn is_trivial(&self) -> bool {
        self.validator.is_none()
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
        if validator.is_valid(&value) {
            return Ok(());
        }
        Err(validator
            .iter_errors(&value)
            .take(MAX_VIOLATIONS)
            .map(|e| Violation { path: e.instance_path().to_string(), message: e.masked().to_string() })
            .collect())
    }

    /// The value with every member that the schema marks `writeOnly` or `x-secret` replaced.
    #[must_use]
    pub fn redact(&self, value: &Json) -> Json {
        if self.secrets.is_empty() {
            return value.clone();
        }
        let Ok(mut parsed) = value.parse::<Value>() else {
            // Unreadable, so nothing in it can be told apart from a secret.
            return Value::from(REDACTED).into();
        };
        for path in &self.secrets {
            blank(&mut parsed, path);
        }
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

/// Collects the paths of secret members. `budget` bounds the work on schemas whose `$ref`s form cycles.
struct SecretFinder<'a> {
    root: &'a Value,
    path: Vec<Step>,
    found: Vec<Vec<Step>>,
    budget: usize,
    nesting: usize,
}

impl SecretFinder<'_> {
    fn find(&mut self, schema: &Value) {
        if self.nesting < MAX_NESTING {
            self.nesting += 1;
            self.find_here(schema);
            self.nesting -= 1;
        }
    }

    fn find_here(&mut self, schema: &Value) {
        let Some(object) = schema.as_object() else { return };
        let marked = |key: &str| object.get(key).and_then(Value::as_bool) == Some(true);
        if marked("writeOnly") || marked("x-secret") {
            if !self.found.contains(&self.path) {
                self.found.push(self.path.clone());
            }
            return;
        }
        if self.path.len() >= MAX_DEPTH || self.budget == 0 {
            return;
        }
        self.budget -= 1;
        let root = self.root;
        let target = object.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        if let Some(target) = target.and_then(|pointer| root.pointer(pointer)) {
            self.find(target);
        }
        for part in ["allOf", "anyOf", "oneOf"].iter().filter_map(|k| object.get(*k)?.as_array()).flatten() {
            self.find(part);
        }
        for (name, part) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
            self.below(Step::Member(name.clone()), part);
        }
        for part in ["items", "additionalProperties"].iter().filter_map(|k| object.get(*k)) {
            self.below(Step::Each, part);
        }
        for part in object.get("prefixItems").and_then(Value::as_array).into_iter().flatten() {
            self.below(Step::Each, part);
        }
    }

    fn below(&mut self, step: Step, schema: &Value) {
        self.path.push(step);
        self.find(schema);
        self.path.pop();
    }
}

fn blank(value: &mut Value, path: &[Step]) {
    match (path.split_first(), value) {
        (None, value) => *value = REDACTED.into(),
        (Some((Step::Member(name), rest)), Value::Object(object)) => {
            if let Some(member) = object.get_mut(name) {
                blank(member, rest);
            }
        }
        (Some((Step::Each, rest)), Value::Array(items)) => items.iter_mut().for_each(|item| blank(item, rest)),
        (Some((Step::Each, rest)), Value::Object(members)) => members.values_mut().for_each(|m| blank(m, rest)),
        _ => {}
    }
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
    fn a_cyclic_schema_ends() {
        let schema = compiled(json!({
            "$ref": "#/$defs/node",
            "$defs": {"node": {"anyOf": [{"$ref": "#/$defs/node"}, {"properties": {"next": {"$ref": "#/$defs/node"}, "key": {"writeOnly": true}}}]}}
        }));
        let value = json!({"key": 1, "next": {"key": 2}});
        let redacted: Value = schema.redact(&value.into()).parse().unwrap();
        assert_eq!(redacted, json!({"key": REDACTED, "next": {"key": REDACTED}}));
    }
}
