use std::collections::BTreeSet;

use hub_protocol::{CallError, ErrorCode, Event, IdStyle, decode, decode_head, encode};
use serde::Deserialize;
use serde_json::Value;

use crate::format::{Direction, ErrorMeaning, FrameCase, Style, Text, cases};

/// The same JSON value or, where it cannot be parsed, the same text.
fn assert_same_json(name: &str, left: &[u8], right: &[u8]) {
    match (serde_json::from_slice::<Value>(left), serde_json::from_slice::<Value>(right)) {
        (Ok(left), Ok(right)) => assert_eq!(left, right, "{name}"),
        // Compared without assert_eq: these are the texts too long to print.
        _ => assert!(left == right, "{name}: not the same text"),
    }
}

#[test]
fn frames() {
    let mut seen = BTreeSet::new();
    let mut rows = BTreeSet::new();
    for (file, case) in cases::<FrameCase>("frames") {
        let name = format!("{file}: {}", case.name);
        let frame = case.bytes();
        match (case.event, case.fault) {
            (None, Some(expected)) => {
                assert_eq!(case.direction, Direction::In, "{name}");
                let fault = decode(&frame).expect_err(&name);
                assert_eq!(fault.code, expected.code, "{name}: {}", fault.message);
            }
            (Some(meaning), None) => {
                let event = meaning.event();
                let style = IdStyle::from(case.style.unwrap_or_else(|| panic!("{name}: no style")));
                if case.direction != Direction::Out {
                    let decoded = decode(&frame).unwrap_or_else(|e| panic!("{name}: {}", e.message));
                    assert!(decoded == (event.clone(), style), "{name}: decoded {decoded:?}, not {event:?}");
                    seen.insert(label(&event));
                }
                if case.direction != Direction::In {
                    assert_same_json(&name, &encode(&event, style), &frame);
                }
                match (event, case.error) {
                    (Event::Failed(failed), Some(error)) => {
                        if failed.code == case.name {
                            rows.insert(check_row(&name, &failed.code, &error));
                        }
                        check_error(&name, &failed.into_error(), &error);
                    }
                    (_, None) => {}
                    (_, Some(_)) => panic!("{name}: error without call.error"),
                }
            }
            _ => panic!("{name}: needs either event or fault"),
        }
    }
    assert_eq!(seen.len(), 11, "a message of the contract has no vector, only {seen:?}");
    for code in ErrorCode::ALL {
        assert!(rows.contains(code.as_str()), "{code} has no vector");
    }
}

fn label(event: &Event) -> &'static str {
    match event {
        Event::Requested(_) => "requested",
        Event::Responded(_) => "responded",
        Event::Completed(_) => "completed",
        Event::Aborted(_) => "aborted",
        Event::Failed(_) => "failed",
        Event::Subscribe(_) => "subscribe",
        Event::Unsubscribe(_) => "unsubscribe",
        Event::Pause(_) => "pause",
        Event::Resume(_) => "resume",
        Event::ProtocolError(_) => "protocol error",
        Event::Topic(_) => "topic",
    }
}

fn check_error(name: &str, error: &CallError, expected: &ErrorMeaning) {
    assert_eq!(error.known().is_some(), expected.known, "{name}: known");
    assert_eq!(error.retryable, expected.retryable, "{name}: retryable");
    assert_eq!(error.known().map(ErrorCode::http_status), expected.http_status, "{name}: HTTP status");
}

fn check_row(name: &str, code: &str, expected: &ErrorMeaning) -> &'static str {
    let code = ErrorCode::parse(code).unwrap_or_else(|| panic!("{name}: not a code of the hub"));
    assert_eq!(code.retryable(), expected.retryable, "{name}");
    code.as_str()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct HeadCase {
    name: String,
    head: Text,
    style: Option<Style>,
    request_id: Option<String>,
    #[serde(rename = "note")]
    _note: Option<String>,
}

#[test]
fn heads() {
    for (file, case) in cases::<HeadCase>("heads") {
        let expected = case.request_id.zip(case.style.map(IdStyle::from));
        assert_eq!(decode_head(case.head.get().as_bytes()), expected, "{file}: {}", case.name);
    }
}
