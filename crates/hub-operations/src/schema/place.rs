//! Puts a schema into a document, where `#` is the root of the document.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_json::Value;

use super::shape::{self, address};

/// Keywords that refer, that name a schema, and that say what names are relative to.
const REFERENCES: [&str; 3] = ["$ref", "$dynamicRef", "$recursiveRef"];
const NAMES: [&str; 5] = ["$id", "$schema", "$anchor", "$dynamicAnchor", "$recursiveAnchor"];

/// The schema as it stands at the place `at` (a JSON Pointer) of a document: references lead there from the root of the
/// document, and names, which other schemas of the document may have, too, are gone. A reference to what is not in the
/// schema is left out.
#[must_use]
pub fn placed(schema: &Value, at: &str) -> Value {
    let mut placed = schema.clone();
    let Ok((shape, parts)) = shape::check(schema) else { return Value::Bool(true) };
    let mut pointers = HashMap::new();
    locate(schema, String::new(), &mut pointers);
    for part in parts {
        let Some(own) = pointers.get(&address(part)) else { continue };
        let targets = shape.references(part).unwrap_or_default();
        // A reference within a resource of its own is to that one; it shares most of its place with what it means.
        let target =
            targets.iter().filter_map(|target| pointers.get(&address(target))).max_by_key(|to| shared(own, to));
        let Some(Value::Object(members)) = placed.pointer_mut(own) else { continue };
        for keyword in REFERENCES.iter().chain(&NAMES) {
            members.remove(*keyword);
        }
        if let Some(target) = target {
            members.insert("$ref".to_owned(), format!("#{}", encoded(&format!("{at}{target}"))).into());
        }
    }
    placed
}

/// A name as a segment of a JSON Pointer.
#[must_use]
pub fn segment(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Pointers of all values by address. The parser that made the value bounds the recursion.
fn locate(value: &Value, at: String, pointers: &mut HashMap<usize, String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, member)| locate(member, format!("{at}/{}", segment(name)), pointers));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, item)| locate(item, format!("{at}/{n}"), pointers));
        }
        _ => {}
    }
    pointers.insert(address(value), at);
}

/// How many segments two pointers begin with in common.
fn shared(a: &str, b: &str) -> usize {
    a.split('/').zip(b.split('/')).take_while(|(a, b)| a == b).count()
}

/// As the fragment of a URI.
fn encoded(pointer: &str) -> String {
    pointer.bytes().fold(String::new(), |mut text, byte| {
        match byte {
            b'/' | b'~' | b'$' | b'-' | b'.' | b'_' => text.push(char::from(byte)),
            _ if byte.is_ascii_alphanumeric() => text.push(char::from(byte)),
            // Writing to a String can't fail.
            _ => _ = write!(text, "%{byte:02X}"),
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_lead_from_the_root_of_the_document() {
        for (schema, reference) in [
            (json!({"$ref": "#/$defs/N", "$defs": {"N": true}}), "#/at/$defs/N"),
            (json!({"$id": "urn:x", "$ref": "#/$defs/N%25", "$defs": {"N%": {}}}), "#/at/$defs/N%25"),
            (json!({"$ref": "#n", "$defs": {"a/b": {"$anchor": "n"}}}), "#/at/$defs/a~1b"),
            (json!({"$dynamicRef": "#n", "$defs": {"a": {"$dynamicAnchor": "n"}}}), "#/at/$defs/a"),
            (json!({"$ref": "http://h/T0", "$defs": {"a": {"$id": "T0"}}}), "#/at/$defs/a"),
            (json!({"$ref": "T0#/not", "$defs": {"a": {"$id": "T0", "not": {}}}}), "#/at/$defs/a/not"),
        ] {
            let placed = placed(&schema, "/at");
            assert_eq!(placed["$ref"], reference, "{schema}");
            let text = placed.to_string();
            assert!(NAMES.iter().all(|name| !text.contains(&format!("\"{name}\":"))), "{text}");
        }
        let below = |id: Value| json!({"properties": {"$ref": id, "$id": true}, "const": {"$ref": "#/no"}});
        let schema = below(json!({"$id": "urn:x", "items": {"$ref": "#"}}));
        assert_eq!(placed(&schema, ""), below(json!({"items": {"$ref": "#/properties/$ref"}})));
    }

    #[test]
    fn what_leads_elsewhere_is_left_open() {
        let meta = json!({"items": {"$ref": "https://json-schema.org/draft/2020-12/schema", "title": "t"}});
        assert_eq!(placed(&meta, "/at"), json!({"items": {"title": "t"}}));
        assert_eq!(placed(&json!(false), "/at"), json!(false));
    }
}
