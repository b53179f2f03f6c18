//! `dev-spoke`: offers a project folder to a hub. See `dev-spoke --help`.
#![expect(clippy::print_stdout, reason = "a program for people: it tells them what it offers and how to call it")]

mod args;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use dev_spoke::{RunningSpoke, Tools};
use hub_spoke::{ConnectError, Spoke, SpokeError};
use tracing_subscriber::EnvFilter;

use args::{Args, Key};

/// Longest wait for running calls after the first Ctrl-C.
const DRAIN: Duration = Duration::from_secs(30);

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    let filter = EnvFilter::builder().with_default_directive(args.log.parse()?).from_env_lossy();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();

    let root = args.root.canonicalize().with_context(|| format!("folder {:?}", args.root))?;
    let name = args.name(&root)?;
    let key = args.key()?;
    let tools = Tools::open(&root, &key.secret, args.limits())?;
    let spoke = Spoke::builder(&args.url, &key.secret, &name).version(env!("CARGO_PKG_VERSION")).drain_timeout(DRAIN);
    let spoke = match args.ca_certificate()? {
        Some(pem) => spoke.ca_certificate_pem(pem),
        None => spoke,
    };
    let started = tools.offer(spoke).build()?.start().await;
    let mut running = started.map_err(|error| match error {
        // The SDK's word for it is that of a program, not of a command line.
        SpokeError::Connect(error @ ConnectError::Certificates { .. }) => {
            anyhow::anyhow!(error.to_string().replace("ca_certificate_pem", "--ca-file"))
        }
        error => error.into(),
    })?;
    print_welcome(&running, &args, &key, &root);

    let ended = tokio::select! {
        ended = running.ended() => ended,
        stopped = interrupted() => {
            stopped?;
            println!("\nDraining: running calls may finish. Press Ctrl-C again to kill them.");
            drain(running, &tools).await
        }
    };
    tools.shutdown().await;
    Ok(ended?)
}

/// Finishes what runs, until a second Ctrl-C.
async fn drain(running: RunningSpoke, tools: &Tools) -> Result<(), hub_spoke::SpokeError> {
    let stopped = running.stop();
    tokio::pin!(stopped);
    tokio::select! {
        ended = &mut stopped => return ended,
        _ = interrupted() => {}
    }
    tools.shutdown().await;
    // Commands are gone, so that their calls end by themselves and what remains is brief.
    tokio::time::timeout(Duration::from_secs(2), stopped).await.unwrap_or(Ok(()))
}

/// Ctrl-C, or what a service manager sends.
async fn interrupted() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::select! {
            pressed = tokio::signal::ctrl_c() => pressed,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

fn print_welcome(running: &RunningSpoke, args: &Args, key: &Key, root: &Path) {
    let registered = running.registered();
    println!("Offering {} through {} as:", root.display(), args.url);
    for operation in &registered.operations {
        println!("  {}", operation.id);
    }
    let id_of = |local: &str| registered.operations.iter().find(|o| o.local == local).map(|o| o.id.as_str());
    let Some(list) = id_of("fs.list") else { return };
    println!("\nTry it from another terminal:");
    println!("  curl -H \"Authorization: Bearer {}\" -H 'Content-Type: application/json' \\", key.shell);
    println!("    -d '{{\"depth\": 2}}' {}/api/operations/{list}", args.http_url());
    println!("  hub call {list} '{{\"depth\": 2}}'");
    if let Some(run) = id_of("bash.run") {
        println!("  hub call {run} '{{\"command\": \"ls -l\"}}'");
    }
    println!("\nCtrl-C finishes what runs and stops.");
}
