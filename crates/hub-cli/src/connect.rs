//! Which hub and which key, and the connection to it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hub_protocol::ops::Operation;
use hub_spoke::local::{data_folder, is_local};
use hub_spoke::{Client, ConnectionState, ErrorCode, Json, Subscription};

use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::time::parse_duration;

/// Options that every command takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connection and output")]
pub(crate) struct Globals {
    /// Where the hub is (ws, wss, http or https).
    #[arg(long, global = true, env = "HUB_URL", default_value = "ws://127.0.0.1:3300", value_name = "URL")]
    pub(crate) url: String,
    /// The key itself. Other users of this machine can see it in the list of processes: prefer --key-file or HUB_KEY.
    #[arg(long, global = true, value_name = "KEY", conflicts_with = "key_file", hide_short_help = true)]
    key: Option<String>,
    /// File with the key. Without it: the variable HUB_KEY, or else the admin key of the hub on this machine.
    #[arg(long, global = true, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// Data folder of the hub on this machine, where its admin.key is. Default: the platform's.
    #[arg(long, global = true, env = "HUB_DATA_DIR", value_name = "DIR", hide_short_help = true)]
    data_dir: Option<PathBuf>,
    /// PEM file with certificates to trust besides the system's, for hubs with a certificate of their own.
    #[arg(long, global = true, env = "HUB_CA_FILE", value_name = "FILE", hide_short_help = true)]
    ca_file: Option<PathBuf>,
    /// Print JSON: one document, or one line each for streams. Errors are JSON on standard error.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Longest wait for the connection (default 10s) and for each answer (default 30s), such as 5s or 2m.
    #[arg(long, global = true, value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

impl Globals {
    /// File that the key is to be read from.
    pub(crate) fn key_file(&self) -> Option<&Path> {
        self.key_file.as_deref()
    }

    /// Data folder of the hub on this machine, if one is named.
    pub(crate) fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// File with certificates to trust.
    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.ca_file.as_deref()
    }

    /// Whether a key comes from the command line or the environment.
    pub(crate) fn has_key(&self) -> bool {
        self.key.is_some() || std::env::var_os("HUB_KEY").is_some_and(|key| !key.is_empty())
    }
}

/// A key and where it came from, for error messages.
pub(crate) struct Key {
    pub(crate) secret: String,
    pub(crate) origin: String,
}

/// What a command works with.
pub(crate) struct Cx {
    pub(crate) globals: Globals,
    pub(crate) out: Out,
}

impl Cx {
    /// Connects. One-shot commands do not reconnect: better a clear error now than a late one.
    pub(crate) async fn connect(&self, reconnect: bool) -> Result<Hub> {
        let key = self.key()?;
        let mut builder = Client::builder(&self.globals.url, &key.secret).reconnect(reconnect);
        if let Some(timeout) = self.globals.timeout {
            builder = builder.connect_timeout(timeout);
        }
        if let Some(pem) = self.ca_certificate()? {
            builder = builder.ca_certificate_pem(pem);
        }
        let connected = builder.connect().await;
        let client = connected.map_err(|error| Failure::Connect { error, key: key.origin.clone() })?;
        Ok(Hub { client, key: key.origin, timeout: self.globals.timeout })
    }

    pub(crate) fn ca_certificate(&self) -> Result<Option<Vec<u8>>> {
        let read = |file: &PathBuf| {
            std::fs::read(file).map_err(|e| Failure::Usage(format!("cannot read --ca-file {}: {e}", file.display())))
        };
        self.globals.ca_file.as_ref().map(read).transpose()
    }

    pub(crate) fn key(&self) -> Result<Key> {
        if let Some(secret) = &self.globals.key {
            return Ok(Key { secret: secret.trim().to_owned(), origin: "the key of --key".to_owned() });
        }
        if let Some(file) = &self.globals.key_file {
            return key_in(file);
        }
        let variable = std::env::var_os("HUB_KEY").filter(|key| !key.is_empty());
        if let Some(secret) = variable {
            let secret = secret.to_string_lossy().trim().to_owned();
            return Ok(Key { secret, origin: "the key of the variable HUB_KEY".to_owned() });
        }
        self.local_key()
    }

    /// The admin key that a hub on this machine has made. It never goes to another machine by itself.
    fn local_key(&self) -> Result<Key> {
        // Whatever key is used: a wrong URL is what has to be mended.
        let local = is_local(&self.globals.url).map_err(|error| Failure::Connect { error, key: String::new() })?;
        if !local {
            let text = "no key for a hub on another machine: give it with --key-file FILE or in the variable HUB_KEY";
            return Err(Failure::NoKey(text.to_owned()));
        }
        let Some(folder) = self.globals.data_dir.clone().or_else(data_folder) else {
            return Err(Failure::NoKey("no key: give it with --key-file FILE or in the variable HUB_KEY".to_owned()));
        };
        let file = folder.join("admin.key");
        if !file.exists() {
            return Err(Failure::NoKey(format!(
                "no key: there is no {}, so this user has started no hub with that data folder; start one with \
                 `hub-server`, or give a key with --key-file FILE or HUB_KEY",
                file.display()
            )));
        }
        key_in(&file)
    }
}

/// A connection for commands.
pub(crate) struct Hub {
    pub(crate) client: Client,
    key: String,
    timeout: Option<Duration>,
}

impl Hub {
    /// Calls a typed query or mutation.
    pub(crate) async fn call<O: Operation>(&self, params: &O) -> Result<O::Reply> {
        let input = Json::from_serialize(params).map_err(|e| Failure::Usage(format!("{}: {e}", O::ID)))?;
        let request = self.client.request(O::ID).input(input);
        let request = if let Some(timeout) = self.timeout { request.deadline(timeout) } else { request };
        let data = request.call().await.map_err(|error| self.failed(O::ID, error))?;
        data.parse().map_err(|e| {
            Failure::Local(format!("the answer of {} does not fit this version of `hub`: {:?}", O::ID, e.classify()))
        })
    }

    /// Starts a subscription of the hub; its items come as JSON text.
    pub(crate) async fn stream<O: Operation>(&self, params: &O) -> Result<Subscription<Json>> {
        let input = Json::from_serialize(params).map_err(|e| Failure::Usage(format!("{}: {e}", O::ID)))?;
        let stream = self.client.request(O::ID).input(input).subscribe().await;
        stream.map_err(|error| self.failed(O::ID, error))
    }

    /// The failure of a call; when the connection itself ended, that is the cause to name.
    pub(crate) fn failed(&self, operation: &str, error: hub_spoke::CallError) -> Failure {
        if error.is(ErrorCode::SpokeDisconnected)
            && let ConnectionState::Closed(reason) = &*self.client.state().borrow()
        {
            return Failure::Closed { reason: reason.clone(), key: self.key.clone() };
        }
        Failure::call(operation, error)
    }
}

/// What to tell people about the connection; `None` while all is well.
pub(crate) fn connection_note(state: &ConnectionState) -> Option<String> {
    match state {
        // Once is enough: the pauses between attempts grow.
        ConnectionState::Reconnecting { attempt: 1, .. } => Some("connection lost; connecting again".to_owned()),
        ConnectionState::Reconnecting { .. } => None,
        ConnectionState::Connected { count } if *count > 1 => Some("connected again".to_owned()),
        ConnectionState::Connected { .. } | ConnectionState::Closed(_) => None,
    }
}

fn key_in(file: &Path) -> Result<Key> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::NoKey(format!("cannot read the key file {}: {e}", file.display())))?;
    Ok(Key { secret: text.trim().to_owned(), origin: format!("the key in {}", file.display()) })
}
