//! The connection to an MCP server, and its coming back.

use std::convert::Infallible;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use hub_operations::Scrubber;
use hub_protocol::OperationSpec;
use rmcp::model::ProtocolVersion;
use rmcp::service::{ClientInitializeError, ClientLifecycleMode, ClientServiceExt, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::async_rw::AsyncRwTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{Peer, RoleClient, ServiceError};
use secrecy::ExposeSecret;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use url::Url;

use super::child::{self, Ending, Running, Words};
use super::handler::Handler;
use super::http::{self, Http};
use super::listing::{self, Found};
use super::tap::Tap;
use super::tools::Imported;
use super::{Health, Inherit, McpError, McpOptions, McpTarget};
use crate::{left_out, net};

/// Pauses between attempts to connect again; each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// A connection that has held so long has the first pause before it again.
const STEADY: Duration = Duration::from_secs(60);

/// Requests over HTTP that wait for their answers: more than the calls that a spoke takes.
const MAX_POSTS: usize = 2_048;

/// How long requests over HTTP may still be answered when the server has been found gone.
const REFUSALS: Duration = Duration::from_millis(200);

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
    /// Why it is gone; known before that is told.
    pub(super) why: Arc<OnceLock<String>>,
    /// Where it is not a program.
    pub(super) http: Option<Http>,
    /// The server's program takes no input.
    deaf: Arc<Notify>,
}

impl Shared {
    /// Notes that an exchange failed: the server may be gone.
    pub(super) fn doubt(&self, error: &ServiceError) {
        match (&self.http, error) {
            (Some(http), _) => http.doubt(),
            (None, ServiceError::TransportSend(_)) => self.deaf.notify_one(),
            (None, _) => {}
        }
    }

    /// Waits until the server is found gone; answers why.
    async fn lost(&self, every: Duration, told: &Told) -> String {
        if let Some(http) = &self.http {
            return http.gone(every, |trouble| told.trouble(trouble)).await;
        }
        self.deaf.notified().await;
        child::DEAF.to_owned()
    }
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
    /// Takes all that a program was given out of its words on standard error.
    scrubber: Arc<Scrubber>,
    /// Takes secrets out of everything else that the server says.
    secrets: Arc<Scrubber>,
    /// Of the program that was started last.
    words: Mutex<Option<Words>>,
}

/// Characters of a reason.
const REASON: usize = 500;

/// From so many bytes on a setting of a program is no word.
const LONG_SETTING: usize = 16;

impl Linker {
    pub(super) fn new(target: McpTarget, options: McpOptions, tasks: TaskTracker) -> Result<Self, McpError> {
        let http = match &target {
            McpTarget::Http { url, policy, .. } => {
                let parsed = Url::parse(url).map_err(|error| bad_url(url, &error))?;
                Some(net::client(&parsed, policy, &net::ClientSettings::default())?)
            }
            McpTarget::Child { .. } => None,
        };
        let given = |least: usize| match &target {
            McpTarget::Http { bearer, .. } => Scrubber::of(bearer.iter().map(ExposeSecret::expose_secret)),
            McpTarget::Child { env, .. } => {
                Scrubber::of(env.iter().map(|(_, value)| value.as_str()).filter(|value| value.len() >= least))
            }
        };
        // What a program has beside everything else of its parent's is mostly settings: words that tools are named by.
        let settings = matches!(&target, McpTarget::Child { inherit: Inherit::AllBut(_), .. });
        let secrets = Arc::new(given(if settings { LONG_SETTING } else { 0 }));
        let scrubber = Arc::new(given(0));
        Ok(Self { target, options, http, tasks, scrubber, secrets, words: Mutex::default() })
    }

    pub(super) fn secrets(&self) -> Arc<Scrubber> {
        Arc::clone(&self.secrets)
    }

    /// Connects and reads the list of tools.
    pub(super) async fn establish(&self) -> Result<(Live, Found), McpError> {
        let timeout = self.options.connect_timeout;
        let work = async {
            let live = self.begin().await?;
            let tools = listing::read(&live.shared.peer, &self.options, &self.secrets).await?;
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
                let second = self.begin_as(newest).await?;
                second.map_err(|second| self.handshake(&format!("{}; {}", first.message, reason(&second))))
            }
            Err(error) => Err(self.handshake(&reason(&error))),
        }
    }

    async fn begin_as(&self, mode: ClientLifecycleMode) -> Result<Result<Live, ClientInitializeError>, McpError> {
        let handler = Handler::default();
        let mut http = None;
        let (begun, child, too_long) = match (&self.target, &self.http) {
            (McpTarget::Http { url, bearer, .. }, Some(client)) => {
                let config = StreamableHttpClientTransportConfig::with_uri(url.as_str());
                // A server that has forgotten the session may be another one by now: all of it is begun anew.
                let mut config = config.reinit_on_expired_session(false).max_concurrent_requests(MAX_POSTS);
                if let Some(bearer) = bearer {
                    config = config.auth_header(bearer.expose_secret());
                }
                let client = http.insert(Http::new(client.clone()));
                let transport = StreamableHttpClientTransport::with_client(client.clone(), config);
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
                        return Err(self.handshake(&child.ending(child::MUTE).await.to_string()));
                    }
                    _ => {}
                }
                (begun, Some(child), too_long)
            }
        };
        Ok(begun.map(|running| {
            let (peer, gone) = (running.peer().clone(), CancellationToken::new());
            let (ending, why, deaf) = (Arc::default(), Arc::default(), Arc::default());
            let shared = Shared { peer, handler, gone, too_long, ending, why, http, deaf };
            Live { running, child, shared }
        }))
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
        let lost = tokio::select! {
            () = stop.cancelled() => None,
            _ = &mut ended => Some(child.as_ref().map_or("it ended", |_| child::MUTE).to_owned()),
            why = shared.lost(self.options.look_every, told) => Some(self.clean(&why)),
            never = self.follow(&shared, told) => match never {},
        };
        // Who calls from now on waits for the next connection.
        told.link.send_replace(None);
        let Some(mut why) = lost else {
            shared.gone.cancel();
            ending.cancel();
            // Closing tells the server; one that does not take it is left.
            let _late = tokio::time::timeout(Duration::from_secs(3), ended).await;
            if let Some(child) = child {
                child.let_go().await;
            }
            return String::new();
        };
        if shared.http.is_some() {
            // Some that wait for an answer are being told that they have not begun.
            tokio::time::sleep(REFUSALS).await;
        }
        if let Some(child) = &mut child {
            let ended = child.ending(&why).await;
            why = ended.to_string();
            let _first = shared.ending.set(ended);
        }
        if shared.too_long.load(Ordering::Acquire) {
            "it sent a message that is too long".clone_into(&mut why);
        }
        let _first = shared.why.set(why.clone());
        shared.gone.cancel();
        why
    }

    /// Reads the list of tools whenever the server says that it has changed.
    async fn follow(&self, shared: &Shared, told: &Told) -> Infallible {
        loop {
            shared.handler.changed.notified().await;
            self.refresh(shared, told).await;
        }
    }

    /// Reads the list of tools again, until that works.
    async fn refresh(&self, shared: &Shared, told: &Told) {
        let mut pause = SETTLE;
        loop {
            tokio::time::sleep(pause).await;
            match tokio::time::timeout(
                self.options.connect_timeout,
                listing::read(&shared.peer, &self.options, &self.secrets),
            )
            .await
            {
                Ok(Ok(found)) => return told.tools(found),
                Ok(Err(error)) => tracing::debug!(mcp.client = self.options.name, %error, "no list of tools yet"),
                Err(_) => tracing::debug!(mcp.client = self.options.name, "no list of tools in time"),
            }
            pause = (pause * 2).min(LAST_PAUSE);
        }
    }

    /// Some servers say back what they were sent.
    fn clean(&self, text: &str) -> String {
        // Before it is cut: a part of a secret is not found.
        let clean = self.scrubber.text(text);
        clean.as_deref().unwrap_or(text).chars().take(REASON).collect()
    }

    fn handshake(&self, reason: &str) -> McpError {
        let reason = self.clean(reason);
        McpError::Handshake { name: self.options.name.clone(), reason }
    }
}

/// Without what was received: it may be long, and hold anything.
fn reason(error: &ClientInitializeError) -> String {
    match error {
        ClientInitializeError::ConnectionClosed(_) => "it closed the connection".to_owned(),
        ClientInitializeError::TransportError { error, .. } => match http::failure(error.error.as_ref()) {
            Some(failure) => http::why(failure),
            None => error.error.to_string(),
        },
        ClientInitializeError::JsonRpcError(error) => error.message.to_string(),
        _ => "its answer is not what the protocol says".to_owned(),
    }
}

fn bad_url(url: &str, error: &url::ParseError) -> McpError {
    // What stands before an @ may be a password.
    let url = url.rsplit('@').next().unwrap_or_default().chars().take(200).collect();
    McpError::Url { url, reason: error.to_string() }
}
