//! `hub`: the command line of people and agents. docs/cli.md is its reference.

mod args;
mod audit;
mod call;
mod calls;
mod clients;
mod completions;
mod connect;
mod events;
mod failure;
mod keys;
mod mcp;
mod ops;
mod output;
mod secrets;
mod spoke;
mod spokes;
mod status;
mod time;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use crate::args::{Cli, Command};
use crate::connect::Cx;
use crate::failure::{Failure, Result};
use crate::output::{Out, Paint};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return refuse(&error),
    };
    let cx = Cx { out: Out::new(cli.globals.json), globals: cli.globals };
    let outcome = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::Local(format!("cannot start: {e}")))
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(&cx, cli.command));
            // Nothing of value is left, and a blocked read of a terminal must not keep the command alive.
            runtime.shutdown_timeout(Duration::from_millis(100));
            outcome
        });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => report(cx.out, &failure),
    }
}

async fn run(cx: &Cx, command: Command) -> Result<()> {
    match command {
        // These answer Ctrl-C themselves.
        Command::Call(args) => call::run(cx, args).await,
        Command::Spoke(command) => spoke::run(cx, command).await,
        Command::Mcp(args) => mcp::run(cx, args).await,
        Command::Ops(command) => interruptible(ops::run(cx, command)).await,
        Command::Spokes(args) => interruptible(spokes::run(cx, args)).await,
        Command::Calls(command) => interruptible(calls::run(cx, command)).await,
        Command::Keys(command) => interruptible(keys::run(cx, command)).await,
        Command::Clients(command) => interruptible(clients::run(cx, command)).await,
        Command::Secrets(command) => interruptible(secrets::run(cx, command)).await,
        Command::Events(args) => interruptible(events::run(cx, args)).await,
        Command::Audit(args) => interruptible(audit::run(cx, args)).await,
        Command::Status => interruptible(status::status(cx)).await,
        Command::Whoami => interruptible(status::whoami(cx)).await,
        Command::Completions(args) => completions::run(cx, &args),
    }
}

/// Ends at Ctrl-C. Closing the connection ends what the hub still does for a query or a stream.
pub(crate) async fn interruptible<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::select! {
        // First, so that the signal is heard before the work begins: it may have a terminal to put back.
        biased;
        _ = tokio::signal::ctrl_c() => Err(Failure::Interrupted),
        outcome = work => outcome,
    }
}

fn report(out: Out, failure: &Failure) -> ExitCode {
    if out.json {
        if let Some(json) = failure.json() {
            out.note(&json.to_string());
        }
    } else if let Some(line) = failure.line() {
        out.note(&format!("{} {line}", out.err_style.paint(Paint::Red, "error:")));
    }
    ExitCode::from(failure.exit() as u8)
}

/// A command line that clap does not take, or its help.
fn refuse(error: &clap::Error) -> ExitCode {
    let json = std::env::args_os().take_while(|arg| arg != "--").any(|arg| arg == "--json");
    if error.use_stderr() && json {
        let text = error.to_string();
        // Up to the usage: which arguments are missing stands on lines of their own.
        let lines: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
        let said = lines.join(" ");
        return report(Out::new(true), &Failure::Usage(said.trim_start_matches("error: ").to_owned()));
    }
    // Prints help to standard output, errors to standard error; where nobody reads, nothing is to be said.
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}
