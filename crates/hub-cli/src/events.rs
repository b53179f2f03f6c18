//! `hub events`.

use std::collections::VecDeque;

use clap::Args;
use futures_util::StreamExt;
use hub_protocol::ops::events::{EventItem, ListEvents};
use serde_json::json;

use crate::connect::{Cx, Hub, connection_note};
use crate::failure::Result;
use crate::output::{Out, Paint, clean, cut};
use crate::time::clock;

/// Largest page that the hub gives.
const PAGE: u32 = 1000;

/// How many events are looked at for the newest ones: a topic may be rare.
const BACK: u64 = 200_000;

/// A position that no log has reached, exact in every JSON parser.
const BEYOND: u64 = (1 << 53) - 1;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hub events                                    the newest events
  hub events --follow                           what happens from now on
  hub events --follow --topic 'spoke:*'         spokes that come and go
  hub events --follow --after 0 --json          everything, from the beginning and on
  hub events --after 1200 --limit 100           a page

In topics `*` is one segment and `**` the rest; segments end at `.` and `:`. Following goes on across lost
connections: nothing is missed and nothing comes twice. Where events are past retention, a `gap` says which.")]
pub(crate) struct EventsArgs {
    /// Only these topics, such as task.* or spoke:laptop.
    #[arg(long, short, value_name = "PATTERN", default_value = "**")]
    topic: Vec<String>,
    /// Go on with what happens.
    #[arg(long, short)]
    follow: bool,
    /// Continue after this position; 0 is the beginning.
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Most events.
    #[arg(long, value_name = "N", default_value_t = 50, conflicts_with = "follow")]
    limit: usize,
}

pub(crate) async fn run(cx: &Cx, args: EventsArgs) -> Result<()> {
    let hub = cx.connect(args.follow).await?;
    if args.follow {
        return follow(cx.out, &hub, args).await;
    }
    let (events, searched_after) = match args.after {
        Some(after) => (page(&hub, &args, after).await?, after),
        None => newest(&hub, &args).await?,
    };
    if cx.out.json {
        return cx.out.document(&json!({ "events": events, "searchedAfter": searched_after }));
    }
    if args.after.is_none() && searched_after > 0 && events.len() < args.limit {
        cx.out.note(&format!("looked at the events after {searched_after} only; --after 0 looks at all"));
    } else if events.is_empty() {
        cx.out.note("no such events, or none that you may see");
    }
    events.iter().try_for_each(|event| show(cx.out, event))
}

/// The first events after a position.
async fn page(hub: &Hub, args: &EventsArgs, after: u64) -> Result<VecDeque<EventItem>> {
    let mut params = ListEvents { topics: args.topic.clone(), after: Some(after), limit: Some(PAGE) };
    let mut kept = VecDeque::new();
    loop {
        let page = hub.call(&params).await?;
        for event in page.events {
            if kept.len() >= args.limit {
                return Ok(kept);
            }
            kept.push_back(event);
        }
        if !page.more {
            return Ok(kept);
        }
        params.after = Some(page.next_after);
    }
}

/// The last events, oldest first, and the position after which the log was looked at for them; 0 when all of it was.
async fn newest(hub: &Hub, args: &EventsArgs) -> Result<(VecDeque<EventItem>, u64)> {
    let mut params = ListEvents { topics: args.topic.clone(), after: Some(BEYOND), limit: Some(1) };
    // Reading on from beyond the end leads to the end.
    let mut end = hub.call(&params).await?.next_after;
    let floor = end.saturating_sub(BACK);
    let mut kept = VecDeque::new();
    while end > floor && kept.len() < args.limit {
        let after = end.saturating_sub(u64::from(PAGE)).max(floor);
        (params.after, params.limit) = (Some(after), Some(PAGE));
        let page = hub.call(&params).await?;
        let trimmed = page.events.first().is_some_and(|event| event.kind == "gap");
        // What was stored since the last page comes again with the next one.
        let events = page.events.into_iter().filter(|event| event.seq <= end && event.kind != "gap");
        let events: Vec<EventItem> = events.collect();
        for event in events.into_iter().rev().take(args.limit - kept.len()) {
            kept.push_front(event);
        }
        if trimmed {
            return Ok((kept, 0));
        }
        end = after;
    }
    Ok((kept, end))
}

async fn follow(out: Out, hub: &Hub, args: EventsArgs) -> Result<()> {
    let mut events = hub.client.follow_events(args.topic, args.after);
    let mut state = hub.client.state();
    loop {
        tokio::select! {
            event = events.next() => match event {
                Some(Ok(event)) if out.json => out.record(&event)?,
                Some(Ok(event)) => show(out, &event)?,
                Some(Err(error)) => return Err(hub.failed("events.subscribe", error)),
                None => return Ok(()),
            },
            Ok(()) = state.changed() => if let Some(note) = connection_note(&state.borrow_and_update()) {
                out.note(&note);
            },
        }
    }
}

fn show(out: Out, event: &EventItem) -> Result<()> {
    out.line(&line(event, out))
}

fn line(event: &EventItem, out: Out) -> String {
    let head = format!("{}  {:>7}  ", clock(event.at), event.seq);
    let topic = clean(&event.topic);
    let kind = clean(&event.kind);
    let used = head.chars().count() + topic.chars().count() + kind.chars().count() + 4;
    let payload = clean(event.payload.as_str());
    let payload = match out.width() {
        Some(width) => cut(&payload, width.saturating_sub(used).max(8)),
        None => payload,
    };
    let paint = if kind == "gap" { Paint::Yellow } else { Paint::Bold };
    let style = out.style;
    format!(
        "{}{}  {}  {}",
        style.paint(Paint::Dim, &head),
        style.paint(Paint::Cyan, &topic),
        style.paint(paint, &kind),
        style.paint(Paint::Dim, &payload)
    )
}
