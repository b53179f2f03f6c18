//! The value of a secret, from a file, a pipe or a person.

use std::io::{IsTerminal, Read};
use std::path::Path;

use hub_protocol::ops::secrets::{MAX_SECRET, SecretText};

use crate::failure::{Failure, Result};
use crate::output::Out;

/// Reads it from the file if there is one, else from standard input; at a terminal it is asked for.
pub(super) async fn read(out: Out, file: Option<&Path>, prompt: &str) -> Result<SecretText> {
    if let Some(path) = file {
        let opened = std::fs::File::open(path);
        let opened = opened.map_err(|e| Failure::Usage(format!("cannot read --file {}: {e}", path.display())))?;
        return of(opened);
    }
    if !std::io::stdin().is_terminal() {
        return blocking(|| of(std::io::stdin())).await;
    }
    // Dropped, and the terminal as it was, also when Ctrl-C ends the wait.
    let _hidden = Hidden::begin()?;
    out.note_raw(prompt);
    let line = blocking(|| {
        let mut line = String::new();
        let read = std::io::stdin().read_line(&mut line);
        read.map_err(|e| Failure::Usage(format!("cannot read the value: {e}")))?;
        of(line.as_bytes())
    });
    let line = line.await;
    out.note("");
    line
}

/// Off the runtime's threads, so that Ctrl-C is heard meanwhile.
async fn blocking(read: impl FnOnce() -> Result<SecretText> + Send + 'static) -> Result<SecretText> {
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|e| Err(Failure::Local(format!("cannot read the value: {e}"))))
}

fn of(from: impl Read) -> Result<SecretText> {
    let wrong = |text: String| Failure::Usage(format!("the value {text}"));
    let mut bytes = Vec::new();
    // A line break at its end does not count.
    let most = MAX_SECRET as u64 + 2;
    from.take(most + 1).read_to_end(&mut bytes).map_err(|e| wrong(format!("cannot be read: {e}")))?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8".to_owned()))?;
    let line = text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
    // What has several lines, such as a certificate, ends with a line break by its own rules.
    let text = if line.contains('\n') { text } else { line.to_owned() };
    match text.len() {
        0 => Err(wrong("is empty: give it with --file FILE or on standard input".to_owned())),
        n if n > MAX_SECRET => Err(wrong(format!("has more than {MAX_SECRET} bytes"))),
        _ => Ok(SecretText(text)),
    }
}

/// Keeps a terminal from showing what is typed, until it is dropped.
struct Hidden {
    #[cfg(unix)]
    before: rustix::termios::Termios,
}

impl Hidden {
    #[cfg(unix)]
    fn begin() -> Result<Self> {
        use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
        let failed = |e| Failure::Local(format!("cannot hide what is typed: {e}; give the value with --file FILE"));
        let before = tcgetattr(std::io::stdin()).map_err(failed)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Flush, &silent).map_err(failed)?;
        Ok(Self { before })
    }

    #[cfg(not(unix))]
    fn begin() -> Result<Self> {
        Err(Failure::Usage("the value can't be hidden here: give it with --file FILE or on standard input".to_owned()))
    }
}

#[cfg(unix)]
impl Drop for Hidden {
    fn drop(&mut self) {
        use rustix::termios::{OptionalActions, tcsetattr};
        // A terminal that is gone needs no setting.
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_break_at_the_end_of_a_single_line_is_left_out() {
        for (text, value) in [
            ("abc", "abc"),
            ("abc\n", "abc"),
            ("abc\r\n", "abc"),
            (" a b ", " a b "),
            ("-----BEGIN\nx\n-----END\n", "-----BEGIN\nx\n-----END\n"),
        ] {
            assert_eq!(of(text.as_bytes()).unwrap().0, value, "{text:?}");
        }
    }

    #[test]
    fn what_is_no_secret_is_refused_without_being_shown() {
        let long = "canary".repeat(MAX_SECRET);
        for (bytes, says) in
            [(&b""[..], "empty"), (b"\n", "empty"), (b"canary\xff", "UTF-8"), (long.as_bytes(), "16384")]
        {
            let line = of(bytes).unwrap_err().line().unwrap();
            assert!(line.contains(says) && !line.contains("canary"), "{line}");
        }
        assert_eq!(of(format!("{}\r\n", "x".repeat(MAX_SECRET)).as_bytes()).unwrap().0.len(), MAX_SECRET);
    }
}
