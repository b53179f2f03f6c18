//! Properties of decode, decode_head and encode over arbitrary events and hostile bytes.

use bytes::Bytes;
use hub_protocol::ops::calls::{AbortMode, AbortOutcome, Receipt};
use hub_protocol::{
    CallAborted, CallCompleted, CallFailed, CallId, CallRequested, CallResponded, Envelope, Event, Fault, FaultCode,
    IdStyle, Identity, Json, OnDisconnect, decode, decode_head, encode,
};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// JSON text in spellings that a parser would not give back: spaces, exponents, escapes, lone surrogates.
fn json() -> impl Strategy<Value = Json> {
    let number = "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,3})?([eE][+-]?[0-9]{1,4})?";
    let string = r#""([ -!#-\[\]-~éß漢😀]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,12}""#;
    let leaf = prop_oneof![
        select(vec!["null", "true", "false", "{}", "[ ]", r#"{"requestId":"in","id":"in"}"#]).prop_map(str::to_owned),
        number,
        string,
    ];
    let tree = leaf.prop_recursive(4, 24, 4, move |inner| {
        let space = " |\n|\t|";
        prop_oneof![
            (vec(inner.clone(), 0..4), space).prop_map(|(items, s)| format!("[{s}{}]", items.join(&format!(",{s}")))),
            vec((string, inner), 0..4).prop_map(|members| {
                let members: Vec<_> = members.iter().map(|(k, v)| format!("{k} :{v}")).collect();
                format!("{{{} }}", members.join(","))
            }),
        ]
    });
    tree.prop_map(|text| Json::from_text(text).unwrap())
}

fn id() -> impl Strategy<Value = String> {
    prop_oneof![Just("r1".to_owned()), ".{1,12}"]
}

/// An optional JSON member: null is absent.
fn some_json() -> impl Strategy<Value = Option<Json>> {
    of(json()).prop_map(|json| json.filter(|json| !json.is_null()))
}

fn identity() -> impl Strategy<Value = Identity> {
    (".{0,8}", vec(".{0,8}", 0..4), of(btree_map(".{0,8}", vec(".{0,4}", 0..3), 0..3)), vec(".{0,8}", 0..3))
        .prop_map(|(id, scopes, resources, chain)| Identity { id, scopes, resources, chain })
}

fn requested() -> impl Strategy<Value = CallRequested> {
    let on_disconnect = select(vec![OnDisconnect::Abort, OnDisconnect::Finish, OnDisconnect::Detach]);
    let plain = (id(), ".{0,16}", json(), of(id()), of(any::<u64>()), of(any::<u64>()));
    let rest = (of(identity()), some_json(), of(".{0,8}"), of(on_disconnect), of(any::<i64>()), of(".{0,8}"), of(id()));
    (plain, rest).prop_map(
        |(
            (request_id, operation_id, input, parent_request_id, deadline, idle_timeout),
            (identity, metadata, idempotency_key, on_disconnect, budget, version, traceparent),
        )| CallRequested {
            request_id,
            operation_id,
            input,
            parent_request_id,
            deadline,
            idle_timeout,
            identity,
            metadata,
            idempotency_key,
            on_disconnect,
            budget,
            version,
            traceparent,
        },
    )
}

fn aborted() -> impl Strategy<Value = CallAborted> {
    let outcome = select(vec![AbortOutcome::Stopped, AbortOutcome::AlreadyFinished, AbortOutcome::NoAnswer]);
    let receipt = (any::<u128>(), ".{0,8}", of(".{0,8}"), outcome, any::<u64>()).prop_map(
        |(call, operation_id, spoke, outcome, after_ms)| {
            let call_id: CallId = format!("{call:032x}").parse().unwrap();
            Receipt { call_id, operation_id, spoke, outcome, after_ms }
        },
    );
    let mode = select(vec![AbortMode::Skip, AbortMode::Kill, AbortMode::KillNowait]);
    (id(), of(".{0,8}"), of(mode), of(vec(receipt, 0..3)))
        .prop_map(|(request_id, reason, mode, receipts)| CallAborted { request_id, reason, mode, receipts })
}

fn event() -> impl Strategy<Value = Event> {
    let codes = vec![FaultCode::UnreadableEnvelope, FaultCode::UnknownType, FaultCode::BadPayload];
    prop_oneof![
        4 => requested().prop_map(Event::Requested),
        2 => (id(), json()).prop_map(|(request_id, output)| Event::Responded(CallResponded { request_id, output })),
        1 => id().prop_map(|request_id| Event::Completed(CallCompleted { request_id })),
        1 => aborted().prop_map(Event::Aborted),
        2 => (id(), ".{0,8}", ".{0,8}", some_json(), of(any::<bool>())).prop_map(
            |(request_id, code, message, details, retryable)| Event::Failed(CallFailed {
                request_id, code, message, details, retryable
            })),
        1 => ".{0,16}".prop_map(Event::Subscribe),
        1 => ".{0,16}".prop_map(Event::Unsubscribe),
        1 => id().prop_map(Event::Pause),
        1 => id().prop_map(Event::Resume),
        1 => (select(codes), ".{0,16}").prop_map(|(code, message)| Event::ProtocolError(Fault { code, message })),
        2 => (".{0,12}", ".{0,8}", json()).prop_map(|(kind, id, payload)| Envelope { kind, id, payload })
            .prop_filter("a type of its own", |message| !message.is_reserved())
            .prop_map(Event::Topic),
    ]
}

fn style() -> impl Strategy<Value = IdStyle> {
    select(vec![IdStyle::Empty, IdStyle::Envelope])
}

/// The style that a reader sees: only messages about one call have one to choose.
fn seen_style(event: &Event, style: IdStyle) -> IdStyle {
    match event {
        Event::Subscribe(_) | Event::Unsubscribe(_) | Event::ProtocolError(_) => IdStyle::Empty,
        Event::Topic(message) if message.id.is_empty() => IdStyle::Empty,
        Event::Topic(_) => IdStyle::Envelope,
        _ => style,
    }
}

#[derive(Debug, Clone)]
enum Edit {
    Cut(Index),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Copy(Index, Index, Index),
}

fn edit() -> impl Strategy<Value = Edit> {
    let pieces: Vec<Vec<u8>> =
        ["\"", "\\", "{", "}", "[", "]", ",", ":", "\\ud800", "null", "1e400", "\"id\":\"x\",", "\"requestId\":\"x\",", "\"input\":"]
            .map(|piece| piece.as_bytes().to_vec())
            .to_vec();
    prop_oneof![
        any::<Index>().prop_map(Edit::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Flip(at, byte)),
        (any::<Index>(), select(pieces)).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        any::<(Index, Index, Index)>().prop_map(|(from, to, at)| Edit::Copy(from, to, at)),
    ]
}

fn apply(frame: &mut Vec<u8>, edit: &Edit) {
    let at = |index: &Index, frame: &[u8]| index.index(frame.len() + 1);
    match edit {
        Edit::Cut(end) => frame.truncate(at(end, frame)),
        Edit::Flip(index, byte) => {
            let at = at(index, frame);
            if let Some(slot) = frame.get_mut(at) {
                *slot = *byte;
            }
        }
        Edit::Insert(index, piece) => {
            let at = at(index, frame);
            frame.splice(at..at, piece.iter().copied());
        }
        Edit::Copy(from, to, index) => {
            let (from, to) = (at(from, frame), at(to, frame));
            let piece = frame[from.min(to)..from.max(to)].to_vec();
            let at = at(index, frame);
            frame.splice(at..at, piece);
        }
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
