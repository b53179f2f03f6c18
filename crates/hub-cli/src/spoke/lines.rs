//! Output of a command: bounded, in whole lines or as a whole.

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt};

/// Output up to a bound.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Captured {
    pub(super) text: String,
    /// Whether there was more.
    pub(super) truncated: bool,
}

/// Reads to the end and keeps the beginning. The rest is read too, so that the command does not hang on a full pipe.
pub(super) async fn capture(mut from: impl AsyncRead + Unpin, max: usize) -> std::io::Result<Captured> {
    let mut kept = Vec::new();
    let mut truncated = false;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let n = from.read(&mut buffer).await?;
        if n == 0 {
            break;
        }
        let room = max.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&buffer[..room]);
        truncated |= room < n;
    }
    if truncated {
        // Not in the middle of a character.
        let whole = std::str::from_utf8(&kept)
            .map_or_else(|e| if e.error_len().is_none() { e.valid_up_to() } else { kept.len() }, str::len);
        kept.truncate(whole);
    }
    Ok(Captured { text: String::from_utf8_lossy(&kept).into_owned(), truncated })
}

/// The next line without its end; a longer one than `max` bytes comes in several pieces. The second value says
/// whether the line is complete.
pub(super) async fn next_line(
    from: &mut (impl AsyncBufRead + Unpin),
    max: usize,
) -> std::io::Result<Option<(Vec<u8>, bool)>> {
    let mut line = Vec::new();
    loop {
        let buffer = from.fill_buf().await?;
        if buffer.is_empty() {
            return Ok((!line.is_empty()).then_some((line, true)));
        }
        let room = max.saturating_sub(line.len()).min(buffer.len());
        match buffer.iter().position(|b| *b == b'\n') {
            Some(end) if end <= room => {
                line.extend_from_slice(&buffer[..end]);
                from.consume(end + 1);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some((line, true)));
            }
            _ => {
                line.extend_from_slice(&buffer[..room]);
                from.consume(room);
                if line.len() >= max {
                    return Ok(Some((line, false)));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn lines(text: &[u8], max: usize) -> Vec<(String, bool)> {
        let mut from = tokio::io::BufReader::with_capacity(3, text);
        let mut all = Vec::new();
        while let Some((line, whole)) = next_line(&mut from, max).await.unwrap() {
            all.push((String::from_utf8_lossy(&line).into_owned(), whole));
        }
        all
    }

    #[tokio::test]
    async fn lines_are_bounded() {
        let of = |parts: &[(&str, bool)]| parts.iter().map(|(t, w)| ((*t).to_owned(), *w)).collect::<Vec<_>>();
        assert_eq!(
            lines(b"a\r\n\nlong line\nend", 100).await,
            of(&[("a", true), ("", true), ("long line", true), ("end", true)])
        );
        assert_eq!(lines(b"abcdefgh\n", 3).await, of(&[("abc", false), ("def", false), ("gh", true)]));
        assert_eq!(lines(b"abc\n", 3).await, of(&[("abc", false), ("", true)]));
        assert_eq!(lines(b"", 3).await, of(&[]));
    }

    #[tokio::test]
    async fn what_is_too_much_is_read_and_dropped() {
        let text = "ä".repeat(10_000);
        let captured = capture(text.as_bytes(), 5).await.unwrap();
        assert_eq!(captured, Captured { text: "ää".into(), truncated: true });
        assert_eq!(capture(&b"\xffx"[..], 5).await.unwrap(), Captured { text: "\u{fffd}x".into(), truncated: false });
    }
}
