//! `hub-bench`: what the released hub does, beside a bare relay and NATS in the same run.
//!
//! **Purpose.** Figures with ratios: each measure is run on the hub, on a relay with the same four hops and no hub
//! logic (the limit), and on `nats-server` where it is installed, in turns, so that noise hits all of them.
//!
//! **Non-goals.** No micro-benchmarks of single functions, no figures for other machines.
//!
//! **Invariants.** Server and relay run as processes of their own, always in release. The clients of all systems are
//! of the same kind: one task per connection that reads all there is, then writes once. Everything is on at the hub:
//! validation, rights, recording with `synchronous=FULL`. Loads are bounded in count and time; every process that was
//! started is ended by its id.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark talks to the person who runs it")]

mod args;
mod balancer;
mod client;
mod machine;
mod markdown;
mod measure;
mod process;
mod relay;
mod report;
mod shared;
mod stats;
mod table;
mod tools;

use std::process::ExitCode;

use anyhow::Result;

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if std::env::args().nth(1).as_deref() == Some(relay::COMMAND) {
        return runtime.block_on(relay::serve());
    }
    if std::env::args().nth(1).as_deref() == Some(tools::COMMAND) {
        return tools::serve();
    }
    let options = args::Options::read();
    if options.list {
        measure::ALL.iter().for_each(|m| println!("{:<10} {}", m.name, m.about));
        return Ok(());
    }
    if let Some(seconds) = options.soak {
        return runtime.block_on(measure::soak(&options, seconds));
    }
    let report = runtime.block_on(measure::run(&options))?;
    table::print(&report);
    if let Some(file) = &options.json {
        std::fs::write(file, serde_json::to_string_pretty(&report.to_json())? + "\n")?;
    }
    if let Some(file) = &options.markdown {
        std::fs::write(file, markdown::page(&report))?;
    }
    Ok(())
}
