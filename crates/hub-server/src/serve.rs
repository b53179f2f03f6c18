use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use hub_core::{ClusterOptions, FirstKey, Hub, KeyringSource};
use hub_protocol::HubId;
use hub_pubsub::{Bus, EventTarget, RedisOptions};
use hub_storage::{PostgresOptions, SqliteOptions, Stamp, Store};
use serde_json::json;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::accept::Acceptor;
use crate::clients;
use crate::config::Config;
use crate::database;
use crate::http::App;
use crate::lock::FolderLock;
use crate::mcp;
use crate::signals::StopRequests;
use crate::supervisor::Supervisor;
use crate::telemetry;

/// Steps of starting, in order; `readyz` shows how far the hub is.
pub(crate) const STEPS: [&str; 4] = ["folder", "store", "hub", "listener"];

/// Longest wait for an answer of the bus: below the silence after which hubs take each other for lost.
const BUS_ANSWERS: Duration = Duration::from_secs(1);

/// How long one hub may take to make the first key before another does.
const FIRST_KEY: Duration = Duration::from_secs(5);

/// How far the hub has come.
#[derive(Default)]
pub(crate) struct Progress(AtomicU8);

impl Progress {
    fn reached(&self, step: u8) {
        self.0.store(step, Ordering::Relaxed);
    }

    /// Number of steps done.
    pub(crate) fn steps(&self) -> usize {
        usize::from(self.0.load(Ordering::Relaxed))
    }
}

/// A running server.
pub struct Server {
    address: SocketAddr,
    scheme: &'static str,
    base_path: String,
    admin_key: Option<std::path::PathBuf>,
    hub: Hub,
    grace: Duration,
    stop_accepting: CancellationToken,
    /// MCP streams that no call keeps open.
    stop_streams: CancellationToken,
    faces: TaskTracker,
    _lock: FolderLock,
}

/// Runs a hub until it is asked to stop; answers whether it went down cleanly.
///
/// # Errors
/// When it can't start; the text names cause and remedy.
#[expect(clippy::print_stdout, reason = "tells the person who starts the hub where it is")]
pub async fn run(config: Config) -> Result<bool> {
    let data_dir = config.data_dir.clone();
    // Before anything is started: who stops a hub that comes up gets an orderly end, too.
    let mut requests = StopRequests::listen()?;
    let supervisor = Supervisor::new(config.database.is_some());
    if let Some(url) = &config.database {
        supervisor.status("waiting for the database");
        tokio::select! {
            up = database::wait(url) => up?,
            () = requests.first() => return Ok(true),
        }
    }
    supervisor.status("opening the database");
    let server = start(config).await?;
    supervisor.ready(&server.url());
    println!("hub {} listening on {}", env!("CARGO_PKG_VERSION"), server.url());
    println!("data in {}", data_dir.display());
    let key = data_dir.join("admin.key");
    match &server.admin_key {
        Some(path) => println!("made an admin key: {} (readable by you only)", path.display()),
        None if key.exists() => println!("admin key: {}", key.display()),
        None => {
            println!("no admin key in {}: another hub of this database made it, or it is lost: then", key.display());
            println!("stop the hub and run `hub-server admin-key` for a new one");
        }
    }
    if key.exists() {
        println!("try:  curl -H \"Authorization: Bearer $(cat '{}')\" {}/api/operations", key.display(), server.url());
    }
    tokio::select! {
        () = requests.first() => {}
        () = supervisor.watch(server.hub()) => {}
    }
    supervisor.stopping(server.grace);
    tokio::select! {
        clean = server.stop() => Ok(clean),
        () = requests.stop_at_once() => Ok(false),
    }
}

/// Starts a hub: folder, store, hub, listener, in this order; nothing is served before all are there.
///
/// # Errors
/// When a step fails.
pub async fn start(config: Config) -> Result<Server> {
    // One TLS provider in the whole process; a second call finds it installed.
    rustls::crypto::ring::default_provider().install_default().ok();
    let metrics = telemetry::metrics()?;
    let progress = Arc::new(Progress::default());
    create_folder(&config.data_dir)?;
    let lock = FolderLock::take(&config.data_dir)?;
    progress.reached(1);
    let store = open_store(&config).await?;
    anyhow::ensure!(
        !store.is_half_copied().await?,
        "the database is half of an import that was not finished: run `hub-server import` again first"
    );
    progress.reached(2);
    // Bound before the hub is up, so that it can tell the others its address; nobody is accepted yet.
    let listener = TcpListener::bind(config.listen).await.with_context(|| {
        format!("cannot listen on {}: is another program there? choose another --listen", config.listen)
    })?;
    let address = listener.local_addr()?;
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    let url = format!("{scheme}://{address}{}", config.base_path);
    let hub = build_hub(store, &config, url).await?;
    let admin_key = write_first_key(&hub, &config).await?;
    // A hub whose keyring is wrong serves everything else; `readyz` and the log say what is wrong.
    if let KeyringSource::Command(_) = config.keyring {
        // It may ask somebody far away.
        tracing::info!(program = config.keyring.describe(), "waiting for keyring_command to print the keyring");
    }
    let _noted = hub.check_keyring().await;
    hub.spawn("clients", clients::run(hub.clone(), config.allow_child_processes));
    progress.reached(3);
    let stop_accepting = CancellationToken::new();
    let faces = TaskTracker::new();
    let stop_streams = CancellationToken::new();
    let mcp = mcp::face(&config, stop_streams.clone(), faces.clone());
    let app = App::new(hub.clone(), config.clone(), metrics, Arc::clone(&progress), faces.clone(), mcp);
    let acceptor = Acceptor::new(&config, app, stop_accepting.clone(), faces.clone())?;
    faces.spawn(acceptor.run(listener));
    progress.reached(4);
    tracing::info!(address = %address, hub.id = %hub.id(), "the hub is up");
    Ok(Server {
        address,
        scheme,
        base_path: config.base_path,
        admin_key,
        hub,
        grace: config.shutdown_grace,
        stop_accepting,
        stop_streams,
        faces,
        _lock: lock,
    })
}

/// The database: a file in the data folder, or a Postgres that several hubs share.
pub(crate) async fn open_store(config: &Config) -> Result<Store> {
    match &config.database {
        Some(url) => Store::open_postgres(url, PostgresOptions::default()).await.context(database::WRONG),
        None => {
            let file = config.data_dir.join("hub.db");
            let store = Store::open_sqlite(&file, SqliteOptions::default()).await;
            store.with_context(|| format!("cannot open the database {}", file.display()))
        }
    }
}

async fn build_hub(store: Store, config: &Config, url: String) -> Result<Hub> {
    let address = config.advertise.clone().unwrap_or(url);
    let connector = Arc::new(clients::Connect { programs: config.allow_child_processes });
    let builder = Hub::builder(store.clone()).settings(config.hub.clone());
    let builder = builder.keyring(config.keyring.clone()).connector(connector);
    let builder = match (&config.database, &config.redis) {
        (None, _) => builder,
        (Some(_), Some(redis)) => {
            let wrong = "cannot use the Redis given by --redis";
            // Hubs of one database find each other, and no others on the same Redis.
            let id = store.settings().ensure("cluster.id", json!(HubId::new()).into()).await?;
            let id: HubId = id.parse().context("the database has an unreadable cluster.id")?;
            let options = RedisOptions::default().with_prefix(format!("hub:{id}:")).with_timeout(BUS_ANSWERS);
            let target = EventTarget::redis(redis, options.clone()).context(wrong)?;
            let bus = Bus::redis(redis, options).context(wrong)?;
            // It may come and go, also at the start; `readyz` and the log tell of it. A wrong password should be seen.
            match bus.check().await {
                Err(error) if !error.may_pass() => return Err(error).context(wrong),
                _ => {}
            }
            builder.event_target(target).cluster(ClusterOptions { bus, address })
        }
        (Some(_), None) => {
            if let Some(other) = store.hubs().list().await?.first() {
                anyhow::bail!(
                    "the hub {} at {} uses this database too: give all of them the same --redis, or stop it first",
                    other.id,
                    other.address
                );
            }
            builder.cluster(ClusterOptions { bus: Bus::memory(), address })
        }
    };
    Ok(builder.build().await?)
}

impl Server {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Base URL for HTTP, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}{}", self.scheme, self.address, self.base_path)
    }

    /// The hub inside.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Goes down: stop accepting → let running mutations finish, cut reads off, send peers away → end connections →
    /// write records → close the store. Answers whether all of it ended within the grace.
    pub async fn stop(self) -> bool {
        self.stop_accepting.cancel();
        let clean = self.hub.shut_down(self.grace).await;
        self.stop_streams.cancel();
        self.faces.close();
        let faces = tokio::time::timeout(Duration::from_secs(2), self.faces.wait()).await.is_ok();
        if !faces {
            tracing::warn!("connections were cut off");
        }
        clean
    }
}

fn create_folder(folder: &std::path::Path) -> Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder).with_context(|| format!("cannot create the data folder {}", folder.display()))
}

/// Makes another admin key for the hub over this data folder, which must not be running; answers where it is.
///
/// # Errors
/// When the folder is in use or the store fails.
pub async fn make_admin_key(config: &Config) -> Result<std::path::PathBuf> {
    let database = config.data_dir.join("hub.db");
    let exists = config.database.is_some() || database.exists();
    anyhow::ensure!(exists, "no database at {}: is --data-dir right?", database.display());
    create_folder(&config.data_dir)?;
    let _lock = FolderLock::take(&config.data_dir)?;
    let store = open_store(config).await?;
    let path = config.data_dir.join("admin.key");
    let made = Hub::make_admin_key::<anyhow::Error>(&store, keep_in(&path)).await;
    store.close().await;
    made.map(|()| path)
}

/// On the first start makes an admin key and leaves it in `admin.key`, for the owner's eyes only.
async fn write_first_key(hub: &Hub, config: &Config) -> Result<Option<std::path::PathBuf>> {
    let path = config.data_dir.join("admin.key");
    // Of several hubs on a new database one makes it. If that one could not, or was killed in the middle, the next does:
    // no hub is up before there is a key.
    while !hub.store().leases().hold("first-key", hub.id(), FIRST_KEY).await? {
        if !hub.store().keys().list(true, Stamp::now()).await?.is_empty() {
            return Ok(None);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let made = hub.first_key::<anyhow::Error>(keep_in(&path)).await;
    hub.store().leases().release("first-key", hub.id()).await?;
    let made = made?;
    Ok(made.then_some(path))
}

fn keep_in(path: &std::path::Path) -> impl FnOnce(&FirstKey) -> Result<()> {
    move |key| {
        write_private(path, &key.text).with_context(|| format!("cannot write the admin key to {}", path.display()))
    }
}

/// Writes a line to a file that only its owner can read.
fn write_private(path: &std::path::Path, line: &str) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    #[cfg(unix)]
    {
        // A file that was there before keeps its mode when it is opened.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        file.set_permissions(mode)?;
    }
    writeln!(file, "{line}")?;
    file.sync_all()
}
