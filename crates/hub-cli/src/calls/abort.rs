//! `hub calls abort`, and receipts of aborts.

use std::time::Duration;

use clap::{Args, ValueEnum};
use hub_protocol::ops::calls::{AbortCall, AbortOutcome};
use hub_spoke::{AbortMode, Receipt};

use super::resolve;
use crate::args::{CallRef, parse_call};
use crate::connect::Hub;
use crate::failure::Result;
use crate::output::{Cell, Out, Paint, Table};
use crate::time::{duration, millis, parse_duration};

#[derive(Debug, Args)]
pub(crate) struct AbortArgs {
    /// Call id, or `last` for your newest call.
    #[arg(value_parser = parse_call)]
    call: CallRef,
    /// How to treat what runs.
    #[arg(long, default_value = "kill")]
    mode: Mode,
    /// Why, for people.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Longest wait for confirmations with `kill`. Default: 5s.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    grace: Option<Duration>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    /// Tell everything below and wait for the confirmations.
    Kill,
    /// Tell everything below and don't wait.
    KillNowait,
    /// Answer the caller and let everything below run.
    Skip,
}

impl From<Mode> for AbortMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Kill => Self::Kill,
            Mode::KillNowait => Self::KillNowait,
            Mode::Skip => Self::Skip,
        }
    }
}

pub(super) async fn run(out: Out, hub: &Hub, args: AbortArgs) -> Result<()> {
    let call_id = resolve(hub, args.call).await?;
    let params = AbortCall { call_id, mode: args.mode.into(), reason: args.reason, grace_ms: args.grace.map(millis) };
    let reply = hub.call(&params).await?;
    if out.json {
        return out.document(&reply);
    }
    if reply.receipts.is_empty() {
        out.note("nothing to abort: the call has ended");
        return Ok(());
    }
    out.table(&receipts(&reply.receipts))
}

/// What an abort reached, leaves first.
pub(crate) fn receipts(receipts: &[Receipt]) -> Table {
    let mut table = Table::new(&["CALL", "OPERATION", "SPOKE", "OUTCOME", ">AFTER"]);
    for receipt in receipts {
        let outcome = match receipt.outcome {
            AbortOutcome::Stopped => Cell::new("stopped", Paint::Green),
            AbortOutcome::AlreadyFinished => Cell::new("already finished", Paint::Dim),
            AbortOutcome::NoAnswer => Cell::new("no answer", Paint::Yellow),
        };
        table.row([
            receipt.call_id.to_string().into(),
            Cell::new(&receipt.operation_id, Paint::Bold),
            receipt.spoke.as_deref().unwrap_or("hub").into(),
            outcome,
            duration(receipt.after_ms).into(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::Style;

    #[test]
    fn receipts_as_a_table() {
        let receipt = |outcome| Receipt {
            call_id: "019aa571-0000-7000-8000-000000000001".parse().unwrap(),
            operation_id: "a.b".into(),
            spoke: None,
            outcome,
            after_ms: 12,
        };
        let text = receipts(&[receipt(AbortOutcome::Stopped), receipt(AbortOutcome::NoAnswer)])
            .render(Style { colour: false }, None);
        assert_eq!(
            text,
            "CALL                                  OPERATION  SPOKE  OUTCOME    AFTER\n\
             019aa571-0000-7000-8000-000000000001  a.b        hub    stopped    12 ms\n\
             019aa571-0000-7000-8000-000000000001  a.b        hub    no answer  12 ms\n"
        );
    }
}
