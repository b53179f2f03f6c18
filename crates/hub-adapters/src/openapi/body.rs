//! Bodies of requests.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hub_protocol::{CallError, ErrorCode, Json};
use serde_json::{Map, Value};

use super::plan::{Body, BodyKind, Field, Form, Style};
use super::style::{pairs, text_of};

const FORM: Form = Form { style: Style::Form, explode: true, allow_reserved: false };

/// The content type and bytes of a body. JSON goes out as the text it came in.
pub(super) fn encode(body: &Body, value: &Json) -> Result<(String, Bytes), CallError> {
    let parsed = || value.parse::<Value>().map_err(|_| invalid("body can't be read"));
    let bytes = match &body.kind {
        BodyKind::Json => Bytes::copy_from_slice(value.as_bytes()),
        BodyKind::Text => Bytes::from(text_of(&parsed()?)),
        BodyKind::Bytes => Bytes::from(decoded("body", &parsed()?)?),
        BodyKind::Form(fields) => Bytes::from(form(&members(parsed()?)?, fields)),
        BodyKind::Multipart(fields) => {
            let boundary = format!("hub-{}", uuid::Uuid::new_v4().simple());
            let bytes = multipart(&members(parsed()?)?, fields, &boundary)?;
            return Ok((format!("{}; boundary={boundary}", body.media_type), bytes.into()));
        }
    };
    Ok((body.media_type.clone(), bytes))
}

pub(super) fn invalid(message: impl Into<String>) -> CallError {
    CallError::new(ErrorCode::ValidationError, message)
}

fn members(value: Value) -> Result<Map<String, Value>, CallError> {
    match value {
        Value::Object(members) => Ok(members),
        _ => Err(invalid("body must be an object")),
    }
}

fn decoded(member: &str, value: &Value) -> Result<Vec<u8>, CallError> {
    let text = value.as_str().ok_or_else(|| invalid(format!("{member} must be a base64 text")))?;
    STANDARD.decode(text.trim()).map_err(|_| invalid(format!("{member} is not base64")))
}

fn form(members: &Map<String, Value>, fields: &BTreeMap<String, Field>) -> String {
    let mut out = String::new();
    for (name, value) in members {
        let field = fields.get(name);
        let form = match field.and_then(|field| field.form) {
            Some(form) => form,
            // Without a style an object is JSON: as its own members it would lose its name.
            None if value.is_object() => Form { style: Style::Json, ..FORM },
            None => FORM,
        };
        for (key, value) in pairs(name, value, form) {
            let separator = if out.is_empty() { "" } else { "&" };
            let _ = write!(out, "{separator}{key}={value}");
        }
    }
    out
}

fn multipart(
    members: &Map<String, Value>,
    fields: &BTreeMap<String, Field>,
    boundary: &str,
) -> Result<Vec<u8>, CallError> {
    let mut out = Vec::new();
    let none = Field::default();
    for (name, value) in members {
        let field = fields.get(name).unwrap_or(&none);
        let items = match value {
            Value::Null => continue,
            Value::Array(items) => items.as_slice(),
            one => std::slice::from_ref(one),
        };
        for item in items {
            part(&mut out, name, item, field, boundary)?;
        }
    }
    out.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    Ok(out)
}

fn part(out: &mut Vec<u8>, name: &str, value: &Value, field: &Field, boundary: &str) -> Result<(), CallError> {
    // As browsers write names.
    let quoted = name.replace('"', "%22").replace('\r', "%0D").replace('\n', "%0A");
    let mut head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{quoted}\"");
    if field.binary {
        let _ = write!(head, "; filename=\"{quoted}\"");
    }
    let default = match value {
        _ if field.binary => "application/octet-stream",
        Value::Object(_) | Value::Array(_) => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    let content_type = field.content_type.as_deref().and_then(sendable).unwrap_or(default);
    let _ = write!(head, "\r\nContent-Type: {content_type}\r\n\r\n");
    out.extend_from_slice(head.as_bytes());
    if field.binary {
        out.extend_from_slice(&decoded(&format!("body.{name}"), value)?);
    } else {
        out.extend_from_slice(text_of(value).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// The first of a list of media types, unless it is a pattern.
fn sendable(content_type: &str) -> Option<&str> {
    let first = content_type.split(',').next()?.trim();
    (!first.contains('*') && !first.is_empty() && first.bytes().all(|b| (b' '..0x7f).contains(&b))).then_some(first)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn body(media_type: &str, kind: BodyKind, value: Value) -> Result<(String, String), CallError> {
        let (content_type, bytes) = encode(&Body { media_type: media_type.into(), kind }, &value.into())?;
        Ok((content_type, String::from_utf8_lossy(&bytes).into_owned()))
    }

    #[test]
    fn json_keeps_its_text() {
        let text = Json::from_text(r#"{"n": 12345678901234567890123, "x":1.0}"#).unwrap();
        let (_, bytes) = encode(&Body { media_type: "application/json".into(), kind: BodyKind::Json }, &text).unwrap();
        assert_eq!(bytes, text.as_bytes());
    }

    #[test]
    fn forms() {
        let deep = Field { form: Some(Form { style: Style::DeepObject, ..FORM }), ..Field::default() };
        let fields = BTreeMap::from([("card".to_owned(), deep)]);
        let value =
            json!({"amount": 5, "card": {"exp": {"month": 1}}, "note": "a&b", "tags": ["x", "y"], "meta": {"k": 1}});
        let (_, text) = body("application/x-www-form-urlencoded", BodyKind::Form(fields), value).unwrap();
        let wanted = "amount=5&card%5Bexp%5D%5Bmonth%5D=1&meta=%7B%22k%22%3A1%7D&note=a%26b&tags=x&tags=y";
        assert_eq!(text, wanted);
    }

    #[test]
    fn multipart_forms() {
        let file = Field { binary: true, content_type: Some("image/png, image/gif".into()), ..Field::default() };
        let fields = BTreeMap::from([("file".to_owned(), file)]);
        let value =
            json!({"file": "aGVsbG8=", "name\"\r\nX: y": "n", "info": {"a": 1}, "tags": ["x", "y"], "none": null});
        let (kind, text) = body("multipart/form-data", BodyKind::Multipart(fields.clone()), value).unwrap();
        let boundary = kind.strip_prefix("multipart/form-data; boundary=").unwrap();
        assert!(
            text.contains("name=\"file\"; filename=\"file\"\r\nContent-Type: image/png\r\n\r\nhello\r\n"),
            "{text}"
        );
        assert!(text.contains("name=\"name%22%0D%0AX: y\"\r\n"), "{text}");
        assert!(text.contains("Content-Type: application/json\r\n\r\n{\"a\":1}\r\n"), "{text}");
        assert_eq!(text.matches("name=\"tags\"").count(), 2);
        assert!(text.ends_with(&format!("--{boundary}--\r\n")));
        let error = body("multipart/form-data", BodyKind::Multipart(fields), json!({"file": "?"})).unwrap_err();
        assert!(error.is(ErrorCode::ValidationError) && error.message.contains("body.file"), "{error}");
    }

    #[test]
    fn bytes_and_text() {
        assert_eq!(body("application/octet-stream", BodyKind::Bytes, json!("aGk=")).unwrap().1, "hi");
        assert!(body("application/octet-stream", BodyKind::Bytes, json!(5)).is_err());
        assert_eq!(body("text/plain", BodyKind::Text, json!("hi")).unwrap().1, "hi");
    }
}
