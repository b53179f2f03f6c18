use futures_util::StreamExt;
use futures_util::stream::Stream;
use hub_operations::RegistryBuilder;
use hub_protocol::ops::events::{EventItem, EventPage, ListEvents, PublishEvent, PublishedEvent, SubscribeEvents};
use hub_protocol::{CallError, Identity};
use hub_storage::{EventRow, NewEvent, Stamp};
use serde_json::json;

use crate::CoreError;
use crate::ctx::Ctx;
use crate::log::LogItem;
use crate::topics::{self, Pattern};

pub(super) fn register(builder: RegistryBuilder<Ctx>) -> RegistryBuilder<Ctx> {
    builder.subscription(subscribe).operation(list).operation(publish)
}

async fn subscribe(
    ctx: Ctx,
    params: SubscribeEvents,
) -> Result<impl Stream<Item = Result<EventItem, CallError>> + Send + 'static, CallError> {
    let patterns = patterns(&params.topics)?;
    let caller = ctx.caller().clone();
    let items = ctx.hub().log().read(params.after, None).await?;
    Ok(items.filter_map(move |item| {
        let shown = match item {
            Ok(LogItem::Event(row)) => wanted(&caller, &patterns, &row.topic).then(|| Ok(event(row))),
            Ok(LogItem::Gap { from, to }) => Some(Ok(gap(to, from, to))),
            Ok(LogItem::Shorter { last, asked }) => Some(Ok(gap(last, last + 1, asked))),
            Ok(LogItem::CaughtUp) => None,
            Err(error) => Some(Err(error.into())),
        };
        std::future::ready(shown)
    }))
}

async fn list(ctx: Ctx, params: ListEvents) -> Result<EventPage, CallError> {
    let patterns = patterns(&params.topics)?;
    let limit = params.limit.unwrap_or(100);
    let after = params.after.unwrap_or(0);
    let trimmed = ctx.hub().log().trimmed_to().await?;
    let last = ctx.hub().log().last().await?;
    let from = after.max(trimmed).min(last);
    let rows = ctx.hub().log().page(from, limit).await?;
    let more = rows.len() == limit as usize;
    let next_after = rows.last().map_or(from, |r| r.seq);
    let mut events = Vec::new();
    if after < trimmed {
        events.push(gap(trimmed, after + 1, trimmed));
    }
    if after > last {
        events.push(gap(last, last + 1, after));
    }
    events.extend(rows.into_iter().filter(|r| wanted(ctx.caller(), &patterns, &r.topic)).map(event));
    Ok(EventPage { events, next_after, more })
}

async fn publish(ctx: Ctx, params: PublishEvent) -> Result<PublishedEvent, CallError> {
    if !topics::is_public(&params.topic) {
        let message = format!("topic {:?} is not `type:id`, or belongs to the hub", params.topic);
        return Err(CoreError::Invalid(message).into());
    }
    // A follower of the topic gets a message whose type is the topic's, and a reader tells events by their own.
    if topics::is_reserved(&params.topic) || topics::is_reserved(&params.kind) || params.kind == "gap" {
        let message = "`gap` and what begins with `__`, `call.` or `hub.` belong to the protocol";
        return Err(CoreError::Invalid(message.to_owned()).into());
    }
    let new = NewEvent {
        topic: crate::redact::keys_in_text(&params.topic).into_owned(),
        kind: crate::redact::keys_in_text(&params.kind).into_owned(),
        at: Stamp::now(),
        payload: crate::redact::keys_in_json(&params.payload),
        root: None,
    };
    let rows = ctx.hub().log().append(vec![new]).await?;
    Ok(PublishedEvent { seq: rows.first().map_or(0, |r| r.seq) })
}

fn patterns(topics: &[String]) -> Result<Vec<Pattern>, CoreError> {
    topics.iter().map(|t| Pattern::parse(t)).collect()
}

fn wanted(caller: &Identity, patterns: &[Pattern], topic: &str) -> bool {
    patterns.iter().any(|p| p.matches(topic)) && topics::may_read(caller, topic)
}

fn event(row: EventRow) -> EventItem {
    EventItem { seq: row.seq, topic: row.topic, kind: row.kind, at: row.at.millis(), payload: row.payload }
}

/// A notice that the positions `from` to `to` are not there; reading goes on behind `seq`.
fn gap(seq: u64, from: u64, to: u64) -> EventItem {
    EventItem {
        seq,
        topic: "hub:log".into(),
        kind: "gap".into(),
        at: Stamp::now().millis(),
        payload: json!({ "from": from, "to": to }).into(),
    }
}
