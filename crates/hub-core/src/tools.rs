//! Operations that are tools of their own in MCP hosts: which, and under what names.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use hub_operations::Definition;
use hub_protocol::OperationSpec;
use hub_protocol::ops::hub::{MAX_TOOLS, MCP_TOOLS};
use sha2::{Digest, Sha256};

use crate::directory::Provider;
use crate::hub::Hub;
use crate::key::Principal;
use crate::topics::Pattern;

/// Longest name of a tool that all known hosts take.
const MAX_NAME: usize = 64;

/// An operation that is a tool of its own.
#[derive(Debug, Clone)]
pub struct Tool {
    /// What hosts call it: 1 to 64 of `A-Z a-z 0-9 _ -`.
    pub name: String,
    /// The operation.
    pub definition: Arc<Definition>,
}

/// Whether an operation asks to be a tool for whoever may call it.
pub(crate) fn asks(spec: &OperationSpec) -> bool {
    wish(spec, "tool").and_then(serde_json::Value::as_bool) == Some(true)
}

fn wish<'a>(spec: &'a OperationSpec, member: &str) -> Option<&'a serde_json::Value> {
    spec.meta.as_ref()?.get("mcp")?.get(member)
}

impl Hub {
    /// The operations that are tools of their own for `principal`, of those that it may call now: at most
    /// [`MAX_TOOLS`], the hub's own first, each part by id.
    ///
    /// An operation is one when it asks for it (`_meta.mcp.tool`), or when the key in use says so.
    #[must_use]
    pub fn tools(&self, principal: &Principal) -> Vec<Tool> {
        let known = self.known_tools(principal);
        let names = names(&known);
        let named = known.into_iter().zip(names).filter(|(candidate, _)| candidate.active);
        let mut shown = in_turns(named.collect());
        if shown.len() > MAX_TOOLS {
            tracing::debug!(operations = shown.len(), shown = MAX_TOOLS, "more operations than an MCP host is shown");
            shown.truncate(MAX_TOOLS);
        }
        shown.sort_by(|(a, _), (b, _)| (!a.own, a.definition.id()).cmp(&(!b.own, b.definition.id())));
        shown.into_iter().map(|(candidate, name)| Tool { name, definition: candidate.definition }).collect()
    }

    /// Also those that nobody provides now: a name does not change hands when its holder goes.
    fn known_tools(&self, principal: &Principal) -> Vec<Candidate> {
        let patterns = principal.key.iter().flat_map(|key| &key.tools);
        let patterns: Vec<Pattern> = patterns.filter_map(|text| Pattern::parse(text).ok()).collect();
        let candidate = |definition: &Arc<Definition>| {
            let chosen = patterns.iter().any(|pattern| pattern.matches(definition.id()));
            let wanted = (chosen || asks(definition.spec())) && definition.input().takes_objects();
            let definition = Arc::clone(definition);
            wanted.then_some(Candidate { definition, chosen, own: true, active: true, providers: Vec::new() })
        };
        let own = self.registry().iter().map(|entry| entry.definition());
        let own = own.filter(|d| d.is_visible_to(&principal.identity)).filter_map(candidate);
        let mut all: Vec<Candidate> = own.collect();
        for offered in self.directory().visible(&principal.identity) {
            let Some(version) = offered.shown() else { continue };
            let active = !version.providers.is_empty();
            let with = |c| Candidate { own: false, active, providers: version.providers.clone(), ..c };
            all.extend(candidate(&version.definition).map(with));
        }
        all
    }
}

/// What may become a tool.
struct Candidate {
    definition: Arc<Definition>,
    /// Whether the key says so.
    chosen: bool,
    /// Whether it is the hub's own.
    own: bool,
    active: bool,
    providers: Vec<Provider>,
}

impl Candidate {
    fn groups(&self, of: impl Fn(&Provider) -> Arc<str>) -> HashSet<Arc<str>> {
        match self.own {
            true => HashSet::from(["".into()]),
            false => self.providers.iter().map(of).collect(),
        }
    }
}

/// What the key has chosen comes first. Then the owners of spokes take turns, and in those of an owner its spokes, so
/// that the many tools of one do not leave another out.
fn in_turns(mut tools: Vec<(Candidate, String)>) -> Vec<(Candidate, String)> {
    tools.sort_by_cached_key(|(c, _)| (Reverse(c.chosen), c.definition.id().to_owned()));
    for of in [|p: &Provider| Arc::clone(&p.spoke.name), |p: &Provider| Arc::clone(&p.spoke.owner)] {
        let mut turns = turns(tools.iter().map(|(c, _)| c.groups(of))).into_iter();
        let mut ranked: Vec<_> = tools.into_iter().map(|tool| (turns.next(), tool)).collect();
        // Stable: within a turn they stay by id.
        ranked.sort_by_key(|(turn, (c, _))| (Reverse(c.chosen), *turn));
        tools = ranked.into_iter().map(|(_, tool)| tool).collect();
    }
    tools
}

/// The how-manieth each tool is of its group; where it has several, in the one that puts it first.
fn turns(groups: impl Iterator<Item = HashSet<Arc<str>>>) -> Vec<usize> {
    let mut before: HashMap<Arc<str>, usize> = HashMap::new();
    let mut turn = |group: Arc<str>| {
        let count = before.entry(group).or_default();
        *count += 1;
        *count
    };
    groups.map(|of_tool| of_tool.into_iter().map(&mut turn).min().unwrap_or_default()).collect()
}

/// A name for each: the one that it asks for (`_meta.mcp.name`), unless another tool has it or asks for it, too; else the
/// one that its id makes, which no other operation can get.
fn names(tools: &[Candidate]) -> Vec<String> {
    let of_ids: Vec<String> = tools.iter().map(|c| name_of(c.definition.id())).collect();
    let mut takers: HashMap<&str, usize> = MCP_TOOLS.iter().copied().map(|name| (name, 1)).collect();
    for name in of_ids.iter().map(String::as_str).chain(tools.iter().filter_map(asked_name)) {
        *takers.entry(name).or_default() += 1;
    }
    let asked = |tool| asked_name(tool).filter(|name| takers.get(name) == Some(&1));
    tools.iter().zip(&of_ids).map(|(tool, of_id)| asked(tool).unwrap_or(of_id).to_owned()).collect()
}

fn asked_name(tool: &Candidate) -> Option<&str> {
    let name = wish(tool.definition.spec(), "name")?.as_str()?;
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    (plain && (1..=MAX_NAME).contains(&name.len())).then_some(name)
}

/// The tool name of an id, different for different ids: `_` for a dot, `__` for `_`. Where that would be ambiguous or too
/// long, a hash of the id and its end.
fn name_of(id: &str) -> String {
    let clear = id.split('.').all(|segment| !segment.starts_with('_') && !segment.ends_with('_'));
    let name = id.replace('_', "__").replace('.', "_");
    if clear && name.len() <= MAX_NAME {
        return name;
    }
    let hash: String = Sha256::digest(id.as_bytes())[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    // No name of the first kind begins like this. The end of an id says more than its beginning.
    let room = MAX_NAME - hash.len() - 2;
    format!("_{hash}_{}", &name[name.len().saturating_sub(room)..])
}

#[cfg(test)]
mod tests;
