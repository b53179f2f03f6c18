use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use crate::Violation;
use crate::decode::describe;

/// Deepest nesting of arrays and objects that the usual parsers read, and so of what the hub answers.
pub const READABLE_NESTING: usize = 127;

/// Deepest nesting of what the hub takes from callers and callees. Records, lists and answers show it some levels
/// deeper, and must be readable, too.
pub const MAX_NESTING: usize = 100;

/// Deepest nesting of a schema: declarations, lists of them and `/openapi.json` have it some levels deeper.
pub const MAX_SCHEMA_NESTING: usize = 90;

/// One JSON value as the text it arrived in.
///
/// Cloning shares the text, so a payload is routed, recorded and answered without being copied or parsed.
/// The text is always one well-formed JSON value; whether its numbers fit and its escapes are valid
/// Unicode shows only when it is parsed ([`Json::parse`]).
#[derive(Clone)]
pub struct Json(Bytes);

impl Json {
    /// The value `null`.
    #[must_use]
    pub const fn null() -> Self {
        Self(Bytes::from_static(b"null"))
    }

    /// Serializes any value.
    ///
    /// # Errors
    /// When the value's `Serialize` fails or a map has keys that are not strings.
    pub fn from_serialize<T: Serialize + ?Sized>(value: &T) -> Result<Self, serde_json::Error> {
        serde_json::to_vec(value).map(|text| Self(text.into()))
    }

    /// Takes a text, checking that it is one JSON value.
    ///
    /// # Errors
    /// When the text is not JSON.
    pub fn from_text(text: impl Into<String>) -> Result<Self, serde_json::Error> {
        RawValue::from_string(text.into()).map(Self::from)
    }

    /// Shares the part of `frame` that `raw` was parsed from.
    pub(crate) fn slice_of(frame: &Bytes, raw: &RawValue) -> Self {
        Self(frame.slice_ref(raw.get().as_bytes()))
    }

    /// Takes a text that the caller has just put together from JSON parts.
    pub(crate) fn from_trusted(text: String) -> Self {
        debug_assert!(serde_json::from_str::<&RawValue>(&text).is_ok(), "not JSON");
        Self(Bytes::from(text))
    }

    /// Shares the part of this text that `raw` was parsed from.
    pub(crate) fn slice(&self, raw: &RawValue) -> Self {
        Self::slice_of(&self.0, raw)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // The bytes came from a str in every constructor.
        std::str::from_utf8(&self.0).unwrap_or("null")
    }

    /// The JSON text as bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Length of the text in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.0.len()
    }

    /// Whether the value is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        &*self.0 == b"null"
    }

    /// Parses into a typed value.
    ///
    /// # Errors
    /// When the text does not fit `T`, or holds a number or escape no parser can represent.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.0)
    }

    /// Parses into a typed value; what does not fit is told by its place, in words that quote no value.
    ///
    /// # Errors
    /// The place (JSON Pointer) and the reason.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Violation> {
        self.parse().or_else(|_| {
            // Once more, since keeping track of the place would slow down what fits.
            let mut text = serde_json::Deserializer::from_slice(&self.0);
            serde_path_to_error::deserialize(&mut text)
                .map_err(|e| Violation { path: pointer(e.path()), message: describe(e.inner()) })
        })
    }

    /// Whether arrays and objects stand in each other more than `levels` deep. Looks at the text only.
    #[must_use]
    pub fn nests_deeper_than(&self, levels: usize) -> bool {
        // The usual large value is long texts or short rows; what has few brackets needs no closer look.
        if memchr::memchr2_iter(b'[', b'{', &self.0).nth(levels).is_none() {
            return false;
        }
        let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
        for byte in &*self.0 {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_text = !in_text,
                b'[' | b'{' if !in_text => depth += 1,
                b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth > levels {
                return true;
            }
        }
        false
    }

    /// A copy of its own, so that keeping a small value does not keep the whole frame it came in.
    #[must_use]
    pub fn compact(&self) -> Self {
        Self(Bytes::copy_from_slice(&self.0))
    }
}

fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let segment = |segment: &Segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    };
    path.iter().map(segment).collect()
}

impl Default for Json {
    fn default() -> Self {
        Self::null()
    }
}

/// The same text; equal values in another spelling are not equal.
impl PartialEq for Json {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Json {}

/// Payloads can hold secrets, so only their size is shown.
impl fmt::Debug for Json {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Json({} bytes)", self.0.len())
    }
}

impl From<Box<RawValue>> for Json {
    fn from(raw: Box<RawValue>) -> Self {
        Self(Bytes::from(String::from(Box::<str>::from(raw))))
    }
}

impl From<serde_json::Value> for Json {
    fn from(value: serde_json::Value) -> Self {
        Self(Bytes::from(value.to_string()))
    }
}

impl Serialize for Json {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &RawValue = serde_json::from_slice(&self.0).map_err(serde::ser::Error::custom)?;
        raw.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Box::<RawValue>::deserialize(deserializer).map(Self::from)
    }
}

impl JsonSchema for Json {
    fn schema_name() -> Cow<'static, str> {
        "Json".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        true.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nesting_is_told_from_the_text() {
        let deep = |levels: usize| Json::from_text("[".repeat(levels) + &"]".repeat(levels)).unwrap();
        assert!(!deep(MAX_NESTING).nests_deeper_than(MAX_NESTING));
        assert!(deep(MAX_NESTING + 1).nests_deeper_than(MAX_NESTING));
        let read = |levels| deep(levels).parse::<serde_json::Value>();
        assert!(read(READABLE_NESTING).is_ok() && read(READABLE_NESTING + 1).is_err(), "as deep as the parser goes");
        let wide = Json::from_text(format!("[{}1]", "{},".repeat(500))).unwrap();
        assert!(!wide.nests_deeper_than(2));
        let quoted = Json::from_text(format!(r#"["\"{}","\\",[[1]]]"#, "[".repeat(500))).unwrap();
        assert!(!quoted.nests_deeper_than(3) && quoted.nests_deeper_than(2));
    }
}
