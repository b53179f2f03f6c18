//! `hub spoke`.

mod exec;
mod lines;
mod mcp;
mod offer;
mod openapi;
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
    /// Offer the tools of an MCP server as operations.
    #[command(after_help = mcp::EXAMPLES, after_long_help = mcp::LONG)]
    Mcp(Box<mcp::McpArgs>),
    /// Offer the operations of an HTTP API that has an OpenAPI document.
    #[command(name = "openapi", after_help = openapi::EXAMPLES, after_long_help = openapi::LONG)]
    OpenApi(Box<openapi::OpenApiArgs>),
}

pub(crate) async fn run(cx: &Cx, command: SpokeCommand) -> Result<()> {
    match command {
        SpokeCommand::Exec(args) => exec::run(cx, *args).await,
        SpokeCommand::Mcp(args) => mcp::run(cx, *args).await,
        SpokeCommand::OpenApi(args) => openapi::run(cx, *args).await,
    }
}
