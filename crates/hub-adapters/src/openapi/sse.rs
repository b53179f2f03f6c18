//! Server-sent events, read as the WHATWG describes them, each bounded in size.

use std::collections::VecDeque;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    /// `message` unless named.
    pub(super) event: String,
    pub(super) id: Option<String>,
    pub(super) data: String,
}

/// An event or line above the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TooLarge;

/// Turns chunks into events.
pub(super) struct Parser {
    limit: usize,
    line: Vec<u8>,
    /// The last byte was a carriage return, so that a line feed belongs to it.
    after_return: bool,
    at_start: bool,
    event: String,
    data: Option<String>,
    id: Option<String>,
    ready: VecDeque<Event>,
}

impl Parser {
    pub(super) const fn new(limit: usize) -> Self {
        Self {
            limit,
            line: Vec::new(),
            after_return: false,
            at_start: true,
            event: String::new(),
            data: None,
            id: None,
            ready: VecDeque::new(),
        }
    }

    /// The next whole event, if there is one.
    pub(super) fn next(&mut self) -> Option<Event> {
        self.ready.pop_front()
    }

    /// Takes a chunk in.
    pub(super) fn feed(&mut self, mut chunk: &[u8]) -> Result<(), TooLarge> {
        if std::mem::take(&mut self.after_return) && chunk.first() == Some(&b'\n') {
            chunk = &chunk[1..];
        }
        while let Some(end) = chunk.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.push(&chunk[..end])?;
            let line = std::mem::take(&mut self.line);
            self.line(&String::from_utf8_lossy(&line))?;
            let is_return = chunk[end] == b'\r';
            chunk = &chunk[end + 1..];
            match chunk.first() {
                Some(b'\n') if is_return => chunk = &chunk[1..],
                None => self.after_return = is_return,
                _ => {}
            }
        }
        self.push(chunk)
    }

    fn push(&mut self, part: &[u8]) -> Result<(), TooLarge> {
        if self.line.len() + part.len() > self.limit {
            return Err(TooLarge);
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn line(&mut self, line: &str) -> Result<(), TooLarge> {
        let line = if std::mem::take(&mut self.at_start) { line.trim_start_matches('\u{feff}') } else { line };
        if line.is_empty() {
            self.dispatch();
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.event),
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            "data" => {
                let data = self.data.get_or_insert_default();
                if data.len() + value.len() > self.limit {
                    return Err(TooLarge);
                }
                data.push_str(value);
                data.push('\n');
            }
            // Comments, retry, and what nobody knows.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) {
        let event = std::mem::take(&mut self.event);
        let Some(mut data) = self.data.take() else {
            return;
        };
        data.pop();
        let event = if event.is_empty() { "message".to_owned() } else { event };
        self.ready.push_back(Event { event, id: self.id.clone().filter(|id| !id.is_empty()), data });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunks: &[&str]) -> Vec<Event> {
        let mut parser = Parser::new(1_000);
        for chunk in chunks {
            parser.feed(chunk.as_bytes()).unwrap();
        }
        std::iter::from_fn(|| parser.next()).collect()
    }

    fn event(event: &str, id: Option<&str>, data: &str) -> Event {
        Event { event: event.into(), id: id.map(str::to_owned), data: data.into() }
    }

    #[test]
    fn the_examples_of_the_standard() {
        let text = ": test stream\n\ndata: first event\nid: 1\n\ndata:second event\nid\n\ndata:  third event\n\n";
        let wanted = [
            event("message", Some("1"), "first event"),
            event("message", None, "second event"),
            event("message", None, " third event"),
        ];
        assert_eq!(parse(&[text]), wanted);
        assert_eq!(parse(&["data\n\ndata\ndata\n\ndata:"]), [event("message", None, ""), event("message", None, "\n")]);
        assert_eq!(parse(&["event: add\r\ndata: 7\r\n\r\n"]), [event("add", None, "7")]);
        assert_eq!(
            parse(&["event: only\n\nevent: a\nevent: b\ndata: x\nretry: 5\nfoo: bar\n\n"]),
            [event("b", None, "x")]
        );
    }

    #[test]
    fn however_it_is_cut() {
        let text = "\u{feff}data: {\"a\":1}\r\ndata: more\r\rid: 5\ndata: z\u{e9}\n\n";
        let whole = parse(&[text]);
        assert_eq!(whole, [event("message", None, "{\"a\":1}\nmore"), event("message", Some("5"), "z\u{e9}")]);
        let mut parser = Parser::new(1_000);
        text.bytes().for_each(|byte| parser.feed(&[byte]).unwrap());
        assert_eq!(std::iter::from_fn(|| parser.next()).collect::<Vec<_>>(), whole);
    }

    #[test]
    fn what_never_ends_is_cut_off() {
        let mut parser = Parser::new(100);
        assert_eq!(parser.feed(&[b'x'; 101]), Err(TooLarge));
        let mut parser = Parser::new(100);
        let line = format!("data: {}\n", "x".repeat(60));
        assert_eq!(parser.feed(line.as_bytes()), Ok(()));
        assert_eq!(parser.feed(line.as_bytes()), Err(TooLarge));
    }
}
