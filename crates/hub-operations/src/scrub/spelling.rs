//! What a place of a text reads as, when escapes are undone: those of JSON and its kin (`\/`, `\u002F`, `\x2f`), of URLs
//! (`%2f`) and of HTML (`&#47;`), also within each other.

/// How many times escapes are undone: JSON in a string of JSON in a string of JSON.
const LEVELS: usize = 3;

/// Longest name or number of an HTML entity.
const ENTITY: usize = 8;

/// A letter, in UTF-8, or one byte of it; and where the text goes on behind it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Letter {
    bytes: [u8; 4],
    length: usize,
    pub(super) end: usize,
}

impl Letter {
    fn byte(byte: u8, end: usize) -> Self {
        Self { bytes: [byte, 0, 0, 0], length: 1, end }
    }

    fn of(code: u32, end: usize) -> Option<Self> {
        let mut bytes = [0; 4];
        let length = char::from_u32(code)?.encode_utf8(&mut bytes).len();
        Some(Self { bytes, length, end })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Whether a place that holds this byte reads as that only.
pub(super) fn is_plain(byte: u8) -> bool {
    !matches!(byte, b'\\' | b'%' | b'&' | b'+')
}

/// Everything that the text reads as at a place.
pub(super) fn readings(text: &[u8], at: usize, mut each: impl FnMut(Letter)) {
    let Some(&byte) = text.get(at) else { return };
    let mut last = Letter::byte(byte, at + 1);
    each(last);
    if byte == b'+' {
        // As forms write a space.
        each(Letter::byte(b' ', at + 1));
    }
    if is_plain(byte) || byte == b'+' {
        return;
    }
    for level in 1..=LEVELS {
        match (Undone { text, level }).letter(at) {
            Some(letter) if letter != last => {
                last = letter;
                each(letter);
            }
            _ => {}
        }
    }
}

/// A text with its escapes undone this many times.
#[derive(Clone, Copy)]
struct Undone<'a> {
    text: &'a [u8],
    level: usize,
}

impl Undone<'_> {
    fn letter(self, at: usize) -> Option<Letter> {
        let byte = *self.text.get(at)?;
        if self.level == 0 || is_plain(byte) {
            return Some(Letter::byte(byte, at + 1));
        }
        let below = Undone { level: self.level - 1, ..self };
        let first = below.letter(at)?;
        let undone = match first.bytes() {
            b"\\" => below.backslash(first.end),
            b"%" => below.hex(first.end, 2).and_then(|(code, end)| Some(Letter::byte(u8::try_from(code).ok()?, end))),
            b"&" => below.entity(first.end),
            _ => None,
        };
        Some(undone.unwrap_or(first))
    }

    fn one(self, at: usize) -> Option<(u8, usize)> {
        let letter = self.letter(at)?;
        (letter.length == 1).then_some((letter.bytes[0], letter.end))
    }

    fn hex(self, mut at: usize, digits: usize) -> Option<(u32, usize)> {
        let mut code = 0;
        for _ in 0..digits {
            let (digit, end) = self.one(at)?;
            code = code * 16 + char::from(digit).to_digit(16)?;
            at = end;
        }
        Some((code, at))
    }

    /// What a backslash before this place makes of what stands there.
    fn backslash(self, at: usize) -> Option<Letter> {
        let (kind, at) = self.one(at)?;
        let byte = match kind {
            b'u' => return self.utf16(at),
            b'x' => {
                let (code, end) = self.hex(at, 2)?;
                return Letter::of(code, end);
            }
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'b' => 8,
            b'f' => 12,
            b'\\' | b'/' | b'"' | b'\'' => kind,
            _ => return None,
        };
        Some(Letter::byte(byte, at))
    }

    fn utf16(self, at: usize) -> Option<Letter> {
        let (high, end) = self.hex(at, 4)?;
        if !(0xD800..0xDC00).contains(&high) {
            return Letter::of(high, end);
        }
        let (b'\\', at) = self.one(end)? else { return None };
        let (b'u', at) = self.one(at)? else { return None };
        let (low, end) = self.hex(at, 4)?;
        let low = low.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
        Letter::of(0x1_0000 + (high - 0xD800) * 0x400 + low, end)
    }

    fn entity(self, mut at: usize) -> Option<Letter> {
        let (mut name, mut length) = ([0; ENTITY], 0);
        loop {
            let (byte, end) = self.one(at)?;
            at = end;
            match byte {
                b';' => break,
                b'#' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => *name.get_mut(length)? = byte,
                _ => return None,
            }
            length += 1;
        }
        let name = std::str::from_utf8(&name[..length]).ok()?;
        let code = match name {
            "amp" => u32::from(b'&'),
            "lt" => u32::from(b'<'),
            "gt" => u32::from(b'>'),
            "quot" => u32::from(b'"'),
            "apos" => u32::from(b'\''),
            _ => {
                let number = name.strip_prefix('#')?;
                match number.strip_prefix(['x', 'X']) {
                    Some(hex) => u32::from_str_radix(hex, 16).ok()?,
                    None => number.parse().ok()?,
                }
            }
        };
        Letter::of(code, at)
    }
}
