//! Bodies of answers: read within a limit, and made into data.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, header};
use hub_protocol::{CallError, ErrorCode, Json};
use reqwest::Response;
use serde_json::{Value, json};

use super::answer::failed;
use super::media::{essence, is_json, is_text};
use super::promise::{Broken, Success};

/// What a body says, and how it breaks what the document promises. `output` is the operation's output schema.
pub(super) fn data(
    body: &Bytes,
    content_type: &str,
    success: Option<&Success>,
    output: &Value,
) -> (Json, Result<(), Broken>) {
    let unknown = Success::default();
    let (success, medium) = (success.unwrap_or(&unknown), essence(content_type));
    if body.is_empty() {
        return nothing(success, output);
    }
    let says_json = is_json(&medium);
    let tried = says_json || success.is_json() || medium.is_empty();
    let json = std::str::from_utf8(body).ok().filter(|_| tried).and_then(|text| Json::from_text(text).ok());
    let Some(json) = json else {
        let data = match text(body, content_type, &medium) {
            Some(text) => Value::from(text),
            None => Value::from(STANDARD.encode(body)),
        };
        let kept = match says_json {
            true => Err(Broken::new(format!("the upstream says {medium}, but its body is not JSON"))),
            false => success.check_medium(&medium, false),
        };
        return (data.into(), kept);
    };
    let kept = success.check_medium(&medium, true).and_then(|()| success.check(&medium, &json, output));
    (json, kept)
}

/// An empty body: null where there could be JSON, else a text without letters.
fn nothing(success: &Success, output: &Value) -> (Json, Result<(), Broken>) {
    if !success.media.is_empty() && !success.media.iter().any(|medium| is_json(medium)) {
        return (Value::from("").into(), Ok(()));
    }
    let kept = match success.media.as_slice() {
        [one] => success.check(one, &Json::null(), output),
        _ => Ok(()),
    };
    let promised = success.media.join(" or ");
    let empty = |_| Broken::new(format!("the upstream answered nothing where its document promises {promised}"));
    (Json::null(), kept.map_err(empty))
}

/// The body as text, if that is what it is.
fn text(body: &Bytes, content_type: &str, medium: &str) -> Option<String> {
    if medium.is_empty() {
        return String::from_utf8(body.to_vec()).ok();
    }
    if !is_text(medium) && !is_json(medium) {
        return None;
    }
    let charset = content_type.to_ascii_lowercase();
    if charset.contains("charset=iso-8859-1") || charset.contains("charset=us-ascii") {
        return Some(body.iter().map(|byte| char::from(*byte)).collect());
    }
    Some(String::from_utf8_lossy(body).into_owned())
}

/// Reads a body that must fit.
pub(super) async fn read(mut response: Response, limit: usize) -> Result<Bytes, CallError> {
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(too_large("the upstream's answer", limit));
    }
    let mut whole = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|_| failed("the upstream's answer broke off"))? {
        if whole.len() + chunk.len() > limit {
            return Err(too_large("the upstream's answer", limit));
        }
        whole.extend_from_slice(&chunk);
    }
    Ok(whole.into())
}

/// Reads as much of a body as there is room for.
pub(super) async fn read_some(mut response: Response, limit: usize) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        let room = limit - whole.len();
        whole.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() >= room {
            break;
        }
    }
    whole
}

pub(super) fn too_large(what: &str, limit: usize) -> CallError {
    CallError::new(ErrorCode::PayloadTooLarge, format!("{what} has more than {limit} bytes"))
        .with_details(&json!({ "limit": limit }))
}

/// Compression is never asked for: a small answer that unpacks to a large one has no way in.
pub(super) fn check_plain(headers: &HeaderMap) -> Result<(), CallError> {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    if encoding.eq_ignore_ascii_case("identity") || encoding.is_empty() {
        return Ok(());
    }
    Err(failed("the upstream compressed its answer, which it was not asked to"))
}

pub(super) fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::openapi::promise::Promise;

    fn of(body: &'static [u8], medium: &str, success: Option<&Success>, schema: &Value) -> (String, Option<String>) {
        let (data, kept) = data(&Bytes::from_static(body), medium, success, schema);
        (data.as_str().to_owned(), kept.err().map(|broken| broken.message))
    }

    fn media(media: &[&str]) -> Success {
        let promise = media.iter().find(|medium| is_json(medium)).map(|medium| Promise {
            medium: (*medium).to_owned(),
            at: String::new(),
            compiled: OnceLock::new(),
        });
        Success { media: media.iter().map(|&medium| medium.to_owned()).collect(), promise, ..Success::default() }
    }

    #[test]
    fn bodies_become_data() {
        let (json, open) = (media(&["application/json"]), Value::Bool(true));
        for (body, medium, success, wanted) in [
            (&b"{\"a\": 1.0}"[..], "application/json; charset=utf-8", None, "{\"a\": 1.0}"),
            (b"", "application/json", Some(&json), "null"),
            (b"hi", "text/plain", None, "\"hi\""),
            (b"\xe9", "text/plain; charset=ISO-8859-1", None, "\"\u{e9}\""),
            (b"\xff\x00", "image/png", None, "\"/wA=\""),
            (b"{}", "text/plain", Some(&json), "{}"),
            (b"{}\n{}", "application/x-ndjson", None, "\"{}\\n{}\""),
            (b"plain", "", None, "\"plain\""),
            (b"", "text/csv", Some(&media(&["text/csv"])), "\"\""),
        ] {
            assert_eq!(of(body, medium, success, &open), (wanted.to_owned(), None), "{medium}");
        }
    }

    #[test]
    fn what_breaks_its_promise_is_told_and_kept() {
        let (json, image, both) =
            (media(&["application/json"]), media(&["image/png"]), media(&["application/json", "text/plain"]));
        let object = json!({ "type": "object" });
        for (body, medium, success, data, words) in [
            (&b"<html>"[..], "text/html", Some(&json), "\"<html>\"", "answered text/html"),
            (b"<html>", "", Some(&json), "\"<html>\"", "a body of no type"),
            (b"<html>", "text/html", Some(&image), "\"<html>\"", "promises image/png"),
            (b"{}", "application/json", Some(&image), "{}", "promises image/png"),
            (b"{oops", "application/json", None, "\"{oops\"", "is not JSON"),
            (b"\"\xff\"", "application/json", Some(&json), "\"\\\"\u{fffd}\\\"\"", "is not JSON"),
            (b"[]", "application/json", Some(&both), "[]", "breaks the schema of its document: value is not"),
            (b"[]", "text/x", Some(&json), "[]", "breaks the schema"),
            (b"", "application/json", Some(&json), "null", "answered nothing"),
        ] {
            let (found, broken) = of(body, medium, success, &object);
            assert!(found == data && broken.as_ref().is_some_and(|b| b.contains(words)), "{found} {broken:?}");
        }
        // The schema is that of another medium.
        assert_eq!(of(b"[]", "text/plain", Some(&both), &object).1, None);
        let two = media(&["application/json", "application/list+json"]);
        assert_eq!(of(b"[]", "application/list+json", Some(&two), &object).1, None);
    }
}
