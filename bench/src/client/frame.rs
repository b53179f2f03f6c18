//! The messages on the wire. Ids stand at a fixed place, so that no client and no relay need parse JSON.

use anyhow::{Context, Result};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

/// Beginning of a request, up to its id.
const REQUEST: &str = r#"{"type":"call.requested","id":"","payload":{"requestId":""#;

/// Beginning of a response, up to its id; so the hub writes it too.
const RESPONSE: &str = r#"{"type":"call.responded","id":"","payload":{"requestId":""#;

/// What every call answers: a response envelope.
pub(crate) const ENVELOPE: &str = concat!(
    r#"{"data":{"text":"the answer, some fifty bytes of it","n":7},"#,
    r#""meta":{"source":"local","operationId":"bench.look","timestamp":1700000000000}}"#
);

/// What every call is asked.
pub(crate) const INPUT: &str = r#"{"text":"the question, some fifty bytes of it","n":42}"#;

/// As the hub's own connections.
pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default().read_buffer_size(8 * 1024).write_buffer_size(16 * 1024)
}

/// A request of a lane's slot: `0003-0017-00000042` is lane 3, slot 17, round 42.
pub(crate) fn request(lane: u16, slot: usize, round: u32, operation: &str) -> String {
    request_with(lane, slot, round, operation, INPUT)
}

/// As [`request`], with another input.
pub(crate) fn request_with(lane: u16, slot: usize, round: u32, operation: &str, input: &str) -> String {
    format!(r#"{REQUEST}{lane:04}-{slot:04}-{round:08}","operationId":"{operation}","input":{input}}}}}"#)
}

/// The response to the request with this id.
pub(crate) fn response(id: &str) -> String {
    [RESPONSE, id, r#"","output":"#, ENVELOPE, "}}"].concat()
}

/// The id of a request.
pub(crate) fn id_of_request(text: &str) -> Option<&str> {
    text.strip_prefix(REQUEST)?.split('"').next()
}

/// The slot that a response answers.
///
/// # Errors
/// When it is no response: the text shows what it is.
pub(crate) fn slot_of_response(text: &str) -> Result<usize> {
    let id = text.strip_prefix(RESPONSE).and_then(|rest| rest.get(5..9));
    id.and_then(|id| id.parse().ok()).with_context(|| format!("expected a response, got {text:.300}"))
}

/// The lane that made a request.
pub(crate) fn lane_of_request(text: &[u8]) -> u16 {
    lane(text.get(REQUEST.len()..))
}

/// The lane that a response is for.
pub(crate) fn lane_of_response(text: &[u8]) -> u16 {
    lane(text.get(RESPONSE.len()..))
}

fn lane(id: Option<&[u8]>) -> u16 {
    let digits = id.and_then(|id| id.get(..4)).unwrap_or_default();
    digits.iter().fold(0, |number, digit| number * 10 + u16::from(digit.wrapping_sub(b'0') % 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stand_where_they_are_looked_for() {
        let request = request(3, 17, 42, "bench.look");
        let id = id_of_request(&request).unwrap();
        assert_eq!((id, lane_of_request(request.as_bytes())), ("0003-0017-00000042", 3));
        let response = response(id);
        assert_eq!((slot_of_response(&response).unwrap(), lane_of_response(response.as_bytes())), (17, 3));
        assert!(serde_json::from_str::<serde_json::Value>(&response).is_ok());
    }
}
