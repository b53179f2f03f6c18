//! An MCP server's tools as operations.

mod call;
mod child;
mod handler;
mod http;
mod link;
mod listing;
mod mend;
mod reply;
mod tap;
mod tools;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use hub_operations::{RegistryBuilder, Reply, Scrubber};
use hub_protocol::{AccessControl, CallError, Json, OperationSpec};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::left_out;
use crate::net::{NetError, NetPolicy};
use link::{Linker, Shared};
use tools::Imported;

/// Longest wait for all to end.
const CLOSING: Duration = Duration::from_secs(6);

/// Where an MCP server is.
#[derive(Debug, Clone)]
pub enum McpTarget {
    /// Behind a URL, over streamable HTTP.
    Http {
        /// The endpoint.
        url: String,
        /// Sent as `Authorization: Bearer`.
        bearer: Option<SecretString>,
        /// Which addresses may be reached.
        policy: NetPolicy,
    },
    /// A program that speaks over its standard input and output.
    Child {
        /// Program.
        program: String,
        /// Its arguments.
        args: Vec<String>,
        /// Variables of its environment beside those that it inherits.
        env: Vec<(String, String)>,
        /// What it sees of the environment of this process.
        inherit: Inherit,
        /// Folder to run in.
        cwd: Option<PathBuf>,
    },
}

impl McpTarget {
    /// A program with arguments, otherwise as this process.
    #[must_use]
    pub fn child(program: impl Into<String>, args: Vec<String>) -> Self {
        Self::Child { program: program.into(), args, env: Vec::new(), inherit: Inherit::AllBut(Vec::new()), cwd: None }
    }
}

/// What a child sees of the environment of its parent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inherit {
    /// All variables but these.
    AllBut(Vec<OsString>),
    /// What nearly every program needs and holds no secret: `PATH`, `HOME`, `LANG`, `TZ`, `TMPDIR`.
    Basics,
}

/// Where a child's standard error goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StderrTo {
    /// Into the log at the level debug, a bounded number of lines.
    #[default]
    Log,
    /// Where this process's own goes, as it is.
    Inherit,
}

/// How tools become operations, and how long is waited for the server.
#[derive(Debug, Clone)]
pub struct McpOptions {
    /// Names the server in logs, errors and the default scope.
    pub name: String,
    /// Namespace of the operations. Default: the name.
    pub namespace: Option<String>,
    /// Who may call them. Default: holders of the scope `imported:{name}`.
    pub access: Option<AccessControl>,
    /// Tools whose progress is worth a stream: each becomes a subscription.
    pub stream: Vec<String>,
    /// Whether hubs show each tool to MCP hosts as a tool of its own, under its own name, beside their four.
    pub as_tools: bool,
    /// Longest wait for a connection and the list of tools; default 60 s, since a package runner may download first.
    pub connect_timeout: Duration,
    /// Longest run of a tool; default 10 minutes. The call's own deadline usually comes first.
    pub call_timeout: Duration,
    /// How often a server over HTTP is asked whether it is there; default 15 s.
    pub look_every: Duration,
    /// Where a child's standard error goes.
    pub stderr: StderrTo,
}

impl McpOptions {
    /// The defaults, for a server with this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            namespace: None,
            access: None,
            stream: Vec::new(),
            as_tools: false,
            connect_timeout: Duration::from_secs(60),
            call_timeout: Duration::from_secs(600),
            look_every: Duration::from_secs(15),
            stderr: StderrTo::default(),
        }
    }
}

/// Why there is no connection to an MCP server.
#[derive(Debug, thiserror::Error)]
pub enum McpError {
    /// The URL is none, or is not allowed.
    #[error("the MCP server at {url:?} is not reached: {reason}")]
    Url {
        /// As given, without user and password.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The address or the HTTP client.
    #[error(transparent)]
    Net(#[from] NetError),
    /// The program does not start.
    #[error("the MCP server {program:?} can't be started: {kind}")]
    Start {
        /// Program.
        program: String,
        /// Why.
        kind: std::io::ErrorKind,
    },
    /// The two sides don't agree on a beginning.
    #[error("the MCP server {name} did not begin a session: {reason}")]
    Handshake {
        /// Which server.
        name: String,
        /// Why.
        reason: String,
    },
    /// The list of tools can't be had.
    #[error("the MCP server {name} does not list its tools: {reason}")]
    Listing {
        /// Which server.
        name: String,
        /// Why.
        reason: String,
    },
    /// Nothing came for too long.
    #[error("the MCP server {name} did not answer within {timeout:?}{}", saying(last.as_deref()))]
    Timeout {
        /// Which server.
        name: String,
        /// How long was waited.
        timeout: Duration,
        /// What its program has said last on standard error.
        last: Option<String>,
    },
}

fn saying(last: Option<&str>) -> String {
    last.map(|last| format!(", saying {last:?}")).unwrap_or_default()
}

/// How a connection to an MCP server fares.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// Why calls don't go through; `None` when they do. It is being connected anew meanwhile.
    pub trouble: Option<String>,
    /// What of the server's list is not offered, and why.
    pub left_out: Option<String>,
}

/// A connection to an MCP server that comes back by itself, and its tools as operations.
///
/// A child that ends is started again and an HTTP session that is lost is begun again, with growing pauses. Dropping
/// the client ends both; a child with all that it has started.
pub struct McpClient {
    options: McpOptions,
    link: watch::Receiver<Option<Shared>>,
    health: watch::Receiver<Health>,
    imported: watch::Receiver<Arc<Vec<OperationSpec>>>,
    tools: watch::Receiver<Arc<Vec<Imported>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Takes credentials out of what the server says: some repeat what they were sent.
    secrets: Arc<Scrubber>,
    _guard: DropGuard,
}

impl McpClient {
    /// Connects and reads the list of tools.
    ///
    /// # Errors
    /// When the first connection or list fails.
    pub async fn connect(target: McpTarget, options: McpOptions) -> Result<Self, McpError> {
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let tasks = TaskTracker::new();
        let linker = Linker::new(target, options.clone(), tasks.clone())?;
        let secrets = linker.secrets();
        let (live, (found, left_out)) = linker.establish().await?;
        let (link, watched) = watch::channel(Some(live.shared()));
        let (told, health) = watch::channel(Health { trouble: None, left_out: left_out::summary(&left_out) });
        let (specs, imported) = watch::channel(Arc::new(found.iter().map(|i| i.spec.clone()).collect::<Vec<_>>()));
        let (all, tools) = watch::channel(Arc::new(found));
        tasks.spawn(linker.supervise(live, link::Told { link, tools: all, specs, health: told }, stop.clone()));
        Ok(Self { options, link: watched, health, imported, tools, tasks, stop, secrets, _guard: guard })
    }

    /// The tools as operations, now.
    #[must_use]
    pub fn operations(&self) -> Vec<OperationSpec> {
        self.imported.borrow().to_vec()
    }

    /// The tools as operations, now and after each change of the server's list.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<Vec<OperationSpec>>> {
        self.imported.clone()
    }

    /// How it fares, now and after each change.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.clone()
    }

    /// Why calls don't go through now; `None` when they do. It is being connected anew meanwhile.
    fn trouble(&self) -> Option<String> {
        self.health.borrow().trouble.clone()
    }

    /// Calls a tool by its own name; `stop` gives the call up and tells the server so. Dropping the future does, too.
    ///
    /// # Errors
    /// `EXECUTION_ERROR` when the tool reports a failure, with its content as details; `TIMEOUT`, `ABORTED`,
    /// `SPOKE_DISCONNECTED`, `PAYLOAD_TOO_LARGE` and `OPERATION_UNAVAILABLE` as their names say.
    pub async fn call(
        &self,
        tool: &str,
        input: Json,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<Reply, CallError> {
        let done = self.run_tool(tool, &input, None, stop).await;
        self.clean(done.map(reply::Done::envelope)).await.map(Reply::Envelope)
    }

    /// An answer without what the server repeats of its credentials.
    async fn clean(&self, answer: Result<Json, CallError>) -> Result<Json, CallError> {
        match answer {
            Ok(answer) => Ok(self.secrets.json(answer).await),
            Err(error) => Err(reply::shortened(self.secrets.error(error).await)),
        }
    }

    /// Runs an imported operation by its id: a tool, or a tool as a stream.
    ///
    /// # Errors
    /// As [`McpClient::call`]; `OPERATION_NOT_FOUND` when the server has taken the tool back.
    pub async fn run(self: Arc<Self>, operation_id: &str, input: Json) -> Result<Reply, CallError> {
        let found =
            self.tools.borrow().iter().find(|i| i.spec.id() == operation_id).map(|i| (i.tool.clone(), i.stream));
        let (tool, stream) = found.ok_or_else(|| hub_operations::Definition::not_found(operation_id))?;
        if stream {
            let items = Arc::clone(&self).stream_tool(tool, input);
            let items = items.then(move |item| {
                let client = Arc::clone(&self);
                async move { client.clean(item).await }
            });
            return Ok(Reply::Stream(items.boxed()));
        }
        self.call(&tool, input, std::future::pending()).await
    }

    /// Ends the connection: a child is asked to go by the end of its input, and killed when it does not.
    pub async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        // What has left the program's process group may hold its standard error open.
        let _open = tokio::time::timeout(CLOSING, self.tasks.wait()).await;
    }
}

impl std::fmt::Debug for McpClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("McpClient").field("name", &self.options.name).finish_non_exhaustive()
    }
}

/// Adds the tools of an MCP server, as they are now, to a registry.
#[must_use]
#[track_caller]
pub fn register<C: Send + 'static>(mut builder: RegistryBuilder<C>, client: &Arc<McpClient>) -> RegistryBuilder<C> {
    for spec in client.operations() {
        let (client, id) = (Arc::clone(client), spec.id());
        builder = builder.raw(spec, move |_, input| {
            let (client, id) = (Arc::clone(&client), id.clone());
            async move { client.run(&id, input).await }
        });
    }
    builder
}
