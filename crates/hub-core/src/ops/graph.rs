use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hub_operations::compat::{Verdict, carries, compare, compare_mapped};
use hub_operations::{Definition, RegistryBuilder};
use hub_protocol::ops::graph::{
    CheckCompatible, Compatibility, GetGraph, GraphEdge, GraphNode, Mismatch, OperationGraph,
};
use hub_protocol::{CallError, Json, OperationSpec};

use super::clients::actor;
use crate::CoreError;
use crate::ctx::Ctx;

/// Most operations of one graph: the pairs grow with its square.
const MAX_NODES: usize = 300;

/// Edges of one page, in bytes: it fits into a message with all nodes.
const PAGE: usize = 256 * 1024;

/// Most mismatches of one edge.
const MAX_MISMATCHES: usize = 10;

/// Pairs that are compared before others get their turn.
const AT_ONCE: usize = 200;

/// Verdicts on pairs of operations, for as long as nobody offers anything else.
#[derive(Default)]
pub(crate) struct Verdicts(Mutex<Known>);

#[derive(Default)]
struct Known {
    change: u64,
    of: HashMap<(String, String), Arc<Verdict>>,
}

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder.operation(compatible).operation(operations)
}

async fn compatible(ctx: Ctx, params: CheckCompatible) -> Result<Compatibility, CallError> {
    let (from, to) = (visible(&ctx, &params.from)?, visible(&ctx, &params.to)?);
    let (output, input) = (&from.spec().output_schema, &to.spec().input_schema);
    let found = match &params.mapping {
        Some(mapping) => compare_mapped(output, input, mapping),
        None => compare(output, input),
    };
    Ok(match found {
        Verdict::Fits => Compatibility { compatible: Some(true), mismatches: Vec::new() },
        Verdict::Unknown => Compatibility { compatible: None, mismatches: Vec::new() },
        Verdict::Misfits(mismatches) => Compatibility { compatible: Some(false), mismatches },
    })
}

async fn operations(ctx: Ctx, params: GetGraph) -> Result<OperationGraph, CallError> {
    let principal = actor(&ctx);
    let change = *ctx.hub().offers_changed().borrow();
    let mut specs = ctx.hub().callable(&principal, |spec| within(spec, params.namespace.as_deref()));
    specs.sort_by_key(OperationSpec::id);
    let truncated = specs.len() > MAX_NODES;
    specs.truncate(MAX_NODES);
    let first = params.cursor.as_deref().map_or(Ok(0), |cursor| pair_after(cursor, &specs))?;
    let (mut edges, mut bytes, mut next_cursor) = (Vec::<GraphEdge>::new(), 0, None);
    for n in first..specs.len() * specs.len() {
        if n % AT_ONCE == 0 {
            tokio::task::yield_now().await;
        }
        let (from, to) = (&specs[n / specs.len()], &specs[n % specs.len()]);
        let verdict = ctx.hub().verdicts().of(change, from, to);
        let Some(edge) = edge(from, to, &verdict, params.include_incompatible == Some(true)) else { continue };
        bytes += Json::from_serialize(&edge).map_or(0, |edge| edge.size());
        if let Some(last) = edges.last().filter(|_| bytes > PAGE) {
            next_cursor = Some(format!("{} {}", last.from, last.to));
            break;
        }
        edges.push(edge);
    }
    let node = |spec: &OperationSpec| GraphNode { id: spec.id(), version: spec.version.clone(), r#type: spec.kind };
    let nodes = if params.cursor.is_none() { specs.iter().map(node).collect() } else { Vec::new() };
    Ok(OperationGraph { nodes, edges, truncated, next_cursor })
}

/// Number of the first pair after the one that a cursor names; either may be gone by now.
fn pair_after(cursor: &str, specs: &[OperationSpec]) -> Result<usize, CoreError> {
    let pair = cursor.split_once(' ').ok_or_else(|| CoreError::Invalid("cursor: not one of a previous page".into()))?;
    let row = specs.partition_point(|spec| spec.id().as_str() < pair.0);
    let in_row = specs.get(row).filter(|spec| spec.id() == pair.0);
    let column = in_row.map_or(0, |_| specs.partition_point(|spec| spec.id().as_str() <= pair.1));
    Ok(row * specs.len() + column)
}

fn edge(from: &OperationSpec, to: &OperationSpec, verdict: &Verdict, also_misfits: bool) -> Option<GraphEdge> {
    let mismatches: Vec<Mismatch> = match verdict {
        Verdict::Unknown => return None,
        Verdict::Misfits(_) if !also_misfits => return None,
        Verdict::Misfits(found) => found.iter().take(MAX_MISMATCHES).cloned().collect(),
        Verdict::Fits => Vec::new(),
    };
    Some(GraphEdge { from: from.id(), to: to.id(), compatible: mismatches.is_empty(), mismatches })
}

impl Verdicts {
    /// Whether `from`'s output fits `to`'s input. Where it would fit because nothing of it is looked at there is
    /// nothing to tell: else every listing would lead to every operation whose input is optional.
    fn of(&self, change: u64, from: &OperationSpec, to: &OperationSpec) -> Arc<Verdict> {
        let pair = (format!("{}@{}", from.id(), from.version), format!("{}@{}", to.id(), to.version));
        {
            let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if known.change != change {
                *known = Known { change, of: HashMap::new() };
            }
            if let Some(verdict) = known.of.get(&pair) {
                return Arc::clone(verdict);
            }
        }
        let verdict = match compare(&from.output_schema, &to.input_schema) {
            Verdict::Fits if !carries(&from.output_schema, &to.input_schema) => Verdict::Unknown,
            other => other,
        };
        let verdict = Arc::new(shortened(verdict));
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.change == change && known.of.len() < 2 * MAX_NODES * MAX_NODES {
            known.of.insert(pair, Arc::clone(&verdict));
        }
        verdict
    }
}

/// Few mismatches are shown of an edge, and very many edges are remembered.
fn shortened(verdict: Verdict) -> Verdict {
    match verdict {
        Verdict::Misfits(found) => Verdict::Misfits(found.into_iter().take(MAX_MISMATCHES).collect()),
        other => other,
    }
}

fn within(spec: &OperationSpec, namespace: Option<&str>) -> bool {
    let id = spec.id();
    namespace.is_none_or(|outer| id.strip_prefix(outer).is_some_and(|rest| rest.starts_with('.')))
}

fn visible(ctx: &Ctx, id: &str) -> Result<Arc<Definition>, CallError> {
    let own = ctx.hub().registry().get(id).map(|entry| Arc::clone(entry.definition()));
    let definition = own.or_else(|| ctx.hub().directory().show(id));
    definition.filter(|d| d.is_visible_to(ctx.caller())).ok_or_else(|| Definition::not_found(id))
}
