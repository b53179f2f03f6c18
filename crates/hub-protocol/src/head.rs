use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use crate::IdStyle;

/// The request id and its style of a message that is too large or broken to decode, when the first bytes show it.
///
/// Lets the hub answer `PAYLOAD_TOO_LARGE` to the call instead of closing the connection. Only the members that
/// [`decode`](crate::decode) reads count: what a caller quotes in its input, in metadata or in a member of its own
/// can't pose as the id. An id that stands after the cut is not seen.
#[must_use]
pub fn decode_head(head: &[u8]) -> Option<(String, IdStyle)> {
    let mut seen = Seen::default();
    // A head that was cut ends in an error; what was read before it counts.
    let end =
        Members { seen: &mut seen, part: Part::Envelope }.deserialize(&mut serde_json::Deserializer::from_slice(head));
    if matches!(&end, Err(e) if e.is_data()) || seen.kind.as_deref() != Some("call.requested") {
        return None;
    }
    let envelope_id = seen.id.flatten().filter(|id| !id.is_empty());
    let style = if envelope_id.is_some() { IdStyle::Envelope } else { IdStyle::Empty };
    seen.request_id.flatten().filter(|id| !id.is_empty()).or(envelope_id).map(|id| (id, style))
}

/// What has been read so far; kept outside the parse so that it outlives the parse's failure.
#[derive(Default)]
struct Seen {
    kind: Option<String>,
    id: Option<Option<String>>,
    request_id: Option<Option<String>>,
    payload: bool,
}

#[derive(Clone, Copy)]
enum Part {
    Envelope,
    Payload,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "camelCase")]
enum Member {
    Type,
    Id,
    Payload,
    RequestId,
    #[serde(other)]
    Other,
}

struct Members<'s> {
    seen: &'s mut Seen,
    part: Part,
}

impl<'de> DeserializeSeed<'de> for Members<'_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Members<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Self { seen, part } = self;
        while let Some(member) = map.next_key::<Member>()? {
            match (part, member) {
                (Part::Envelope, Member::Type) => once(&mut seen.kind, map.next_value()?)?,
                (Part::Envelope, Member::Id) => once(&mut seen.id, map.next_value()?)?,
                (Part::Envelope, Member::Payload) => {
                    if std::mem::replace(&mut seen.payload, true) {
                        return Err(A::Error::duplicate_field("payload"));
                    }
                    map.next_value_seed(Members { seen: &mut *seen, part: Part::Payload })?;
                }
                (Part::Payload, Member::RequestId) => once(&mut seen.request_id, map.next_value()?)?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
}

/// A member that comes twice could mean either: no answer.
fn once<T, E: Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    if slot.replace(value).is_some() { Err(E::custom("duplicate member")) } else { Ok(()) }
}
