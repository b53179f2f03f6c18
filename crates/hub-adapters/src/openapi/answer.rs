//! What the upstream answers, as an envelope, a stream or an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::{HeaderMap, StatusCode, header};
use hub_operations::{Reply, Scrubber};
use hub_protocol::{CallError, ErrorCode, Json, ResponseEnvelope, ResponseMeta};
use reqwest::Response;
use serde_json::{Value, json};

use super::content::{self, check_plain, content_type, too_large};
use super::import::Imported;
use super::media::{essence, is_event_stream, is_json};
use super::plan::Plan;
use super::promise::{Broken, Lenience};
use super::sse::{Event, Parser};

/// Largest body kept in the details of an error, in bytes.
const MAX_ERROR_BODY: usize = 16 * 1024;

/// Medium of events, and what many end their streams with; it is no value of theirs.
const EVENT_STREAM: &str = "text/event-stream";
const END: &str = "[DONE]";

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
#[derive(Clone)]
pub(super) struct Reading {
    pub(super) operation: Arc<Imported>,
    pub(super) limit: usize,
    /// Takes credentials out of what the upstream says: some repeat what they were sent.
    pub(super) secrets: Arc<Scrubber>,
    /// Passes on what breaks its document.
    pub(super) lenient: Option<Arc<Lenience>>,
}

impl Reading {
    /// What becomes of an answer that breaks its document. `body` is what it was.
    async fn settle(
        &self,
        kept: Result<(), Broken>,
        status: StatusCode,
        body: impl FnOnce() -> Json,
    ) -> Result<(), CallError> {
        let Err(broken) = kept else { return Ok(()) };
        if let Some(lenience) = &self.lenient {
            let what = self.secrets.text(&broken.message).unwrap_or(broken.message);
            lenience.tell(&self.operation.spec.id(), &what);
            return Ok(());
        }
        let mut head = json!({ "status": status.as_u16() });
        if !broken.violations.is_empty() {
            head["violations"] = serde_json::to_value(&broken.violations).unwrap_or_default();
        }
        let error = CallError { details: details(&head, &body()), ..failed(broken.message) };
        Err(self.secrets.error(error).await)
    }

    /// An error after the upstream has taken the request: whoever repeats a change makes it twice.
    pub(super) fn acted(&self, mut error: CallError) -> CallError {
        if !self.operation.plan.is_safe() {
            error.message.push_str("; the request was carried out, so do not repeat it blindly");
            error.retryable = false;
        }
        error
    }
}

pub(super) fn failed(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::ExecutionError, message)
}

/// A success.
pub(super) async fn reply(response: Response, reading: &Reading) -> Result<Reply, CallError> {
    check_plain(response.headers())?;
    let streams = reading.operation.plan.answers.streams;
    if streams && is_event_stream(&essence(&content_type(response.headers()))) {
        return Ok(Reply::Stream(events(response, reading.clone())));
    }
    let envelope = envelope(response, reading).await?;
    if !streams {
        return Ok(Reply::Envelope(reading.secrets.json(envelope.to_json()).await));
    }
    // It answered at once instead of streaming: one item, in the shape of an event.
    let item = reading.secrets.json(item("message", None, &envelope.data)).await;
    Ok(Reply::Stream(stream::once(async { Ok(item) }).boxed()))
}

async fn envelope(response: Response, reading: &Reading) -> Result<ResponseEnvelope, CallError> {
    let (status, headers) = (response.status(), response.headers().clone());
    let content_type = content_type(&headers);
    let body = content::read(response, reading.limit).await?;
    let Imported { spec, plan } = &*reading.operation;
    let (data, kept) = content::data(&body, &content_type, plan.answers.success(status), &spec.output_schema);
    reading.settle(kept, status, || shown(&body, is_json(&essence(&content_type)), &reading.secrets)).await?;
    let meta = ResponseMeta::Http {
        status_code: status.as_u16(),
        headers: passed_on(&headers, &reading.secrets),
        content_type,
    };
    Ok(ResponseEnvelope { data, meta })
}

/// The events of an answer, one item each.
fn events(response: Response, reading: Reading) -> BoxStream<'static, Result<Json, CallError>> {
    let (status, limit) = (response.status(), reading.limit);
    // `None` after an error: a stream ends with it. Dropping the state closes the connection.
    let state = Some((response, Parser::new(limit), reading));
    let items = stream::unfold(state, move |state| async move {
        let (mut response, mut parser, reading) = state?;
        let error = loop {
            if let Some(event) = parser.next() {
                match checked(event, status, &reading).await {
                    Ok(item) => return Some((Ok(item), Some((response, parser, reading)))),
                    Err(error) => break error,
                }
            }
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if parser.feed(&chunk).is_err() {
                        break too_large("an event", limit);
                    }
                }
                Ok(None) => return None,
                Err(_) => break failed("the upstream's stream broke off"),
            }
        };
        Some((Err(reading.acted(error)), None))
    });
    items.boxed()
}

/// An event as an item, if it is as promised.
async fn checked(event: Event, status: StatusCode, reading: &Reading) -> Result<Json, CallError> {
    let Imported { spec, plan } = &*reading.operation;
    let data = Json::from_text(event.data.as_str()).unwrap_or_else(|_| Value::from(event.data.as_str()).into());
    let success = plan.answers.success(status).filter(|_| event.data != END);
    let kept = success.map_or(Ok(()), |success| success.check(EVENT_STREAM, &data, &spec.output_schema));
    reading.settle(kept, status, || shown(event.data.as_bytes(), true, &reading.secrets)).await?;
    Ok(reading.secrets.json(item(&event.event, event.id.as_deref(), &data)).await)
}

fn item(event: &str, id: Option<&str>, data: &Json) -> Json {
    let mut text = format!("{{\"event\":{}", Value::from(event));
    if let Some(id) = id {
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
    // What does not fit is left out; nobody waits for the rest of it. What is shown ends before what was read does, where
    // only the beginning of a secret may be.
    let body = content::read_some(response, 2 * MAX_ERROR_BODY).await;
    let mut head = json!({ "status": status.as_u16() });
    if let Some(wait) = wait {
        head["retryAfterMs"] = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).into();
    }
    CallError { details: details(&head, &shown(&body, is_json, secrets)), ..error_of(status, plan) }
}

/// A body as the details of an error have it.
fn shown(body: &[u8], is_json: bool, secrets: &Scrubber) -> Json {
    // More than is shown: of a secret across the end only the beginning may be there.
    let text = String::from_utf8_lossy(&body[..body.len().min(2 * MAX_ERROR_BODY)]);
    let mut text = secrets.text(&text).unwrap_or_else(|| text.into_owned());
    text.truncate(text.floor_char_boundary(MAX_ERROR_BODY));
    match Json::from_text(text.as_str()) {
        Ok(json) if is_json || text.trim_start().starts_with(['{', '[']) => json,
        _ if text.is_empty() => Json::null(),
        _ => Value::from(text).into(),
    }
}

/// Details of an error, the body last and as it is.
fn details(head: &Value, body: &Json) -> Option<Json> {
    let text = format!("{},\"body\":{}}}", head.to_string().trim_end_matches('}'), body.as_str());
    Json::from_text(text).ok()
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
    fn events_become_items() {
        let of = |data: &str, id| item("e", id, &Json::from_text(data).unwrap()).as_str().to_owned();
        assert_eq!(of("{\"n\": 1.0}", Some("7")), "{\"event\":\"e\",\"id\":\"7\",\"data\":{\"n\": 1.0}}");
        assert_eq!(of("\"x\"", None), "{\"event\":\"e\",\"data\":\"x\"}");
    }

    #[test]
    fn a_secret_across_the_end_of_what_is_shown_is_not_shown_in_part() {
        let secrets = Scrubber::of(["hunter2-hunter2"]);
        let body = format!("{}hunter2-hunter2 and so on", "x".repeat(MAX_ERROR_BODY - 7));
        let shown = shown(body.as_bytes(), false, &secrets);
        assert!(!shown.as_str().contains("hunter2") && shown.size() < MAX_ERROR_BODY + 10);
    }
}
