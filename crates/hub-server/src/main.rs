//! `hub-server`: the hub as one binary.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the binary talks to the person who starts it")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use hub_server::config::{Config, Layered, command};
use hub_storage::{SqliteOptions, Store};

/// Records are made on one thread and freed on another, where the system allocator makes threads wait for each other:
/// a fifth of the processor time of a routed call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = cli().get_matches();
    match dispatch(&flags) {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn cli() -> Command {
    let json = Arg::new("json").long("json").action(ArgAction::SetTrue).help("print JSON");
    let to = Arg::new("to").long("to").value_name("FILE").required(true).help("new file to write to");
    command()
        .subcommand(Command::new("config").about("Print the effective configuration with sources").arg(json.clone()))
        .subcommand(
            Command::new("backup")
                .about("Copy the database to a new file, also while a hub is running on it")
                .arg(to)
                .arg(json.clone()),
        )
        .subcommand(
            Command::new("operations").about("Print the catalogue of the hub's own operations as JSON").arg(json),
        )
        .subcommand(Command::new("admin-key").about("Make a new admin key for a hub that is not running"))
        .subcommand(hub_server::keyring::command())
        .subcommand(Command::new("openapi").about("Print the OpenAPI document of the hub's own operations"))
}

fn dispatch(flags: &ArgMatches) -> Result<bool> {
    match flags.subcommand() {
        Some(("operations", _)) => {
            println!("{}", serde_json::to_string_pretty(&hub_core::catalogue()?)?);
            Ok(true)
        }
        Some(("openapi", _)) => {
            let document = hub_server::openapi_document("", &hub_core::catalogue()?);
            println!("{}", serde_json::to_string_pretty(&document)?);
            Ok(true)
        }
        Some(("config", sub)) => print_config(&layers(flags)?, sub.get_flag("json")),
        Some(("admin-key", _)) => {
            let config = Config::from_layers(&layers(flags)?)?;
            let path = runtime()?.block_on(hub_server::make_admin_key(&config))?;
            println!("made an admin key: {} (readable by you only)", path.display());
            Ok(true)
        }
        Some(("keyring", sub)) => {
            runtime()?.block_on(hub_server::keyring::run(&Config::from_layers(&layers(flags)?)?, sub))
        }
        Some(("backup", sub)) => {
            let config = Config::from_layers(&layers(flags)?)?;
            let to = PathBuf::from(sub.get_one::<String>("to").cloned().unwrap_or_default());
            runtime()?.block_on(backup(config, to, sub.get_flag("json")))
        }
        _ => {
            let config = Config::from_layers(&layers(flags)?)?;
            hub_server::init_logs(&config)?;
            runtime()?.block_on(hub_server::run(config))
        }
    }
}

fn layers(flags: &ArgMatches) -> Result<Layered> {
    #[expect(clippy::disallowed_methods, reason = "the one place where the environment is read")]
    let lookup = |name: &str| std::env::var(name).ok();
    Ok(Layered::load(flags, &lookup)?)
}

fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}

fn print_config(layers: &Layered, json: bool) -> Result<bool> {
    // Checked first: what is printed is what a hub would run with.
    Config::from_layers(layers)?;
    let rows = layers.rows();
    if json {
        let rows: Vec<_> = rows
            .iter()
            .map(|(name, value, source)| serde_json::json!({ "name": name, "value": value, "source": source }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
        return Ok(true);
    }
    let width = rows.iter().map(|(_, value, _)| value.len()).max().unwrap_or(0).min(48);
    for (name, value, source) in rows {
        println!("{name:<22} {value:<width$}  {source}");
    }
    Ok(true)
}

async fn backup(config: Config, to: PathBuf, json: bool) -> Result<bool> {
    anyhow::ensure!(
        config.database.is_none(),
        "a Postgres is backed up by its own tools, also while hubs use it: pg_dump --format=custom --file {} DATABASE_URL",
        to.display()
    );
    let from = config.data_dir.join("hub.db");
    anyhow::ensure!(from.exists(), "no database at {}: is --data-dir right?", from.display());
    // Looked at again when the file is made; here for a text that says what to do.
    anyhow::ensure!(!to.exists(), "cannot back up to {}: it exists already; choose a new --to", to.display());
    let store = Store::open_sqlite(&from, SqliteOptions::default()).await?;
    let written = store.backup_to(&to).await.with_context(|| format!("cannot back up to {}", to.display()));
    store.close().await;
    let bytes = written?;
    if json {
        println!("{}", serde_json::json!({ "file": to, "bytes": bytes }));
    } else {
        println!(
            "wrote {} ({bytes} bytes); to restore, stop the hub and put it in place of {}",
            to.display(),
            from.display()
        );
    }
    Ok(true)
}
