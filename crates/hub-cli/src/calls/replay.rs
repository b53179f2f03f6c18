//! `hub calls replay`.

use clap::Args;
use futures_util::StreamExt;
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::{Divergence, ReplayCall, ReplayItem, ReplayMode};

use super::{items, resolve, watch};
use crate::args::{CallRef, parse_call};
use crate::connect::Hub;
use crate::failure::{Failure, Result};
use crate::output::{Out, Paint, clean, pretty};

#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// Call id, or `last` for your newest call.
    #[arg(value_parser = parse_call)]
    call: CallRef,
    /// Run the root again, with nested calls answered from the record, and report the first difference.
    #[arg(long)]
    rerun: bool,
    /// 1 is original time, 2 is twice as fast. Default: at once.
    #[arg(long, value_name = "FACTOR", conflicts_with = "rerun")]
    speed: Option<f64>,
}

pub(super) async fn run(out: Out, hub: &Hub, args: ReplayArgs) -> Result<()> {
    let call_id = resolve(hub, args.call).await?;
    let mode = if args.rerun { ReplayMode::Rerun } else { ReplayMode::Recorded };
    let mut stream = hub.stream(&ReplayCall { call_id, mode, speed: args.speed }).await?;
    let mut differs = false;
    while let Some(item) = stream.next().await {
        let text = item.map_err(|error| hub.failed(ReplayCall::ID, error))?;
        let item = items::replay(&text);
        differs |= matches!(&item, Some(ReplayItem::Rerun { same: false, .. }));
        match &item {
            Some(item) if !out.json => show(out, item)?,
            _ => out.line(text.as_str())?,
        }
    }
    if differs { Err(Failure::Answered) } else { Ok(()) }
}

fn show(out: Out, item: &ReplayItem) -> Result<()> {
    match item {
        ReplayItem::Event { event } => out.line(&watch::line(event, out)),
        ReplayItem::Rerun { call_id, same, divergence, output, error } => {
            if *same {
                out.line(&format!("{} {call_id}", out.style.paint(Paint::Green, "as recorded:")))?;
            } else {
                out.line(&format!("{} {call_id}", out.style.paint(Paint::Red, "differs from the record:")))?;
            }
            if let Some(divergence) = divergence {
                out.line(&explain(divergence))?;
            }
            if let Some(error) = error {
                out.line(&format!("it failed: {}", clean(&error.to_string())))?;
            }
            output.as_ref().map_or(Ok(()), |output| out.line(&pretty(output)))
        }
    }
}

fn explain(divergence: &Divergence) -> String {
    let place = match divergence.position {
        0 => "the result".to_owned(),
        n => format!("nested call {n}"),
    };
    let side = |text: &Option<String>| text.as_deref().map_or_else(|| "nothing".to_owned(), clean);
    let (recorded, actual) = (side(&divergence.recorded), side(&divergence.actual));
    format!("  at {place}: {}\n  recorded: {recorded}\n  now:      {actual}", clean(&divergence.message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_explained() {
        let divergence =
            Divergence { position: 2, recorded: Some("a.b".into()), actual: None, message: "ended early".into() };
        assert_eq!(explain(&divergence), "  at nested call 2: ended early\n  recorded: a.b\n  now:      nothing");
    }
}
