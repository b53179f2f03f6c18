//! `graph.*`: which operation's output fits which operation's input.

use std::collections::BTreeMap;

use super::{operation, wire};
use crate::OperationType;

wire! {
    /// Asks whether what one operation answers fits what another takes.
    pub struct CheckCompatible {
        /// Operation whose output it is about.
        from: String,
        /// Operation whose input it is about.
        to: String,
        /// Members of the input by the JSON Pointer of the output that fills each; without it the whole output is the
        /// input. Members that are not named must not be required.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mapping: Option<BTreeMap<String, String>>,
    }
    /// Whether they fit.
    pub struct Compatibility {
        /// Whether every output fits. Absent when a schema says too little to tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        compatible: Option<bool>,
        /// What does not fit, at most 100.
        mismatches: Vec<Mismatch>,
    }
    /// Something that does not fit.
    #[derive(Eq)]
    pub struct Mismatch {
        /// JSON Pointer into the input.
        path: String,
        /// Why.
        reason: String,
        /// What the input takes there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        expected: Option<String>,
        /// What the output has there.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        actual: Option<String>,
    }
    /// Reads the graph of the operations that the caller may call.
    #[derive(Default)]
    pub struct GetGraph {
        /// Only operations of this namespace and those below it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        namespace: Option<String>,
        /// Also edges between operations that don't fit, with what does not.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        include_incompatible: Option<bool>,
        /// From the previous page.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cursor: Option<String>,
    }
    /// A page of operations and how they fit together. Cycles are ordinary.
    pub struct OperationGraph {
        /// By id; all of them on the first page, none on others.
        nodes: Vec<GraphNode>,
        /// By ids.
        edges: Vec<GraphEdge>,
        /// Whether there are more than the 300 operations that are compared; a namespace narrows it.
        truncated: bool,
        /// For the next page of edges; absent on the last.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next_cursor: Option<String>,
    }
    /// One operation.
    pub struct GraphNode {
        /// Its id.
        id: String,
        /// Version that is meant.
        version: String,
        /// Query, mutation or subscription.
        r#type: OperationType,
    }
    /// What one operation answers, as input of another.
    pub struct GraphEdge {
        /// Operation that answers.
        from: String,
        /// Operation that takes it.
        to: String,
        /// Whether it fits.
        compatible: bool,
        /// What does not, at most 10.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        mismatches: Vec<Mismatch>,
    }
}

operation!(CheckCompatible => Compatibility, "graph.compatible", Query, [],
    "Tell whether what one operation answers fits what another takes, and where it does not.");
operation!(GetGraph => OperationGraph, "graph.operations", Query, [],
    "Read the graph of operations you may call, page by page: an edge where the output of one fits the input of another.");
