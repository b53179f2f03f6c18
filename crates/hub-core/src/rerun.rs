//! Running a recorded call again while its nested calls are answered from the record.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use hub_operations::now_ms;
use hub_protocol::ops::calls::Divergence;
use hub_protocol::{CallError, CallId, ErrorCode, Json, ResponseEnvelope};
use hub_storage::CallRow;
use serde_json::Value;

use crate::live::LiveCall;

/// The record that a rerun is held against.
pub(crate) struct Rerun {
    /// The new call that stands for the recorded root; the first that is admitted.
    root: OnceLock<CallId>,
    state: Mutex<State>,
}

struct State {
    /// Recorded children of the root in order; taken as the rerun makes the same calls.
    nested: Vec<Option<CallRow>>,
    made: u64,
    divergence: Option<Divergence>,
}

impl Rerun {
    pub(crate) fn new(nested: Vec<CallRow>) -> Self {
        let nested = nested.into_iter().map(Some).collect();
        Self { root: OnceLock::new(), state: Mutex::new(State { nested, made: 0, divergence: None }) }
    }

    /// Whether the call is answered from the record: all but the new root are.
    pub(crate) fn covers(&self, live: &LiveCall) -> bool {
        *self.root.get_or_init(|| live.id) != live.id
    }

    /// The new root, once it was admitted.
    pub(crate) fn root(&self) -> Option<CallId> {
        self.root.get().copied()
    }

    /// The recorded answer to a nested call with the same operation and input.
    pub(crate) fn answer(&self, live: &LiveCall) -> Result<Json, CallError> {
        let mut state = self.lock();
        state.made += 1;
        let operation = live.definition.id();
        let input = live.input.text.as_ref().and_then(value);
        let same = |row: &CallRow| {
            row.operation_id == operation
                && row.input.as_ref().and_then(value) == input
                && row.input_hash == live.input.hash
                // Of a large one with secrets neither is there to tell it from another.
                && (input.is_some() || row.input_hash.is_some())
        };
        let found = state.nested.iter().position(|row| row.as_ref().is_some_and(same));
        let Some(row) = found.and_then(|at| state.nested[at].take()) else {
            let expected = state.nested.iter().flatten().next().map(|row| row.operation_id.clone());
            let position = state.made;
            state.diverge(Divergence {
                position,
                recorded: expected,
                actual: Some(operation.to_owned()),
                message: "the rerun made a nested call that the record does not have".into(),
            });
            return Err(CallError::new(ErrorCode::Conflict, "the rerun has left the record"));
        };
        drop(state);
        recorded_answer(&row)
    }

    /// Compares the results and answers the first divergence of the whole rerun.
    pub(crate) fn verdict(&self, recorded: &CallRow, result: &Result<Json, CallError>) -> Option<Divergence> {
        let mut state = self.lock();
        if let Some(row) = state.nested.iter().flatten().next() {
            let (position, recorded) = (state.made + 1, Some(row.operation_id.clone()));
            let message = "the record has a nested call that the rerun did not make".into();
            state.diverge(Divergence { position, recorded, actual: None, message });
        }
        let (was, is) = match (recorded.output.as_ref(), result) {
            (Some(output), Ok(data)) => (value(output), value(data)),
            (_, Ok(data)) => (None, value(data)),
            (was, Err(_)) => (was.and_then(value), None),
        };
        let error_was = recorded.error.as_ref().and_then(|e| e.parse::<CallError>().ok()).map(|e| e.code);
        let error_is = result.as_ref().err().map(|e| e.code.clone());
        if was != is || error_was != error_is {
            let shown = |v: Option<Value>, e: Option<String>| e.or_else(|| v.map(|v| clip(&v.to_string())));
            state.diverge(Divergence {
                position: 0,
                recorded: shown(was, error_was),
                actual: shown(is, error_is),
                message: "the rerun ended differently".into(),
            });
        }
        state.divergence.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn diverge(&mut self, divergence: Divergence) {
        self.divergence.get_or_insert(divergence);
    }
}

fn recorded_answer(row: &CallRow) -> Result<Json, CallError> {
    if let Some(error) = row.error.as_ref().and_then(|e| e.parse().ok()) {
        return Err(error);
    }
    match &row.output {
        Some(output) => Ok(ResponseEnvelope::local(&row.operation_id, now_ms(), output.clone()).to_json()),
        None => Err(CallError::new(ErrorCode::Conflict, "the record does not hold this call's output")),
    }
}

fn value(text: &Json) -> Option<Value> {
    text.parse().ok()
}

fn clip(text: &str) -> String {
    text.chars().take(200).collect()
}
