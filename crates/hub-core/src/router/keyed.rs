//! Idempotency: `(principal, operation, key)` names one execution for 24 hours (protocol §4).

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use hub_protocol::{CallError, ErrorCode, Json, OperationType, ResponseEnvelope};
use hub_storage::{EdgeRow, IdempotencyRow, KeyedOutcome, Stamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Run;
use crate::CoreError;
use crate::recorder::Change;

/// How long a key names its execution, in milliseconds.
const KEEP_MS: u64 = 24 * 3600 * 1000;

/// Longest key, in bytes.
const MAX_KEY: usize = 255;

/// How often a running execution is looked for again when it ended without an outcome.
const TRIES: usize = 3;

/// How often an execution on another hub is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Age of a claimed key, in milliseconds, at which a call without a record will not come any more.
const UNRECORDED_MS: u64 = 5_000;

/// What a key leads to.
pub(super) enum Begun {
    /// This call is the execution (or has no key).
    Run(Box<Run>),
    /// The execution has ended like this.
    Known(Box<Run>, Outcome),
}

/// A stored result: one of the two.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Outcome {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response: Option<Json>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<CallError>,
}

impl Run {
    /// Claims the key, attaches to the call that holds it, or finds its stored result.
    pub(super) async fn begin_keyed(mut self) -> Result<Begun, Box<(Self, CallError)>> {
        let Some(key) = self.request().idempotency_key.clone() else {
            return Ok(Begun::Run(Box::new(self)));
        };
        match self.claim(key).await {
            Ok(None) => Ok(Begun::Run(Box::new(self))),
            Ok(Some(outcome)) => Ok(Begun::Known(Box::new(self), outcome)),
            Err(error) => Err(Box::new((self, error))),
        }
    }

    async fn claim(&mut self, key: String) -> Result<Option<Outcome>, CallError> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(CallError::new(
                ErrorCode::ValidationError,
                format!("an idempotency key has 1 to {MAX_KEY} bytes"),
            ));
        }
        if self.kind() == OperationType::Subscription {
            return Err(CallError::new(ErrorCode::ValidationError, "a subscription takes no idempotency key"));
        }
        let key = stored_key(key);
        let input_hash = hash_of(&self.request().input);
        let mut tries = 0;
        while tries < TRIES {
            let now = Stamp::now();
            let row = IdempotencyRow {
                principal: self.live().caller.id.clone(),
                operation_id: self.live().definition.id().to_owned(),
                key: key.clone(),
                call_id: self.call_id(),
                input_hash: input_hash.clone(),
                outcome: None,
                created_at: now,
                expires_at: now.plus_millis(KEEP_MS),
            };
            let store = self.hub().store().clone();
            let begun = store.idempotency().begin(row, now).await.map_err(CoreError::from)?;
            let hub_storage::Begun::Existing(found) = begun else {
                self.hold_key(key);
                return Ok(None);
            };
            if found.input_hash != input_hash {
                return Err(CallError::new(ErrorCode::Conflict, "this idempotency key was used with another input")
                    .with_details(&serde_json::json!({ "callId": found.call_id })));
            }
            // Taken before the edge is written: who is seen to depend on a call shares its end.
            let running = self.hub().calls().get(found.call_id);
            self.depends_on(found.call_id).await;
            if let Some(outcome) = found.outcome {
                return outcome.parse().map(Some).map_err(|_| unreadable());
            }
            match running {
                // Its end is followed by its outcome in the store, or by the key being free again.
                Some(running) => {
                    tries += 1;
                    self.wait_for(&running).await?;
                }
                None if self.runs_elsewhere(&found).await? => self.pause(LOOK_EVERY).await?,
                None => {
                    tries += 1;
                    let id = (&found.principal, &found.operation_id, &found.key);
                    store.idempotency().release(id.0, id.1, id.2, found.call_id).await.map_err(CoreError::from)?;
                }
            }
        }
        Err(CallError::new(ErrorCode::Conflict, "the call with this idempotency key has not settled")
            .with_retryable(true))
    }

    /// Whether another hub may be at it. If that hub is lost, the spoke that had the call is the one to ask again.
    async fn runs_elsewhere(&mut self, found: &IdempotencyRow) -> Result<bool, CallError> {
        let store = self.hub().store().clone();
        let row = store.calls().get(found.call_id).await.map_err(CoreError::from)?;
        let clustered = self.hub().cluster().is_some();
        let Some(row) = row else {
            // It is recorded before it is given to a spoke, so without a record nothing has happened, unless its hub
            // is just about to.
            let age = Stamp::now().millis().saturating_sub(found.created_at.millis());
            return Ok(clustered && age < UNRECORDED_MS);
        };
        if clustered && row.completed_at.is_none() && row.hub_id != self.hub().id() {
            let hubs = store.hubs().list().await.map_err(CoreError::from)?;
            if hubs.iter().any(|hub| hub.id == row.hub_id) {
                return Ok(true);
            }
        }
        if let Some(spoke) = row.spoke {
            self.prefer(&spoke).await;
        }
        Ok(false)
    }

    /// Waits, unless the call ends first.
    async fn pause(&mut self, pause: Duration) -> Result<(), CallError> {
        let left = self.live().deadline.map_or(Duration::MAX, hub_operations::until);
        if left <= pause {
            tokio::time::sleep(left).await;
            return Err(still_running());
        }
        tokio::select! {
            () = self.live().stop.fired() => Err(CallError::new(ErrorCode::Aborted, "the call was aborted")),
            () = self.leash().abort.fired() => Err(CallError::new(ErrorCode::Aborted, "the call was aborted")),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }

    /// Shows in the record that this call's result is the other one's.
    async fn depends_on(&mut self, other: hub_protocol::CallId) {
        let edge = EdgeRow { source: self.call_id(), target: other, kind: "depends_on".to_owned() };
        if self.hub().recorder().write(Change::Edge(edge)).await.is_err() {
            tracing::warn!("an edge was not recorded: the hub is closing");
        }
    }

    async fn wait_for(&mut self, running: &Arc<crate::live::LiveCall>) -> Result<(), CallError> {
        let deadline = self.live().deadline.map_or(Duration::MAX, hub_operations::until);
        tokio::select! {
            // Who has attached shares the failure. An abort is its caller's own: then the next one runs it.
            _ = running.finished() => match running.failure() {
                Some(error) if !error.is(ErrorCode::Aborted) => Err(error.clone()),
                _ => Ok(()),
            },
            () = self.live().stop.fired() => Err(CallError::new(ErrorCode::Aborted, "the call was aborted")),
            () = self.leash().abort.fired() => Err(CallError::new(ErrorCode::Aborted, "the call was aborted")),
            () = tokio::time::sleep(deadline.min(Duration::from_secs(86_400))) => Err(still_running()),
        }
    }

    /// What is stored under the key once the call has ended; `None` frees the key, so that a retry runs again.
    pub(super) fn keyed_outcome(&self, key: &str, result: &Result<Json, CallError>) -> Option<KeyedOutcome> {
        if !self.is_recorded() {
            // Nobody could tell later what it has answered: its key is free with its end.
            return None;
        }
        let outcome = match result {
            Ok(envelope) => Outcome { response: Some(self.redacted_envelope(envelope)), error: None },
            // Nothing is known of the effect, or nothing happened: the retry decides.
            Err(error) if error.retryable || error.is(ErrorCode::Aborted) || error.is(ErrorCode::SpokeDisconnected) => {
                return None;
            }
            Err(error) => Outcome { response: None, error: Some(crate::redact::error(error)) },
        };
        Some(KeyedOutcome {
            principal: self.live().caller.id.clone(),
            operation_id: self.live().definition.id().to_owned(),
            key: key.to_owned(),
            outcome: Json::from_serialize(&outcome).unwrap_or_default(),
        })
    }

    /// Secrets of a first answer are not given again: they were never stored.
    fn redacted_envelope(&self, envelope: &Json) -> Json {
        let Ok(data) = ResponseEnvelope::data_of(envelope) else { return Json::null() };
        let redacted = crate::redact::output_of(self.live().gives.as_deref(), &data);
        let text = if redacted == data {
            envelope.clone()
        } else {
            match envelope.parse::<ResponseEnvelope>() {
                Ok(parsed) => ResponseEnvelope { data: redacted, meta: parsed.meta }.to_json(),
                Err(_) => Json::null(),
            }
        };
        crate::redact::keys_in_json(&text)
    }
}

fn still_running() -> CallError {
    CallError::new(ErrorCode::Timeout, "the call with this idempotency key is still running")
}

fn unreadable() -> CallError {
    CallError::new(ErrorCode::ExecutionError, "the stored result is not readable")
}

/// A key of the hub that somebody uses for this must not stay in the store.
fn stored_key(key: String) -> String {
    match crate::redact::keys_in_text(&key) {
        Cow::Borrowed(_) => key,
        Cow::Owned(_) => format!("sha256:{}", crate::redact::hex(&Sha256::digest(key.as_bytes()))),
    }
}

/// The same value in another spelling (spaces, member order) has the same hash.
fn hash_of(input: &Json) -> Vec<u8> {
    let canonical = input.parse::<Value>().map_or_else(|_| input.as_str().to_owned(), |v| v.to_string());
    Sha256::digest(canonical.as_bytes()).to_vec()
}
