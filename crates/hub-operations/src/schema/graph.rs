//! Follows a schema along a value: which parts it marks as secret, and how often it looks at them all.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::REDACTED;
use super::shape::{Shape, address, height};

/// A schema's parts and how they lead to each other. Followed along with a value, so that recursion has no end of its
/// own: a place that is reached is redacted however it is reached.
#[derive(Debug)]
pub(super) struct Graph {
    nodes: Vec<Node>,
    root: usize,
    secrets: bool,
    /// At most so many times the looks at a value are looks at one of its parts.
    growth: usize,
}

/// How often all parts of one value may be looked at in all. Schemas that recur in several ways multiply with each
/// level of the value, so that a few hundred bytes could keep a processor busy for years.
pub(super) const MAX_LOOKS: usize = 1_000_000;

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
    /// Apply to the first items, one each.
    first: Vec<usize>,
    /// Apply to any item.
    items: Vec<usize>,
}

impl Graph {
    /// `None` when nothing is secret and nothing grows with the value's nesting.
    pub(super) fn of(shape: &Shape<'_>, root: &Value, all: &[&Value]) -> Option<Self> {
        let secrets = all.iter().any(|schema| is_secret(schema));

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
            Node {
                secret: is_secret(schema),
                same,
                members: properties.map(|(name, part)| (name.clone(), number(part))).collect(),
                others: objects(&["additionalProperties", "unevaluatedProperties"]),
                any_member: maps(&["patternProperties"]),
                first: lists(&["prefixItems"]),
                items: objects(&["items", "additionalItems", "unevaluatedItems", "contains"]),
            }
        };
        let nodes: Vec<Node> = all.iter().map(node).collect();
        let growth = shape.growth() * nodes.iter().map(Node::ways_down).max().unwrap_or(1);
        (secrets || growth > 1).then_some(Self { nodes, root: number(root)?, secrets, growth })
    }

    /// Whether anything is marked as secret.
    pub(super) fn has_secrets(&self) -> bool {
        self.secrets
    }

    /// Whether checking a value, `bytes` long, might look at its parts more than [`MAX_LOOKS`] times.
    pub(super) fn is_explosive(&self, value: &Value, bytes: usize) -> bool {
        // Large values are looked at often, too, but not more often than they are large.
        let most = MAX_LOOKS.max(bytes);
        let worst = u32::try_from(height(value)).ok().and_then(|height| self.growth.checked_pow(height));
        // Nearly all values end here.
        if worst.and_then(|worst| worst.checked_mul(bytes)).is_some_and(|worst| worst <= most) {
            return false;
        }
        let mut left = most;
        !self.look(value, self.root, &mut left)
    }

    /// Goes where a validator might go; false once nothing is `left`.
    fn look(&self, value: &Value, at: usize, left: &mut usize) -> bool {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let node = &self.nodes[at];
        let below = match value {
            Value::Object(members) => members.iter().all(|(name, member)| {
                let named: &mut dyn Iterator<Item = &usize> = match node.members.get(name) {
                    Some(named) => &mut named.iter(),
                    None => &mut node.others.iter(),
                };
                named.chain(&node.any_member).all(|part| self.look(member, *part, left))
            }),
            Value::Array(items) => items.iter().enumerate().all(|(place, item)| {
                node.items.iter().chain(node.first.get(place)).all(|part| self.look(item, *part, left))
            }),
            _ => true,
        };
        below && node.same.iter().all(|part| self.look(value, *part, left))
    }

    /// Replaces what is marked, and perhaps what has no name where others have one.
    pub(super) fn blank(&self, value: &mut Value, unnamed: bool) {
        self.blank_by(value, vec![self.root], unnamed);
    }

    /// The value's nesting, which its parser bounds, bounds the recursion.
    fn blank_by(&self, value: &mut Value, schemas: Vec<usize>, unnamed: bool) {
        let nodes = self.all_of(schemas);
        if nodes.iter().any(|node| node.secret) {
            *value = REDACTED.into();
            return;
        }
        match value {
            Value::Object(members) => {
                let listed = nodes.iter().any(|node| !node.members.is_empty());
                let named = |node: &&Node, name: &str| node.members.contains_key(name) || !node.any_member.is_empty();
                for (name, member) in members {
                    if unnamed && listed && !nodes.iter().any(|node| named(node, name)) {
                        *member = REDACTED.into();
                        continue;
                    }
                    let mut below = Vec::new();
                    for node in &nodes {
                        match node.members.get(name) {
                            Some(named) => below.extend(named),
                            None => below.extend(&node.others),
                        }
                        below.extend(&node.any_member);
                    }
                    if !below.is_empty() {
                        self.blank_by(member, below, unnamed);
                    }
                }
            }
            Value::Array(items) => {
                let below: Vec<usize> =
                    nodes.iter().flat_map(|node| node.items.iter().chain(&node.first)).copied().collect();
                if !below.is_empty() {
                    items.iter_mut().for_each(|item| self.blank_by(item, below.clone(), unnamed));
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

impl Node {
    /// In how many ways at most it leads to one part of a value.
    fn ways_down(&self) -> usize {
        let named = usize::from(!self.members.is_empty() || !self.others.is_empty());
        let first = usize::from(!self.first.is_empty());
        (named.max(self.others.len()) + self.any_member.len()).max(first + self.items.len()).max(1)
    }
}

fn is_secret(schema: &Value) -> bool {
    ["writeOnly", "x-secret"].iter().any(|key| schema.get(*key).and_then(Value::as_bool) == Some(true))
}
