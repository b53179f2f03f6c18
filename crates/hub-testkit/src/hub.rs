use anyhow::{Context, Result};
use hub_core::Hub;
use hub_protocol::ops::keys::CreateKey;
use hub_server::Server;
use hub_server::config::{Config, Layered, command};
use hub_spoke::{Client, Spoke, SpokeBuilder};
use tempfile::TempDir;

use crate::RawPeer;

/// The real server in this process.
pub struct TestHub {
    server: Server,
    folder: TempDir,
    key: String,
}

impl TestHub {
    /// With default settings.
    pub async fn start() -> Result<Self> {
        Self::start_with(&[]).await
    }

    /// With flags such as `&["--stall-timeout-ms", "500"]`.
    pub async fn start_with(flags: &[&str]) -> Result<Self> {
        Self::start_in(TempDir::new()?, flags).await
    }

    /// Over a folder that another hub may have left.
    pub async fn start_in(folder: TempDir, flags: &[&str]) -> Result<Self> {
        let path = folder.path().to_str().context("a temp path is text")?.to_owned();
        let base = ["hub-server", "--data-dir", &path];
        let listen: &[&str] = if flags.contains(&"--listen") { &[] } else { &["--listen", "127.0.0.1:0"] };
        let matches = command().try_get_matches_from(base.iter().chain(listen).chain(flags))?;
        let settings = crate::store_settings(folder.path(), flags)?;
        let lookup = |name: &str| settings.iter().find(|(key, _)| *key == name).map(|(_, value)| value.clone());
        let config = Config::from_layers(&Layered::build(&matches, &lookup, "", None)?)?;
        let server = hub_server::start(config).await?;
        let key = std::fs::read_to_string(folder.path().join("admin.key"))?.trim().to_owned();
        Ok(Self { server, folder, key })
    }

    /// Base URL for HTTP.
    #[must_use]
    pub fn url(&self) -> String {
        self.server.url()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }

    /// The admin key.
    #[must_use]
    pub fn admin_key(&self) -> &str {
        &self.key
    }

    /// The hub inside.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        self.server.hub()
    }

    /// Where the data is.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A client with the admin key.
    pub async fn client(&self) -> Result<Client> {
        Ok(Client::connect(&self.url(), &self.key).await?)
    }

    /// A client with a new key of these scopes.
    pub async fn client_with(&self, scopes: &[&str]) -> Result<Client> {
        Ok(Client::connect(&self.url(), &self.new_key(scopes).await?).await?)
    }

    /// A spoke with the admin key, to be given operations.
    pub fn spoke(&self, name: &str) -> SpokeBuilder {
        Spoke::builder(&self.url(), &self.key, name)
    }

    /// The text of a new key of these scopes.
    pub async fn new_key(&self, scopes: &[&str]) -> Result<String> {
        let params = CreateKey {
            name: "test".into(),
            scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
            ..CreateKey::default()
        };
        Ok(self.hub().invoke(&hub_core::Principal::root(), &params).await?.secret)
    }

    /// A WebSocket that says what it is told to.
    pub async fn raw(&self) -> Result<RawPeer> {
        RawPeer::connect(self.server.address(), &self.key).await
    }

    /// Goes down; answers whether cleanly, and leaves the folder for another hub.
    pub async fn stop(self) -> (bool, TempDir) {
        (self.server.stop().await, self.folder)
    }
}
