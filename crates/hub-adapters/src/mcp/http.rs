//! The face over streamable HTTP.

mod begun;
mod manager;
mod replay;
mod sessions;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use http::{Method, Request, Response, StatusCode, header, request};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, SessionConfig};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::face::{Face, Tasks};
use super::host::Host;
use super::message::{self, Fault, Message, Posted};
use manager::{OfBatch, Resumable};
use replay::Replay;
use sessions::{Session, Sessions};

type Answer = Response<BoxBody<Bytes, Infallible>>;

const SESSION: &str = "mcp-session-id";

const LAST_EVENT: &str = "last-event-id";

/// The one revision with batches.
const WITH_BATCHES: &str = "2025-03-26";

/// An idle session of the revisions that have sessions ends after this. Hosts leave them open for a working day, and
/// not all of them begin a new one when told to.
const KEEP_ALIVE: Duration = Duration::from_secs(12 * 3600);

/// How the face is served.
#[derive(Debug, Clone)]
pub struct HttpFaceSettings {
    /// Largest request body, in bytes.
    pub max_body_bytes: usize,
    /// Ends all sessions and streams.
    pub stop: CancellationToken,
    /// What outlives its request: waited for at the end.
    pub running: TaskTracker,
}

/// Who a request comes from, for sessions: one belongs to whoever began it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner(pub String);

/// Serves a [`Face`] over streamable HTTP: the revisions with sessions and the ones without, on one path.
///
/// Whoever mounts it authenticates the request, checks its `Origin`, and puts the caller's `H` and its [`Owner`] into
/// the request's extensions. The SDK's own checks of `Host` and `Origin` are off: without a key nothing is answered,
/// and a page that rebinds a name has none.
pub struct HttpFace<H: Host> {
    service: StreamableHttpService<Face<H>, Resumable>,
    sessions: Arc<Sessions>,
    replay: Arc<Replay>,
}

impl<H: Host> Clone for HttpFace<H> {
    fn clone(&self) -> Self {
        let (sessions, replay) = (Arc::clone(&self.sessions), Arc::clone(&self.replay));
        Self { service: self.service.clone(), sessions, replay }
    }
}

impl<H: Host> HttpFace<H> {
    /// A face without sessions yet.
    #[must_use]
    pub fn new(settings: HttpFaceSettings) -> Self {
        let mut session = SessionConfig::default();
        session.keep_alive = Some(KEEP_ALIVE);
        let mut manager = LocalSessionManager::default();
        manager.session_config = session;
        let sessions = Arc::new(manager);
        let replay = Arc::new(Replay::default());
        let manager = Resumable {
            sessions: Arc::clone(&sessions),
            replay: Arc::clone(&replay),
            running: settings.running.clone(),
            stop: settings.stop.clone(),
        };
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_json_response(true)
            .with_max_request_body_bytes(settings.max_body_bytes)
            .with_cancellation_token(settings.stop);
        let tasks = Tasks::new(settings.running);
        let face = move || Ok(Face::per_request(tasks.clone()));
        let service = StreamableHttpService::new(face, Arc::new(manager), config);
        Self { service, sessions: Arc::new(Sessions::new(sessions)), replay }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Full<Bytes>>) -> Answer {
        let Some(owner) = request.extensions().get::<Owner>().cloned() else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the request has no owner");
        };
        let id = request.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let Some(id) = id else { return self.without_session(request, owner).await };
        // The same answer as for a session that does not exist: ids must not be probed.
        let Some(session) = self.sessions.of(&id, &owner) else {
            return plain(StatusCode::NOT_FOUND, "Session not found");
        };
        if self.is_forgotten(&session, &request) {
            return plain(StatusCode::BAD_REQUEST, "Last-Event-ID: its stream is not known (any more)");
        }
        let deletes = request.method() == Method::DELETE;
        if deletes {
            self.sessions.cancel_all(&session).await;
        }
        let response = self.answer(request, Some(&session)).await;
        if deletes && response.status().is_success() {
            self.sessions.ended(&id);
            // Done, not only accepted: some clients take 202 for a failure.
            return plain(StatusCode::NO_CONTENT, "");
        }
        response
    }

    /// Whether the request is for the rest of a stream that is not known. The SDK would answer that nothing is left.
    fn is_forgotten(&self, session: &Session, request: &Request<Full<Bytes>>) -> bool {
        let event = request.headers().get(LAST_EVENT).and_then(|event| event.to_str().ok());
        // The stream of `GET` is the SDK's.
        let event = event.filter(|event| request.method() == Method::GET && event.contains('/'));
        event.is_some_and(|event| self.replay.after(&session.id, event).is_none())
    }

    /// Answers a request that may begin a session.
    async fn without_session(&self, request: Request<Full<Bytes>>, owner: Owner) -> Answer {
        if !has_no_sessions(&request) && !self.sessions.make_room(&owner).await {
            return plain(StatusCode::SERVICE_UNAVAILABLE, "too many MCP sessions");
        }
        let response = self.answer(request, None).await;
        let begun = response.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let Some(id) = begun else { return response };
        let (response, revision) = begun::read(response).await;
        self.sessions.begun(&id, owner, &revision);
        response
    }

    async fn answer(&self, request: Request<Full<Bytes>>, session: Option<&Session>) -> Answer {
        if request.method() != Method::POST || !is_json(&request) {
            return self.service.handle(request).await;
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = body.collect().await;
        let answered = match message::read(&body.to_bytes()) {
            Ok(Posted::One(message)) => self.one(parts, message, session).await,
            Ok(Posted::Many(messages)) => self.many(parts, messages, session).await,
            Err(fault) => Err(fault),
        };
        answered.unwrap_or_else(|fault| refusal(&fault.value()))
    }

    /// Has a message answered by the SDK.
    async fn one(
        &self,
        mut parts: request::Parts,
        message: Message,
        session: Option<&Session>,
    ) -> Result<Answer, Fault> {
        let id = message.id();
        let body = match session {
            None => message.without_session()?,
            Some(session) => {
                if let Some(text) = message.request.clone() {
                    let used = || Fault::invalid("a request with this id is not answered yet").to(id.clone());
                    let in_flight = session.enter(text).ok_or_else(used)?;
                    // Goes where the request goes, so it is dropped when its handler has ended.
                    parts.extensions.insert(Arc::new(in_flight));
                }
                message.in_session_of(&session.revision)?
            }
        };
        let response = self.service.handle(Request::from_parts(parts, Full::new(body))).await;
        // It is JSON: so it says of the SDK that it cannot read it.
        if response.status() == StatusCode::UNSUPPORTED_MEDIA_TYPE {
            return Err(Fault::no_message().to(id));
        }
        Ok(response)
    }

    /// Answers a batch: all that its messages are answered is one stream.
    async fn many(
        &self,
        mut parts: request::Parts,
        messages: Vec<Result<Message, Fault>>,
        session: Option<&Session>,
    ) -> Result<Answer, Fault> {
        let Some(session) = session.filter(|session| *session.revision == *WITH_BATCHES) else {
            return Err(Fault::invalid(format!("only sessions of {WITH_BATCHES} take batches")));
        };
        let stream = self.replay.begin(&session.id);
        parts.extensions.insert(OfBatch(Arc::downgrade(&stream)));
        let (mut faults, mut answer) = (Vec::new(), None);
        for message in messages {
            let answered = match message {
                Ok(message) => self.one(parts.clone(), message, Some(session)).await,
                Err(fault) => Err(fault),
            };
            match answered {
                Err(fault) => faults.push(fault),
                Ok(response) if response.status() == StatusCode::ACCEPTED => {}
                // It has the answers to the other requests too.
                Ok(response) if response.status() == StatusCode::OK => drop(answer.get_or_insert(response)),
                // What is wrong with the headers or the session is so for all.
                Ok(response) => return Ok(response),
            }
        }
        Ok(match answer {
            Some(response) => response.map(|events| after(&faults, events)),
            None if faults.is_empty() => plain(StatusCode::ACCEPTED, ""),
            None => refusal(&faults.iter().map(Fault::value).collect()),
        })
    }
}

/// A stream of events after those that tell of faults.
fn after(faults: &[Fault], events: BoxBody<Bytes, Infallible>) -> BoxBody<Bytes, Infallible> {
    let faults = Full::from(faults.iter().map(Fault::event).collect::<String>());
    BodyExt::boxed(StreamBody::new(BodyStream::new(faults).chain(BodyStream::new(events))))
}

/// Whether the body says that it is JSON.
fn is_json(request: &Request<Full<Bytes>>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

/// Whether the request is of a revision that has no sessions.
fn has_no_sessions(request: &Request<Full<Bytes>>) -> bool {
    let version = request.headers().get("mcp-protocol-version").and_then(|v| v.to_str().ok());
    // Revisions are dates, so they compare as texts do.
    version.is_some_and(|version| version >= "2026-07-28")
}

/// The error of JSON-RPC that a message is answered with, or all those of a batch.
fn refusal(error: &Value) -> Answer {
    let mut response = Response::new(Full::from(error.to_string()).boxed());
    *response.status_mut() = StatusCode::BAD_REQUEST;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response
}
