//! `hub-server`: the hub as one binary.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "the binary talks to the person who starts it")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Arg, ArgAction, ArgMatches, Command};
use hub_server::commands;
use hub_server::config::{Config, Layered, command};
use serde_json::json;

/// Records are made on one thread and freed on another, where the system allocator makes threads wait for each other:
/// a fifth of the processor time of a routed call.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let flags = match cli().try_get_matches() {
        Ok(flags) => flags,
        Err(error) => return refuse(&error),
    };
    match dispatch(&flags) {
        Ok(clean) => ExitCode::from(u8::from(!clean)),
        Err(error) => {
            let remedy = hub_server::remedy(&error).map(|remedy| format!("; {remedy}")).unwrap_or_default();
            report(wants_json(&flags), "FAILED", &format!("{error:#}{remedy}"))
        }
    }
}

/// Whether the command was given `--json`.
fn wants_json(flags: &ArgMatches) -> bool {
    match flags.subcommand() {
        Some((_, sub)) => wants_json(sub),
        None => flags.try_get_one("json").is_ok_and(|json| json == Some(&true)),
    }
}

/// Tells people, or programs, why nothing came of it.
fn report(json: bool, code: &str, message: &str) -> ExitCode {
    if json {
        eprintln!("{}", json!({ "error": { "code": code, "message": message, "exitCode": 2 } }));
    } else {
        eprintln!("error: {message}");
    }
    ExitCode::from(2)
}

/// A command line that clap does not take, or its help.
fn refuse(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|arg| arg == "--json") {
        let text = error.to_string();
        // Up to the usage: which arguments are missing stands on lines of their own.
        let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        return report(true, "USAGE", lines.join(" ").trim_start_matches("error: "));
    }
    // Where nobody reads, nothing is to be said.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
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
        Command::new("admin-key").about("Make a new admin key for a hub that is not running").arg(json.clone()),
        Command::new("openapi").about("Print the OpenAPI document of the hub's own operations"),
        health(&json),
    ];
    command().subcommands(plain).subcommands([
        migrate(&json),
        import(&json),
        verify(&json),
        commands::keyring::command(),
    ])
}

fn health(json: &Arg) -> Command {
    Command::new("health")
        .about("Ask the hub on --listen whether it is ready; exit code 0 if it is")
        .arg(json.clone())
        .after_help(
            "Exit codes: 0 it is ready, 1 it is not, 2 no hub answers. --json prints what /readyz says.\n\n\
             Examples:\n  hub-server health\n  hub-server health --listen 127.0.0.1:4000 --base-path /hub --json",
        )
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
        Some(("admin-key", sub)) => {
            let config = Config::from_layers(&layers(flags)?)?;
            let path = runtime()?.block_on(hub_server::make_admin_key(&config))?;
            if sub.get_flag("json") {
                println!("{}", json!({ "file": path }));
            } else {
                println!("made an admin key: {} (readable by you only)", path.display());
            }
            Ok(true)
        }
        Some(("keyring", sub)) => {
            runtime()?.block_on(commands::keyring::run(&Config::from_layers(&layers(flags)?)?, sub))
        }
        Some(("health", sub)) => {
            runtime()?.block_on(commands::health(&Config::from_layers(&layers(flags)?)?, sub.get_flag("json")))
        }
        Some((name @ ("migrate" | "import" | "verify"), sub)) => {
            let config = Config::from_layers(&layers(flags)?)?;
            runtime()?.block_on(on_database(name, &config, sub))
        }
        Some(("backup", sub)) => {
            let config = Config::from_layers(&layers(flags)?)?;
            let to = PathBuf::from(sub.get_one::<String>("to").cloned().unwrap_or_default());
            runtime()?.block_on(commands::backup(&config, &to, sub.get_flag("json")))
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
            .map(|(name, value, source)| json!({ "name": name, "value": value, "source": source }))
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
