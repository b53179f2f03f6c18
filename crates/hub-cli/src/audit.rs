//! `hub audit`.

use clap::Args;
use hub_protocol::ops::audit::ListAudit;

use crate::connect::Cx;
use crate::failure::Result;
use crate::output::{Cell, Paint, Table};
use crate::time::stamp;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hub audit
  hub audit --action keys.create --limit 10
  hub audit --json | jq '.entries[] | select(.actor | startswith(\"key/\"))'")]
pub(crate) struct AuditArgs {
    /// Only this action, such as keys.revoke.
    #[arg(long, value_name = "ACTION")]
    action: Option<String>,
    /// Only this actor, by principal.
    #[arg(long, value_name = "PRINCIPAL")]
    actor: Option<String>,
    /// Most rows, newest first.
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

pub(crate) async fn run(cx: &Cx, args: AuditArgs) -> Result<()> {
    let hub = cx.connect(false).await?;
    let params = ListAudit { action: args.action, actor: args.actor, before: None, limit: Some(args.limit) };
    let page = hub.call(&params).await?;
    if cx.out.json {
        return cx.out.document(&page);
    }
    let mut table = Table::new(&["TIME", "ACTOR", "ACTION", "TARGET", "DETAILS"]);
    for entry in page.entries {
        table.row([
            stamp(entry.at).into(),
            entry.actor.into(),
            Cell::new(entry.action, Paint::Bold),
            entry.target.into(),
            Cell::new(entry.details.as_str(), Paint::Dim),
        ]);
    }
    cx.out.list(&table, "no such entries")
}
