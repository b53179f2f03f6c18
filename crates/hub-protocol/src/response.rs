use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::Json;
use crate::object::object_only;

/// What a callee answers: the value and where it came from (protocol §3).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub struct ResponseEnvelope {
    /// The value; missing on the wire means null.
    #[serde(default)]
    pub data: Json,
    /// Where the value came from.
    pub meta: ResponseMeta,
}

/// Source of a response, told apart by `source`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "source", rename_all = "lowercase")]
pub enum ResponseMeta {
    /// An operation's handler.
    #[serde(rename_all = "camelCase")]
    Local {
        /// The operation that answered, by the name it has where it ran.
        operation_id: String,
        /// Milliseconds since the epoch. TypeScript peers may send a fraction.
        #[serde(serialize_with = "whole")]
        timestamp: f64,
    },
    /// An HTTP upstream.
    #[serde(rename_all = "camelCase")]
    Http {
        /// HTTP status.
        status_code: u16,
        /// Response headers; several of one name are joined by commas.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// `Content-Type`, empty when there was none.
        #[serde(default)]
        content_type: String,
    },
    /// An MCP tool.
    #[serde(rename_all = "camelCase")]
    Mcp {
        /// Whether the tool reported a failure.
        is_error: bool,
        /// MCP content blocks.
        content: Vec<serde_json::Value>,
        /// Structured result, if the tool has one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        structured_content: Option<serde_json::Value>,
        /// MCP metadata.
        #[serde(default, rename = "_meta", skip_serializing_if = "Option::is_none")]
        meta: Option<serde_json::Value>,
    },
}

#[derive(Deserialize)]
struct Members {
    #[serde(default)]
    data: Json,
    #[serde(deserialize_with = "object_only")]
    meta: ResponseMeta,
}

impl<'de> Deserialize<'de> for ResponseEnvelope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Members { data, meta } = object_only(deserializer)?;
        Ok(Self { data, meta })
    }
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    meta: Option<&'a RawValue>,
}

/// Writes whole milliseconds without a fraction, as every other clock does.
fn whole<S: serde::Serializer>(timestamp: &f64, serializer: S) -> Result<S::Ok, S::Error> {
    // Below 2^53 every whole double is an integer that JSON readers keep exactly.
    if timestamp.fract() == 0.0 && (0.0..9_007_199_254_740_992.0).contains(timestamp) {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked to be whole and in range"
        )]
        return serializer.serialize_u64(*timestamp as u64);
    }
    serializer.serialize_f64(*timestamp)
}

impl ResponseEnvelope {
    /// Wraps a handler's value at `now_ms`.
    #[must_use]
    pub fn local(operation_id: &str, now_ms: u64, data: Json) -> Self {
        #[expect(clippy::cast_precision_loss, reason = "milliseconds since the epoch fit a double for 285,000 years")]
        let timestamp = now_ms as f64;
        Self { data, meta: ResponseMeta::Local { operation_id: operation_id.to_owned(), timestamp } }
    }

    /// The envelope as JSON text, the value spliced in unparsed.
    #[must_use]
    pub fn to_json(&self) -> Json {
        let meta = Json::from_serialize(&self.meta).unwrap_or_default();
        let mut text = String::with_capacity(self.data.size() + meta.size() + 18);
        text.push_str("{\"data\":");
        text.push_str(self.data.as_str());
        text.push_str(",\"meta\":");
        text.push_str(meta.as_str());
        text.push('}');
        Json::from_trusted(text)
    }

    /// The `data` of an envelope's text, shared, without reading `meta`. A missing `data` is null.
    ///
    /// # Errors
    /// When the text is not an envelope: an object with a `meta` member.
    pub fn data_of(text: &Json) -> Result<Json, serde_json::Error> {
        let parts: Parts<'_> = object_only(&mut serde_json::Deserializer::from_slice(text.as_bytes()))?;
        if parts.meta.is_none() {
            return Err(serde::de::Error::missing_field("meta"));
        }
        Ok(parts.data.map_or_else(Json::null, |raw| text.slice(raw)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Json {
        Json::from_text(text).unwrap()
    }

    #[test]
    fn written_envelope_keeps_the_bytes_of_data() {
        let data = text("{ \"n\" : 1e400,\n\"s\":\"\\ud800\" }");
        let written = ResponseEnvelope::local("a.\"b", 1_760_000_000_000, data.clone()).to_json();
        assert!(written.as_str().starts_with("{\"data\":{ \"n\" : 1e400,\n"));
        assert_eq!(ResponseEnvelope::data_of(&written).unwrap(), data);
        let back: ResponseEnvelope = written.parse().unwrap();
        assert_eq!(back.data, data);
        assert_eq!(back.meta, ResponseMeta::Local { operation_id: "a.\"b".to_owned(), timestamp: 1_760_000_000_000.0 });
    }

    #[test]
    fn data_is_shared_not_copied() {
        let envelope = text(r#"{"data":[1],"meta":{}}"#);
        let data = ResponseEnvelope::data_of(&envelope).unwrap();
        assert!(envelope.as_bytes().as_ptr_range().contains(&data.as_bytes().as_ptr()));
    }

    #[test]
    fn missing_data_is_null_and_missing_meta_an_error() {
        assert!(ResponseEnvelope::data_of(&text(r#"{"meta":{}}"#)).unwrap().is_null());
        assert!(ResponseEnvelope::data_of(&text(r#"{"data":null,"meta":{}}"#)).unwrap().is_null());
        for bad in [
            r#"{"data":1}"#,
            r#"{"data":1,"meta":null}"#,
            r#"[1,{"source":"local","operationId":"a.b","timestamp":1}]"#,
            "null",
            "7",
            r#""x""#,
        ] {
            assert!(ResponseEnvelope::data_of(&text(bad)).is_err(), "{bad}");
            assert!(text(bad).parse::<ResponseEnvelope>().is_err(), "{bad}");
        }
    }

    #[test]
    fn meta_is_an_object() {
        assert!(text(r#"{"data":1,"meta":["local","a.b",1]}"#).parse::<ResponseEnvelope>().is_err());
    }

    #[test]
    fn deep_data_passes_and_deep_meta_is_refused() {
        let deep = format!("{}{}", "[".repeat(50_000), "]".repeat(50_000));
        let envelope =
            text(&format!(r#"{{"data":{deep},"meta":{{"source":"local","operationId":"a.b","timestamp":1}}}}"#));
        assert_eq!(ResponseEnvelope::data_of(&envelope).unwrap().as_str(), deep);
        assert!(envelope.parse::<ResponseEnvelope>().is_ok());
        let envelope = text(&format!(r#"{{"data":1,"meta":{{"source":"mcp","isError":false,"content":[{deep}]}}}}"#));
        assert!(envelope.parse::<ResponseEnvelope>().is_err());
    }
}
