//! `hub keys`.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use hub_protocol::KeyId;
use hub_protocol::ops::keys::{CreateKey, CreatedKey, KeyItem, ListKeys, RevokeKey, RotateKey};
use serde_json::json;

use crate::connect::{Cx, Hub};
use crate::failure::{Failure, Result};
use crate::output::{Cell, Out, Paint, Table};
use crate::time::{At, ago, millis, now_ms, parse_duration, parse_future, stamp};

#[derive(Debug, Subcommand)]
pub(crate) enum KeysCommand {
    /// List keys, newest first, without their secrets.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  hub keys list
  hub keys list --all"
    )]
    List {
        /// Also keys that were revoked or have expired.
        #[arg(long, short)]
        all: bool,
    },
    /// Make a key and print it: the only time that it is shown.
    #[command(after_help = "\
Examples:
  hub keys create laptop --scope spoke --expires 90d --out laptop.key
  hub keys create ci --scope 'dev:*' --scope calls:read
  hub keys create bot --resource 'project:42=read,write'
  hub keys create editor --scope 'dev:*' --tool 'dev.*.fs.**'

The key alone goes to standard output, so `hub keys create ci --scope spoke > ci.key` works as well; --out makes the
file readable by you alone. A key can't grant what its maker lacks. `hub ops schema OPERATION` says which scope an
operation needs; `*` is everything, `area:*` everything that begins with `area:`. In a PATTERN of --tool `*` is one
segment of an operation's id and `**` the rest.")]
    Create(CreateArgs),
    /// Replace a key by a new one with the same rights; the old one works for a while.
    #[command(after_help = "\
Examples:
  hub keys rotate laptop
  hub keys rotate 019aa571-… --overlap 1h --out laptop.key")]
    Rotate(RotateArgs),
    /// End a key at once; its connections are closed.
    #[command(after_help = "\
Examples:
  hub keys revoke laptop
  hub keys revoke 019aa571-…")]
    Revoke {
        /// Row id, public id or name.
        #[arg(value_name = "KEY")]
        target: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// For people to recognise it by.
    name: String,
    /// What it may do; several times for several scopes.
    #[arg(long, short, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Actions on a resource, such as project:42=read,write; several times for several.
    #[arg(long, value_name = "TYPE:ID=ACTIONS", value_parser = parse_resource)]
    resource: Vec<(String, Vec<String>)>,
    /// When it ends: after a time such as 30d, or at 2026-12-31T00:00:00Z. Default: never.
    #[arg(long, value_name = "TIME", value_parser = parse_future)]
    expires: Option<At>,
    /// Account that owns it. Default: your own.
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// An operation that is a tool of its own in its holder's MCP hosts, such as dev.*.fs.read; several times for
    /// several.
    #[arg(long, value_name = "PATTERN")]
    tool: Vec<String>,
    /// Write the key to this new file, readable by you alone, instead of printing it.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct RotateArgs {
    /// Row id, public id or name.
    #[arg(value_name = "KEY")]
    target: String,
    /// How long the old key goes on working. Default: 24h.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    overlap: Option<Duration>,
    /// Write the new key to this new file, readable by you alone, instead of printing it.
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
}

fn parse_resource(text: &str) -> Result<(String, Vec<String>), String> {
    let parts = text.split_once('=').filter(|(resource, actions)| resource.contains(':') && !actions.is_empty());
    let (resource, actions) = parts.ok_or_else(|| format!("{text:?} is no TYPE:ID=ACTION,ACTION"))?;
    Ok((resource.to_owned(), actions.split(',').map(|action| action.trim().to_owned()).collect()))
}

pub(crate) async fn run(cx: &Cx, command: KeysCommand) -> Result<()> {
    let hub = cx.connect(false).await?;
    match command {
        KeysCommand::List { all } => list(cx.out, &hub, all).await,
        KeysCommand::Create(args) => create(cx.out, &hub, args).await,
        KeysCommand::Rotate(args) => rotate(cx.out, &hub, args).await,
        KeysCommand::Revoke { target } => revoke(cx.out, &hub, &target).await,
    }
}

async fn list(out: Out, hub: &Hub, all: bool) -> Result<()> {
    let keys = hub.call(&ListKeys { include_ended: all.then_some(true) }).await?;
    if out.json {
        return out.document(&keys);
    }
    out.list(&table(&keys.keys, now_ms()), "no keys")
}

fn table(keys: &[KeyItem], now: u64) -> Table {
    let mut table = Table::new(&["ID", "NAME", "PUBLIC ID", "ACCOUNT", "STATE", "LAST USED", "SCOPES"]);
    for key in keys {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(_), _) => Cell::new("revoked", Paint::Red),
            (None, Some(at)) if at <= now => Cell::new("expired", Paint::Red),
            (None, Some(at)) => Cell::new(format!("ends {}", ago(at, now)), Paint::Yellow),
            (None, None) => Cell::new("active", Paint::Green),
        };
        table.row([
            key.id.to_string().into(),
            Cell::new(&key.name, Paint::Bold),
            (&key.public_id).into(),
            (&key.account).into(),
            state,
            key.last_used_at.map_or_else(|| "-".to_owned(), |at| ago(at, now)).into(),
            key.scopes.join(", ").into(),
        ]);
    }
    table
}

async fn create(out: Out, hub: &Hub, args: CreateArgs) -> Result<()> {
    let file = args.out.as_deref().map(new_file).transpose()?;
    let resources: BTreeMap<_, _> = args.resource.into_iter().collect();
    let params = CreateKey {
        name: args.name,
        scopes: args.scope,
        resources: (!resources.is_empty()).then_some(resources),
        expires_at: args.expires.map(|at| at.0),
        account: args.account,
        tools: args.tool,
    };
    let created = discard_on_failure(hub.call(&params).await, args.out.as_deref())?;
    if params.scopes.is_empty() && params.resources.is_none() && !out.json {
        out.note("note: without --scope the key may only call what needs no scope");
    }
    hand_out(out, &created, file, args.out.as_deref(), "made")
}

async fn rotate(out: Out, hub: &Hub, args: RotateArgs) -> Result<()> {
    let id = find(hub, &args.target).await?;
    let file = args.out.as_deref().map(new_file).transpose()?;
    let params = RotateKey { id, overlap_ms: args.overlap.map(millis) };
    let created = discard_on_failure(hub.call(&params).await, args.out.as_deref())?;
    hand_out(out, &created, file, args.out.as_deref(), "rotated")
}

async fn revoke(out: Out, hub: &Hub, key: &str) -> Result<()> {
    let id = find(hub, key).await?;
    let item = hub.call(&RevokeKey { id }).await?;
    if out.json {
        return out.document(&item);
    }
    out.line(&format!("key {:?} ({}) is revoked", item.name, item.public_id))
}

/// The row id of what a person calls a key.
async fn find(hub: &Hub, key: &str) -> Result<KeyId> {
    if let Ok(id) = key.parse() {
        return Ok(id);
    }
    let keys = hub.call(&ListKeys::default()).await?.keys;
    let fitting: Vec<&KeyItem> =
        keys.iter().filter(|k| k.public_id == key || (k.name == key && k.rotated_to.is_none())).collect();
    match fitting.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Failure::Missing(format!("there is no active key {key:?}; `hub keys list --all` shows all"))),
        many => {
            Err(Failure::Usage(format!("{} keys are called {key:?}: name one by its id (`hub keys list`)", many.len())))
        }
    }
}

/// Made before the key is: a key that could not be written anywhere would be lost.
fn new_file(path: &Path) -> Result<std::fs::File> {
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(|e| Failure::Usage(format!("cannot make the file {}: {e}", path.display())))
}

fn discard_on_failure<T>(outcome: Result<T>, path: Option<&Path>) -> Result<T> {
    if let (Err(_), Some(path)) = (&outcome, path) {
        let _ = std::fs::remove_file(path);
    }
    outcome
}

/// Gives the secret to whoever asked, once.
fn hand_out(
    out: Out,
    created: &CreatedKey,
    file: Option<std::fs::File>,
    path: Option<&Path>,
    verb: &str,
) -> Result<()> {
    let key = &created.key;
    if let (Some(mut file), Some(path)) = (file, path) {
        let written = writeln!(file, "{}", created.secret).and_then(|()| file.sync_all());
        written
            .map_err(|e| Failure::Local(format!("cannot write {}: {e}; revoke the key {}", path.display(), key.id)))?;
        if out.json {
            return out.document(&json!({ "key": key, "file": path }));
        }
        return out.line(&format!("key {:?} ({}) is {verb}; it is in {}", key.name, key.public_id, path.display()));
    }
    if out.json {
        return out.document(created);
    }
    out.line(&created.secret)?;
    let ends = key.expires_at.map_or_else(|| "it does not expire".to_owned(), |at| format!("it ends at {}", stamp(at)));
    out.note(&format!("key {:?} ({}) is {verb}; {ends}", key.name, key.public_id));
    let warning = out.err_style.paint(Paint::Yellow, "warning:");
    out.note(&format!(
        "{warning} this is the only time that the key is shown: keep it where only its user can read it"
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    #[test]
    fn resources_are_read() {
        assert_eq!(
            parse_resource("project:42=read, write"),
            Ok(("project:42".into(), vec!["read".into(), "write".into()]))
        );
        assert!(
            parse_resource("project=read").is_err()
                && parse_resource("a:b").is_err()
                && parse_resource("a:b=").is_err()
        );
    }

    #[test]
    fn keys_as_a_table() {
        let key = |name: &str, revoked: Option<u64>, expires: Option<u64>| {
            serde_json::from_value::<KeyItem>(json!({
                "id": "019aa571-0000-7000-8000-000000000000", "publicId": "abc", "name": name, "principal": "key/abc",
                "account": "admin", "scopes": ["spoke", "dev:*"], "createdAt": 0, "revokedAt": revoked,
                "expiresAt": expires,
            }))
            .unwrap()
        };
        let keys =
            [key("a", None, None), key("b", Some(1), None), key("c", None, Some(5_000)), key("d", None, Some(99_000))];
        let text = table(&keys, 10_000).render(Style { colour: false }, None);
        let states: Vec<&str> = text.lines().skip(1).map(|l| l[64..].split("  ").next().unwrap()).collect();
        assert_eq!(states, ["active", "revoked", "expired", "ends in 1m 29s"], "{text}");
    }

    #[cfg(unix)]
    #[test]
    fn a_key_file_is_its_owner_s_alone_and_replaces_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("k");
        let file = new_file(&path).unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(new_file(&path).is_err());
        assert!(discard_on_failure::<()>(Err(Failure::Answered), Some(&path)).is_err());
        assert!(!path.exists());
    }
}
