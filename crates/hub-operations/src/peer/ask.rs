use std::time::Duration;

use hub_protocol::ops::Operation;
use hub_protocol::{CallError, CallRequested, ErrorCode, Json, ResponseEnvelope};
use uuid::Uuid;

use super::{Peer, Pending};
use crate::now_ms;

/// Longest wait for an answer.
const WITHIN: Duration = Duration::from_secs(30);

impl Peer {
    /// Most bytes of a message to the other side.
    pub(crate) fn message_bytes(&self) -> usize {
        self.inner.config.message_bytes
    }

    /// Calls an operation of the other side itself and waits up to 30 s for its answer.
    ///
    /// # Errors
    /// As [`Peer::start`], `TIMEOUT`, or what the other side answers.
    pub async fn ask<O: Operation>(&self, params: &O) -> Result<O::Reply, CallError> {
        let failed = |e: serde_json::Error| CallError::new(ErrorCode::ExecutionError, format!("{}: {e}", O::ID));
        let input = Json::from_serialize(params).map_err(failed)?;
        let mut request = CallRequested::new(Uuid::new_v4().to_string(), O::ID, input);
        request.deadline = Some(now_ms().saturating_add(u64::try_from(WITHIN.as_millis()).unwrap_or(u64::MAX)));
        let answered = async {
            let mut pending = self.start(&request, true).await?;
            pending.next().await.map_err(Pending::error_of)
        };
        let timeout = |_| CallError::new(ErrorCode::Timeout, format!("{} was not answered within {WITHIN:?}", O::ID));
        let envelope = tokio::time::timeout(WITHIN, answered).await.map_err(timeout)??;
        let no_envelope = |_| CallError::new(ErrorCode::ExecutionError, format!("{}: no response envelope", O::ID));
        ResponseEnvelope::data_of(&envelope).map_err(no_envelope)?.parse().map_err(failed)
    }
}
