//! The graph of operations as text, for Graphviz and for Mermaid.

use std::collections::BTreeMap;

use hub_protocol::ops::graph::{GraphEdge, OperationGraph};

use crate::output::clean;

pub(super) fn text(graph: &OperationGraph) -> String {
    let mut page = String::new();
    let mut by_source: BTreeMap<&str, Vec<&GraphEdge>> = BTreeMap::new();
    for edge in &graph.edges {
        by_source.entry(&edge.from).or_default().push(edge);
    }
    for (from, edges) in by_source {
        page.push_str(&format!("{}\n", clean(from)));
        for edge in edges {
            let sign = if edge.compatible { "->" } else { "-x" };
            page.push_str(&format!("  {sign} {}\n", clean(&edge.to)));
            for found in &edge.mismatches {
                let path = if found.path.is_empty() { "/" } else { &found.path };
                page.push_str(&format!("       {}: {}\n", clean(path), clean(&found.reason)));
            }
        }
    }
    page
}

pub(super) fn dot(graph: &OperationGraph) -> String {
    let mut page = String::from("digraph operations {\n  rankdir=LR;\n  node [shape=box];\n");
    for node in &graph.nodes {
        page.push_str(&format!("  {};\n", quoted(&node.id)));
    }
    for edge in &graph.edges {
        let style = if edge.compatible { "" } else { " [style=dashed, color=red]" };
        page.push_str(&format!("  {} -> {}{style};\n", quoted(&edge.from), quoted(&edge.to)));
    }
    page + "}\n"
}

pub(super) fn mermaid(graph: &OperationGraph) -> String {
    let mut page = String::from("flowchart LR\n");
    // Names of nodes may not hold what ids hold.
    let numbers: BTreeMap<&str, usize> =
        graph.nodes.iter().enumerate().map(|(n, node)| (node.id.as_str(), n)).collect();
    for (n, node) in graph.nodes.iter().enumerate() {
        page.push_str(&format!("  n{n}[{}]\n", quoted(&node.id)));
    }
    for edge in &graph.edges {
        let (Some(from), Some(to)) = (numbers.get(edge.from.as_str()), numbers.get(edge.to.as_str())) else { continue };
        page.push_str(&format!("  n{from} {} n{to}\n", if edge.compatible { "-->" } else { "-.->" }));
    }
    page
}

/// Ids have neither quotes nor backslashes; what a foreign hub sends may.
fn quoted(id: &str) -> String {
    format!("\"{}\"", clean(id).replace(['"', '\\'], "_"))
}

#[cfg(test)]
mod tests {
    use hub_protocol::OperationType;
    use hub_protocol::ops::graph::{GraphNode, Mismatch};

    use super::*;

    fn graph() -> OperationGraph {
        let node = |id: &str| GraphNode { id: id.into(), version: "1.0.0".into(), r#type: OperationType::Query };
        let found = Mismatch { path: "/x".into(), reason: "another type".into(), expected: None, actual: None };
        let edge = |from: &str, to: &str, mismatches: Vec<Mismatch>| GraphEdge {
            from: from.into(),
            to: to.into(),
            compatible: mismatches.is_empty(),
            mismatches,
        };
        OperationGraph {
            nodes: vec![node("a.x"), node("b.\"y")],
            edges: vec![edge("a.x", "b.\"y", vec![]), edge("b.\"y", "a.x", vec![found])],
            truncated: false,
            next_cursor: None,
        }
    }

    #[test]
    fn three_forms() {
        assert_eq!(text(&graph()), "a.x\n  -> b.\"y\nb.\"y\n  -x a.x\n       /x: another type\n");
        assert!(dot(&graph()).contains("\"a.x\" -> \"b._y\";\n  \"b._y\" -> \"a.x\" [style=dashed, color=red];\n}"));
        assert!(mermaid(&graph()).ends_with("  n1[\"b._y\"]\n  n0 --> n1\n  n1 -.-> n0\n"));
    }
}
