//! Messages of a server that can't be read. The SDK passes over them, and whoever waits for the answer waits in vain.

use serde_json::{Value, json};

/// Levels that are left of a message that nests deeper than parsers read. Enough that what is left is refused as too
/// deep as a result or a schema, and is never taken for the whole.
const LEVELS: usize = 120;

/// What can be read in the place of a message that can't; `None` when it can, or tells nothing.
pub(super) fn mended(message: &[u8]) -> Option<Vec<u8>> {
    if let Ok(read) = serde_json::from_slice::<Value>(message) {
        return is_neither(&read).then(|| unreadable(read.get("id"))).flatten();
    }
    let (cut, id) = scan(message);
    if serde_json::from_slice::<Value>(&cut).is_ok() {
        return Some(cut);
    }
    unreadable(serde_json::from_slice(id?).ok().as_ref())
}

/// Whether an object is no request, and no answer either, which has either a result or an error.
fn is_neither(message: &Value) -> bool {
    let has = |member: &str| message.get(member).is_some();
    let answers = usize::from(has("result")) + usize::from(has("error"));
    message.is_object() && answers != usize::from(!has("method"))
}

/// The answer to a request whose own answer can't be read.
fn unreadable(id: Option<&Value>) -> Option<Vec<u8>> {
    let id = id.filter(|id| id.is_number() || id.is_string())?;
    let error = json!({ "code": -32700, "message": "the MCP server's answer is not readable" });
    Some(json!({ "jsonrpc": "2.0", "id": id, "error": error }).to_string().into_bytes())
}

/// The message without what nests below [`LEVELS`], and the text of the `id` of an answer.
fn scan(message: &[u8]) -> (Vec<u8>, Option<&[u8]>) {
    let mut cut = Vec::with_capacity(message.len().min(1 << 20));
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    // Where the text or value at the first level begins that is read now, and the member that it belongs to.
    let (mut from, mut name, mut id, mut asks) = (0, &b""[..], None, false);
    for (at, byte) in message.iter().enumerate() {
        let deep = depth > LEVELS;
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => depth += 1,
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        let first = !in_text && depth <= 1;
        if first && *byte == b':' {
            name = message[from..at].trim_ascii();
            asks |= name == b"\"method\"";
            from = at + 1;
        } else if first && matches!(byte, b',' | b'{' | b'}') {
            if name == b"\"id\"" {
                id = Some(message[from..at].trim_ascii());
            }
            (from, name) = (at + 1, b"");
        }
        match (deep, depth > LEVELS) {
            (false, false) => cut.push(*byte),
            (false, true) => cut.extend_from_slice(b"null"),
            _ => {}
        }
    }
    // A request of the server's is no answer to the one with the same id.
    (cut, id.filter(|_| !asks))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Option<Value> {
        mended(message.as_bytes()).map(|text| serde_json::from_slice(&text).unwrap())
    }

    #[test]
    fn what_nests_too_deep_is_cut_and_the_rest_stays() {
        let deep = |levels: usize| "[".repeat(levels) + "\"]\"" + &"]".repeat(levels);
        assert_eq!(read(&deep(127)), None);
        let message = |levels| format!(r#"{{"id":7,"result":{{"a":{},"b":["]","\"["]}}}}"#, deep(levels));
        let cut = read(&message(5_000)).unwrap();
        assert_eq!((&cut["id"], &cut["result"]["b"]), (&json!(7), &json!(["]", "\"["])));
        let left = std::iter::successors(Some(&cut["result"]["a"]), |value| value.get(0)).count();
        assert_eq!(left, LEVELS - 1, "arrays and what stands for the rest");
    }

    #[test]
    fn what_can_t_be_read_is_an_error_for_whoever_asked() {
        for (message, id) in [
            (r#"{"jsonrpc":"2.0","id":3,"result":{"n":NaN}}"#, Some(json!(3))),
            (r#"{"result":{"id":1,"t":"\ud800"}, "id" : "x,y" }"#, Some(json!("x,y"))),
            (r#"{"id":4,"result":{"n":1e999}}"#, Some(json!(4))),
            (r#"{"id":5,"result":{"content":[{"te"#, Some(json!(5))),
            (r#"{"jsonrpc":"2.0","id":8}"#, Some(json!(8))),
            (r#"{"jsonrpc":"2.0","id":9,"result":{},"error":{}}"#, Some(json!(9))),
            (r#"{"jsonrpc":"2.0","id":10,"result":{},"method":"x"}"#, Some(json!(10))),
            // Nobody waits for these.
            (r#"{"id":6,"method":"ping","params":NaN}"#, None),
            (r#"{"method":"notifications/progress","params":NaN}"#, None),
            (r#"{"id":{},"result":NaN}"#, None),
            ("{not json", None),
            ("Listening, id: 5", None),
            ("", None),
        ] {
            let answer = read(message);
            assert_eq!(answer.as_ref().map(|answer| answer["id"].clone()), id, "{message}");
            assert!(answer.is_none_or(|answer| answer["error"]["code"] == -32700), "{message}");
        }
    }
}
