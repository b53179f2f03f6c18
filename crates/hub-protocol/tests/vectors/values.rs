use std::collections::BTreeMap;

use hub_protocol::{Identity, Json, OperationSpec, ResponseEnvelope, Violation, ops};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::format::{Direction, Text, cases};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResponseCase {
    name: String,
    direction: Direction,
    text: Text,
    data: Option<Text>,
    meta: Option<Value>,
    #[serde(default)]
    fault: bool,
    #[serde(rename = "note")]
    _note: Option<String>,
}

#[test]
fn responses() {
    for (file, case) in cases::<ResponseCase>("responses") {
        let name = format!("{file}: {}", case.name);
        let text = Json::from_text(case.text.get()).unwrap();
        if case.fault {
            ResponseEnvelope::data_of(&text).expect_err(&name);
            text.parse::<ResponseEnvelope>().expect_err(&name);
            continue;
        }
        let data = case.data.expect(&name).get();
        assert_eq!(ResponseEnvelope::data_of(&text).expect(&name).as_str(), data, "{name}");
        let envelope: ResponseEnvelope = text.parse().expect(&name);
        assert_eq!(envelope.data.as_str(), data, "{name}");
        let meta = serde_json::to_value(&envelope.meta).unwrap();
        assert!(same_value(&meta, &case.meta.expect(&name)), "{name}: {meta}");
        if case.direction == Direction::Both {
            let written = envelope.to_json();
            assert_eq!(ResponseEnvelope::data_of(&written).expect(&name).as_str(), data, "{name}");
            assert_eq!(written.parse::<ResponseEnvelope>().expect(&name), envelope, "{name}");
        }
    }
}

/// Equality that holds 1 and 1.0 for the same number, as JSON does.
fn same_value(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(l), Value::Number(r)) => l == r || (l.is_f64() || r.is_f64()) && l.as_f64() == r.as_f64(),
        (Value::Array(l), Value::Array(r)) => l.len() == r.len() && l.iter().zip(r).all(|(l, r)| same_value(l, r)),
        (Value::Object(l), Value::Object(r)) => {
            l.len() == r.len() && l.iter().all(|(k, l)| r.get(k).is_some_and(|r| same_value(l, r)))
        }
        _ => left == right,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueCase {
    name: String,
    of: String,
    direction: Direction,
    text: Text,
    value: Option<Value>,
    scopes: Option<BTreeMap<String, bool>>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

#[test]
fn values() {
    for (file, case) in cases::<ValueCase>("values") {
        let name = format!("{file}: {}", case.name);
        match &*case.of {
            "identity" => {
                let identity = value::<Identity>(&name, &case);
                for (scope, held) in case.scopes.iter().flatten() {
                    assert_eq!(identity.as_ref().unwrap().has_scope(scope), *held, "{name}: {scope:?}");
                }
            }
            "receipt" => drop(value::<ops::calls::Receipt>(&name, &case)),
            "violation" => drop(value::<Violation>(&name, &case)),
            "spec" => drop(value::<OperationSpec>(&name, &case)),
            "register" => drop(value::<ops::hub::RegisterSpoke>(&name, &case)),
            "registered" => drop(value::<ops::hub::RegisteredSpoke>(&name, &case)),
            "eventItem" => drop(value::<ops::events::EventItem>(&name, &case)),
            other => panic!("{name}: unknown type {other:?}"),
        }
    }
}

fn value<T: DeserializeOwned + Serialize>(name: &str, case: &ValueCase) -> Option<T> {
    let read = serde_json::from_str::<T>(&case.text.get());
    if case.direction == Direction::Refuse {
        assert!(read.is_err(), "{name}: must not be accepted");
        return None;
    }
    let read = read.unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(serde_json::to_value(&read).unwrap(), *case.value.as_ref().expect(name), "{name}");
    Some(read)
}
