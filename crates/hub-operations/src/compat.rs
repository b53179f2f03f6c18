//! Whether what one operation answers fits what another takes: structural subtyping of JSON Schemas.
//!
//! Types, members, required members, items, choices, constants and references within a schema are compared. Bounds,
//! patterns and formats are not: two schemas seldom state the same ones, and the input is validated in any case.
//!
//! ```
//! use hub_operations::compat::{Verdict, compare};
//! use serde_json::json;
//!
//! let output = json!({ "type": "object", "properties": { "id": { "type": "string" } }, "required": ["id"] });
//! let input = json!({ "type": "object", "properties": { "id": { "type": "integer" } } });
//! let Verdict::Misfits(found) = compare(&output, &input) else { panic!() };
//! assert_eq!(found[0].path, "/id");
//! ```

use std::collections::{BTreeMap, HashSet};

use hub_protocol::ops::graph::Mismatch;
use serde_json::{Map, Value, json};

/// Most mismatches told.
const MAX_MISMATCHES: usize = 100;

/// Deepest place that is compared, and most steps: schemas come from peers, and choices multiply.
const MAX_DEPTH: usize = 40;
const MAX_STEPS: usize = 20_000;

/// What a comparison comes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every output fits.
    Fits,
    /// A schema says too little to tell, or is too large.
    Unknown,
    /// Some outputs don't fit.
    Misfits(Vec<Mismatch>),
}

/// Compares the schema of an output with that of an input.
#[must_use]
pub fn compare(output: &Value, input: &Value) -> Verdict {
    if is_open(output) || is_open(input) {
        return Verdict::Unknown;
    }
    let mut walk = Walk { output, input, under_way: HashSet::new(), steps: 0, depth: 0 };
    let found = walk.fit(output, input, "");
    if walk.steps >= MAX_STEPS { Verdict::Unknown } else { verdict(found) }
}

/// Compares with an input whose members are filled from places in the output, given as JSON Pointers.
#[must_use]
pub fn compare_mapped(output: &Value, input: &Value, mapping: &BTreeMap<String, String>) -> Verdict {
    let (mut properties, mut required, mut lost) = (Map::new(), Vec::new(), Vec::new());
    for (member, pointer) in mapping {
        match place(output, pointer) {
            Some((schema, always)) => {
                properties.insert(member.clone(), schema.clone());
                if always {
                    required.push(Value::from(member.clone()));
                }
            }
            None => {
                lost.push(mismatch(&below("", member), format!("the output has nothing at {pointer:?}"), None, None))
            }
        }
    }
    if !lost.is_empty() {
        return Verdict::Misfits(lost);
    }
    let mut made = json!({ "type": "object", "properties": properties, "required": required });
    // What the parts refer to.
    for key in ["$defs", "definitions"] {
        if let Some(defs) = output.get(key) {
            made[key] = defs.clone();
        }
    }
    if is_open(input) { Verdict::Unknown } else { compare(&made, input) }
}

/// Whether anything of the output would arrive: members that the input knows, or an input that is no object.
#[must_use]
pub fn carries(output: &Value, input: &Value) -> bool {
    let members = |root: &'_ Value| -> HashSet<String> {
        let schema = resolved(root, root);
        schema.get("properties").and_then(Value::as_object).into_iter().flatten().map(|(k, _)| k.clone()).collect()
    };
    let wanted = members(input);
    wanted.is_empty() && !types(resolved(input, input)).is_some_and(|t| t.contains(&"object"))
        || !wanted.is_disjoint(&members(output))
}

fn verdict(mut found: Vec<Mismatch>) -> Verdict {
    found.truncate(MAX_MISMATCHES);
    if found.is_empty() { Verdict::Fits } else { Verdict::Misfits(found) }
}

/// The schema of a place in the output, and whether the place is always there.
fn place<'a>(root: &'a Value, pointer: &str) -> Option<(&'a Value, bool)> {
    let (mut schema, mut always) = (root, true);
    for part in pointer.split('/').skip(1) {
        let part = part.replace("~1", "/").replace("~0", "~");
        schema = resolved(root, schema);
        if let Some(member) = schema.get("properties").and_then(|p| p.get(&part)) {
            always &= required(schema).contains(&part.as_str());
            schema = member;
        } else if part.parse::<usize>().is_ok() {
            always = false;
            schema = schema.get("items")?;
        } else {
            return None;
        }
    }
    (pointer.is_empty() || pointer.starts_with('/')).then_some((schema, always))
}

struct Walk<'a> {
    output: &'a Value,
    input: &'a Value,
    /// Pairs that are being compared: one that comes back fits if everything else does.
    under_way: HashSet<(usize, usize)>,
    steps: usize,
    depth: usize,
}

impl<'a> Walk<'a> {
    fn fit(&mut self, output: &'a Value, input: &'a Value, path: &str) -> Vec<Mismatch> {
        self.steps += 1;
        let (output, input) = (resolved(self.output, output), resolved(self.input, input));
        let pair = (std::ptr::from_ref(output).addr(), std::ptr::from_ref(input).addr());
        if is_open(input) || self.steps >= MAX_STEPS || self.depth >= MAX_DEPTH || !self.under_way.insert(pair) {
            return Vec::new();
        }
        self.depth += 1;
        let found = self.by_kind(output, input, path);
        self.depth -= 1;
        self.under_way.remove(&pair);
        found
    }

    fn by_kind(&mut self, output: &'a Value, input: &'a Value, path: &str) -> Vec<Mismatch> {
        if *input == Value::Bool(false) {
            return vec![mismatch(path, "nothing is taken here".to_owned(), None, None)];
        }
        if is_open(output) {
            let reason = "the output does not say what it is".to_owned();
            return vec![mismatch(path, reason, Some(shown(input)), Some("anything".into()))];
        }
        // Every choice of the output has to fit; of the input's, one is enough.
        if let Some(choices) = choices(output) {
            return choices.iter().flat_map(|choice| self.fit(choice, input, path)).take(MAX_MISMATCHES).collect();
        }
        if let Some(all) = output.get("allOf").and_then(Value::as_array) {
            return self.fit_any_part(all, output, input, path);
        }
        if let Some(all) = input.get("allOf").and_then(Value::as_array) {
            let mut found: Vec<Mismatch> = all.iter().flat_map(|part| self.fit(output, part, path)).collect();
            found.extend(self.fit_plain(output, input, path));
            return found;
        }
        if let Some(choices) = choices(input) {
            return self.fit_one_of(output, choices, input, path);
        }
        self.fit_plain(output, input, path)
    }

    /// An output that is several things at once fits as soon as one of them does.
    fn fit_any_part(&mut self, all: &'a [Value], output: &'a Value, input: &'a Value, path: &str) -> Vec<Mismatch> {
        let mut least =
            if output.get("properties").is_some() { self.fit_plain(output, input, path) } else { Vec::new() };
        if output.get("properties").is_some() && least.is_empty() {
            return least;
        }
        for part in all {
            let found = self.fit(part, input, path);
            if found.is_empty() {
                return found;
            }
            if least.is_empty() || found.len() < least.len() {
                least = found;
            }
        }
        least
    }

    fn fit_one_of(&mut self, output: &'a Value, choices: &'a [Value], input: &'a Value, path: &str) -> Vec<Mismatch> {
        let mut least: Option<Vec<Mismatch>> = None;
        for choice in choices {
            let found = self.fit(output, choice, path);
            if found.is_empty() {
                return found;
            }
            let nearer = least.as_ref().is_none_or(|least| found.len() < least.len());
            if nearer && found.iter().any(|m| m.path != path) {
                least = Some(found);
            }
        }
        // The nearest choice tells more than that none fits.
        least.unwrap_or_else(|| {
            vec![mismatch(path, "fits none of the choices".to_owned(), Some(shown(input)), Some(shown(output)))]
        })
    }

    fn fit_plain(&mut self, output: &'a Value, input: &'a Value, path: &str) -> Vec<Mismatch> {
        if let Some(found) = fit_values(output, input, path) {
            return found;
        }
        let misfit = |reason: &str| vec![mismatch(path, reason.to_owned(), Some(shown(input)), Some(shown(output)))];
        let (Some(has), wants) = (types(output), types(input)) else {
            return if types(input).is_some() { misfit("the output does not say its type") } else { Vec::new() };
        };
        if let Some(wants) = wants {
            let taken = |t: &&str| wants.contains(t) || *t == "integer" && wants.contains(&"number");
            if !has.iter().all(taken) {
                return misfit("another type");
            }
        }
        let mut found = Vec::new();
        if has.contains(&"object") {
            found.extend(self.fit_members(output, input, path));
        }
        if has.contains(&"array") {
            found.extend(self.fit_items(output, input, path));
        }
        found
    }

    fn fit_members(&mut self, output: &'a Value, input: &'a Value, path: &str) -> Vec<Mismatch> {
        let members = |schema: &'a Value| schema.get("properties").and_then(Value::as_object);
        let (has, wants) = (members(output), members(input));
        let always = required(output);
        let mut found = Vec::new();
        for name in required(input) {
            if !always.contains(&name) {
                let absent = has.is_none_or(|has| !has.contains_key(name));
                let reason = if absent { "required, and not in the output" } else { "required, and may be absent" };
                let expected = wants.and_then(|w| w.get(name)).map(|s| shown(resolved(self.input, s)));
                found.push(mismatch(&below(path, name), reason.to_owned(), expected, None));
            }
        }
        for (name, schema) in has.into_iter().flatten() {
            match wants.and_then(|wants| wants.get(name)) {
                Some(wanted) => found.extend(self.fit(schema, wanted, &below(path, name))),
                None if input.get("additionalProperties") == Some(&Value::Bool(false)) => {
                    let reason = "the input takes no such member".to_owned();
                    found.push(mismatch(&below(path, name), reason, None, Some(shown(schema))));
                }
                None => {}
            }
            if found.len() >= MAX_MISMATCHES {
                break;
            }
        }
        found
    }

    fn fit_items(&mut self, output: &'a Value, input: &'a Value, path: &str) -> Vec<Mismatch> {
        match (output.get("items"), input.get("items")) {
            (Some(has), Some(wants)) => self.fit(has, wants, &below(path, "items")),
            (None, Some(wants)) if !is_open(wants) => {
                let reason = "the output does not say what its items are".to_owned();
                vec![mismatch(&below(path, "items"), reason, Some(shown(resolved(self.input, wants))), None)]
            }
            _ => Vec::new(),
        }
    }
}

/// Compares fixed values, if the output has such or the input asks for them.
fn fit_values(output: &Value, input: &Value, path: &str) -> Option<Vec<Mismatch>> {
    let (has, wants) = (values(output), values(input));
    let misfit = |value: Option<&Value>| {
        let actual = value.map_or_else(|| shown(output), Value::to_string);
        vec![mismatch(path, "not among the values taken".to_owned(), Some(shown(input)), Some(actual))]
    };
    match (has, wants) {
        (Some(has), Some(wants)) => {
            Some(has.iter().find(|v| !wants.contains(v)).map_or_else(Vec::new, |v| misfit(Some(v))))
        }
        (None, Some(_)) => Some(misfit(None)),
        (Some(has), None) if types(output).is_none() => {
            let wants = types(input)?;
            let fits = |v: &&&Value| {
                let kind = kind_of(v);
                wants.contains(&kind) || kind == "integer" && wants.contains(&"number")
            };
            Some(has.iter().find(|v| !fits(v)).map_or_else(Vec::new, |v| misfit(Some(v))))
        }
        _ => None,
    }
}

/// Whether a schema says nothing.
fn is_open(schema: &Value) -> bool {
    const SAYING: [&str; 11] =
        ["type", "properties", "required", "items", "enum", "const", "anyOf", "oneOf", "allOf", "$ref", "not"];
    match schema {
        Value::Bool(open) => *open,
        Value::Object(members) => !members.keys().any(|key| SAYING.contains(&key.as_str())),
        _ => true,
    }
}

/// What a schema stands for, through references within its root.
fn resolved<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let mut at = schema;
    for _ in 0..MAX_DEPTH {
        let pointer = at.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
        match pointer.and_then(|pointer| root.pointer(pointer)) {
            Some(next) => at = next,
            None => break,
        }
    }
    at
}

fn choices(schema: &Value) -> Option<&[Value]> {
    ["anyOf", "oneOf"].iter().find_map(|key| schema.get(*key)?.as_array()).map(Vec::as_slice)
}

fn types(schema: &Value) -> Option<Vec<&str>> {
    match schema.get("type") {
        Some(Value::String(one)) => Some(vec![one]),
        Some(Value::Array(several)) => Some(several.iter().filter_map(Value::as_str).collect()),
        _ if schema.get("properties").is_some() || schema.get("required").is_some() => Some(vec!["object"]),
        _ if schema.get("items").is_some() => Some(vec!["array"]),
        _ => None,
    }
}

fn values(schema: &Value) -> Option<Vec<&Value>> {
    match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(one), _) => Some(vec![one]),
        (None, Some(several)) => Some(several.iter().collect()),
        (None, None) => None,
    }
}

fn required(schema: &Value) -> Vec<&str> {
    schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// A schema in a few words.
fn shown(schema: &Value) -> String {
    let text = match (values(schema), types(schema), choices(schema)) {
        (Some(values), _, _) => values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "),
        (None, Some(types), _) => types.join(" | "),
        (None, None, Some(choices)) => choices.iter().map(shown).collect::<Vec<_>>().join(" | "),
        (None, None, None) => "anything".to_owned(),
    };
    text.chars().take(120).collect()
}

fn below(path: &str, member: &str) -> String {
    format!("{path}/{}", member.replace('~', "~0").replace('/', "~1"))
}

fn mismatch(path: &str, reason: String, expected: Option<String>, actual: Option<String>) -> Mismatch {
    Mismatch { path: path.to_owned(), reason, expected, actual }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(properties: Value, required: &[&str]) -> Value {
        json!({ "type": "object", "properties": properties, "required": required })
    }

    fn paths(output: &Value, input: &Value) -> Vec<String> {
        match compare(output, input) {
            Verdict::Fits => Vec::new(),
            Verdict::Unknown => vec!["unknown".to_owned()],
            Verdict::Misfits(found) => found.into_iter().map(|m| m.path).collect(),
        }
    }

    #[test]
    fn what_is_at_least_as_specific_fits() {
        let text = || json!({ "type": "string" });
        let point = object(json!({ "x": { "type": "integer" }, "y": { "type": "number" } }), &["x", "y"]);
        for (output, input) in [
            (text(), text()),
            (text(), json!({ "type": ["string", "number"] })),
            (text(), json!({ "anyOf": [{ "type": "number" }, text()] })),
            (json!({ "type": "integer" }), json!({ "type": "number" })),
            (json!({ "const": 3 }), json!({ "type": "integer" })),
            (json!({ "enum": ["a"] }), json!({ "enum": ["a", "b"] })),
            (json!({ "type": "array", "items": { "const": "a" } }), json!({ "type": "array", "items": text() })),
            // Extra members do no harm.
            (point.clone(), object(json!({ "x": { "type": "number" } }), &["x"])),
            (point.clone(), json!({ "type": "object" })),
            (json!({ "allOf": [point.clone(), { "type": "object" }] }), point.clone()),
            (point.clone(), json!({ "allOf": [{ "required": ["x"] }, { "required": ["y"] }] })),
        ] {
            assert_eq!(compare(&output, &input), Verdict::Fits, "{output} {input}");
        }
    }

    #[test]
    fn mismatches_are_named_by_their_path() {
        let text = json!({ "type": "string" });
        let inner = |schema: Value| object(json!({ "a": object(json!({ "b/c": schema }), &["b/c"]) }), &["a"]);
        let table: [(Value, Value, &[&str]); 9] = [
            (json!({ "type": ["string", "number"] }), text.clone(), &[""]),
            (json!({ "type": "number" }), json!({ "type": "integer" }), &[""]),
            (json!({ "enum": ["a", "c"] }), json!({ "enum": ["a", "b"] }), &[""]),
            (inner(json!({ "type": "boolean" })), inner(text.clone()), &["/a/b~1c"]),
            (object(json!({ "x": text }), &[]), object(json!({ "x": text }), &["x", "y"]), &["/x", "/y"]),
            (
                json!({ "type": "array", "items": { "type": "object" } }),
                json!({ "type": "array", "items": object(json!({ "k": text }), &["k"]) }),
                &["/items/k"],
            ),
            (
                object(json!({ "x": {}, "z": true }), &["x"]),
                json!({ "type": "object", "properties": { "x": text }, "additionalProperties": false }),
                &["/x", "/z"],
            ),
            (json!({ "anyOf": [text, { "type": "null" }] }), text.clone(), &[""]),
            (text.clone(), json!({ "oneOf": [{ "type": "null" }, { "type": "array" }] }), &[""]),
        ];
        for (output, input, wanted) in table {
            assert_eq!(paths(&output, &input), wanted, "{output} {input}");
        }
    }

    #[test]
    fn what_says_nothing_tells_nothing() {
        for (output, input) in [
            (json!({}), json!({ "type": "string" })),
            (json!({ "type": "string" }), json!(true)),
            (json!(true), json!({})),
        ] {
            assert_eq!(compare(&output, &input), Verdict::Unknown);
        }
    }

    #[test]
    fn references_may_go_round() {
        let tree = |leaf: &str| {
            json!({ "$ref": "#/$defs/n", "$defs": { "n": { "type": "object", "required": ["v"], "properties": {
                "v": { "type": leaf }, "below": { "type": "array", "items": { "$ref": "#/$defs/n" } } } } } })
        };
        assert_eq!(compare(&tree("integer"), &tree("number")), Verdict::Fits);
        assert_eq!(paths(&tree("string"), &tree("number")), ["/v"]);
        assert_eq!(
            compare(&json!({ "$ref": "#" }), &tree("number")),
            Verdict::Misfits(vec![mismatch(
                "",
                "the output does not say its type".into(),
                Some("object".into()),
                Some("anything".into()),
            )])
        );
    }

    #[test]
    fn choices_that_multiply_end_soon() {
        let mut deep = json!({ "type": "string" });
        for _ in 0..30 {
            deep = json!({ "anyOf": [object(json!({ "x": deep.clone() }), &["x"]), deep] });
            if deep.to_string().len() > 2_000_000 {
                break;
            }
        }
        let started = std::time::Instant::now();
        let _any = compare(&deep, &deep);
        assert!(started.elapsed().as_secs() < 10);
    }

    #[test]
    fn members_are_filled_by_pointers() {
        let output = object(
            json!({ "items": { "type": "array", "items": { "type": "string" } },
            "user": object(json!({ "id": { "type": "integer" } }), &["id"]) }),
            &["user"],
        );
        let input = object(json!({ "owner": { "type": "number" }, "first": { "type": "string" } }), &["owner"]);
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
        assert_eq!(
            compare_mapped(&output, &input, &map(&[("owner", "/user/id"), ("first", "/items/0")])),
            Verdict::Fits
        );
        for (mapping, place) in [(map(&[("owner", "/user/name")]), "/owner"), (map(&[("first", "/items/0")]), "/owner")]
        {
            let Verdict::Misfits(found) = compare_mapped(&output, &input, &mapping) else { panic!("{mapping:?}") };
            assert_eq!(found[0].path, place);
        }
        assert!(carries(&output, &object(json!({ "user": {} }), &[])));
        assert!(!carries(&output, &input));
    }
}
