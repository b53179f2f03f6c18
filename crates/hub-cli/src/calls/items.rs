//! Items of `calls.replay` and `calls.attach`.
//!
//! Both are enums told apart by a member, which serde reads through a buffer, and [`Json`] can't be read out of one:
//! it wants the text itself. So the kind is read first and the rest by a type of its own.

use hub_protocol::CallError;
use hub_protocol::CallId;
use hub_protocol::ops::calls::{AttachItem, CallEvent, Divergence, ReplayItem};
use hub_spoke::Json;
use serde::Deserialize;

#[derive(Deserialize)]
struct Kind {
    kind: String,
}

#[derive(Deserialize)]
struct Event {
    event: CallEvent,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rerun {
    call_id: CallId,
    same: bool,
    divergence: Option<Divergence>,
    output: Option<Json>,
    error: Option<CallError>,
}

#[derive(Deserialize)]
struct Item {
    item: u64,
    #[serde(default)]
    data: Json,
}

#[derive(Deserialize)]
struct Gap {
    from: u64,
    to: u64,
}

/// Reads an item; `None` for a kind that this version does not know.
pub(super) fn replay(item: &Json) -> Option<ReplayItem> {
    match item.parse::<Kind>().ok()?.kind.as_str() {
        "event" => item.parse().ok().map(|Event { event }| ReplayItem::Event { event }),
        "rerun" => item.parse().ok().map(|Rerun { call_id, same, divergence, output, error }| ReplayItem::Rerun {
            call_id,
            same,
            divergence,
            output,
            error,
        }),
        _ => None,
    }
}

/// As [`replay`].
pub(super) fn attach(item: &Json) -> Option<AttachItem> {
    match item.parse::<Kind>().ok()?.kind.as_str() {
        "item" => item.parse().ok().map(|Item { item, data }| AttachItem::Item { item, data }),
        "gap" => item.parse().ok().map(|Gap { from, to }| AttachItem::Gap { from, to }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn items_read_back() {
        let data = Json::from(json!({ "a": 1 }));
        let item = AttachItem::Item { item: 3, data: data.clone() };
        assert_eq!(attach(&Json::from_serialize(&item).unwrap()), Some(item));
        let gap = AttachItem::Gap { from: 1, to: 2 };
        assert_eq!(attach(&Json::from_serialize(&gap).unwrap()), Some(gap));
        let rerun = ReplayItem::Rerun {
            call_id: CallId::new(),
            same: false,
            divergence: None,
            output: Some(data),
            error: Some(CallError::domain("X", "m").with_details(&[1])),
        };
        assert_eq!(replay(&Json::from_serialize(&rerun).unwrap()), Some(rerun));
        assert_eq!(replay(&json!({ "kind": "new" }).into()), None);
    }
}
