//! `hub calls list` and `hub calls get`.

use clap::{Args, ValueEnum};
use hub_protocol::CallId;
use hub_protocol::ops::calls::{CallRecord, CallStatus, GetCall, ListCalls};

use super::node::Node;
use super::{resolve, status_cell};
use crate::args::CallRef;
use crate::connect::Hub;
use crate::failure::Result;
use crate::output::{Cell, Out, Paint, Table, pretty};
use crate::time::{At, duration, now_ms, parse_past, stamp};

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this operation.
    #[arg(long, value_name = "OPERATION")]
    op: Option<String>,
    /// Only calls that stand so.
    #[arg(long, value_name = "STATUS")]
    status: Option<Status>,
    /// Only calls of this principal.
    #[arg(long, value_name = "PRINCIPAL")]
    principal: Option<String>,
    /// Only calls that ran on this spoke.
    #[arg(long, value_name = "SPOKE")]
    spoke: Option<String>,
    /// Only first calls of trees.
    #[arg(long)]
    roots: bool,
    /// Only tasks of MCP hosts.
    #[arg(long)]
    tasks: bool,
    /// Only calls started since then: a time, or a duration such as 10m for so long ago.
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    since: Option<At>,
    /// Only calls older than this one: the next page.
    #[arg(long, value_name = "CALL")]
    before: Option<CallId>,
    /// Most calls.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Status {
    Pending,
    Running,
    Completed,
    Failed,
    Aborted,
}

impl From<Status> for CallStatus {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Pending,
            Status::Running => Self::Running,
            Status::Completed => Self::Completed,
            Status::Failed => Self::Failed,
            Status::Aborted => Self::Aborted,
        }
    }
}

pub(super) async fn list(out: Out, hub: &Hub, args: ListArgs) -> Result<()> {
    let params = ListCalls {
        operation_id: args.op,
        status: args.status.map(Into::into),
        principal: args.principal,
        spoke: args.spoke,
        roots: args.roots.then_some(true),
        tasks: args.tasks.then_some(true),
        since: args.since.map(|at| at.0),
        before: args.before,
        limit: Some(args.limit),
    };
    let page = hub.call(&params).await?;
    if out.json {
        return out.document(&page);
    }
    out.list(&table(&page.calls), "no such calls")?;
    if let Some(before) = page.next_before {
        out.note(&format!("there are more: --before {before}"));
    }
    Ok(())
}

fn table(calls: &[CallRecord]) -> Table {
    let now = now_ms();
    let mut table = Table::new(&["CALL", "STARTED", "OPERATION", "STATUS", ">TIME", "SPOKE", "BY"]);
    for call in calls {
        let node = Node::of(call);
        table.row([
            call.call_id.to_string().into(),
            stamp(call.started_at).into(),
            Cell::new(&call.operation_id, Paint::Bold),
            status_cell(call.status, node.detail()),
            duration(node.duration(now)).into(),
            call.spoke.as_deref().unwrap_or("hub").into(),
            Cell::new(&call.principal, Paint::Dim),
        ]);
    }
    table
}

pub(super) async fn get(out: Out, hub: &Hub, call: CallRef) -> Result<()> {
    let call_id = resolve(hub, call).await?;
    let call = hub.call(&GetCall { call_id }).await?;
    if out.json {
        return out.document(&call);
    }
    out.table(&facts(&call))?;
    let absent = |hash: &Option<String>, size: u64| match hash {
        Some(hash) => format!("not kept: {size} bytes, SHA-256 {hash}"),
        None => "-".to_owned(),
    };
    let input = call.input.as_ref().map_or_else(|| absent(&call.input_hash, call.input_size), pretty);
    let output = call.output.as_ref().map_or_else(|| absent(&call.output_hash, call.output_size), pretty);
    for (name, text) in [("Input", input), ("Output", output)] {
        out.line(&format!("\n{}\n{text}", out.style.paint(Paint::Dim, name)))?;
    }
    Ok(())
}

fn facts(call: &CallRecord) -> Table {
    let node = Node::of(call);
    let mut table = Table::facts();
    table.fact("call", call.call_id.to_string());
    table.fact("operation", Cell::new(format!("{} {}", call.operation_id, call.version), Paint::Bold));
    table.fact("status", status_cell(call.status, ""));
    if let Some(error) = &call.error {
        table.fact("error", Cell::new(format!("{}: {}", error.code, error.message), Paint::Red));
    }
    table.fact("started", stamp(call.started_at));
    table.fact("time", duration(node.duration(now_ms())));
    table.fact("by", &call.principal);
    table.fact("on", call.spoke.as_deref().map_or_else(|| format!("hub {}", call.hub), str::to_owned));
    if let Some(parent) = call.parent {
        table.fact("parent", parent.to_string());
        table.fact("root", call.root.to_string());
    }
    if call.items > 0 {
        table.fact("items", call.items.to_string());
    }
    if call.attempts > 1 {
        table.fact("attempts", call.attempts.to_string());
    }
    if let Some(key) = &call.idempotency_key {
        table.fact("idempotency", key);
    }
    if call.cost != 0 {
        table.fact("cost", super::stats::money(call.cost));
    }
    table
}
