//! `hub calls`: the call tree.

mod abort;
mod attach;
mod items;
mod list;
mod node;
mod replay;
mod stats;
mod tree;
mod watch;

use clap::Subcommand;
use hub_protocol::CallId;
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_protocol::ops::hub::WhoAmI;

use crate::args::{CallRef, parse_call};
use crate::connect::{Cx, Hub};
use crate::failure::{Failure, Result};
use crate::output::{Cell, Paint};

pub(crate) use abort::receipts;

#[derive(Debug, Subcommand)]
pub(crate) enum CallsCommand {
    /// List calls, newest first.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  hub calls list
  hub calls list --status running
  hub calls list --op dev.laptop.bash.run --since 1h --json | jq '.calls[].input'"
    )]
    List(list::ListArgs),
    /// Show the record of one call with input and result.
    #[command(after_help = "\
Examples:
  hub calls get last
  hub calls get 019aa571-… --json | jq .output")]
    Get {
        /// Call id, or `last` for your newest call.
        #[arg(value_parser = parse_call)]
        call: CallRef,
    },
    /// Draw the tree that a call belongs to, with what took how long and when.
    #[command(after_help = "\
Examples:
  hub calls tree last
  hub calls tree 019aa571-… --below --ids")]
    Tree(tree::TreeArgs),
    /// Watch calls live: one tree, or everything that you may see.
    #[command(after_help = "\
Examples:
  hub calls watch                     what runs and what has just ended
  hub calls watch last                one tree, until it has ended
  hub calls watch --op dev.laptop.bash.run --json
  hub calls watch --after 0 | grep failed

On a terminal the picture is redrawn; elsewhere each event is a line. Watching goes on across lost connections:
nothing is missed and nothing comes twice.")]
    Watch(watch::WatchArgs),
    /// Abort a call and everything below it, and list what that reached.
    #[command(after_help = "\
Examples:
  hub calls abort last
  hub calls abort 019aa571-… --reason 'wrong branch'
  hub calls abort 019aa571-… --mode kill-nowait")]
    Abort(abort::AbortArgs),
    /// Play a recorded tree back, or run its root again against the record.
    #[command(after_help = "\
Examples:
  hub calls replay last                 its events, at once
  hub calls replay last --speed 1       … in original time
  hub calls replay last --rerun         run the root again, nested calls answered from the record;
                                        exit code 1 when it goes another way than recorded")]
    Replay(replay::ReplayArgs),
    /// Follow the stream of a running or just ended call. Ctrl-C stops following, not the call.
    #[command(after_help = "\
Examples:
  id=$(hub call --detach dev.laptop.bash.run command='make')
  hub calls attach \"$id\"
  hub calls attach \"$id\" --after 100")]
    Attach(attach::AttachArgs),
    /// Print call records as NDJSON, oldest first.
    #[command(after_help = "\
Examples:
  hub calls export --since 24h > calls.ndjson
  hub calls export --tree last | jq .operationId")]
    Export(attach::ExportArgs),
    /// Count calls, their outcomes and times per operation, busiest first.
    #[command(after_help = "\
Examples:
  hub calls stats
  hub calls stats --since 7d --op dev.laptop.bash.run")]
    Stats(stats::StatsArgs),
}

pub(crate) async fn run(cx: &Cx, command: CallsCommand) -> Result<()> {
    let hub = cx.connect(matches!(command, CallsCommand::Watch(_))).await?;
    match command {
        CallsCommand::List(args) => list::list(cx.out, &hub, args).await,
        CallsCommand::Get { call } => list::get(cx.out, &hub, call).await,
        CallsCommand::Tree(args) => tree::run(cx.out, &hub, args).await,
        CallsCommand::Watch(args) => watch::run(cx.out, &hub, args).await,
        CallsCommand::Abort(args) => abort::run(cx.out, &hub, args).await,
        CallsCommand::Replay(args) => replay::run(cx.out, &hub, args).await,
        CallsCommand::Attach(args) => attach::attach(cx.out, &hub, args).await,
        CallsCommand::Export(args) => attach::export(cx.out, &hub, args).await,
        CallsCommand::Stats(args) => stats::run(cx.out, &hub, args).await,
    }
}

/// The call that is meant.
async fn resolve(hub: &Hub, call: CallRef) -> Result<CallId> {
    if let CallRef::Id(id) = call {
        return Ok(id);
    }
    let me = hub.call(&WhoAmI {}).await?.identity.id;
    let params = ListCalls { principal: Some(me), roots: Some(true), limit: Some(200), ..ListCalls::default() };
    let page = hub.call(&params).await?;
    // Calls that look at calls, as those of this very command, are not what anybody means by "last".
    let own = |id: &str| ["calls.", "hub.", "events.", "audit.", "keys."].iter().any(|area| id.starts_with(area));
    let newest = page.calls.iter().find(|call| !own(&call.operation_id));
    newest
        .map(|call| call.call_id)
        .ok_or_else(|| Failure::Missing("you have called nothing yet that is recorded".to_owned()))
}

fn status_cell(status: CallStatus, more: &str) -> Cell {
    let paint = match status {
        CallStatus::Pending => Paint::Dim,
        CallStatus::Running => Paint::Cyan,
        CallStatus::Completed => Paint::Green,
        CallStatus::Failed => Paint::Red,
        CallStatus::Aborted => Paint::Yellow,
    };
    let text = if more.is_empty() { status.as_str().to_owned() } else { format!("{} {more}", status.as_str()) };
    Cell::new(text, paint)
}
