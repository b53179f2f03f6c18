//! The face over streamable HTTP.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, SessionConfig};
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use tokio_util::sync::CancellationToken;

use super::face::Face;
use super::host::Host;

const SESSION: &str = "mcp-session-id";

/// Sessions of one owner; the one that was idle longest gives way to a new one.
const PER_OWNER: usize = 256;

/// Sessions of all owners; above it none is begun.
const MAX_SESSIONS: usize = 8_192;

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
    service: StreamableHttpService<Face<H>, LocalSessionManager>,
    manager: Arc<LocalSessionManager>,
    owned: Arc<Mutex<HashMap<String, Owned>>>,
}

impl<H: Host> Clone for HttpFace<H> {
    fn clone(&self) -> Self {
        let (service, manager, owned) = (self.service.clone(), Arc::clone(&self.manager), Arc::clone(&self.owned));
        Self { service, manager, owned }
    }
}

struct Owned {
    owner: Owner,
    used: Instant,
}

impl<H: Host> HttpFace<H> {
    /// A face without sessions yet.
    #[must_use]
    pub fn new(settings: HttpFaceSettings) -> Self {
        let mut session = SessionConfig::default();
        session.keep_alive = Some(KEEP_ALIVE);
        let mut manager = LocalSessionManager::default();
        manager.session_config = session;
        let manager = Arc::new(manager);
        let config = StreamableHttpServerConfig::default()
            .disable_allowed_hosts()
            .disable_allowed_origins()
            .with_json_response(true)
            .with_max_request_body_bytes(settings.max_body_bytes)
            .with_cancellation_token(settings.stop);
        let service = StreamableHttpService::new(|| Ok(Face::per_request()), Arc::clone(&manager), config);
        Self { service, manager, owned: Arc::default() }
    }

    /// Answers one request.
    pub async fn handle(&self, request: Request<Full<Bytes>>) -> Response<BoxBody<Bytes, Infallible>> {
        let Some(owner) = request.extensions().get::<Owner>().cloned() else {
            return plain(StatusCode::INTERNAL_SERVER_ERROR, "the request has no owner");
        };
        let session = request.headers().get(SESSION).and_then(|id| id.to_str().ok()).map(str::to_owned);
        let deletes = request.method() == Method::DELETE;
        match &session {
            // The same answer as for a session that does not exist: ids must not be probed.
            Some(id) if !self.belongs(id, &owner) => return plain(StatusCode::NOT_FOUND, "Session not found"),
            Some(_) => {}
            None if has_no_sessions(&request) => {}
            None => {
                if let Err(refused) = self.make_room(&owner).await {
                    return refused;
                }
            }
        }
        let response = self.service.handle(request).await;
        let begun = response.headers().get(SESSION).and_then(|id| id.to_str().ok());
        if let (None, Some(id)) = (&session, begun) {
            self.lock().insert(id.to_owned(), Owned { owner, used: Instant::now() });
        }
        if let (Some(id), true) = (&session, deletes && response.status().is_success()) {
            self.lock().remove(id);
            // Done, not only accepted: some clients take 202 for a failure.
            return plain(StatusCode::NO_CONTENT, "");
        }
        response
    }

    fn belongs(&self, id: &str, owner: &Owner) -> bool {
        self.lock().get_mut(id).filter(|owned| owned.owner == *owner).map(|owned| owned.used = Instant::now()).is_some()
    }

    /// Forgets sessions that have ended, and ends the idlest of an owner that has too many.
    async fn make_room(&self, owner: &Owner) -> Result<(), Response<BoxBody<Bytes, Infallible>>> {
        if self.lock().len() < PER_OWNER {
            return Ok(());
        }
        let live: Vec<String> = self.manager.sessions.read().await.keys().map(ToString::to_string).collect();
        let idlest = {
            let mut owned = self.lock();
            let live: std::collections::HashSet<&str> = live.iter().map(String::as_str).collect();
            owned.retain(|id, _| live.contains(id.as_str()));
            let theirs = owned.iter().filter(|(_, owned)| owned.owner == *owner);
            let too_many = theirs.clone().count() >= PER_OWNER;
            let idlest = theirs.min_by_key(|(_, owned)| owned.used).map(|(id, _)| id.clone()).filter(|_| too_many);
            idlest.inspect(|id| drop(owned.remove(id)))
        };
        if let Some(id) = idlest {
            tracing::info!(owner = %owner.0, "an MCP session gave way to a newer one");
            // It has ended by itself if this fails.
            let _ended = self.manager.close_session(&id.into()).await;
        }
        if live.len() >= MAX_SESSIONS {
            return Err(plain(StatusCode::SERVICE_UNAVAILABLE, "too many MCP sessions"));
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Owned>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the request is of a revision that has no sessions.
fn has_no_sessions(request: &Request<Full<Bytes>>) -> bool {
    let version = request.headers().get("mcp-protocol-version").and_then(|v| v.to_str().ok());
    // Revisions are dates, so they compare as texts do.
    version.is_some_and(|version| version >= "2026-07-28")
}

fn plain(status: StatusCode, text: &'static str) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::from(text).boxed());
    *response.status_mut() = status;
    response
}
