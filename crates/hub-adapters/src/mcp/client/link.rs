//! The connection to an MCP server, and its coming back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hub_operations::Scrubber;
use hub_protocol::OperationSpec;
use rmcp::model::{ListToolsRequest, PaginatedRequestParams, ProtocolVersion, ServerResult};
use rmcp::service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{Peer, RoleClient};
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::child::{self, Ending, Running, Words};
use super::handler::Handler;
use super::tap::Tap;
use super::tools::{Imported, Listed, MAX_TOOLS};
use super::{Health, McpError, McpOptions, McpTarget};
use crate::{left_out, net};

/// Pauses between attempts to connect again; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that has held so long has the first pause before it again.
const STEADY: Duration = Duration::from_secs(60);

/// Pages of a list of tools.
const PAGES: usize = 100;

/// Pause after the server says that its tools changed: it may say so many times.
const SETTLE: Duration = Duration::from_millis(100);

/// What calls need of a connection.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) peer: Peer<RoleClient>,
    pub(super) handler: Handler,
    /// Cancelled when nothing more comes.
    pub(super) gone: CancellationToken,
    /// Whether it is gone because a message was too long.
    pub(super) too_long: Arc<AtomicBool>,
    /// How the server's program ended, if there is one and it did; known before `gone` is told.
    pub(super) ending: Arc<OnceLock<Ending>>,
    /// Asks whether the server is there and what its tools are: a call could not be sent.
    pub(super) recheck: Arc<Notify>,
}

/// A connection.
pub(super) struct Live {
    running: RunningService<RoleClient, Handler>,
    child: Option<Running>,
    shared: Shared,
}

impl Live {
    pub(super) fn shared(&self) -> Shared {
        self.shared.clone()
    }
}

/// Where the state of the connection is told.
pub(super) struct Told {
    /// `None` while there is no connection.
    pub(super) link: watch::Sender<Option<Shared>>,
    pub(super) tools: watch::Sender<Arc<Vec<Imported>>>,
    pub(super) specs: watch::Sender<Arc<Vec<OperationSpec>>>,
    pub(super) health: watch::Sender<Health>,
}

/// What a server lists, and what of it can't be offered.
pub(super) type Found = (Vec<Imported>, Vec<String>);

impl Told {
    fn tools(&self, (found, left_out): Found) {
        self.health(|health| health.left_out = left_out::summary(&left_out));
        let specs: Vec<OperationSpec> = found.iter().map(|import| import.spec.clone()).collect();
        if **self.specs.borrow() == specs {
            return;
        }
        // First what calls are served by, then what is shown.
        self.tools.send_replace(Arc::new(found));
        self.specs.send_replace(Arc::new(specs));
    }

    fn trouble(&self, why: Option<String>) {
        self.health(|health| health.trouble = why);
    }

    fn health(&self, change: impl FnOnce(&mut Health)) {
        self.health.send_if_modified(|health| {
            let before = health.clone();
            change(health);
            *health != before
        });
    }
}

/// Makes connections.
pub(super) struct Linker {
    target: McpTarget,
    options: McpOptions,
    http: Option<reqwest::Client>,
    tasks: TaskTracker,
    scrubber: Arc<Scrubber>,
    /// Of the program that was started last.
    words: Mutex<Option<Words>>,
}

impl Linker {
    pub(super) fn new(target: McpTarget, options: McpOptions, tasks: TaskTracker) -> Result<Self, McpError> {
        let http = match &target {
            McpTarget::Http { url, policy, .. } => {
                let parsed = Url::parse(url).map_err(|error| bad_url(url, &error))?;
                Some(net::client(&parsed, policy, &net::ClientSettings::default())?)
            }
            McpTarget::Child { .. } => None,
        };
        let scrubber = Arc::new(match &target {
            McpTarget::Http { bearer, .. } => Scrubber::of(bearer.iter().map(ExposeSecret::expose_secret)),
            McpTarget::Child { env, .. } => Scrubber::of(env.iter().map(|(_, value)| value.as_str())),
        });
        Ok(Self { target, options, http, tasks, scrubber, words: Mutex::default() })
    }

    /// Connects and reads the list of tools.
    pub(super) async fn establish(&self) -> Result<(Live, Found), McpError> {
        let timeout = self.options.connect_timeout;
        let work = async {
            let live = self.begin().await?;
            let tools = self.list(&live.shared.peer).await?;
            Ok((live, tools))
        };
        let late = |_| {
            let words = self.words.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Words::last);
            let last = words.and_then(|mut words| words.pop());
            McpError::Timeout { name: self.options.name.clone(), timeout, last }
        };
        tokio::time::timeout(timeout, work).await.map_err(late)?
    }

    /// Begins a session as the older revisions do; a server that has only the newer ones is asked again their way.
    async fn begin(&self) -> Result<Live, McpError> {
        match self.begin_as(ClientLifecycleMode::Initialize).await? {
            Ok(live) => Ok(live),
            Err(ClientInitializeError::JsonRpcError(first)) => {
                let newest = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
                self.begin_as(newest).await?.map_err(|_| self.handshake(&first.message))
            }
            Err(error) => Err(self.handshake(&reason(&error))),
        }
    }

    async fn begin_as(&self, mode: ClientLifecycleMode) -> Result<Result<Live, ClientInitializeError>, McpError> {
        let handler = Handler::default();
        let (begun, child, too_long) = match (&self.target, &self.http) {
            (McpTarget::Http { url, bearer, .. }, Some(http)) => {
                let mut config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                if let Some(bearer) = bearer {
                    config = config.auth_header(bearer.expose_secret());
                }
                let transport = StreamableHttpClientTransport::with_client(http.clone(), config);
                let transport = Tap::new(transport, handler.progress.clone());
                (handler.clone().serve_with_lifecycle(transport, mode).await, None, Arc::default())
            }
            _ => {
                let words = Words::new(Arc::clone(&self.scrubber));
                *self.words.lock().unwrap_or_else(PoisonError::into_inner) = Some(words.clone());
                let (mut child, stdout, stdin) =
                    child::start(&self.target, &self.options.name, self.options.stderr, words, &self.tasks)?;
                let (too_long, garbage) = (stdout.too_long(), stdout.garbage());
                let transport = Tap::new(AsyncRwTransport::new(stdout, stdin), handler.progress.clone());
                let begun = handler.clone().serve_with_lifecycle(transport, mode).await;
                match &begun {
                    Err(_) if garbage.load(Ordering::Acquire) => return Err(self.handshake(child::GARBAGE)),
                    Err(ClientInitializeError::ConnectionClosed(_) | ClientInitializeError::TransportError { .. }) => {
                        return Err(self.handshake(&child.ending().await.to_string()));
                    }
                    _ => {}
                }
                (begun, Some(child), too_long)
            }
        };
        Ok(begun.map(|running| {
            let (peer, gone) = (running.peer().clone(), CancellationToken::new());
            let (recheck, ending) = (Arc::default(), Arc::default());
            let shared = Shared { peer, handler, gone, too_long, ending, recheck };
            Live { running, child, shared }
        }))
    }

    /// All tools, a page at a time; one that is malformed is left out and not the whole list.
    async fn list(&self, peer: &Peer<RoleClient>) -> Result<Found, McpError> {
        let info = peer.peer_info();
        if info.as_ref().is_some_and(|info| info.capabilities.tools.is_none()) {
            return Ok(Found::default());
        }
        let (mut listed, mut cursor) = (Listed::default(), None);
        for _ in 0..PAGES {
            let page = PaginatedRequestParams::default().with_cursor(cursor.take());
            let answer = peer.send_request(ListToolsRequest::with_param(page).into()).await;
            let answer = answer.map_err(|error| self.listing(super::reply::failed(&error, true).message))?;
            cursor = match answer {
                ServerResult::ListToolsResult(page) => {
                    listed.tools.extend(page.tools);
                    page.next_cursor
                }
                ServerResult::CustomResult(page) => self.salvage(&page.0, &mut listed)?,
                _ => return Err(self.listing("the answer is not a list of tools".to_owned())),
            };
            if cursor.is_none() || listed.tools.len() > MAX_TOOLS {
                break;
            }
        }
        if cursor.is_some() && listed.tools.len() <= MAX_TOOLS {
            listed.left_out.push(format!("all tools after the first {PAGES} pages"));
        }
        let version = info.and_then(|info| info.server_info.as_ref().map(|server| server.version.clone()));
        let (tools, left_out) = listed.import(&self.options, version.as_deref());
        if let Some(left_out) = left_out::summary(&left_out) {
            tracing::warn!(mcp.client = self.options.name, left_out, "not all tools of an MCP server can be offered");
        }
        Ok((tools, left_out))
    }

    fn salvage(&self, page: &Value, listed: &mut Listed) -> Result<Option<String>, McpError> {
        let Some(all) = page.get("tools").and_then(Value::as_array) else {
            return Err(self.listing("the answer is not a list of tools".to_owned()));
        };
        for one in all {
            match serde_json::from_value(one.clone()) {
                Ok(tool) => listed.tools.push(tool),
                Err(_) => listed.left_out.push("a malformed tool".to_owned()),
            }
        }
        Ok(page.get("nextCursor").and_then(Value::as_str).map(str::to_owned))
    }

    /// Keeps the connection up until `stop`.
    pub(super) async fn supervise(self, first: Live, told: Told, stop: CancellationToken) {
        let mut live = first;
        let mut pause = FIRST_PAUSE;
        loop {
            let since = Instant::now();
            let why = self.attend(live, &told, &stop).await;
            if stop.is_cancelled() {
                return;
            }
            told.trouble(Some(why.clone()));
            tracing::warn!(mcp.client = self.options.name, why, "the connection to an MCP server was lost");
            if since.elapsed() >= STEADY {
                pause = FIRST_PAUSE;
            }
            live = loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LAST_PAUSE);
                let attempt = tokio::select! {
                    () = stop.cancelled() => return,
                    attempt = self.establish() => attempt,
                };
                match attempt {
                    Ok((live, found)) => {
                        told.tools(found);
                        told.link.send_replace(Some(live.shared()));
                        told.trouble(None);
                        break live;
                    }
                    Err(error) => {
                        tracing::warn!(mcp.client = self.options.name, %error, "an MCP server is not back");
                        told.trouble(Some(error.to_string()));
                    }
                }
            };
        }
    }

    /// Follows one connection to its end; answers why it ended.
    async fn attend(&self, live: Live, told: &Told, stop: &CancellationToken) -> String {
        let Live { running, mut child, shared } = live;
        let ending = running.cancellation_token();
        let mut ended = std::pin::pin!(running.waiting());
        let over = loop {
            tokio::select! {
                () = stop.cancelled() => break false,
                _ = &mut ended => break true,
                () = shared.handler.changed.notified() => {}
                () = shared.recheck.notified() => {}
            }
            tokio::select! {
                () = stop.cancelled() => break false,
                _ = &mut ended => break true,
                () = self.refresh(&shared, told) => {}
            }
        };
        // Who calls from now on waits for the next connection.
        told.link.send_replace(None);
        let mut why = "it ended".to_owned();
        if let Some(child) = child.as_mut().filter(|_| over) {
            let ended = child.ending().await;
            why = ended.to_string();
            let _first = shared.ending.set(ended);
        }
        if shared.too_long.load(Ordering::Acquire) {
            "it sent a message that is too long".clone_into(&mut why);
        }
        shared.gone.cancel();
        if !over {
            ending.cancel();
            // Closing tells the server; one that does not take it is left.
            let _late = tokio::time::timeout(Duration::from_secs(3), ended).await;
            if let Some(child) = child {
                child.let_go().await;
            }
        }
        why
    }

    /// Reads the list of tools again, until that works.
    async fn refresh(&self, shared: &Shared, told: &Told) {
        let mut pause = SETTLE;
        loop {
            tokio::time::sleep(pause).await;
            match tokio::time::timeout(self.options.connect_timeout, self.list(&shared.peer)).await {
                Ok(Ok(found)) => return told.tools(found),
                Ok(Err(error)) => tracing::debug!(mcp.client = self.options.name, %error, "no list of tools yet"),
                Err(_) => tracing::debug!(mcp.client = self.options.name, "no list of tools in time"),
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    fn handshake(&self, reason: &str) -> McpError {
        let reason = reason.chars().take(500).collect();
        McpError::Handshake { name: self.options.name.clone(), reason }
    }

    fn listing(&self, reason: String) -> McpError {
        McpError::Listing { name: self.options.name.clone(), reason }
    }
}

/// Without what was received: it may be long, and hold anything.
fn reason(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::ConnectionClosed(_) => "it closed the connection".to_owned(),
        ClientInitializeError::TransportError { error, .. } => {
            let mut text = error.error.to_string();
            let mut cause = error.error.source();
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                cause = source.source();
            }
            text
        }
        ClientInitializeError::JsonRpcError(error) => error.message.to_string(),
        _ => "its answer is not what the protocol says".to_owned(),
    }
}

fn bad_url(url: &str, error: &url::ParseError) -> McpError {
    // What stands before an @ may be a password.
    let url = url.rsplit('@').next().unwrap_or_default().chars().take(200).collect();
    McpError::Url { url, reason: error.to_string() }
}
