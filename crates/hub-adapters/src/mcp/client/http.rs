//! The way to an MCP server over HTTP: whether it answers what it was asked, is there at all, and knows the session.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt};
use http::{HeaderName, HeaderValue};
use rmcp::model::{
    ClientJsonRpcMessage, ClientNotification, ClientRequest, ErrorData, PingRequest, RequestId, ServerJsonRpcMessage,
};
use rmcp::transport::common::client_side_sse::BoxedSseResponse;
use rmcp::transport::streamable_http_client::{
    StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse as Answer,
};
use tokio::sync::Notify;

use super::mend::mended;
use crate::net;

/// Longest wait for the answer to a look whether the server is there.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long after a look that failed it is looked again, before the server is given up.
const AGAIN: Duration = Duration::from_millis(500);

/// Longest event of a stream, as the SDK has it.
const MAX_EVENT: usize = 16 * 1024 * 1024;

/// Longest reason; more than is shown of it, since secrets are cut out of it before.
const REASON: usize = 600;

const FORGOTTEN: &str = "it does not know the session any more";

/// What the SDK says of an event above [`MAX_EVENT`].
const TOO_LONG: &str = "SSE event exceeded";

/// An answer of 202 or 204.
const SILENT: &str = "it takes a request and does not answer it";

pub(super) type HttpError = StreamableHttpError<reqwest::Error>;

type Headers = HashMap<HeaderName, HeaderValue>;

/// An HTTP client for one connection to a server. The SDK's own waits for ever for what answers no request, such as the
/// errors without an id with which servers turn away a session that they do not know.
#[derive(Clone)]
pub(super) struct Http {
    inner: reqwest::Client,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    look: Mutex<Option<Look>>,
    looks: AtomicU64,
    /// Something went wrong that may mean that the server is gone.
    doubt: Notify,
    /// Requests that were answered with an event that is too long: the SDK only tells that there is no answer.
    too_long: Mutex<HashSet<RequestId>>,
}

/// The cheapest request that the server takes: `ping`, or `server/discover` where there are no sessions.
#[derive(Clone)]
struct Look {
    request: ClientRequest,
    uri: Arc<str>,
    session: Option<Arc<str>>,
    auth: Option<String>,
    headers: Headers,
}

impl Http {
    pub(super) fn new(inner: reqwest::Client) -> Self {
        Self { inner, state: Arc::default() }
    }

    /// Asks for a look whether the server is there.
    pub(super) fn doubt(&self) {
        self.state.doubt.notify_one();
    }

    /// Whether the answer to a request was too long.
    pub(super) fn was_too_long(&self, id: &RequestId) -> bool {
        self.state.too_long.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }

    /// Looks after the server until it is gone; answers why. Tells meanwhile whether it answers: one that does not may
    /// be busy.
    pub(super) async fn gone(&self, every: Duration, told: impl Fn(Option<String>)) -> String {
        let patience = every.min(PATIENCE);
        let mut failed = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(if failed { AGAIN } else { every }) => {}
                () = self.state.doubt.notified(), if !failed => {}
            }
            match tokio::time::timeout(patience, self.look()).await {
                Ok(Ok(())) => {
                    failed = false;
                    told(None);
                }
                Ok(Err(error)) if failed || matches!(error, HttpError::SessionExpired) => return why(&error),
                Ok(Err(_)) => failed = true,
                Err(_) => {
                    failed = false;
                    told(Some(format!("it has not answered for {patience:?}")));
                }
            }
        }
    }

    /// Whether the server is there and knows the session.
    async fn look(&self) -> Result<(), HttpError> {
        let look = self.state.look.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // None before the session has begun.
        let Some(Look { request, uri, session, auth, headers }) = look else { return Ok(()) };
        let id = RequestId::String(format!("look-{}", self.state.looks.fetch_add(1, Ordering::Relaxed)).into());
        let message = ClientJsonRpcMessage::request(request, id.clone());
        let in_session = session.is_some();
        let answer = match self.inner.post_message(uri, message, session, auth, headers).await {
            Ok(Answer::Accepted) => Err(unexpected(SILENT)),
            Ok(answer) => answer.expect_initialized().await.map(|(message, _)| message),
            Err(error) => Err(error),
        };
        match answer {
            Ok(ServerJsonRpcMessage::Error(error))
                if in_session && may_not_know(error.id.as_ref(), &id, &error.error) =>
            {
                Err(HttpError::SessionExpired)
            }
            // One that has other methods is there, too.
            Ok(_) => Ok(()),
            Err(HttpError::HttpStatus(status)) if status.status == 429 => Ok(()),
            Err(error) if in_session && is_bad_request(&error) => Err(HttpError::SessionExpired),
            Err(error) => Err(error),
        }
    }

    /// Keeps what the next looks ask.
    fn remember(&self, message: &ClientJsonRpcMessage, look: impl FnOnce(ClientRequest) -> Look) {
        let request = match message {
            ClientJsonRpcMessage::Notification(sent) => match sent.notification {
                ClientNotification::InitializedNotification(_) => ClientRequest::PingRequest(PingRequest::default()),
                _ => return,
            },
            ClientJsonRpcMessage::Request(sent) => match &sent.request {
                ClientRequest::DiscoverRequest(discover) => ClientRequest::DiscoverRequest(discover.clone()),
                _ => return,
            },
            _ => return,
        };
        *self.state.look.lock().unwrap_or_else(PoisonError::into_inner) = Some(look(request));
    }

    /// What a request gets that was not answered as the protocol says.
    async fn checked(
        &self,
        id: RequestId,
        in_session: bool,
        answer: Result<Answer, HttpError>,
    ) -> Result<Answer, HttpError> {
        let doubtful = in_session
            && match &answer {
                Ok(Answer::Json(ServerJsonRpcMessage::Error(error), _)) => {
                    may_not_know(error.id.as_ref(), &id, &error.error)
                }
                Err(error) => is_bad_request(error),
                Ok(_) => false,
            };
        // Told apart by a request that is surely none to be refused.
        if doubtful {
            let look = tokio::time::timeout(PATIENCE, self.look()).await;
            if matches!(look, Ok(Err(HttpError::SessionExpired))) {
                return Err(HttpError::SessionExpired);
            }
        }
        match answer? {
            Answer::Accepted => Err(unexpected(SILENT)),
            Answer::Json(ServerJsonRpcMessage::Error(error), session) => {
                Ok(Answer::Json(ServerJsonRpcMessage::error(error.error, Some(id)), session))
            }
            Answer::Json(ServerJsonRpcMessage::Response(answer), _) if !same(&answer.id, &id) => {
                Err(unexpected("it answers another request than it was asked"))
            }
            Answer::Json(ServerJsonRpcMessage::Request(_) | ServerJsonRpcMessage::Notification(_), _) => {
                Err(unexpected("it answers a request with something else than an answer"))
            }
            Answer::Sse(events, session) => {
                let state = Arc::clone(&self.state);
                let events = readable(events).inspect(move |event| {
                    if event.as_ref().is_err_and(|error| error.to_string().contains(TOO_LONG)) {
                        state.too_long.lock().unwrap_or_else(PoisonError::into_inner).insert(id.clone());
                    }
                });
                Ok(Answer::Sse(events.boxed(), session))
            }
            answer => Ok(answer),
        }
    }

    fn noted<T>(&self, answer: Result<T, HttpError>) -> Result<T, HttpError> {
        if !matches!(&answer, Ok(_) | Err(HttpError::ServerDoesNotSupportSse)) {
            self.doubt();
        }
        answer
    }
}

/// The events, and errors in the place of answers among them that can't be read.
fn readable(events: BoxedSseResponse) -> BoxedSseResponse {
    let mended = |data: &str| String::from_utf8(mended(data.as_bytes())?).ok();
    let events = events.map_ok(move |mut event| {
        if let Some(data) = event.data.as_deref().and_then(mended) {
            event.data = Some(data);
        }
        event
    });
    events.boxed()
}

fn unexpected(what: &'static str) -> HttpError {
    HttpError::UnexpectedServerResponse(what.into())
}

/// Whether an error may be the refusal of an unknown session, for which servers have many words.
fn may_not_know(answered: Option<&RequestId>, asked: &RequestId, error: &ErrorData) -> bool {
    !answered.is_some_and(|answered| same(answered, asked)) || error.message.to_ascii_lowercase().contains("session")
}

fn is_bad_request(error: &HttpError) -> bool {
    matches!(error, HttpError::UnexpectedServerResponse(text) if text.starts_with("HTTP 400"))
}

/// Some servers answer a number as text.
fn same(one: &RequestId, other: &RequestId) -> bool {
    one.to_string() == other.to_string()
}

/// What is wrong with a server, in few words.
pub(super) fn why(error: &HttpError) -> String {
    let text = match error {
        HttpError::Client(error) => net::cause(error),
        HttpError::SessionExpired => FORGOTTEN.to_owned(),
        HttpError::HttpStatus(status) => format!("it answers with HTTP {}", status.status),
        HttpError::AuthRequired(_) => "it wants another bearer token (HTTP 401)".to_owned(),
        HttpError::InsufficientScope(_) => "the bearer token is not enough (HTTP 403)".to_owned(),
        HttpError::UnexpectedContentType(kind) => {
            format!("it answers {}, which is not MCP: is the path right?", kind.as_deref().unwrap_or("nothing"))
        }
        HttpError::UnexpectedServerResponse(text) => text.to_string(),
        error => error.to_string(),
    };
    text.chars().take(REASON).collect()
}

/// The failure of the exchange behind an error of the SDK, if it is one.
pub(super) fn failure<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a HttpError> {
    std::iter::successors(Some(error), |error| error.source()).find_map(|error| error.downcast_ref())
}

impl StreamableHttpClient for Http {
    type Error = reqwest::Error;

    async fn post_message(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<Answer, HttpError> {
        self.post_message_with_max_sse_event_size(uri, message, session, auth, headers, MAX_EVENT).await
    }

    async fn post_message_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        auth: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> Result<Answer, HttpError> {
        self.remember(&message, |request| Look {
            request,
            uri: Arc::clone(&uri),
            session: session.clone(),
            auth: auth.clone(),
            headers: headers.clone(),
        });
        let asked = match &message {
            ClientJsonRpcMessage::Request(request) => Some(request.id.clone()),
            _ => None,
        };
        let in_session = session.is_some();
        let answer = self.inner.post_message_with_max_sse_event_size(uri, message, session, auth, headers, limit).await;
        let answer = match asked {
            Some(id) => self.checked(id, in_session, answer).await,
            None => answer,
        };
        self.noted(answer)
    }

    async fn delete_session(
        &self,
        uri: Arc<str>,
        session: Arc<str>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<(), HttpError> {
        self.inner.delete_session(uri, session, auth, headers).await
    }

    async fn get_stream(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        auth: Option<String>,
        headers: Headers,
    ) -> Result<BoxedSseResponse, HttpError> {
        self.get_stream_with_max_sse_event_size(uri, session, last_event, auth, headers, MAX_EVENT).await
    }

    async fn get_stream_with_max_sse_event_size(
        &self,
        uri: Arc<str>,
        session: Option<Arc<str>>,
        last_event: Option<String>,
        auth: Option<String>,
        headers: Headers,
        limit: usize,
    ) -> Result<BoxedSseResponse, HttpError> {
        let get = self.inner.get_stream_with_max_sse_event_size(uri, session, last_event, auth, headers, limit);
        self.noted(get.await.map(readable))
    }
}
