//! `hub calls attach` and `hub calls export`: streams of the hub about calls.

use clap::Args;
use futures_util::StreamExt;
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::{AttachCall, AttachItem, ExportCalls};

use super::resolve;
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
    let stream = hub.client.subscribe(&AttachCall { call_id, after: args.after }).await;
    let mut items = stream.map_err(|error| hub.failed(AttachCall::ID, error))?;
    while let Some(item) = items.next().await {
        match item.map_err(|error| hub.failed(AttachCall::ID, error))? {
            // The item's own numbers matter to programs: they continue after one.
            item if out.json => out.record(&item)?,
            AttachItem::Item { data, .. } => print_item(out, &data)?,
            AttachItem::Gap { from, to } => out.note(&format!("[items {from} to {to} are no longer held]")),
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
    let stream = hub.client.subscribe(&params).await;
    let mut records = stream.map_err(|error| hub.failed(ExportCalls::ID, error))?;
    while let Some(record) = records.next().await {
        out.record(&record.map_err(|error| hub.failed(ExportCalls::ID, error))?)?;
    }
    Ok(())
}
