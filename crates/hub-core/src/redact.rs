//! What may not reach the store or the log (promise 5).

use std::borrow::Cow;

use hub_operations::{Definition, REDACTED};
use hub_protocol::{CallError, Json, MAX_NESTING};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::key::PREFIX;

/// Largest input or output that is kept in a record, in bytes; of larger ones size and hash (protocol §4).
pub(crate) const KEEP: usize = 64 * 1024;

/// A payload as it may be recorded.
#[derive(Debug, Clone, Default)]
pub(crate) struct Kept {
    pub(crate) text: Option<Json>,
    pub(crate) size: i64,
    pub(crate) hash: Option<String>,
}

/// Redacts an input for the record.
pub(crate) fn input(definition: &Definition, value: &Json) -> Kept {
    keep(value, definition.input().has_secrets(), |v| public(definition, v))
}

/// An input without what its schema marks. Of one that does not fit a schema with secrets nothing is public, and of one
/// that does no member that the schema does not name: the secret may stand under another name.
fn public(definition: &Definition, value: &Json) -> Json {
    let schema = definition.input();
    if !schema.has_secrets() {
        return schema.redact(value);
    }
    let fits = schema.check(value).is_ok();
    if fits { schema.redact_unnamed(value) } else { Value::from(REDACTED).into() }
}

/// Blanks what the operation does not name, of an input whose own schema marks nothing.
fn blank_others(value: &mut Value, definition: &Definition) {
    let named = definition.spec().input_schema.get("properties");
    for (member, value) in value.as_object_mut().into_iter().flatten() {
        if named.is_some_and(|named| named.get(member).is_none()) {
            *value = REDACTED.into();
        }
    }
}

/// Redacts the input of a call that names another operation and holds that one's input; of an operation that is not
/// known nothing is known to be public.
pub(crate) fn outer_input(outer: &Definition, inner: Option<&Definition>, value: &Json) -> Kept {
    let secrets = inner.is_none_or(|d| d.input().has_secrets());
    keep(value, secrets, |v| {
        // What stands in the place of `input` by mistake is as secret.
        let fits = outer.input().check(v).is_ok();
        let Some(mut parsed) = v.parse::<Value>().ok().filter(|_| fits) else { return Value::from(REDACTED).into() };
        if let Some(input) = parsed.get_mut("input") {
            let redacted = inner.and_then(|d| public(d, &Json::from(input.take())).parse().ok());
            *input = redacted.unwrap_or_else(|| REDACTED.into());
        }
        if secrets {
            blank_others(&mut parsed, outer);
        }
        // Of no call it is in the record.
        if let Some(metadata) = parsed.get_mut("metadata") {
            *metadata = REDACTED.into();
        }
        parsed.into()
    })
}

/// Redacts one response's `data` for the record.
pub(crate) fn output(definition: Option<&Definition>, value: &Json) -> Kept {
    keep(value, definition.is_none_or(|d| d.output().has_secrets()), |v| output_of(definition, v))
}

/// One response's `data` without what its schema marks; all of it when the schema is not known.
pub(crate) fn output_of(definition: Option<&Definition>, value: &Json) -> Json {
    definition.map_or_else(|| Value::from(REDACTED).into(), |d| d.output().redact(value))
}

fn keep(value: &Json, secrets: bool, by_schema: impl FnOnce(&Json) -> Json) -> Kept {
    let size = i64::try_from(value.size()).unwrap_or(i64::MAX);
    // What nests deeper could be kept, and never be shown.
    if value.size() > KEEP || value.nests_deeper_than(MAX_NESTING) {
        // A hash tells whether a secret was guessed.
        let hash = (!secrets).then(|| hex(&Sha256::digest(value.as_bytes())));
        return Kept { text: None, size, hash };
    }
    Kept { text: Some(keys_in_json(&by_schema(value))), size, hash: None }
}

/// A value without the hub's own keys, wherever they stand in it.
pub(crate) fn keys_in_json(value: &Json) -> Json {
    let text = value.as_str();
    if text.contains("\\u") {
        // An escape can spell any letter of a key, so look at the plain text.
        return match value.parse::<Value>() {
            Ok(parsed) => {
                let plain = parsed.to_string();
                Json::from_text(keys_in_text(&plain).into_owned()).unwrap_or_default()
            }
            Err(_) => Value::from(REDACTED).into(),
        };
    }
    match keys_in_text(text) {
        // Compact, so that a record does not hold on to the frame it came in.
        Cow::Borrowed(_) => value.compact(),
        Cow::Owned(text) => Json::from_text(text).unwrap_or_default(),
    }
}

/// A text without the secrets of the hub's own keys; the public part stays, to tell which key leaked.
pub(crate) fn keys_in_text(text: &str) -> Cow<'_, str> {
    if !text.contains(PREFIX) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut changed = false;
    while let Some(at) = rest.find(PREFIX) {
        let after = &rest[at + PREFIX.len()..];
        match crate::key::secret_span(after) {
            Some((public, secret)) => {
                out.push_str(&rest[..at + PREFIX.len() + public + 1]);
                out.push_str(REDACTED);
                rest = &after[public + 1 + secret..];
                changed = true;
            }
            None => {
                out.push_str(&rest[..at + PREFIX.len()]);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    if changed { Cow::Owned(out) } else { Cow::Borrowed(text) }
}

/// An error as it may be recorded.
pub(crate) fn error(error: &CallError) -> CallError {
    CallError {
        code: keys_in_text(&error.code).into_owned(),
        message: keys_in_text(&error.message).into_owned(),
        details: error.details.as_ref().map(|d| if d.size() > KEEP { Json::null() } else { keys_in_json(d) }),
        retryable: error.retryable,
    }
}

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a String can't fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use hub_protocol::ops::hub::CallOperation;

    use super::*;

    #[test]
    fn keys_are_cut_wherever_they_stand() {
        let key = crate::key::NewKey::generate().unwrap();
        let text = format!("a {} b hub_short_x {}", key.text(), key.text());
        let cut = keys_in_text(&text);
        assert!(!cut.contains(key.secret()), "{cut}");
        assert_eq!(cut.matches(&key.public_id).count(), 2);
        assert!(cut.starts_with("a hub_") && cut.contains(" b hub_short_x "));
    }

    #[test]
    fn a_key_spelt_with_escapes_is_cut_too() {
        let key = crate::key::NewKey::generate().unwrap();
        let escaped = format!("\"\\u0068{}\"", &key.text()[1..]);
        let cut = keys_in_json(&Json::from_text(escaped).unwrap());
        assert!(!cut.as_str().contains(key.secret()), "{}", cut.as_str());
    }

    #[test]
    fn of_a_refused_input_of_an_operation_with_secrets_nothing_is_kept() {
        use hub_protocol::OperationSpec;
        use hub_protocol::ops::Operation;
        let of = |spec| Definition::new(spec).unwrap();
        let set = of(hub_protocol::ops::secrets::SetSecret::spec());
        let create = of(hub_protocol::ops::clients::CreateClient::spec());
        let call = of(CallOperation::spec());
        let input = serde_json::json!({ "client": "forge", "name": "token", "vaule": "cAnArY" });
        let large = serde_json::json!({ "client": "forge", "vaule": "cAnArY".repeat(KEEP) });
        let aimed = serde_json::json!({ "name": "a", "type": "custom", "config": { "url": "http://u:cAnArY@h" } });
        let calls = [
            serde_json::json!({ "operationId": "secrets.set", "input": input }),
            serde_json::json!({ "operationId": "secrets.set", "input": input.to_string() }),
            serde_json::json!({ "operationId": "secrets.set", "inputs": input }),
        ];
        let nested = serde_json::json!({ "definitions": { "In": { "properties": { "auth": { "type": "object",
            "properties": { "token": { "type": "string", "writeOnly": true } } } } } }, "$ref": "#/definitions/In" });
        let nested = of(OperationSpec { input_schema: nested, ..hub_protocol::ops::secrets::SetSecret::spec() });
        let misspelt = serde_json::json!({ "auth": { "tokne": "cAnArY" }, "auht": { "token": "cAnArY" } });
        let mut kept = vec![
            super::input(&set, &Value::from(input.to_string()).into()),
            super::input(&create, &aimed.into()),
            super::input(&nested, &misspelt.into()),
        ];
        kept.extend([input, large].map(|wrong| super::input(&set, &wrong.into())));
        kept.extend(calls.map(|wrong| outer_input(&call, Some(&set), &wrong.into())));
        for kept in kept {
            assert!(kept.size > 0 && kept.hash.is_none(), "{kept:?}");
            assert!(kept.text.as_ref().is_none_or(|text| !text.as_str().contains("cAnArY")), "{kept:?}");
        }
    }

    #[test]
    fn of_large_values_only_size_and_hash_are_kept() {
        let spec = <hub_protocol::ops::hub::WhoAmI as hub_protocol::ops::Operation>::spec();
        let definition = Definition::new(spec).unwrap();
        let large: Json = Value::from("x".repeat(KEEP)).into();
        let kept = input(&definition, &large);
        assert!(kept.text.is_none());
        assert_eq!((kept.size, kept.hash.unwrap().len()), (KEEP as i64 + 2, 64));
    }
}
