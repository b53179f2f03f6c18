//! Properties of decode, decode_head and encode over arbitrary events and hostile bytes.

mod arbitrary;
mod edits;

use arbitrary::{event, json, requested, style};
use bytes::Bytes;
use edits::{apply, edit};
use hub_protocol::{Envelope, Event, IdStyle, decode, decode_head, encode};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// The style that a reader sees: only messages about one call have one to choose.
fn seen_style(event: &Event, style: IdStyle) -> IdStyle {
    match event {
        Event::Subscribe(_) | Event::Unsubscribe(_) | Event::ProtocolError(_) => IdStyle::Empty,
        Event::Topic(message) if message.id.is_empty() => IdStyle::Empty,
        Event::Topic(_) => IdStyle::Envelope,
        _ => style,
    }
}

/// What must hold of any bytes at all.
fn check(frame: &Bytes) -> Result<(), TestCaseError> {
    let head = decode_head(frame);
    match decode(frame) {
        Ok((event, style)) => {
            if let (Event::Requested(request), Some(head)) = (&event, &head) {
                prop_assert_eq!((&request.request_id, style), (&head.0, head.1));
            }
            prop_assert_eq!(matches!(event, Event::Requested(_)), head.is_some());
            // What was understood once is understood the same way when passed on.
            prop_assert_eq!(decode(&encode(&event, style)), Ok((event.clone(), seen_style(&event, style))));
        }
        Err(fault) => {
            prop_assert!(fault.message.len() < 400, "a long fault: {}", fault.message.len());
            let told = encode(&Event::ProtocolError(fault.clone()), IdStyle::Empty);
            prop_assert_eq!(decode(&told), Ok((Event::ProtocolError(fault), IdStyle::Empty)));
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes(bytes in vec(any::<u8>(), 0..200)) {
        check(&bytes.into())?;
    }

    #[test]
    fn mutated_frames(event in event(), style in style(), edits in vec(edit(), 1..6)) {
        let mut frame = encode(&event, style).to_vec();
        for edit in &edits {
            apply(&mut frame, edit);
        }
        check(&frame.into())?;
    }

    #[test]
    fn round_trip(event in event(), style in style()) {
        let frame = encode(&event, style);
        prop_assert!(serde_json::from_slice::<&serde_json::value::RawValue>(&frame).is_ok());
        let seen = seen_style(&event, style);
        // Json compares its text, so this also says that JSON members keep their bytes.
        prop_assert_eq!(decode(&frame), Ok((event, seen)));
        check(&frame)?;
    }

    /// Wherever a request is cut, its head names the request or nothing; and nothing from inside its values.
    #[test]
    fn cut_requests(request in requested(), style in style(), cut in any::<Index>()) {
        let id = request.request_id.clone();
        let frame = encode(&Event::Requested(request), style);
        prop_assert_eq!(decode_head(&frame), Some((id.clone(), style)));
        if let Some(head) = decode_head(&frame[..cut.index(frame.len())]) {
            prop_assert_eq!(head, (id, style));
        }
    }

    #[test]
    fn ids_inside_values_do_not_count(inner in requested(), member in select(vec!["input", "metadata", "x", "inp\\u0075t"])) {
        let inner = encode(&Event::Requested(inner), IdStyle::Envelope);
        let inner = std::str::from_utf8(&inner).unwrap();
        let head = format!(r#"{{"type":"call.requested","id":"","payload":{{"operationId":"a.b","{member}":{inner},"#);
        prop_assert_eq!(decode_head(head.as_bytes()), None);
        let head = format!(r#"{{"{member}":{inner},"type":"call.requested","payload":{{"requestId":"own","#);
        prop_assert_eq!(decode_head(head.as_bytes()), Some(("own".to_owned(), IdStyle::Empty)));
    }

    /// No topic message can pass for a message of the protocol.
    #[test]
    fn reserved_topics(kind in "(__|call\\.|hub\\.).{0,16}", id in ".{0,4}", payload in json()) {
        let (event, _) = decode(&encode(&Event::Topic(Envelope { kind, id, payload }), IdStyle::Empty)).unwrap();
        prop_assert!(matches!(event, Event::ProtocolError(_)));
    }

    /// A fault names members and types of ours, never the peer's values.
    #[test]
    fn faults_keep_secrets(name in select(vec!["operationId", "deadline", "identity", "onDisconnect", "budget", "requestId"]),
                           shape in select(vec!["$", "[$]", "{\"a\":$}"])) {
        let value = shape.replace('$', "\"hunter2, expected hunter3\"");
        let payload = if name == "operationId" || name == "requestId" { format!("[{value}]") } else { value };
        let frame = format!(r#"{{"type":"call.requested","id":"r","payload":{{"{name}":{payload}}}}}"#);
        let fault = decode(&frame.into()).unwrap_err();
        prop_assert!(!fault.message.contains("hunter"), "{}", fault.message);
    }
}
