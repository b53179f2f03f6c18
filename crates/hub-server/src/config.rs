//! Configuration: flags over environment (`HUB_…`) over `.env` over a TOML file over defaults.
//!
//! One table ([`KEYS`]) drives all four, the help text and what `hub-server config` prints.

mod layers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use hub_core::{KeyringSource, Settings};
use hub_operations::PeerConfig;
use hub_storage::Retention;
use ipnet::IpNet;

pub use layers::{Layered, Lookup, Source, command};

/// One setting.
#[derive(Debug)]
pub struct Key {
    /// Name in TOML and, with dashes, as a flag; in capitals behind `HUB_` in the environment.
    pub name: &'static str,
    /// Default; empty is unset.
    pub default: &'static str,
    /// What it does, with its unit.
    pub help: &'static str,
    /// Whether it takes no value as a flag.
    pub switch: bool,
    /// Whether `config` hides its value.
    pub secret: bool,
}

const fn key(name: &'static str, default: &'static str, help: &'static str) -> Key {
    Key { name, default, help, switch: false, secret: false }
}

const fn secret(name: &'static str, help: &'static str) -> Key {
    Key { name, default: "", help, switch: false, secret: true }
}

const fn switch(name: &'static str, help: &'static str) -> Key {
    Key { name, default: "false", help, switch: true, secret: false }
}

/// Every setting.
pub const KEYS: &[Key] = &[
    key("listen", "127.0.0.1:3300", "address and port to listen on; port 0 takes a free one"),
    key("data_dir", "", "folder for the database and the admin key [default: the platform's data folder]"),
    secret("database", "postgres://… for a database that hubs share [default: a file in data_dir]"),
    key("database_file", "", "file that holds the URL for database, so that no password is in a list of processes"),
    secret(
        "redis",
        "redis://…, redis+sentinel://HOST,HOST/MASTER or redis+cluster://HOST,HOST for the bus between hubs that share a database; with TLS rediss…",
    ),
    key("redis_file", "", "file that holds the URL for redis"),
    key("advertise", "", "URL at which others reach this hub, for lists [default: the address it listens on]"),
    key("base_path", "", "path that everything is served below, for example /hub behind a proxy"),
    key("tls_cert", "", "PEM file with the certificate chain; with tls_key turns TLS on"),
    key("tls_key", "", "PEM file with the private key"),
    switch("allow_insecure_bind", "listen beyond loopback without TLS or trusted proxies"),
    key("trusted_proxies", "", "addresses or networks whose X-Forwarded-* headers are believed, by commas"),
    key("allowed_origins", "", "origins of browsers that may connect, by commas [default: the same host]"),
    key("max_connections", "20000", "most open connections"),
    key("max_message_bytes", "1048576", "largest WebSocket message and HTTP body, in bytes"),
    key("max_in_flight", "1024", "most calls in flight per connection"),
    key("outbound_buffer_bytes", "1048576", "most bytes queued for a peer that reads slowly"),
    key("stall_timeout_ms", "10000", "a peer that takes no byte for so long is a slow consumer"),
    key("ping_interval_ms", "15000", "how often WebSocket peers are pinged; silent for two intervals is dead"),
    key("header_timeout_ms", "30000", "longest wait for an HTTP request's head, also between requests"),
    key("body_timeout_ms", "30000", "longest wait for an HTTP request's body"),
    key("heartbeat_ms", "15000", "how often spokes are asked to call hub.heartbeat"),
    key("shutdown_grace_ms", "30000", "how long running mutations may take at shutdown"),
    key("retention_calls_days", "30", "how long call records are kept; 0 is for ever"),
    key("retention_events_days", "30", "how long events are kept; 0 is for ever"),
    key("retention_audit_days", "365", "how long the audit log is kept; 0 is for ever"),
    key(
        "keyring_file",
        "",
        "file with the keys that secrets are encrypted with [default: keyring in data_dir, made on first need]",
    ),
    key("keyring_command", "", "program and its arguments, by commas, that print the keyring, instead of a file"),
    switch("allow_child_processes", "let clients of type mcp-server run programs on this machine"),
    key("log", "info", "log filter, for example info,hub_core=debug"),
    key("log_format", "text", "text or json"),
];

/// The effective configuration, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where data is.
    pub data_dir: PathBuf,
    /// URL of a Postgres that hubs share; `None` is a file in the data folder. Holds a password.
    pub database: Option<String>,
    /// URL of the Redis that carries what hubs say to each other. Holds a password.
    pub redis: Option<String>,
    /// URL at which others reach this hub.
    pub advertise: Option<String>,
    /// Empty, or `/path` without a slash at the end.
    pub base_path: String,
    /// Certificate chain and private key.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Origins of browsers; empty is the same host only.
    pub allowed_origins: Vec<String>,
    /// Bounds of connections.
    pub bounds: Bounds,
    /// How long running mutations may take at shutdown.
    pub shutdown_grace: Duration,
    /// Settings of the hub itself.
    pub hub: Settings,
    /// Where the keys are that secrets are encrypted with.
    pub keyring: KeyringSource,
    /// Whether clients may run programs on this machine.
    pub allow_child_processes: bool,
    /// Log filter.
    pub log: String,
    /// Whether logs are JSON.
    pub log_json: bool,
}

/// Bounds of connections.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Open connections.
    pub connections: usize,
    /// WebSocket message and HTTP body, in bytes.
    pub message: usize,
    /// Queued for a slow peer, in bytes.
    pub outbound: usize,
    /// Without progress in writing.
    pub stall: Duration,
    /// Between pings.
    pub ping: Duration,
    /// For a request's head.
    pub header: Duration,
    /// For a request's body.
    pub body: Duration,
}

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The value does not parse.
    #[error("{key} = {value:?} (from {origin}) is not {expected}")]
    Value {
        /// Which setting.
        key: &'static str,
        /// What it has.
        value: String,
        /// Where from.
        origin: Source,
        /// What it should be.
        expected: &'static str,
    },
    /// The file has a setting that does not exist.
    #[error("{file}: unknown setting {key:?}; `hub-server config` lists them all")]
    Unknown {
        /// Which file.
        file: PathBuf,
        /// Which setting.
        key: String,
    },
    /// A file can't be read.
    #[error("cannot read {file}: {reason}")]
    File {
        /// Which file.
        file: PathBuf,
        /// Why.
        reason: String,
    },
    /// Settings that don't go together.
    #[error("{0}")]
    Rule(String),
}

impl Config {
    /// Reads typed values out of the layers.
    ///
    /// # Errors
    /// When a value does not parse or two don't go together; names the setting and where it came from.
    pub fn from_layers(layers: &Layered) -> Result<Self, ConfigError> {
        let ms = |key| positive(layers, key, "a number of milliseconds above 0").map(Duration::from_millis);
        let count =
            |key, expected| Ok::<_, ConfigError>(usize::try_from(positive(layers, key, expected)?).unwrap_or(MOST));
        let bytes = |key| count(key, "a number of bytes above 0").map(|bytes| bytes.min(MOST));
        let days = |key| {
            let days = layers.parse::<u64>(key, "a number of days")?;
            Ok::<_, ConfigError>((days > 0).then(|| Duration::from_secs(days.saturating_mul(24 * 3600))))
        };
        let bounds = Bounds {
            connections: count("max_connections", "a number above 0")?,
            message: bytes("max_message_bytes")?,
            outbound: bytes("outbound_buffer_bytes")?,
            stall: ms("stall_timeout_ms")?,
            ping: ms("ping_interval_ms")?,
            header: ms("header_timeout_ms")?,
            body: ms("body_timeout_ms")?,
        };
        let peer = PeerConfig {
            message_bytes: bounds.message,
            max_serving: count("max_in_flight", "a number above 0")?,
            ..PeerConfig::default()
        };
        let retention = Retention {
            calls: days("retention_calls_days")?,
            events: days("retention_events_days")?,
            audit: days("retention_audit_days")?,
        };
        let config = Self {
            listen: layers.parse("listen", "an address like 127.0.0.1:3300")?,
            data_dir: layers.data_dir()?,
            database: database(layers)?,
            redis: url(layers, "redis", "redis_file")?,
            advertise: advertise(layers)?,
            base_path: base_path(layers)?,
            tls: tls(layers)?,
            trusted_proxies: networks(layers)?,
            allowed_origins: origins(layers)?,
            bounds,
            shutdown_grace: layers.parse("shutdown_grace_ms", "a number of milliseconds").map(Duration::from_millis)?,
            hub: Settings {
                peer,
                retention,
                heartbeat_ms: positive(layers, "heartbeat_ms", "a number of milliseconds above 0")?,
                ..Settings::default()
            },
            keyring: keyring(layers)?,
            allow_child_processes: layers.parse("allow_child_processes", "true or false")?,
            log: log_filter(layers)?,
            log_json: log_json(layers)?,
        };
        if config.redis.is_some() && config.database.is_none() {
            return Err(ConfigError::Rule(
                "redis is for hubs that share a database: set --database postgres://… too, or leave --redis out".into(),
            ));
        }
        config.check_bind(layers.parse("allow_insecure_bind", "true or false")?)?;
        Ok(config)
    }

    /// Keys must not cross a network in clear.
    fn check_bind(&self, allowed: bool) -> Result<(), ConfigError> {
        let safe = self.listen.ip().is_loopback() || self.tls.is_some() || !self.trusted_proxies.is_empty();
        if safe || allowed {
            return Ok(());
        }
        Err(ConfigError::Rule(format!(
            "refusing to listen on {} without TLS: keys would cross the network in clear; set --tls-cert and --tls-key, \
             or --trusted-proxies if a proxy in front does TLS, or --allow-insecure-bind",
            self.listen
        )))
    }
}

fn optional(layers: &Layered, key: &'static str) -> Option<String> {
    Some(layers.text(key)).filter(|text| !text.is_empty()).map(str::to_owned)
}

fn database(layers: &Layered) -> Result<Option<String>, ConfigError> {
    let url = url(layers, "database", "database_file")?;
    let key = if layers.text("database").is_empty() { "database_file" } else { "database" };
    match &url {
        Some(url) if !url.starts_with("postgres://") && !url.starts_with("postgresql://") => {
            Err(layers.bad(key, "a URL like postgres://user:password@host/name"))
        }
        _ => Ok(url),
    }
}

/// A URL that may hold a password, given as it is or as a file (of systemd, Docker or Kubernetes).
fn url(layers: &Layered, plain: &'static str, in_file: &'static str) -> Result<Option<String>, ConfigError> {
    let url = optional(layers, plain);
    let Some(file) = optional(layers, in_file) else { return Ok(url) };
    if url.is_some() {
        let (a, b) = (layers.source(plain), layers.source(in_file));
        return Err(ConfigError::Rule(format!("{plain} (from {a}) and {in_file} (from {b}) exclude each other")));
    }
    let read = std::fs::read_to_string(&file);
    let text = read.map_err(|error| ConfigError::File { file: file.clone().into(), reason: error.to_string() })?;
    match text.trim() {
        "" => Err(ConfigError::File { file: file.into(), reason: format!("no URL in it, for {in_file}") }),
        url => Ok(Some(url.to_owned())),
    }
}

/// Sizes above this are as good as none, and sums of them must not overflow.
const MOST: usize = usize::MAX / 1024;

/// Where 0 would let nothing through or ask for something without a pause.
fn positive(layers: &Layered, key: &'static str, expected: &'static str) -> Result<u64, ConfigError> {
    match layers.parse::<u64>(key, expected)? {
        0 => Err(layers.bad(key, expected)),
        number => Ok(number),
    }
}

/// What a browser sends as `Origin` has a scheme, a host and maybe a port; another form would never match.
fn origins(layers: &Layered) -> Result<Vec<String>, ConfigError> {
    let origins = layers.list("allowed_origins");
    let fits = |origin: &String| {
        origin.trim_end_matches('/').split_once("://").is_some_and(|(scheme, host)| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "+-.:[]_".contains(c);
            !scheme.is_empty() && !host.is_empty() && origin.trim_end_matches('/').replace("://", "").chars().all(plain)
        })
    };
    if origins.iter().all(fits) {
        return Ok(origins);
    }
    Err(layers.bad("allowed_origins", "origins like https://app.example.org by commas"))
}

/// Where others reach this hub: a scheme, a host, and maybe a port and a path.
fn advertise(layers: &Layered) -> Result<Option<String>, ConfigError> {
    let url = optional(layers, "advertise");
    let fits = |url: &String| {
        let (Some((_, rest)), Ok(uri)) = (url.split_once("://"), url.parse::<http::Uri>()) else { return false };
        let plain = !rest.contains(['@', '?', '#']);
        let place = rest.split('/').next().unwrap_or_default();
        let port = uri.port_u16().map_or(String::new(), |port| format!(":{port}"));
        let whole = uri.host().is_some_and(|host| !host.is_empty() && place == format!("{host}{port}"));
        plain && whole && uri.scheme_str().is_some_and(|scheme| ["http", "https", "ws", "wss"].contains(&scheme))
    };
    match &url {
        Some(url) if !fits(url) => Err(layers.bad("advertise", "a URL like https://hub1.example.org:3300")),
        _ => Ok(url),
    }
}

fn base_path(layers: &Layered) -> Result<String, ConfigError> {
    let text = layers.text("base_path").trim_end_matches('/');
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    if text.is_empty() || text.starts_with('/') && text.chars().all(plain) {
        return Ok(text.to_owned());
    }
    Err(layers.bad("base_path", "a path like /hub"))
}

fn tls(layers: &Layered) -> Result<Option<(PathBuf, PathBuf)>, ConfigError> {
    match (layers.text("tls_cert"), layers.text("tls_key")) {
        ("", "") => Ok(None),
        (cert, key) if !cert.is_empty() && !key.is_empty() => Ok(Some((cert.into(), key.into()))),
        _ => Err(ConfigError::Rule("tls_cert and tls_key go together".into())),
    }
}

fn networks(layers: &Layered) -> Result<Vec<IpNet>, ConfigError> {
    let parse = |text: &String| {
        let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
        text.parse::<IpNet>().or(address).map_err(|_| layers.bad("trusted_proxies", "addresses or networks by commas"))
    };
    layers.list("trusted_proxies").iter().map(parse).collect()
}

/// A file, the credential that systemd has put in place, a command, or a file of the hub's own.
fn keyring(layers: &Layered) -> Result<KeyringSource, ConfigError> {
    let command = layers.list("keyring_command");
    let file = optional(layers, "keyring_file").map(PathBuf::from);
    let credential = layers.credential("keyring");
    match (file, command.is_empty()) {
        (Some(_), false) => {
            Err(ConfigError::Rule("keyring_file and keyring_command exclude each other: leave one out".into()))
        }
        (None, false) => Ok(KeyringSource::Command(command)),
        (Some(path), true) if layers.is_credential(&path) => {
            Ok(KeyringSource::File { path, ours: false, credential: true })
        }
        (Some(path), true) => Ok(KeyringSource::own_file(path)),
        (None, true) => Ok(match credential.filter(|path| path.exists()) {
            Some(path) => KeyringSource::File { path, ours: false, credential: true },
            None => KeyringSource::own_file(layers.data_dir()?.join("keyring")),
        }),
    }
}

fn log_filter(layers: &Layered) -> Result<String, ConfigError> {
    let text = layers.text("log");
    let checked = tracing_subscriber::EnvFilter::try_new(text);
    checked.map(|_| text.to_owned()).map_err(|_| layers.bad("log", "a log filter like info,hub_core=debug"))
}

fn log_json(layers: &Layered) -> Result<bool, ConfigError> {
    match layers.text("log_format") {
        "text" => Ok(false),
        "json" => Ok(true),
        _ => Err(layers.bad("log_format", "text or json")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(flags: &[&str], env: &[(&str, &str)], dotenv: &str, toml: &str) -> Result<Config, ConfigError> {
        let matches = command().try_get_matches_from([&["hub-server"], flags].concat()).unwrap();
        // A home on every platform, as every process has one.
        let home = [("HOME", "/home/somebody"), ("APPDATA", "/home/somebody")];
        let env: Vec<(String, String)> = env.iter().chain(&home).map(|(k, v)| ((*k).into(), (*v).into())).collect();
        let lookup = move |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        Config::from_layers(&Layered::build(&matches, &lookup, dotenv, Some(("hub.toml".into(), toml.into())))?)
    }

    #[test]
    fn each_layer_yields_to_the_one_above() {
        let toml = "max_connections = 1\nheartbeat_ms = 1\nping_interval_ms = 1\nstall_timeout_ms = 7";
        let dotenv = "# a comment\nHUB_MAX_CONNECTIONS=2\nHUB_HEARTBEAT_MS = \"2\"\nHUB_PING_INTERVAL_MS=2\n";
        let env = [("HUB_MAX_CONNECTIONS", "3"), ("HUB_HEARTBEAT_MS", "3")];
        let config = config(&["--max-connections", "4"], &env, dotenv, toml).unwrap();
        assert_eq!(config.bounds.connections, 4);
        assert_eq!(config.hub.heartbeat_ms, 3);
        assert_eq!(config.bounds.ping.as_millis(), 2);
        assert_eq!(config.bounds.stall.as_millis(), 7);
        assert_eq!(config.bounds.header.as_millis(), 30_000);
    }

    #[test]
    fn errors_name_the_setting_and_its_source() {
        let message = config(&[], &[("HUB_LISTEN", "nowhere")], "", "").unwrap_err().to_string();
        assert_eq!(message, "listen = \"nowhere\" (from HUB_LISTEN) is not an address like 127.0.0.1:3300");
        let message = config(&[], &[], "", "listne = \"x\"").unwrap_err().to_string();
        assert!(message.contains("listne"), "{message}");
    }

    #[test]
    fn urls_with_passwords_may_be_in_files_and_are_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("url");
        let path = file.to_str().unwrap();
        std::fs::write(&file, "postgres://hub:secret@db/hub\n").unwrap();
        let flags = ["--database-file", path];
        assert_eq!(config(&flags, &[], "", "").unwrap().database.unwrap(), "postgres://hub:secret@db/hub");
        let twice = config(&flags, &[("HUB_DATABASE", "postgres://hub:secret@other/hub")], "", "").unwrap_err();
        assert!(twice.to_string().contains("exclude each other"), "{twice}");
        std::fs::write(&file, "mysql://hub:secret@db/hub").unwrap();
        let wrong = [config(&flags, &[], "", ""), config(&["--database", "mysql://hub:secret@db/hub"], &[], "", "")];
        for wrong in wrong.map(|wrong| wrong.unwrap_err().to_string()).iter().chain([&twice.to_string()]) {
            assert!(!wrong.contains("secret"), "{wrong}");
        }
        std::fs::write(&file, "\n").unwrap();
        assert!(config(&flags, &[], "", "").is_err());
    }

    #[test]
    fn what_would_let_nothing_through_is_refused() {
        for name in [
            "max-connections",
            "max-message-bytes",
            "max-in-flight",
            "outbound-buffer-bytes",
            "stall-timeout-ms",
            "ping-interval-ms",
            "header-timeout-ms",
            "body-timeout-ms",
            "heartbeat-ms",
        ] {
            let flag = format!("--{name}");
            let message = config(&[&flag, "0"], &[], "", "").unwrap_err().to_string();
            let named = format!("{} = \"0\" (from {flag}) is not a number", name.replace('-', "_"));
            assert!(message.starts_with(&named) && message.ends_with("above 0"), "{message}");
        }
        assert!(config(&["--shutdown-grace-ms", "0", "--retention-calls-days", "0"], &[], "", "").is_ok());
        let most = u64::MAX.to_string();
        assert!(config(&["--max-message-bytes", &most, "--retention-calls-days", &most], &[], "", "").is_ok());
    }

    #[test]
    fn an_origin_that_no_browser_sends_is_refused() {
        for origins in ["foo", "*", "https://", "://a", "https://a/path", "https://a b", "https://u@a", "https://a?x"] {
            let message = config(&["--allowed-origins", origins], &[], "", "").unwrap_err().to_string();
            assert!(
                message.starts_with("allowed_origins = ") && message.contains("https://app.example.org"),
                "{message}"
            );
        }
        let good = "https://a.example, http://localhost:3000/,http://[::1]:1,chrome-extension://abcdef";
        assert_eq!(config(&["--allowed-origins", good], &[], "", "").unwrap().allowed_origins.len(), 4);
    }

    #[test]
    fn an_address_that_nobody_can_reach_is_not_advertised() {
        for url in [
            "foo",
            "hub:3300",
            "ftp://hub",
            "http://",
            "http://:3300",
            "http://hub:99999",
            "http://u@hub",
            "http://hub?x",
            "//hub",
        ] {
            let message = config(&["--advertise", url], &[], "", "").unwrap_err().to_string();
            let wanted =
                format!("advertise = {url:?} (from --advertise) is not a URL like https://hub1.example.org:3300");
            assert_eq!(message, wanted);
        }
        for url in ["http://10.0.0.5:3300", "https://hub1.example.org", "wss://[::1]:1/hub", "ws://hub/"] {
            assert_eq!(config(&["--advertise", url], &[], "", "").unwrap().advertise.as_deref(), Some(url));
        }
        assert_eq!(config(&[], &[("HUB_ADVERTISE", "")], "", "").unwrap().advertise, None);
    }

    #[test]
    fn keys_do_not_cross_a_network_in_clear_by_accident() {
        assert!(config(&["--listen", "0.0.0.0:1"], &[], "", "").is_err());
        assert!(config(&["--listen", "[::]:1"], &[], "", "").is_err());
        assert!(config(&["--listen", "0.0.0.0:1", "--allow-insecure-bind"], &[], "", "").is_ok());
        assert!(config(&["--listen", "0.0.0.0:1"], &[], "HUB_TRUSTED_PROXIES=10.0.0.0/8, 192.0.2.1", "").is_ok());
        assert!(config(&["--tls-cert", "c.pem"], &[], "", "").is_err());
    }
}
