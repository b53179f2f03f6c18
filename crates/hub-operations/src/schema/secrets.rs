//! Which parts of a value its schema marks as secret.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::REDACTED;
use super::shape::{Shape, address};

/// A schema with secrets, as far as it tells where they are. Followed along with a value, so that recursion has no
/// end of its own: a place that is reached is redacted however it is reached.
#[derive(Debug)]
pub(super) struct Secrets {
    nodes: Vec<Node>,
    root: usize,
}

/// One subschema; others are named by their number.
#[derive(Debug, Default)]
struct Node {
    secret: bool,
    /// Apply to the same place.
    same: Vec<usize>,
    /// Members by name; `None` for a schema that is only `true` or `false`.
    members: HashMap<String, Option<usize>>,
    /// Apply to members that are not named.
    others: Vec<usize>,
    /// Apply to any member.
    any_member: Vec<usize>,
    items: Vec<usize>,
}

impl Secrets {
    /// `None` when nothing is marked.
    pub(super) fn find(shape: &Shape<'_>, root: &Value, all: &[&Value]) -> Option<Self> {
        if !all.iter().any(|schema| is_secret(schema)) {
            return None;
        }
        let numbers: HashMap<usize, usize> = all.iter().enumerate().map(|(i, v)| (address(v), i)).collect();
        let number = |value: &Value| numbers.get(&address(value)).copied();
        let node = |schema: &&Value| {
            let objects = |keys: &[&str]| -> Vec<usize> {
                keys.iter().filter_map(|k| schema.get(*k)).filter_map(number).collect()
            };
            let lists = |keys: &[&str]| -> Vec<usize> {
                keys.iter().filter_map(|k| schema.get(*k)?.as_array()).flatten().filter_map(number).collect()
            };
            let maps = |keys: &[&str]| -> Vec<usize> {
                let maps = keys.iter().filter_map(|k| schema.get(*k)?.as_object());
                maps.flat_map(|m| m.values()).filter_map(number).collect()
            };
            let mut same = lists(&["allOf", "anyOf", "oneOf"]);
            same.extend(objects(&["if", "then", "else", "not"]));
            same.extend(maps(&["dependentSchemas", "dependencies"]));
            // References were checked with the shape.
            same.extend(shape.references(schema).into_iter().flatten().filter_map(number));
            let properties = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
            let mut items = objects(&["items", "additionalItems", "unevaluatedItems", "contains"]);
            items.extend(lists(&["items", "prefixItems"]));
            Node {
                secret: is_secret(schema),
                same,
                members: properties.map(|(name, part)| (name.clone(), number(part))).collect(),
                others: objects(&["additionalProperties", "unevaluatedProperties"]),
                any_member: maps(&["patternProperties"]),
                items,
            }
        };
        Some(Self { nodes: all.iter().map(node).collect(), root: number(root)? })
    }

    /// Replaces what is marked.
    pub(super) fn blank(&self, value: &mut Value) {
        self.blank_by(value, vec![self.root]);
    }

    /// The value's nesting, which its parser bounds, bounds the recursion.
    fn blank_by(&self, value: &mut Value, schemas: Vec<usize>) {
        let nodes = self.all_of(schemas);
        if nodes.iter().any(|node| node.secret) {
            *value = REDACTED.into();
            return;
        }
        match value {
            Value::Object(members) => {
                for (name, member) in members {
                    let mut below = Vec::new();
                    for node in &nodes {
                        match node.members.get(name) {
                            Some(named) => below.extend(named),
                            None => below.extend(&node.others),
                        }
                        below.extend(&node.any_member);
                    }
                    if !below.is_empty() {
                        self.blank_by(member, below);
                    }
                }
            }
            Value::Array(items) => {
                let below: Vec<usize> = nodes.iter().flat_map(|node| &node.items).copied().collect();
                if !below.is_empty() {
                    items.iter_mut().for_each(|item| self.blank_by(item, below.clone()));
                }
            }
            _ => {}
        }
    }

    /// These schemas and all that they apply to the same place, each once.
    fn all_of(&self, mut open: Vec<usize>) -> Vec<&Node> {
        let mut seen = HashSet::new();
        let mut nodes = Vec::new();
        while let Some(number) = open.pop() {
            if seen.insert(number) {
                open.extend(&self.nodes[number].same);
                nodes.push(&self.nodes[number]);
            }
        }
        nodes
    }
}

fn is_secret(schema: &Value) -> bool {
    ["writeOnly", "x-secret"].iter().any(|key| schema.get(*key).and_then(Value::as_bool) == Some(true))
}
