//! `hub-server`: the hub as one binary.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the binary talks to the person who starts it")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use hub_server::commands;
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
    let plain = [
        Command::new("config").about("Print the effective configuration with sources").arg(json.clone()),
        Command::new("backup")
            .about("Copy the database to a new file, also while a hub is running on it")
            .arg(to)
            .arg(json.clone()),
        Command::new("operations").about("Print the catalogue of the hub's own operations as JSON").arg(json.clone()),
        Command::new("admin-key").about("Make a new admin key for a hub that is not running"),
        Command::new("openapi").about("Print the OpenAPI document of the hub's own operations"),
        Command::new("health").about("Ask the hub on --listen whether it is ready; exit code 0 if it is"),
    ];
    command().subcommands(plain).subcommands([
        migrate(&json),
        import(&json),
        verify(&json),
        commands::keyring::command(),
    ])
}

fn migrate(json: &Arg) -> Command {
    let dry_run = Arg::new("dry-run").long("dry-run").action(ArgAction::SetTrue).help("list them, change nothing");
    Command::new("migrate")
        .about("Apply the migrations that the database lacks")
        .long_about(
            "Applies the migrations that the database lacks: that of --database, else the file in the data folder.\n\n\
             A hub does so itself when it starts. Run this where hubs may not change tables, or to see beforehand what\n\
             a new version will do. Hubs of the version before go on running on a migrated database.",
        )
        .args([dry_run, json.clone()])
        .after_help(
            "Examples:\n  hub-server migrate --dry-run\n  hub-server migrate --database-file /etc/hub/database-url",
        )
}

fn import(json: &Arg) -> Command {
    let place = |name: &'static str| Arg::new(name).long(name).value_name("DATABASE");
    let from = place("from").help("sqlite:PATH or postgres://… [default: the file in the data folder]");
    let to = place("to").help("postgres://… or sqlite:PATH, new and empty [default: what --database says]");
    Command::new("import")
        .about("Copy a whole database into an empty one, for example a grown file into Postgres")
        .long_about(
            "Copies everything from one database into another, empty one, then reads both and compares counts and\n\
             hashes of all tables. The source is left as it is. No hub may run on either. What is interrupted goes on\n\
             where it ended when the same command is run again.",
        )
        .args([from, to, json.clone()])
        .after_help(
            "Other users of the machine can read a password on the command line: put the URL into a file.\n\n\
             Examples:\n  hub-server import --from sqlite:/var/lib/hub/hub.db --database-file /etc/hub/database-url\n  \
             hub-server import --from sqlite:hub.db --to postgres://hub@localhost/hub",
        )
}

fn verify(json: &Arg) -> Command {
    Command::new("verify")
        .about("Check that what belongs together in the database is there; exit code 1 if not")
        .long_about(
            "Reads the whole database, that of --database or else the file in the data folder, and prints what is not\n\
             as it should be: calls whose parent or root is missing, gaps in the event log, calls that nobody ends,\n\
             registrations and idempotency keys that name nothing. Changes nothing; may run beside a hub.",
        )
        .arg(json.clone())
        .after_help(
            "Exit codes: 0 nothing is wrong, 1 there are findings, 2 it could not be read.\n\n\
             Examples:\n  hub-server verify\n  hub-server verify --json --database-file restored-url",
        )
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
            runtime()?.block_on(commands::keyring::run(&Config::from_layers(&layers(flags)?)?, sub))
        }
        Some(("health", _)) => runtime()?.block_on(commands::health(&Config::from_layers(&layers(flags)?)?)),
        Some((name @ ("migrate" | "import" | "verify"), sub)) => {
            let config = Config::from_layers(&layers(flags)?)?;
            runtime()?.block_on(on_database(name, &config, sub))
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

async fn on_database(name: &str, config: &Config, sub: &ArgMatches) -> Result<bool> {
    let json = sub.get_flag("json");
    let text = |name: &str| sub.get_one::<String>(name).map(String::as_str);
    match name {
        "migrate" => commands::migrate(config, sub.get_flag("dry-run"), json).await,
        "import" => commands::import(config, text("from"), text("to"), json).await,
        _ => commands::verify(config, json).await,
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
