//! `hub secrets`: what external services are reached with. Set and used, never read.

mod value;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use hub_protocol::ops::Operation;
use hub_protocol::ops::clients::{ClientItem, GetClient, ListClients};
use hub_protocol::ops::secrets::{DeleteSecret, RotateSecret, SecretItem, SecretText, SetSecret};
use serde_json::json;

use crate::connect::Cx;
use crate::failure::Result;
use crate::output::{Cell, Paint, Table, clean};
use crate::time::{ago, now_ms};

#[derive(Debug, Subcommand)]
pub(crate) enum SecretsCommand {
    /// List the names of secrets; nobody can read their values.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  hub secrets list
  hub secrets list forge --json | jq -r '.secrets[].name'"
    )]
    List {
        /// Only those of this client.
        #[arg(value_name = "CLIENT")]
        client: Option<String>,
    },
    /// Set a secret of a client, in place of one of that name.
    #[command(after_help = "\
Examples:
  hub secrets set forge token                      asks for the value and does not show it
  hub secrets set forge token --file forge.token
  pass show forge | hub secrets set forge token

The value is never an argument: other users of the machine could read it. It comes from --file, from a pipe, or is asked
for at a terminal; a line break at the end of a single line is left out.")]
    Set(ValueArgs),
    /// Replace a secret that is there.
    #[command(after_help = "\
Examples:
  hub secrets rotate forge token --file new.token
  pass show forge | hub secrets rotate forge token

The client is connected to anew with it.")]
    Rotate(ValueArgs),
    /// Remove a secret.
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  hub secrets delete forge token"
    )]
    Delete(Named),
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Whose.
    #[arg(value_name = "CLIENT")]
    client: String,
    /// Unique within the client; most types use `token` where their configuration names no other.
    #[arg(value_name = "SECRET")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct ValueArgs {
    #[command(flatten)]
    named: Named,
    /// Read the value from this file instead of standard input.
    #[arg(long, short, value_name = "FILE")]
    file: Option<PathBuf>,
}

pub(crate) async fn run(cx: &Cx, command: SecretsCommand) -> Result<()> {
    match command {
        SecretsCommand::List { client } => list(cx, client).await,
        SecretsCommand::Set(args) => {
            let (Named { client, name }, value) = with_value(cx, args).await?;
            put(cx, &client.clone(), &SetSecret { client, name, value }, "is set").await
        }
        SecretsCommand::Rotate(args) => {
            let (Named { client, name }, value) = with_value(cx, args).await?;
            put(cx, &client.clone(), &RotateSecret { client, name, value }, "is rotated").await
        }
        SecretsCommand::Delete(Named { client, name }) => {
            let gone = cx.connect(false).await?.call(&DeleteSecret { client, name }).await?;
            if cx.out.json {
                return cx.out.document(&gone);
            }
            cx.out.line(&clean(&format!("secret {} of client {} is deleted", gone.name, gone.client)))
        }
    }
}

async fn list(cx: &Cx, client: Option<String>) -> Result<()> {
    let hub = cx.connect(false).await?;
    let clients = match client {
        Some(name) => vec![hub.call(&GetClient { name }).await?],
        None => hub.call(&ListClients::default()).await?.clients,
    };
    let all = || clients.iter().flat_map(|client| client.secrets.iter().map(move |secret| (client, secret)));
    if cx.out.json {
        let secrets: Vec<_> = all()
            .map(|(client, secret)| {
                let mut value = json!(secret);
                value["client"] = json!(client.name);
                value
            })
            .collect();
        return cx.out.document(&json!({ "secrets": secrets }));
    }
    cx.out.list(&table(all(), now_ms()), "no secrets")
}

fn table<'a>(secrets: impl Iterator<Item = (&'a ClientItem, &'a SecretItem)>, now: u64) -> Table {
    let mut table = Table::new(&["CLIENT", "SECRET", "SET", "REPLACED", ">KEY VERSION"]);
    for (client, secret) in secrets {
        table.row([
            (&client.name).into(),
            Cell::new(&secret.name, Paint::Bold),
            ago(secret.created_at, now).into(),
            secret.rotated_at.map_or_else(|| "-".to_owned(), |at| ago(at, now)).into(),
            secret.key_version.to_string().into(),
        ]);
    }
    table
}

async fn with_value(cx: &Cx, args: ValueArgs) -> Result<(Named, SecretText)> {
    let prompt = format!("{} of {} (is not shown): ", clean(&args.named.name), clean(&args.named.client));
    let value = value::read(cx.out, args.file.as_deref(), &prompt).await?;
    Ok((args.named, value))
}

async fn put<O: Operation<Reply = SecretItem>>(cx: &Cx, client: &str, params: &O, verb: &str) -> Result<()> {
    let item = cx.connect(false).await?.call(params).await?;
    if cx.out.json {
        return cx.out.document(&item);
    }
    let text = format!("secret {} of client {client} {verb}; `hub clients test {client}` tries it out", item.name);
    cx.out.line(&clean(&text))
}
