//! `hub calls attach` and `hub calls export`: streams of the hub about calls.

use clap::Args;
use futures_util::StreamExt;
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::{AttachCall, AttachItem, ExportCalls};

use super::{items, resolve};
use crate::args::{CallRef, parse_call};
use crate::call::print_item;
use crate::connect::Hub;
use crate::failure::Result;
use crate::output::Out;
use crate::time::{At, parse_past};

#[derive(Debug, Args)]
pub(crate) struct AttachArgs {
    /// Call id, or `last` for your newest call.
    #[arg(value_parser = parse_call)]
    call: CallRef,
    /// Continue after this item; 0 is the beginning.
    #[arg(long, value_name = "N")]
    after: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct ExportArgs {
    /// Only the tree of this call: an id, or `last`.
    #[arg(long, value_name = "CALL", value_parser = parse_call)]
    tree: Option<CallRef>,
    /// Only calls started since then: a time, or a duration such as 24h for so long ago.
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    since: Option<At>,
    /// Only calls started before.
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    until: Option<At>,
}

pub(super) async fn attach(out: Out, hub: &Hub, args: AttachArgs) -> Result<()> {
    let call_id = resolve(hub, args.call).await?;
    let mut stream = hub.stream(&AttachCall { call_id, after: args.after }).await?;
    while let Some(item) = stream.next().await {
        let item = item.map_err(|error| hub.failed(AttachCall::ID, error))?;
        if out.json {
            // The item's own number matters to programs: they continue after it.
            out.line(item.as_str())?;
            continue;
        }
        match items::attach(&item) {
            Some(AttachItem::Item { data, .. }) => print_item(out, &data)?,
            Some(AttachItem::Gap { from, to }) => out.note(&format!("[items {from} to {to} are no longer held]")),
            None => out.line(item.as_str())?,
        }
    }
    Ok(())
}

pub(super) async fn export(out: Out, hub: &Hub, args: ExportArgs) -> Result<()> {
    let call_id = match args.tree {
        Some(call) => Some(resolve(hub, call).await?),
        None => None,
    };
    let params = ExportCalls { call_id, since: args.since.map(|at| at.0), until: args.until.map(|at| at.0) };
    let mut records = hub.stream(&params).await?;
    while let Some(record) = records.next().await {
        out.line(record.map_err(|error| hub.failed(ExportCalls::ID, error))?.as_str())?;
    }
    Ok(())
}
