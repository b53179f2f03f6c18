//! Refuses schemas whose shape would exhaust the stack or the time of whoever compiles them or checks a value.
//!
//! A value's nesting is bounded by its parser. What is not bounded by itself is how often one place of a value is looked
//! at: keywords such as `anyOf` and `$ref` apply further schemas to the same place, and references can make them endless.

use std::collections::{HashMap, HashSet};

use hub_protocol::MAX_SCHEMA_NESTING;
use serde_json::Value;

use super::SchemaError;

/// Longest chain of schemas that apply to the same place of a value.
const MAX_IN_PLACE: usize = 24;

/// Most schemas that apply to the same place of a value, counted as often as they are reached.
const MAX_WORK: usize = 10_000;

/// Deepest nesting of the schema with every reference followed once.
const MAX_FOLLOWED: usize = 512;

/// Keywords whose members or items are values and no schemas, whatever they look like.
const VALUES: [&str; 4] = ["const", "default", "enum", "examples"];

/// Keywords whose members are schemas by names, which may be those of keywords.
const BY_NAME: [&str; 6] =
    ["$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties"];

/// Known to the validator by itself.
const META: &str = "https://json-schema.org/draft/2020-12/";

/// Checks the shape; answers what is needed to follow the schema's references, and all that may be a subschema.
pub(super) fn check(root: &Value) -> Result<(Shape<'_>, Vec<&Value>), SchemaError> {
    let tall = height(root);
    if tall > MAX_SCHEMA_NESTING {
        return Err(SchemaError(format!("it nests deeper than {MAX_SCHEMA_NESTING} levels")));
    }
    let mut shape = Shape { resources: vec![root], named: HashMap::new(), known: HashMap::new() };
    let mut all = Vec::new();
    shape.index(root, &mut all);
    let mut indexed: HashSet<usize> = all.iter().map(|schema| address(schema)).collect();
    let mut targets = HashMap::new();
    let mut next = 0;
    while let Some(schema) = all.get(next).copied() {
        for target in shape.references(schema)? {
            targets.insert(address(target), target);
            // What a reference leads to is a schema, also within a value.
            if indexed.insert(address(target)) {
                let before = all.len();
                shape.index(target, &mut all);
                indexed.extend(all[before..].iter().map(|schema| address(schema)));
            }
        }
        shape.measure(schema, 0)?;
        next += 1;
    }
    let nesting: usize = targets.values().map(|target| height(target)).sum();
    if tall + nesting > MAX_FOLLOWED {
        return Err(SchemaError(format!("it nests more than {MAX_FOLLOWED} deep with its references followed")));
    }
    Ok((shape, all))
}

/// The schema as a graph.
pub(super) struct Shape<'a> {
    /// Places that references are relative to: the root and what has an `$id`.
    resources: Vec<&'a Value>,
    /// By `$anchor` or `$dynamicAnchor`. Names that occur twice lead to both.
    named: HashMap<&'a str, Vec<&'a Value>>,
    /// Depth and work of a schema.
    known: HashMap<usize, (usize, usize)>,
}

impl<'a> Shape<'a> {
    fn index(&mut self, value: &'a Value, all: &mut Vec<&'a Value>) {
        match value {
            Value::Object(members) => {
                all.push(value);
                if members.get("$id").is_some_and(Value::is_string) && !std::ptr::eq(value, self.resources[0]) {
                    self.resources.push(value);
                }
                for name in ["$anchor", "$dynamicAnchor"].iter().filter_map(|k| members.get(*k)?.as_str()) {
                    self.named.entry(name).or_default().push(value);
                }
                for (key, member) in members {
                    match member {
                        _ if VALUES.contains(&key.as_str()) => {}
                        Value::Object(named) if BY_NAME.contains(&key.as_str()) => {
                            named.values().for_each(|schema| self.index(schema, all));
                        }
                        _ => self.index(member, all),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| self.index(item, all)),
            _ => {}
        }
    }

    /// What a schema refers to: everything that it might mean, since too much is safe here and too little is not.
    pub(super) fn references(&self, schema: &'a Value) -> Result<Vec<&'a Value>, SchemaError> {
        let mut found = Vec::new();
        for text in ["$ref", "$dynamicRef", "$recursiveRef"].iter().filter_map(|k| schema.get(*k)?.as_str()) {
            if text.starts_with(META) {
                continue;
            }
            let (base, fragment) = text.split_once('#').unwrap_or((text, ""));
            let fragment = decoded(fragment);
            let resources: Vec<&Value> =
                self.resources.iter().copied().filter(|r| base.is_empty() || is_named(r, base)).collect();
            let before = found.len();
            if fragment.is_empty() || fragment.starts_with('/') {
                found.extend(resources.iter().filter_map(|r| r.pointer(&fragment)));
            } else if !resources.is_empty() {
                found.extend(self.named.get(fragment.as_str()).into_iter().flatten());
            }
            if found.len() == before {
                let shown: String = text.chars().take(100).collect();
                return Err(SchemaError(format!("{shown:?} refers to nothing in the schema itself")));
            }
        }
        Ok(found)
    }

    /// The most schemas that apply to one place of a value.
    pub(super) fn growth(&self) -> usize {
        self.known.values().map(|(_, work)| *work).max().unwrap_or(1)
    }

    /// The longest chain and the number of schemas that this one applies to the same place of a value.
    fn measure(&mut self, schema: &'a Value, level: usize) -> Result<(usize, usize), SchemaError> {
        if let Some(known) = self.known.get(&address(schema)) {
            return Ok(*known);
        }
        // An endless chain ends here, too.
        if level > MAX_IN_PLACE {
            return Err(too_long());
        }
        let mut parts = self.references(schema)?;
        let member = |key: &&str| schema.get(*key);
        parts.extend(["allOf", "anyOf", "oneOf"].iter().filter_map(member).filter_map(Value::as_array).flatten());
        parts.extend(["not", "if", "then", "else"].iter().filter_map(member));
        let dependent = ["dependentSchemas", "dependencies"];
        parts.extend(dependent.iter().filter_map(member).filter_map(Value::as_object).flat_map(|m| m.values()));
        let (mut depth, mut work) = (1, 1_usize);
        for part in parts {
            let (below, more) = self.measure(part, level + 1)?;
            depth = depth.max(below + 1);
            work = work.saturating_add(more);
        }
        if depth > MAX_IN_PLACE {
            return Err(too_long());
        }
        if work > MAX_WORK {
            return Err(SchemaError(format!("more than {MAX_WORK} of its parts apply to the same value")));
        }
        self.known.insert(address(schema), (depth, work));
        Ok((depth, work))
    }
}

fn too_long() -> SchemaError {
    SchemaError(format!("a chain of more than {MAX_IN_PLACE} references and combinations applies to the same value"))
}

/// Tells one subschema from another that reads the same.
pub(super) fn address(value: &Value) -> usize {
    std::ptr::from_ref(value).addr()
}

/// Whether a reference to `base` may mean this resource.
fn is_named(resource: &Value, base: &str) -> bool {
    let last = |id: &str| decoded(id.trim_end_matches('#').rsplit(['/', ':']).next().unwrap_or_default());
    resource.get("$id").and_then(Value::as_str).is_some_and(|id| last(id) == last(base))
}

/// Percent-decoded.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|h| std::str::from_utf8(h).ok()).and_then(|h| u8::from_str_radix(h, 16).ok());
        match (first, hex) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// How deep a value nests. The parser that made it bounds the recursion.
pub(super) fn height(value: &Value) -> usize {
    let below = match value {
        Value::Object(members) => members.values().map(height).max(),
        Value::Array(items) => items.iter().map(height).max(),
        _ => None,
    };
    1 + below.unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Schema;

    /// `links` definitions, each made by `link` from the reference to the next; the last is a string.
    fn chain(links: usize, link: impl Fn(Value) -> Value) -> Value {
        let mut defs = serde_json::Map::new();
        for i in 0..links {
            defs.insert(format!("d{i}"), link(json!({ "$ref": format!("#/$defs/d{}", i + 1) })));
        }
        defs.insert(format!("d{links}"), json!({ "type": "string" }));
        json!({ "$ref": "#/$defs/d0", "$defs": defs })
    }

    #[test]
    fn endless_and_explosive_schemas_are_refused() {
        for schema in [
            json!({ "$ref": "#" }),
            json!({ "$ref": "#/%24defs/a", "$defs": { "a": { "anyOf": [{ "$ref": "#/$defs/a" }, true] } } }),
            json!({ "$id": "urn:x:T0", "not": { "$ref": "T0" } }),
            json!({ "$id": "http://h/a", "if": { "$ref": "./a" } }),
            json!({ "$dynamicAnchor": "n", "allOf": [{ "$dynamicRef": "#n" }] }),
            json!({ "$anchor": "n", "dependentSchemas": { "x": { "$ref": "#n" } } }),
            json!({ "$ref": "../up/../else" }),
            chain(10_000, |next| next),
            chain(10_000, |next| json!({ "properties": { "x": next } })),
            chain(20, |next| json!({ "anyOf": [next.clone(), next] })),
        ] {
            let shown: String = schema.to_string().chars().take(80).collect();
            assert!(Schema::compile(&schema).is_err(), "{shown}");
        }
    }

    #[test]
    fn a_schema_nests_as_deep_as_lists_can_show() {
        let deep = |levels: usize| (1..levels).fold(json!({}), |below, _| json!({ "items": below }));
        Schema::compile(&deep(MAX_SCHEMA_NESTING)).unwrap();
        let refused = Schema::compile(&deep(MAX_SCHEMA_NESTING + 1)).unwrap_err().to_string();
        assert!(refused.ends_with("it nests deeper than 90 levels"), "{refused}");
    }

    #[test]
    fn values_are_no_schemas() {
        let odd = json!({ "$ref": "#/a", "$id": "urn:x", "$anchor": "n", "x-secret": true });
        for schema in [
            json!({ "enum": [odd] }),
            json!({ "const": odd }),
            json!({ "default": odd }),
            json!({ "examples": [odd] }),
            json!({ "properties": { "x": { "const": { "deep": [odd] } } } }),
            json!({ "properties": { "$ref": { "type": "string" }, "x-secret": true } }),
        ] {
            let compiled = Schema::compile(&schema).map_err(|e| format!("{schema}: {e}")).unwrap();
            assert_eq!(compiled.redact(&json!({ "x": 1 }).into()), json!({ "x": 1 }).into(), "{schema}");
        }
        // These are schemas, by their place or because something refers to them.
        let nowhere = json!({ "$ref": "#/nowhere" });
        for schema in [
            json!({ "properties": { "enum": nowhere, "const": true } }),
            json!({ "$ref": "#/const/x", "const": { "x": { "not": nowhere } } }),
        ] {
            assert!(Schema::compile(&schema).is_err(), "{schema}");
        }
        let led = Schema::compile(&json!({
            "properties": { "a": { "$ref": "#/default" } },
            "default": { "properties": { "b": { "x-secret": true } } }
        }));
        let redacted = led.unwrap().redact(&json!({ "a": { "b": "canary" } }).into());
        assert!(!redacted.as_str().contains("canary"), "{}", redacted.as_str());
    }

    #[test]
    fn what_shrinks_with_its_value_may_recur() {
        let deep = |n: usize| (0..n).fold(json!({ "v": 1 }), |below, _| json!({ "c": [below] }));
        for schema in [
            json!({ "type": "object", "properties": { "c": { "items": { "$ref": "#" } } } }),
            json!({ "$id": "T0", "properties": { "c": { "type": "array", "items": { "$ref": "T0" } } } }),
            json!({ "$ref": "#/$defs/n", "$defs": { "n": { "anyOf": [
                { "properties": { "c": { "items": { "allOf": [{ "$ref": "#/$defs/n" }] } } } }, { "type": "null" }] } } }),
        ] {
            let compiled = Schema::compile(&schema).unwrap();
            compiled.check(&deep(50).into()).unwrap();
        }
    }

    /// As deep as the limits allow, in schema and value, on the stack of a thread of the runtime.
    #[test]
    fn the_longest_chain_over_the_deepest_value_fits_the_stack() {
        let mut schema = json!({ "properties": { "c": { "$ref": "#" } } });
        for _ in 0..(MAX_IN_PLACE - 2) / 2 {
            schema = json!({ "anyOf": [{ "allOf": [schema] }] });
        }
        let compiled = Schema::compile(&schema).unwrap();
        let value = "{\"c\":".repeat(126) + "1" + &"}".repeat(126);
        compiled.check(&hub_protocol::Json::from_text(value).unwrap()).unwrap();
        let chain = chain(90, |next| json!({ "properties": { "x": next } }));
        drop(Schema::compile(&chain).unwrap());
    }

    #[test]
    fn a_schema_that_doubles_with_each_step_compiles_in_no_time() {
        let started = std::time::Instant::now();
        let doubling = chain(30, |next| json!({ "properties": { "x": next.clone(), "y": next } }));
        drop(Schema::compile(&doubling));
        assert!(started.elapsed().as_secs() < 5);
    }
}
