//! What the upstream answers, as an envelope, a stream or an error.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, StatusCode, header};
use hub_operations::Scrubber;
use hub_protocol::{CallError, ErrorCode, Json, ResponseEnvelope, ResponseMeta};
use reqwest::Response;
use serde_json::{Value, json};

use super::parameters::essence;
use super::plan::{Answers, Plan};
use super::sse::{Event, Parser};

/// Largest body kept in the details of an error, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;

/// Most headers, and bytes of them, that an envelope passes on.
const MAX_HEADERS: usize = 64;
const MAX_HEADER_BYTES: usize = 16 * 1024;

/// Headers that are about this connection or about credentials.
const KEPT_BACK: [&str; 14] = [
    "set-cookie",
    "set-cookie2",
    "authorization",
    "proxy-authorization",
    "authentication-info",
    "www-authenticate",
    "proxy-authenticate",
    "proxy-authentication-info",
    "connection",
    "keep-alive",
    "transfer-encoding",
    "upgrade",
    "trailer",
    "te",
];

/// What an answer is read with.
#[derive(Clone, Copy)]
pub(super) struct Reading<'a> {
    pub(super) answers: &'a Answers,
    pub(super) limit: usize,
    pub(super) secrets: &'a Scrubber,
}

pub(super) fn failed(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::ExecutionError, message)
}

/// A whole answer of a success.
pub(super) async fn envelope(response: Response, reading: Reading<'_>) -> Result<Json, CallError> {
    let (status, headers) = (response.status(), response.headers().clone());
    check_plain(&headers)?;
    let content_type = content_type(&headers);
    let body = read(response, reading.limit).await?;
    let data = data(body, &content_type, reading.answers)?;
    let meta = ResponseMeta::Http {
        status_code: status.as_u16(),
        headers: passed_on(&headers, reading.secrets),
        content_type,
    };
    Ok(ResponseEnvelope { data, meta }.to_json())
}

/// The events of an answer, one item each.
pub(super) fn events(
    response: Response,
    limit: usize,
) -> Result<BoxStream<'static, Result<Json, CallError>>, CallError> {
    check_plain(response.headers())?;
    // `None` after an error: a stream ends with it. Dropping the state closes the connection.
    let state = Some((response, Parser::new(limit)));
    let items = stream::unfold(state, move |state| async move {
        let (mut response, mut parser) = state?;
        loop {
            if let Some(event) = parser.next() {
                return Some((Ok(item(event)), Some((response, parser))));
            }
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if parser.feed(&chunk).is_err() {
                        return Some((Err(too_large("an event", limit)), None));
                    }
                }
                Ok(None) => return None,
                Err(_) => return Some((Err(failed("the upstream's stream broke off")), None)),
            }
        }
    });
    Ok(items.boxed())
}

fn item(event: Event) -> Json {
    let data = Json::from_text(event.data.as_str()).unwrap_or_else(|_| Value::from(event.data).into());
    let mut text = format!("{{\"event\":{}", Value::from(event.event));
    if let Some(id) = event.id {
        text.push_str(&format!(",\"id\":{}", Value::from(id)));
    }
    text.push_str(&format!(",\"data\":{}}}", data.as_str()));
    Json::from_text(text).unwrap_or_default()
}

/// An answer that is an error.
pub(super) async fn failure(response: Response, plan: &Plan, secrets: &Scrubber) -> CallError {
    let status = response.status();
    let wait = retry_after(response.headers());
    let is_json = content_type(response.headers()).contains("json");
    // What does not fit is left out; nobody waits for the rest of it.
    let body = read_some(response, MAX_ERROR_BODY).await;
    let text = String::from_utf8_lossy(&body);
    let text = secrets.text(&text).unwrap_or_else(|| text.into_owned());
    let body = match Json::from_text(text.as_str()) {
        Ok(json) if is_json || text.trim_start().starts_with(['{', '[']) => json,
        _ if text.is_empty() => Json::null(),
        _ => Value::from(text).into(),
    };
    let mut details = json!({ "status": status.as_u16() });
    if let Some(wait) = wait {
        details["retryAfterMs"] = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into();
    }
    let error = error_of(status, plan);
    let details = format!("{},\"body\":{}}}", details.to_string().trim_end_matches('}'), body.as_str());
    CallError { details: Json::from_text(details).ok(), ..error }
}

fn error_of(status: StatusCode, plan: &Plan) -> CallError {
    let answered = format!("the upstream answered {status}");
    if status == StatusCode::TOO_MANY_REQUESTS {
        return CallError::new(ErrorCode::RateLimited, answered);
    }
    // The caller's own rights are fine, or it had not come here.
    let message = match status {
        StatusCode::UNAUTHORIZED => format!("{answered}: it does not accept this client's credentials"),
        StatusCode::FORBIDDEN => format!("{answered}: this client's credentials do not suffice"),
        status if status.is_redirection() => format!("{answered}, a redirect that is not followed"),
        _ => answered,
    };
    let exact = status.as_str();
    let range = format!("{}XX", &exact[..1]);
    let declared = [exact, range.as_str()].into_iter().find(|code| plan.answers.errors.iter().any(|own| own == code));
    let again = matches!(status.as_u16(), 408 | 502 | 503 | 504);
    match declared {
        Some(code) => CallError::domain(format!("HTTP_{code}"), message),
        None => failed(message),
    }
    .with_retryable(again)
}

/// How long the upstream asks to wait, in seconds or until a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse::<u64>() {
        return Some(Duration::from_secs(seconds.min(86_400)));
    }
    let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
    let wait = at.as_millisecond() - jiff::Timestamp::now().as_millisecond();
    Some(Duration::from_millis(u64::try_from(wait).unwrap_or(0).min(86_400_000)))
}

fn data(body: Bytes, content_type: &str, answers: &Answers) -> Result<Json, CallError> {
    if body.is_empty() {
        return Ok(Json::null());
    }
    let medium = essence(content_type);
    let says_json = medium == "application/json" || medium.ends_with("+json");
    if says_json || answers.json_only || medium.is_empty() {
        let text = String::from_utf8(body.to_vec());
        match text.map(Json::from_text) {
            Ok(Ok(json)) => return Ok(json),
            _ if says_json => return Err(failed(format!("the upstream says {medium}, but its body is not JSON"))),
            _ if answers.json_only => {
                let medium = if medium.is_empty() { "a body of no type" } else { &medium };
                return Err(failed(format!("the upstream answered {medium} where its document promises JSON")));
            }
            _ => {}
        }
    }
    Ok(match text(&body, content_type, &medium) {
        Some(text) => Value::from(text).into(),
        None => Value::from(STANDARD.encode(&body)).into(),
    })
}

/// The body as text, if that is what it is.
fn text(body: &Bytes, content_type: &str, medium: &str) -> Option<String> {
    let is_text = medium.starts_with("text/")
        || medium.ends_with("xml")
        || ["application/javascript", "application/x-ndjson", "application/yaml"].contains(&medium);
    if medium.is_empty() {
        return String::from_utf8(body.to_vec()).ok();
    }
    if !is_text {
        return None;
    }
    let charset = content_type.to_ascii_lowercase();
    if charset.contains("charset=iso-8859-1") || charset.contains("charset=us-ascii") {
        return Some(body.iter().map(|byte| char::from(*byte)).collect());
    }
    Some(String::from_utf8_lossy(body).into_owned())
}

/// Reads a body that must fit.
async fn read(mut response: Response, limit: usize) -> Result<Bytes, CallError> {
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

async fn read_some(mut response: Response, limit: usize) -> Vec<u8> {
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

fn too_large(what: &str, limit: usize) -> CallError {
    CallError::new(ErrorCode::PayloadTooLarge, format!("{what} has more than {limit} bytes"))
        .with_details(&json!({ "limit": limit }))
}

/// Compression is never asked for: a small answer that unpacks to a large one has no way in.
fn check_plain(headers: &HeaderMap) -> Result<(), CallError> {
    let encoding = headers.get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    if encoding.eq_ignore_ascii_case("identity") || encoding.is_empty() {
        return Ok(());
    }
    Err(failed("the upstream compressed its answer, which it was not asked to"))
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    value.unwrap_or_default().to_owned()
}

fn passed_on(headers: &HeaderMap, secrets: &Scrubber) -> BTreeMap<String, String> {
    let mut passed: BTreeMap<String, String> = BTreeMap::new();
    let mut bytes = 0;
    for (name, value) in headers {
        let kept_back = KEPT_BACK.contains(&name.as_str()) || passed.len() >= MAX_HEADERS;
        let Some(value) = value.to_str().ok().filter(|_| !kept_back) else {
            continue;
        };
        bytes += name.as_str().len() + value.len();
        if bytes > MAX_HEADER_BYTES {
            break;
        }
        let value = secrets.text(value).unwrap_or_else(|| value.to_owned());
        let joined = passed.entry(name.as_str().to_owned()).or_default();
        if !joined.is_empty() {
            joined.push_str(", ");
        }
        joined.push_str(&value);
    }
    passed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_seconds_or_dates() {
        let after = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::RETRY_AFTER, text.parse().unwrap());
            retry_after(&headers)
        };
        assert_eq!(after("3"), Some(Duration::from_secs(3)));
        assert_eq!(after("Fri, 31 Dec 1999 23:59:59 GMT"), Some(Duration::ZERO));
        let distant = after("Fri, 31 Dec 2100 23:59:59 GMT").unwrap();
        assert_eq!(distant, Duration::from_secs(86_400));
        assert_eq!(after("soon"), None);
    }

    #[test]
    fn bodies_become_data() {
        let any = Answers::default();
        let only = Answers { json_only: true, ..Answers::default() };
        let of = |body: &'static [u8], medium: &str, answers: &Answers| {
            data(Bytes::from_static(body), medium, answers).map(|json| json.as_str().to_owned())
        };
        assert_eq!(of(b"{\"a\": 1.0}", "application/json; charset=utf-8", &any).unwrap(), "{\"a\": 1.0}");
        assert_eq!(of(b"", "application/json", &only).unwrap(), "null");
        assert_eq!(of(b"hi", "text/plain", &any).unwrap(), "\"hi\"");
        assert_eq!(of(b"\xe9", "text/plain; charset=ISO-8859-1", &any).unwrap(), "\"\u{e9}\"");
        assert_eq!(of(b"\xff\x00", "image/png", &any).unwrap(), "\"/wA=\"");
        assert_eq!(of(b"{}", "text/plain", &only).unwrap(), "{}");
        assert_eq!(of(b"plain", "", &any).unwrap(), "\"plain\"");
        assert!(of(b"<html>", "text/html", &only).unwrap_err().message.contains("text/html"));
        assert!(of(b"{oops", "application/json", &any).unwrap_err().message.contains("not JSON"));
        assert!(of(b"\"\xff\"", "application/json", &any).is_err());
    }

    #[test]
    fn events_become_items() {
        let event =
            |data: &str, id: Option<&str>| Event { event: "e".into(), id: id.map(str::to_owned), data: data.into() };
        assert_eq!(
            item(event("{\"n\": 1.0}", Some("7"))).as_str(),
            "{\"event\":\"e\",\"id\":\"7\",\"data\":{\"n\": 1.0}}"
        );
        assert_eq!(item(event("[DONE]", None)).as_str(), "{\"event\":\"e\",\"data\":\"[DONE]\"}");
    }
}
