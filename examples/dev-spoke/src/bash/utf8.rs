/// Turns bytes that come in pieces into text, without splitting a character between two pieces.
#[derive(Default)]
pub(super) struct Utf8 {
    /// The beginning of a character whose end has not come yet; at most three bytes.
    rest: Vec<u8>,
}

impl Utf8 {
    /// The text that is complete now.
    pub(super) fn push(&mut self, bytes: &[u8]) -> String {
        self.rest.extend_from_slice(bytes);
        let keep = unfinished(&self.rest);
        let rest = self.rest.split_off(self.rest.len() - keep);
        let whole = std::mem::replace(&mut self.rest, rest);
        String::from_utf8(whole).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
    }

    /// What is left when no more bytes come.
    pub(super) fn finish(self) -> String {
        String::from_utf8_lossy(&self.rest).into_owned()
    }
}

/// Length of a beginning of a character at the end of `bytes`.
fn unfinished(bytes: &[u8]) -> usize {
    // A character has at most four bytes, so only the last three can be the beginning of one.
    (1..=bytes.len().min(3))
        .find(|length| {
            let tail = &bytes[bytes.len() - length..];
            matches!(std::str::from_utf8(tail), Err(e) if e.valid_up_to() == 0 && e.error_len().is_none())
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_piece_splits_a_character() {
        let text = "aä€😀z".as_bytes();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let mut utf8 = Utf8::default();
                let parts = [&text[..first], &text[first..second], &text[second..]].map(|part| utf8.push(part));
                assert_eq!(parts.concat() + &utf8.finish(), "aä€😀z");
            }
        }
    }

    #[test]
    fn what_is_not_utf8_is_replaced_and_held_back_no_longer_than_needed() {
        let mut utf8 = Utf8::default();
        assert_eq!(utf8.push(b"a\xffb\xe2\x82"), "a\u{fffd}b");
        assert_eq!(utf8.push(b"x"), "\u{fffd}x");
        assert_eq!(utf8.push(b"\xf0\x9f"), "");
        assert_eq!(utf8.finish(), "\u{fffd}");
    }
}
