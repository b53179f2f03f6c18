//! `hub spoke`.

mod exec;
mod group;
mod lines;
mod run;
mod template;

use clap::Subcommand;

use crate::connect::Cx;
use crate::failure::Result;

#[derive(Debug, Subcommand)]
pub(crate) enum SpokeCommand {
    /// Offer a command line as an operation.
    #[command(after_help = exec::EXAMPLES, after_long_help = exec::LONG)]
    Exec(Box<exec::ExecArgs>),
}

pub(crate) async fn run(cx: &Cx, command: SpokeCommand) -> Result<()> {
    match command {
        SpokeCommand::Exec(args) => exec::run(cx, *args).await,
    }
}
