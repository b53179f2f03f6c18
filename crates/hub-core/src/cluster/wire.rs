//! What hubs send each other over the bus. Versioned by its first byte: a hub ignores what it does not know, so that old
//! and new ones run side by side.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use hub_protocol::ops::calls::AbortMode;
use hub_protocol::{CallId, CallRequested, ConnectionId, HubId, Identity};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::key::KeyInfo;

const VERSION: u8 = 1;

/// Version, kind, sender, epoch.
const HEAD: usize = 1 + 1 + 16 + 16;

/// One message on the bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) kind: Kind,
    pub(super) from: HubId,
    /// The link that it belongs to; zero for what belongs to none.
    pub(super) epoch: Uuid,
    pub(super) body: Bytes,
}

/// What a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// To all: the sender lives. A [`Beat`].
    Beat,
    /// To all: something may have changed. A [`Hint`].
    Hint,
    /// Asks for a link of this epoch.
    Open,
    /// Agrees to it.
    Opened,
    /// The link of this epoch is of no use.
    Reset,
    /// Frames of a link: its number among them, then each with its length.
    Data,
    /// Bytes of the link's data that have been received so far.
    Window,
}

const KINDS: [Kind; 7] = [Kind::Beat, Kind::Hint, Kind::Open, Kind::Opened, Kind::Reset, Kind::Data, Kind::Window];

impl Message {
    pub(super) fn encode(kind: Kind, from: HubId, epoch: Uuid, body: &[u8]) -> Bytes {
        let mut text = head(kind, from, epoch, body.len());
        text.put_slice(body);
        text.freeze()
    }

    pub(super) fn data(from: HubId, epoch: Uuid, number: u64, frames: &[Bytes]) -> Bytes {
        let size = 8 + frames.iter().map(|f| 4 + f.len()).sum::<usize>();
        let mut text = head(Kind::Data, from, epoch, size);
        text.put_u64(number);
        for frame in frames {
            // Frames are bounded far below by the limit on messages.
            text.put_u32(u32::try_from(frame.len()).unwrap_or(u32::MAX));
            text.put_slice(frame);
        }
        text.freeze()
    }

    /// `None` for what this version does not know.
    pub(super) fn decode(mut text: Bytes) -> Option<Self> {
        if text.len() < HEAD || text.get_u8() != VERSION {
            return None;
        }
        let kind = *KINDS.get(usize::from(text.get_u8()))?;
        let from = HubId(Uuid::from_u128(text.get_u128()));
        let epoch = Uuid::from_u128(text.get_u128());
        Some(Self { kind, from, epoch, body: text })
    }

    /// Number and frames of a data message.
    pub(super) fn frames(mut self) -> Option<(u64, Vec<Bytes>)> {
        let number = self.body.try_get_u64().ok()?;
        let mut frames = Vec::new();
        while self.body.has_remaining() {
            let size = self.body.try_get_u32().ok()? as usize;
            if size > self.body.len() {
                return None;
            }
            frames.push(self.body.split_to(size));
        }
        Some((number, frames))
    }

    pub(super) fn parse<T: serde::de::DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }
}

fn head(kind: Kind, from: HubId, epoch: Uuid, body: usize) -> BytesMut {
    let mut text = BytesMut::with_capacity(HEAD + body);
    text.put_u8(VERSION);
    text.put_u8(KINDS.iter().position(|k| *k == kind).and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX));
    text.put_u128(from.0.as_u128());
    text.put_u128(epoch.as_u128());
    text
}

/// A hub's sign of life.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Beat {
    pub(super) address: String,
    pub(super) version: String,
    pub(super) started_at: u64,
    pub(super) draining: bool,
    /// Its last: the hub goes.
    #[serde(default)]
    pub(super) gone: bool,
    pub(super) connections: u64,
    pub(super) spokes: u64,
    pub(super) calls: u64,
    pub(super) backlog: u64,
    /// Calls that run on its spokes, for the choice among providers; only those that have any.
    #[serde(default)]
    pub(super) busy: Vec<(ConnectionId, u64)>,
}

/// Something may have changed; the store knows what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub(super) enum Hint {
    /// A spoke came, went or offers something else.
    #[serde(rename_all = "camelCase")]
    Spoke {
        name: String,
        /// Whether it was sent away and is expected at another hub.
        #[serde(default)]
        moves: bool,
    },
    /// A key was revoked, rotated or otherwise changed.
    #[serde(rename_all = "camelCase")]
    Key { public_id: String },
}

/// What one hub asks of another over their link, as the input of a call. Tagged from outside: texts inside pass as they
/// are, which an inner tag would not let them.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Ask {
    /// Give this call to your spoke.
    #[serde(rename_all = "camelCase")]
    Serve { spoke: String, connection: ConnectionId, one: bool, request: Box<CallRequested> },
    /// A spoke of mine that serves a call of yours calls on.
    #[serde(rename_all = "camelCase")]
    Nested {
        connection: ConnectionId,
        parent: CallId,
        identity: Box<Identity>,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        key: Option<Box<KeyInfo>>,
        request: Box<CallRequested>,
    },
    /// Abort a call of yours; rights were checked.
    #[serde(rename_all = "camelCase")]
    Abort { call_id: CallId, mode: AbortMode, reason: Option<String>, grace_ms: u64 },
    /// Give the stream of a call of yours; rights were checked.
    #[serde(rename_all = "camelCase")]
    Attach { call_id: CallId, after: u64 },
    /// Your spoke takes no new calls from now on; rights were checked.
    Drain { spoke: String },
    /// Your spoke's name is taken by a newer connection elsewhere.
    Release { spoke: String, connection: ConnectionId },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in() {
        let (from, epoch) = (HubId::new(), Uuid::new_v4());
        let frames = [Bytes::from_static(b"one"), Bytes::new(), Bytes::from(vec![7; 70_000])];
        let message = Message::decode(Message::data(from, epoch, 9, &frames)).unwrap();
        assert_eq!((message.kind, message.from, message.epoch), (Kind::Data, from, epoch));
        assert_eq!(message.frames(), Some((9, frames.to_vec())));
        for kind in KINDS {
            let message = Message::decode(Message::encode(kind, from, epoch, b"body")).unwrap();
            assert_eq!(message, Message { kind, from, epoch, body: Bytes::from_static(b"body") });
        }
    }

    #[test]
    fn what_is_cut_off_or_unknown_is_no_message() {
        let whole = Message::data(HubId::new(), Uuid::nil(), 1, &[Bytes::from_static(b"frame")]);
        for length in 0..whole.len() {
            let cut = Message::decode(whole.slice(..length)).and_then(Message::frames);
            assert!(cut.is_none_or(|(_, frames)| frames.is_empty()), "{length}");
        }
        let mut later = whole.to_vec();
        later[0] = 2;
        assert_eq!(Message::decode(later.into()), None);
    }

    #[test]
    fn a_call_inside_a_question_keeps_its_text() {
        let input = hub_protocol::Json::from_text(r#"{ "a" :  1.50 }"#).unwrap();
        let request = Box::new(CallRequested::new("r", "fs.read", input));
        let ask = Ask::Serve { spoke: "laptop".into(), connection: ConnectionId::new(), one: true, request };
        let text = hub_protocol::Json::from_serialize(&ask).unwrap();
        let parsed = text.parse::<Ask>().unwrap();
        assert_eq!(hub_protocol::Json::from_serialize(&parsed).unwrap(), text);
        assert!(text.as_str().contains(r#"{ "a" :  1.50 }"#), "{}", text.as_str());
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _message = Message::decode(bytes.into()).and_then(Message::frames);
        }
    }
}
