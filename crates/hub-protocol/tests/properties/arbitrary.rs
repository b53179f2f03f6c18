use hub_protocol::ops::calls::{AbortMode, AbortOutcome, Receipt};
use hub_protocol::{
    CallAborted, CallCompleted, CallFailed, CallId, CallRequested, CallResponded, Envelope, Event, Fault, FaultCode,
    IdStyle, Identity, Json, OnDisconnect,
};
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;

/// JSON text in spellings that a parser would not give back: spaces, exponents, escapes, lone surrogates.
pub(crate) fn json() -> impl Strategy<Value = Json> {
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

pub(crate) fn requested() -> impl Strategy<Value = CallRequested> {
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

pub(crate) fn event() -> impl Strategy<Value = Event> {
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

pub(crate) fn style() -> impl Strategy<Value = IdStyle> {
    select(vec![IdStyle::Empty, IdStyle::Envelope])
}
