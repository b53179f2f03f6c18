//! `hub mcp`: a hub as an MCP server on standard input and output.

mod config;
mod host;
mod tools;

use clap::Args;
use hub_adapters::mcp::{Face, serve_stdio};

use crate::connect::Cx;
use crate::failure::{Failure, Result};
use crate::interruptible;

const EXAMPLES: &str = "\
Examples:
  hub mcp --print-config                           what to paste into the configuration of an MCP host
  hub mcp --print-config vscode                    … of one that has another form for it
  hub mcp --url wss://hub.example.org --key-file hub.key
                                                   what such a host then runs

The host's model gets four tools, list, search, schema and call, for all that your key may call, and those operations
that ask to be tools of their own. A hub that the host
can reach by itself needs no bridge: `hub mcp --print-config http`.";

/// Options of `hub mcp`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct McpArgs {
    /// Print what to paste into an MCP host's configuration, and do nothing else.
    #[arg(long, value_name = "FORM", num_args = 0..=1, default_missing_value = "common")]
    print_config: Option<config::Form>,
}

pub(crate) async fn run(cx: &Cx, args: McpArgs) -> Result<()> {
    if let Some(form) = args.print_config {
        return cx.out.raw(&format!("{}\n", config::snippet(form, &cx.globals)?));
    }
    let hub = interruptible(cx.connect(true)).await?;
    let host = host::ClientHost::new(hub.client.clone());
    let served = interruptible(async {
        tokio::select! {
            served = serve_stdio(Face::of(host.clone())) => served.map_err(Failure::Local),
            never = host.follow_tools() => match never {},
        }
    });
    let served = served.await;
    hub.client.close().await;
    served
}
