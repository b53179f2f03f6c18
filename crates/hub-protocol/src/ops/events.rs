//! `events.*`: the event log (protocol §7).

use super::{operation, wire};
use crate::Json;

wire! {
    /// Streams events, first those stored after `after`, then live.
    pub struct SubscribeEvents {
        /// Patterns like `task.*` or `spoke:laptop`: `*` is one segment, `**` the rest. Segments end at `.` and `:`.
        #[schemars(length(min = 1, max = 64))]
        topics: Vec<String>,
        /// Continue after this position; 0 is the beginning; absent is from now on.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
    }
    /// One event of the log.
    pub struct EventItem {
        /// Position: greater than that of every event before it.
        seq: u64,
        /// What it is about, `type:id`.
        topic: String,
        /// What happened; `gap` when events are past retention or the log is shorter than the position asked for, with
        /// the positions that are not there, `from` and `to`, in the payload.
        #[serde(rename = "type")]
        kind: String,
        /// Milliseconds since the epoch.
        at: u64,
        /// Event data.
        payload: Json,
    }
    /// Reads a page of the log.
    pub struct ListEvents {
        /// Patterns as in `events.subscribe`.
        #[schemars(length(min = 1, max = 64))]
        topics: Vec<String>,
        /// After this position; default 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<u64>,
        /// Page size, 1 to 1,000; default 100.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = 1000))]
        limit: Option<u32>,
    }
    /// A page of the log, oldest first.
    pub struct EventPage {
        /// Oldest first.
        events: Vec<EventItem>,
        /// Position up to which the log has been read: `after` of the next page.
        next_after: u64,
        /// Whether there may be more.
        more: bool,
    }
    /// Appends an event of the caller's own.
    pub struct PublishEvent {
        /// `type:id`. The topics `call`, `spoke`, `key`, `hub` and `audit` belong to the hub.
        #[schemars(length(min = 1, max = 200))]
        topic: String,
        /// What happened. Not `gap`, `__…`, `call.…` or `hub.…`: those belong to the protocol.
        #[serde(rename = "type")]
        #[schemars(length(min = 1, max = 100))]
        kind: String,
        /// Event data.
        #[serde(default)]
        payload: Json,
    }
    /// Where the event stands.
    pub struct PublishedEvent {
        /// Its position.
        seq: u64,
    }
}

operation!(SubscribeEvents => EventItem, "events.subscribe", Subscription, [],
    "Stream events of topics, from a position in the log and then live, without gap or duplicate.");
operation!(ListEvents => EventPage, "events.list", Query, [], "Read a page of the event log.");
operation!(PublishEvent => PublishedEvent, "events.publish", Mutation, ["events:publish"],
    "Append an event to the log and tell subscribers.");
