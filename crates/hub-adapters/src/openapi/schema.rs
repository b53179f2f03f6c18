//! Schemas of a document as JSON Schema 2020-12 within the limits of a registry.
//!
//! Every schema that something refers to is converted once; an operation gets those it reaches as `$defs`, the nearest
//! first, as long as they fit. What does not fit is left open, never wrong: a reference to it becomes `{}`.

mod keywords;

use std::cell::OnceCell;
use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;

use hub_operations::Schema;
use serde_json::{Map, Value, json};

use super::document::{Document, ImportError, flag, pointer_of};
use super::names::sanitised;

/// Most nesting of a schema with its definitions, below what a registry accepts (512).
const MAX_NESTING: usize = 480;

/// Largest root schema of which the whole is remembered: mostly a reference, such as that of every error.
const MAX_REMEMBERED: usize = 256;

/// Which way a value goes: a request has no `readOnly` members, a response no `writeOnly` ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Side {
    Input,
    Output,
}

impl Side {
    /// How a member is marked that only the other side has.
    pub(super) const fn other(self) -> &'static str {
        match self {
            Self::Input => "readOnly",
            Self::Output => "writeOnly",
        }
    }
}

/// A converted schema and the pointers of what it refers to.
#[derive(Debug, Clone)]
pub(super) struct Converted {
    pub(super) value: Value,
    pub(super) refs: Vec<Rc<str>>,
}

/// A definition with its measures.
struct Definition {
    value: Value,
    refs: Vec<Rc<str>>,
    height: usize,
    bytes: usize,
}

/// Converts the schemas of one document.
pub(super) struct Schemas<'a> {
    pub(super) document: &'a Document,
    definitions: HashMap<(Side, Rc<str>), Rc<Definition>>,
    /// Names under `$defs`, by pointer.
    names: HashMap<Rc<str>, String>,
    taken: HashSet<String>,
    /// Whether a pattern is one that the validator knows.
    patterns: HashMap<String, bool>,
    /// Whole schemas by their root, side and limit.
    assembled: HashMap<(String, Side, usize), Value>,
    /// Names of members with the mark of one side.
    read_only: OnceCell<HashSet<&'a str>>,
    write_only: OnceCell<HashSet<&'a str>>,
}

impl<'a> Schemas<'a> {
    pub(super) fn new(document: &'a Document) -> Self {
        Self {
            document,
            definitions: HashMap::new(),
            names: HashMap::new(),
            taken: HashSet::new(),
            patterns: HashMap::new(),
            assembled: HashMap::new(),
            read_only: OnceCell::new(),
            write_only: OnceCell::new(),
        }
    }

    /// Names of the members that carry a mark of one side anywhere in the document.
    fn of_one_side(&self, mark: &str) -> &HashSet<&'a str> {
        let names = if mark == Side::Input.other() { &self.read_only } else { &self.write_only };
        names.get_or_init(|| {
            let mut found = HashSet::new();
            marked(&self.document.root, mark, &mut found);
            found
        })
    }

    /// One schema of the document, its references kept.
    pub(super) fn convert(&mut self, schema: &Value, side: Side) -> Result<Converted, ImportError> {
        let mut refs = Vec::new();
        let value = self.keywords(schema, side, &mut refs)?;
        Ok(Converted { value, refs })
    }

    /// A root schema with what it reaches under `$defs`, checked to compile.
    pub(super) fn assemble(&mut self, root: Converted, side: Side, limit: usize) -> Result<Value, ImportError> {
        if size(&root.value) > MAX_REMEMBERED {
            return self.assemble_anew(root, side, limit);
        }
        let key = (root.value.to_string(), side, limit);
        if let Some(known) = self.assembled.get(&key) {
            return Ok(known.clone());
        }
        let whole = self.assemble_anew(root, side, limit)?;
        self.assembled.insert(key, whole.clone());
        Ok(whole)
    }

    fn assemble_anew(&mut self, root: Converted, side: Side, limit: usize) -> Result<Value, ImportError> {
        let Converted { value, refs } = root;
        if size(&value) > limit {
            return Ok(opened(value));
        }
        if refs.is_empty() {
            return Ok(if Schema::compile(&value).is_ok() { value } else { opened(value) });
        }
        let (included, left_out) = self.reach(&value, &refs, side, limit)?;
        let mut whole = value.clone();
        if let Some(object) = whole.as_object_mut().filter(|_| !included.is_empty()) {
            let defs = included.iter().map(|(pointer, definition)| {
                (self.names.get(pointer).cloned().unwrap_or_default(), definition.value.clone())
            });
            object.insert("$defs".to_owned(), Value::Object(defs.collect()));
        }
        if !left_out.is_empty() {
            let gone: HashSet<String> =
                left_out.iter().filter_map(|pointer| self.names.get(pointer)).cloned().collect();
            without_references(&mut whole, &|name| gone.contains(name));
        }
        if Schema::compile(&whole).is_ok() {
            return Ok(whole);
        }
        // References that lead back to themselves, or chains longer than a registry follows.
        let mut flat = value;
        without_references(&mut flat, &|_| true);
        Ok(if Schema::compile(&flat).is_ok() { flat } else { opened(flat) })
    }

    /// What a root reaches, nearest first, and what was left out because it would be too much.
    #[expect(clippy::type_complexity, reason = "two lists by pointer")]
    fn reach(
        &mut self,
        root: &Value,
        refs: &[Rc<str>],
        side: Side,
        limit: usize,
    ) -> Result<(Vec<(Rc<str>, Rc<Definition>)>, Vec<Rc<str>>), ImportError> {
        let root_height = height(root);
        let (mut tallest, mut nesting, mut bytes) = (0, 0, size(root));
        let (mut included, mut left_out) = (Vec::new(), Vec::new());
        let mut queue: VecDeque<Rc<str>> = refs.iter().cloned().collect();
        let mut seen: HashSet<Rc<str>> = HashSet::new();
        while let Some(pointer) = queue.pop_front() {
            if !seen.insert(Rc::clone(&pointer)) {
                continue;
            }
            let definition = self.definition(&pointer, side)?;
            let with_root = root_height.max(2 + tallest.max(definition.height));
            if with_root + nesting + definition.height > MAX_NESTING || bytes + definition.bytes > limit {
                left_out.push(pointer);
                continue;
            }
            tallest = tallest.max(definition.height);
            nesting += definition.height;
            bytes += definition.bytes;
            queue.extend(definition.refs.iter().cloned());
            included.push((pointer, definition));
        }
        Ok((included, left_out))
    }

    fn definition(&mut self, pointer: &Rc<str>, side: Side) -> Result<Rc<Definition>, ImportError> {
        let key = (side, Rc::clone(pointer));
        if let Some(known) = self.definitions.get(&key) {
            return Ok(Rc::clone(known));
        }
        let document = self.document;
        let schema = document.at(pointer, pointer)?;
        let Converted { value, refs } = self.convert(schema, side)?;
        let (height, bytes) = (height(&value), size(&value) + pointer.len());
        let definition = Rc::new(Definition { value, refs, height, bytes });
        self.definitions.insert(key, Rc::clone(&definition));
        Ok(definition)
    }

    /// The name under `$defs` of what a reference leads to.
    fn name_of(&mut self, reference: &str) -> Result<(Rc<str>, &str), ImportError> {
        let pointer: Rc<str> = pointer_of(reference)?.into();
        self.document.at(&pointer, reference)?;
        if !self.names.contains_key(&pointer) {
            let plain = pointer.strip_prefix("/components/schemas/").unwrap_or(&pointer);
            let mut name = sanitised(plain);
            if name.is_empty() || self.taken.contains(&name) {
                name = format!("{name}_{}", self.taken.len());
            }
            self.taken.insert(name.clone());
            self.names.insert(Rc::clone(&pointer), name);
        }
        let name = self.names.get(&pointer).map_or("", String::as_str);
        Ok((pointer, name))
    }

    /// Whether the validator can use a pattern: documents have those of JavaScript, with looking ahead and behind.
    fn knows_pattern(&mut self, pattern: &str) -> bool {
        if let Some(known) = self.patterns.get(pattern) {
            return *known;
        }
        let known = pattern.len() <= 1_000 && Schema::compile(&json!({ "pattern": pattern })).is_ok();
        self.patterns.insert(pattern.to_owned(), known);
        known
    }
}

fn marked<'a>(value: &'a Value, mark: &str, found: &mut HashSet<&'a str>) {
    let properties = value.get("properties").and_then(Value::as_object).into_iter().flatten();
    found.extend(properties.filter(|(_, schema)| flag(schema, mark) == Some(true)).map(|(name, _)| name.as_str()));
    match value {
        Value::Object(members) => members.values().for_each(|member| marked(member, mark, found)),
        Value::Array(items) => items.iter().for_each(|item| marked(item, mark, found)),
        _ => {}
    }
}

/// The schema with its properties left open, for one that no registry takes otherwise.
fn opened(schema: Value) -> Value {
    let Value::Object(mut members) = schema else {
        return Value::Bool(true);
    };
    let mut open = Map::new();
    if let Some(Value::Object(properties)) = members.remove("properties") {
        let names = properties.into_iter().map(|(name, value)| {
            let secret = holds_secret(&value);
            (name, if secret { json!({ "writeOnly": true }) } else { Value::Bool(true) })
        });
        open.insert("properties".to_owned(), names.collect::<Map<_, _>>().into());
    }
    let kept = ["type", "required", "additionalProperties", "description"];
    open.extend(
        kept.iter()
            .filter_map(|key| members.remove_entry(*key))
            .filter(|(key, value)| key != "additionalProperties" || value.is_boolean()),
    );
    Value::Object(open)
}

/// Whether anything in a schema is not to be recorded.
fn holds_secret(schema: &Value) -> bool {
    match schema {
        Value::Object(members) => {
            let marked = ["x-secret", "writeOnly"].iter().any(|mark| members.get(*mark) == Some(&Value::Bool(true)));
            marked || members.values().any(holds_secret)
        }
        Value::Array(items) => items.iter().any(holds_secret),
        _ => false,
    }
}

/// Takes references away; what stood beside them stays.
fn without_references(value: &mut Value, gone: &impl Fn(&str) -> bool) {
    match value {
        Value::Object(members) => {
            let name = members.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix("#/$defs/"));
            if name.is_some_and(gone) {
                members.remove("$ref");
            }
            members.values_mut().for_each(|member| without_references(member, gone));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| without_references(item, gone)),
        _ => {}
    }
}

/// How deep a value nests; the parser of the document has bounded it.
fn height(value: &Value) -> usize {
    let below = match value {
        Value::Object(members) => members.values().map(height).max(),
        Value::Array(items) => items.iter().map(height).max(),
        _ => None,
    };
    1 + below.unwrap_or(0)
}

/// About as many bytes as its text has.
fn size(value: &Value) -> usize {
    match value {
        Value::Object(members) => members.iter().map(|(key, member)| key.len() + 4 + size(member)).sum::<usize>() + 2,
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 2,
        Value::String(text) => text.len() + 2,
        _ => 5,
    }
}

#[cfg(test)]
mod tests;
