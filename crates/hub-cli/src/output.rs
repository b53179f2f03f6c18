//! What goes to standard output and standard error.

mod table;

use std::io::{IsTerminal, Write};

use hub_spoke::Json;
use serde::Serialize;
use serde_json::Value;

use crate::failure::{Failure, Result};

pub(crate) use table::{Cell, Table};

/// Colours of what people look for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    Bold,
    Dim,
    Red,
    Green,
    Yellow,
    Cyan,
}

/// Whether to colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Style {
    pub(crate) colour: bool,
}

impl Style {
    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Bold => "1",
            Paint::Dim => "2",
            Paint::Red => "31",
            Paint::Green => "32",
            Paint::Yellow => "33",
            Paint::Cyan => "36",
            Paint::Plain => return text.to_owned(),
        };
        if self.colour && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// How to print.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Out {
    /// JSON instead of text for people.
    pub(crate) json: bool,
    /// Of standard output.
    pub(crate) style: Style,
    /// Of standard error.
    pub(crate) err_style: Style,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
}

impl Out {
    pub(crate) fn new(json: bool) -> Self {
        // https://no-color.org: any value but the empty one counts.
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
            && std::env::var_os("TERM").is_none_or(|v| v != "dumb");
        let terminal = std::io::stdout().is_terminal();
        Self {
            json,
            style: Style { colour: wanted && terminal },
            err_style: Style { colour: wanted && std::io::stderr().is_terminal() },
            terminal,
        }
    }

    /// One line of text.
    pub(crate) fn line(self, text: &str) -> Result<()> {
        self.raw(&format!("{text}\n"))
    }

    /// Text as it is.
    pub(crate) fn raw(self, text: &str) -> Result<()> {
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| unwritable(&e))
    }

    /// One line on standard error, beside the output. Nobody may be listening there, and that is no failure.
    pub(crate) fn note(self, text: &str) {
        self.note_raw(&format!("{text}\n"));
    }

    /// As [`Out::note`], as it is.
    pub(crate) fn note_raw(self, text: &str) {
        let mut stderr = std::io::stderr().lock();
        let _ = stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush());
    }

    /// The one JSON document of a command.
    pub(crate) fn document<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        self.line(&serde_json::to_string_pretty(value).map_err(|e| Failure::Local(format!("cannot print: {e}")))?)
    }

    /// One line of NDJSON.
    pub(crate) fn record<T: Serialize + ?Sized>(self, value: &T) -> Result<()> {
        self.line(&serde_json::to_string(value).map_err(|e| Failure::Local(format!("cannot print: {e}")))?)
    }

    /// A table, cut to the terminal's width if there is one.
    pub(crate) fn table(self, table: &Table) -> Result<()> {
        self.raw(&table.render(self.style, self.width()))
    }

    /// A table that may have no rows; then a note says so.
    pub(crate) fn list(self, table: &Table, empty: &str) -> Result<()> {
        if table.is_empty() {
            self.note(empty);
            return Ok(());
        }
        self.table(table)
    }

    /// As [`Out::table`], on standard error.
    pub(crate) fn note_table(self, table: &Table) {
        self.note_raw(&table.render(self.err_style, None));
    }

    /// Columns of the terminal; `None` when the output goes elsewhere and nothing is cut.
    pub(crate) fn width(self) -> Option<usize> {
        self.terminal.then(|| size().0)
    }

    /// Lines of the terminal.
    pub(crate) fn height(self) -> usize {
        size().1
    }
}

fn unwritable(error: &std::io::Error) -> Failure {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        Failure::BrokenPipe
    } else {
        Failure::Local(format!("cannot write to standard output: {error}"))
    }
}

/// Columns and lines of the terminal behind standard output.
fn size() -> (usize, usize) {
    #[cfg(unix)]
    if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdout())
        && size.ws_col > 0
        && size.ws_row > 0
    {
        return (usize::from(size.ws_col), usize::from(size.ws_row));
    }
    (100, 30)
}

/// Text of others on one line, without what could steer a terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\r' | '\t' => ' ',
            c if c.is_control() || is_bidi(c) => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Controls that reorder what is shown, so that a name could look like another.
const fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A value for people: a text as it is, everything else as indented JSON.
pub(crate) fn pretty(json: &Json) -> String {
    match json.parse::<Value>() {
        Ok(Value::String(text)) => text,
        Ok(value) => serde_json::to_string_pretty(&value).unwrap_or_else(|_| json.as_str().to_owned()),
        // A number that no parser can hold is shown as it came.
        Err(_) => json.as_str().to_owned(),
    }
}

/// At most `max` characters, the last of them `…` when something was cut.
pub(crate) fn cut(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let mut kept: String = text.chars().take(max.saturating_sub(1)).collect();
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_only_where_wanted() {
        assert_eq!(Style { colour: true }.paint(Paint::Red, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Style { colour: false }.paint(Paint::Red, "x"), "x");
        assert_eq!(Style { colour: true }.paint(Paint::Plain, "x"), "x");
    }

    #[test]
    fn foreign_text_is_tamed() {
        assert_eq!(clean("a\nb\u{1b}[2Jc\u{9b}\u{202e}"), "a b\u{fffd}[2Jc\u{fffd}\u{fffd}");
        assert_eq!(cut("abcdef", 4), "abc…");
        assert_eq!(cut("äöü", 3), "äöü");
    }

    #[test]
    fn values_for_people() {
        assert_eq!(pretty(&serde_json::json!("a\nb").into()), "a\nb");
        assert_eq!(pretty(&serde_json::json!({"a": 1}).into()), "{\n  \"a\": 1\n}");
        assert_eq!(pretty(&Json::from_text("1e999").unwrap()), "1e999");
    }
}
