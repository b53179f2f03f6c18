//! `hub calls stats`.

use clap::Args;
use hub_protocol::ops::calls::GetCallStats;

use crate::connect::Hub;
use crate::failure::Result;
use crate::output::{Cell, Out, Paint, Table};
use crate::time::{At, duration, parse_past, stamp};

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only calls started since then: a time, or a duration such as 7d for so long ago. Default: the last hour.
    #[arg(long, value_name = "TIME", value_parser = parse_past)]
    since: Option<At>,
    /// Only this operation.
    #[arg(long, value_name = "OPERATION")]
    op: Option<String>,
}

pub(super) async fn run(out: Out, hub: &Hub, args: StatsArgs) -> Result<()> {
    let stats = hub.call(&GetCallStats { since: args.since.map(|at| at.0), operation_id: args.op }).await?;
    if out.json {
        return out.document(&stats);
    }
    let mut table =
        Table::new(&["OPERATION", ">CALLS", ">RUNNING", ">FAILED", ">ABORTED", ">MEDIAN", ">99 %", ">COST"]);
    for row in &stats.operations {
        let failed = if row.failed > 0 { Paint::Red } else { Paint::Plain };
        table.row([
            Cell::new(&row.operation_id, Paint::Bold),
            row.calls.to_string().into(),
            row.live.to_string().into(),
            Cell::new(row.failed.to_string(), failed),
            row.aborted.to_string().into(),
            span(row.p50_ms).into(),
            span(row.p99_ms).into(),
            money(row.cost).into(),
        ]);
    }
    out.list(&table, "no calls")?;
    out.note(&format!("since {}", stamp(stats.since)));
    Ok(())
}

/// Milliseconds; short ones with a digit behind the point.
fn span(ms: f64) -> String {
    if ms < 100.0 {
        return format!("{ms:.1} ms");
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "float to int casts saturate")]
    duration(ms.round() as u64)
}

/// Micro-dollars as dollars.
pub(super) fn money(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    format!("{sign}${}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!((span(0.25), span(99.0), span(1_240.4)), ("0.2 ms".into(), "99.0 ms".into(), "1.24 s".into()));
        assert_eq!((money(0), money(-1_500_000)), ("$0.000000".into(), "-$1.500000".into()));
    }
}
