//! What every kind of spoke of the command line does: connect, say what it offers, serve until it is stopped.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use hub_protocol::ops::hub::{Exposure, RegisteredSpoke};
use hub_spoke::{Context, Registry, RunningSpoke, Spoke, SpokeBuilder};

use crate::connect::{Cx, Key, connection_note};
use crate::failure::{Failure, Result};
use crate::output::Paint;

/// Options of every kind of spoke.
#[derive(Debug, Args)]
pub(super) struct OfferArgs {
    /// Name of this spoke at the hub; an imported service has it too, in scopes and errors.
    #[arg(long, value_parser = parse_name)]
    pub(super) name: String,
    /// Offer under the operations' own names, beside other providers of them.
    #[arg(long)]
    pooled: bool,
    /// Type of the spoke: client, dev-env, compute or a word of your own.
    #[arg(long, value_name = "TYPE", default_value = "client")]
    spoke_type: String,
}

impl OfferArgs {
    /// A spoke that offers nothing yet.
    pub(super) fn builder(&self, cx: &Cx, key: &Key, max_in_flight: u32) -> Result<SpokeBuilder> {
        let mut builder = Spoke::builder(&cx.globals.url, &key.secret, &self.name)
            .spoke_type(&self.spoke_type)
            .max_in_flight(max_in_flight)
            .version(env!("CARGO_PKG_VERSION"));
        if self.pooled {
            builder = builder.exposure(Exposure::Pooled);
        }
        if let Some(pem) = cx.ca_certificate()? {
            builder = builder.ca_certificate_pem(pem);
        }
        Ok(builder)
    }
}

/// Who may call what was imported.
#[derive(Debug, Args)]
pub(super) struct AccessArgs {
    /// Scope that a caller's key needs; several: all of them. Default: imported:NAME.
    #[arg(long, value_name = "SCOPE", conflicts_with = "no_scope")]
    scope: Vec<String>,
    /// Let every key of the hub call the operations.
    #[arg(long)]
    no_scope: bool,
}

impl AccessArgs {
    /// The scopes asked for; `None` for the default.
    pub(super) fn scopes(&self) -> Option<Vec<String>> {
        (self.no_scope || !self.scope.is_empty()).then(|| self.scope.clone())
    }

    /// What to tell people of it.
    pub(super) fn note(&self, name: &str) -> Option<String> {
        match (self.no_scope, self.scope.is_empty()) {
            (true, _) => Some("note: every key of this hub may call them".to_owned()),
            (false, true) => Some(format!("callers need the scope imported:{name}")),
            (false, false) => None,
        }
    }
}

/// Connects and registers.
pub(super) async fn start(builder: SpokeBuilder, key: &Key) -> Result<RunningSpoke> {
    let failed = |error| Failure::spoke(error, &key.origin);
    builder.build().map_err(failed)?.start().await.map_err(failed)
}

/// Says what is offered, and what else there is to say.
pub(super) fn announce(cx: &Cx, name: &str, registered: &RegisteredSpoke, notes: &[String]) -> Result<()> {
    if cx.out.json {
        return cx.out.record(registered);
    }
    for operation in &registered.operations {
        cx.out.line(&format!("offering {}", cx.out.style.paint(Paint::Bold, &operation.id)))?;
    }
    if registered.superseded {
        cx.out.note(&format!("an older instance of {name} was closed"));
    }
    notes.iter().for_each(|note| cx.out.note(note));
    cx.out.note("Ctrl-C ends it");
    Ok(())
}

/// Until somebody asks this process to end, or until the hub ends it for good. What `next` gives is offered in the place
/// of what was.
pub(super) async fn serve(
    cx: &Cx,
    key: &Key,
    mut running: RunningSpoke,
    mut next: impl AsyncFnMut() -> Registry<Context>,
) -> Result<()> {
    let mut state = running.client().state();
    let mut stop = std::pin::pin!(stopped());
    loop {
        tokio::select! {
            ended = running.ended() => return ended.map_err(|error| Failure::spoke(error, &key.origin)),
            () = &mut stop => break,
            Ok(()) = state.changed() => if let Some(note) = connection_note(&state.borrow_and_update()) {
                cx.out.note(&note);
            },
            registry = next() => {
                let count = registry.iter().count();
                match running.offer(registry).await {
                    Ok(true) => cx.out.note(&format!("the operations changed: offering {count}")),
                    Ok(false) => {}
                    Err(error) => cx.out.note(&format!("the operations changed, but can't be offered: {error}")),
                }
            }
        }
    }
    if !cx.out.json {
        cx.out.note("stopping: waiting for running calls; Ctrl-C again does not wait");
    }
    tokio::select! {
        stopped = running.stop() => stopped.map_err(|error| Failure::spoke(error, &key.origin)),
        () = stopped() => Err(Failure::Interrupted),
    }
}

/// Ends when somebody asks this process to end.
async fn stopped() {
    #[cfg(unix)]
    {
        let terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate());
        if let Ok(mut terminate) = terminate {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}

/// Variables of this process that a command must not see: all that hold the key.
pub(super) fn secret_variables(key: &Key) -> Vec<OsString> {
    let holds_key = |value: &OsString| !key.secret.is_empty() && value.to_string_lossy().contains(&key.secret);
    let secret = std::env::vars_os().filter(|(name, value)| name == "HUB_KEY" || holds_key(value));
    secret.map(|(name, _)| name).collect()
}

/// The folder of `--cwd`, if it is one.
pub(super) fn folder(cwd: Option<&PathBuf>) -> Result<Option<PathBuf>> {
    match cwd.filter(|cwd| !cwd.is_dir()) {
        Some(cwd) => Err(Failure::Usage(format!("--cwd {}: no such folder", cwd.display()))),
        None => Ok(cwd.cloned()),
    }
}

/// A name that a hub takes.
fn parse_name(text: &str) -> Result<String, String> {
    let fits = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if !(1..=64).contains(&text.len()) || !text.bytes().all(fits) {
        return Err("a spoke's name is 1 to 64 of A-Z a-z 0-9 _ -".to_owned());
    }
    Ok(text.to_owned())
}

/// `KEY=VAL`.
pub(super) fn parse_variable(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, _)| !name.is_empty());
    parts.map(|(name, value)| (name.to_owned(), value.to_owned())).ok_or_else(|| format!("{text:?} is no KEY=VAL"))
}
