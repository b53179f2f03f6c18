//! Any bytes: nothing panics, both readers agree, and what was understood survives being passed on.
#![no_main]

use bytes::Bytes;
use hub_protocol::{Event, IdStyle, Json, ResponseEnvelope, decode, decode_head, encode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let frame = Bytes::copy_from_slice(data);
    let head = decode_head(&frame);
    match decode(&frame) {
        Ok((event, style)) => {
            let request = match &event {
                Event::Requested(request) => Some((request.request_id.clone(), style)),
                _ => None,
            };
            assert_eq!(head, request, "decode_head and decode disagree");
            if let Event::Responded(response) = &event {
                output(&response.output);
            }
            let again = encode(&event, style);
            let (back, back_style) = decode(&again).expect("what we write we can read");
            assert!(back == event, "changed by being passed on");
            let one_call = !matches!(event, Event::Subscribe(_) | Event::Unsubscribe(_) | Event::ProtocolError(_));
            assert!(!one_call || back_style == style, "style changed by being passed on");
            assert_eq!(encode(&back, style), again, "not stable");
        }
        Err(fault) => {
            assert!(fault.message.len() < 400, "a long fault");
            let told = encode(&Event::ProtocolError(fault.clone()), IdStyle::Empty);
            assert_eq!(decode(&told), Ok((Event::ProtocolError(fault), IdStyle::Empty)));
        }
    }
});

/// A response as the hub and a caller read it.
fn output(text: &Json) {
    let data = ResponseEnvelope::data_of(text);
    if let Ok(envelope) = text.parse::<ResponseEnvelope>() {
        assert_eq!(data.expect("an envelope has data"), envelope.data);
        let written = envelope.to_json();
        assert_eq!(ResponseEnvelope::data_of(&written).expect("what we write we can read"), envelope.data);
    }
}
