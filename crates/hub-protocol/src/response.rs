use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Json;

/// What a callee answers: the value and where it came from (protocol §3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
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
struct Parts<'a> {
    #[serde(borrow, default)]
    data: Option<&'a serde_json::value::RawValue>,
    #[serde(borrow)]
    meta: Option<&'a serde_json::value::RawValue>,
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
        // serde would take an array for a struct, member by member.
        if !text.as_bytes().trim_ascii_start().starts_with(b"{") {
            return Err(serde::de::Error::custom("a response envelope is an object"));
        }
        let parts: Parts<'_> = serde_json::from_slice(text.as_bytes())?;
        if parts.meta.is_none() {
            return Err(serde::de::Error::missing_field("meta"));
        }
        Ok(parts.data.map_or_else(Json::null, |raw| text.slice(raw)))
    }
}
