//! Taking known secrets out of what others say: some repeat what they were sent.

mod forms;
mod spelling;

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hub_protocol::{CallError, Json};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::REDACTED;
use forms::Forms;

/// Shortest secret that is looked for in texts: shorter ones are found by chance.
pub const MIN_SCRUBBED: usize = 6;

/// From so many bytes on a secret in small letters is no word.
const NO_WORD: usize = 16;

/// Bytes of a value that is not searched between other work.
const LONG: usize = 64 * 1024;

/// Takes secrets out of texts: as they are, as base64 (also as a part of something longer, as in the header of basic
/// authentication) or hexadecimal digits, and each of these with any of its letters escaped as JSON, URLs or HTML do.
pub struct Scrubber {
    forms: Forms,
}

impl std::fmt::Debug for Scrubber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scrubber").finish_non_exhaustive()
    }
}

impl Scrubber {
    /// Looks for these; those of less than [`MIN_SCRUBBED`] bytes are left out.
    pub fn of<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut forms = Vec::new();
        for secret in secrets {
            let bytes = secret.as_bytes();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            // Names of hosts and of media types are read in small letters.
            let small = secret.to_lowercase();
            let small = if small.len() < NO_WORD { String::new() } else { small };
            let found = [secret.to_owned(), hex.to_uppercase(), hex, small];
            forms.extend(found.into_iter().chain(in_base64(bytes)).filter(|form| form.len() >= MIN_SCRUBBED));
        }
        Self { forms: Forms::new(forms.into_iter().map(String::into_bytes).collect()) }
    }

    /// The text without secrets; `None` when it has none.
    #[must_use]
    pub fn text(&self, text: &str) -> Option<String> {
        let text = text.as_bytes();
        let (mut clean, mut kept, mut at) = (Vec::new(), 0, 0);
        while at < text.len() {
            match self.forms.end_of(text, at) {
                Some(end) => {
                    clean.extend_from_slice(&text[kept..at]);
                    clean.extend_from_slice(REDACTED.as_bytes());
                    (kept, at) = (end, end);
                }
                None => at += 1,
            }
        }
        if kept == 0 {
            return None;
        }
        clean.extend_from_slice(&text[kept..]);
        Some(String::from_utf8_lossy(&clean).into_owned())
    }

    /// The value without secrets. A long one is searched on a thread for such work: where it is full of escapes, a MiB
    /// takes half a second.
    pub async fn json(self: &Arc<Self>, value: Json) -> Json {
        if value.size() < LONG {
            return self.json_now(value);
        }
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.json_now(value)).await.unwrap_or_else(|_| Value::from(REDACTED).into())
    }

    fn json_now(&self, value: Json) -> Json {
        match self.text(value.as_str()) {
            None => value,
            // A secret that reads like JSON may leave something else behind.
            Some(text) => Json::from_text(text).unwrap_or_default(),
        }
    }

    /// Anything that has a form in JSON, without secrets; `None` when it can't be without them.
    #[must_use]
    pub fn declared<T: Serialize + DeserializeOwned>(&self, declared: T) -> Option<T> {
        match self.text(&serde_json::to_string(&declared).ok()?) {
            Some(clean) => serde_json::from_str(&clean).ok(),
            None => Some(declared),
        }
    }

    /// The error without secrets.
    pub async fn error(self: &Arc<Self>, mut error: CallError) -> CallError {
        if let Some(message) = self.text(&error.message) {
            error.message = message;
        }
        if let Some(details) = error.details.take() {
            error.details = Some(self.json(details).await);
        }
        error
    }

    /// Looks for what the other one does, too.
    #[must_use]
    pub fn with(&self, other: &Self) -> Self {
        Self { forms: self.forms.with(&other.forms) }
    }
}

/// What the bytes look like in base64 with anything before and after them: their place among groups of three decides, and
/// letters that hold bits of others are left out. And as they are alone, to their last letter.
fn in_base64(bytes: &[u8]) -> Vec<String> {
    let mut found = vec![STANDARD_NO_PAD.encode(bytes), URL_SAFE_NO_PAD.encode(bytes)];
    for before in 0..3 {
        let mut padded = vec![0; before];
        padded.extend_from_slice(bytes);
        let own = (before * 8).div_ceil(6)..padded.len() * 8 / 6;
        for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
            found.extend(text.get(own.clone()).map(str::to_owned));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use hub_protocol::ErrorCode;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::json;

    use super::*;

    #[tokio::test]
    async fn secrets_are_cut_out_in_every_spelling() {
        let secret = "a/\"b\\c+d e";
        let scrubber = Arc::new(Scrubber::of(["abc"]).with(&Scrubber::of([secret])));
        for form in [
            secret,
            "a/\\\"b\\\\c+d e",
            "YS8iYlxjK2QgZQ",
            "YS8iYlxjK2QgZQ==",
            "612f22625c632b642065",
            "a%2F%22b%5Cc%2Bd%20e",
        ] {
            let clean = scrubber.text(&format!("before {form} abc after")).unwrap_or_default();
            assert!(clean.starts_with("before [") && clean.ends_with(" abc after") && !clean.contains(form), "{clean}");
        }
        assert!(scrubber.text("nothing of it").is_none());
        let error = CallError::new(ErrorCode::ExecutionError, secret).with_details(&json!({ "said": secret }));
        let clean = scrubber.error(error).await;
        assert!(!clean.message.contains("b\\c") && clean.details.is_some_and(|d| !d.as_str().contains("c+d")));
    }

    #[test]
    fn escapes_of_other_libraries_are_undone() {
        let scrubber = Scrubber::of(["tok/en+k\u{fc}\u{1f511}"]);
        for form in [
            r"tok\/en+k\u00fc\ud83d\udd11",
            r"\u0074ok\u002Fen\u002bkü🔑",
            r"tok\\/en\\u002Bk\\u00FC\\ud83d\\udd11",
            r"tok\\\/en\\\\u002bk\u00fc\ud83d\udd11",
            "tok%2fen%2bk%c3%bc%f0%9f%94%91",
            "%74%6f%6B%2F%65%6E%2B%6B%C3%BC%F0%9F%94%91",
            "tok%252Fen%252Bk%25C3%25BC%25F0%259F%2594%2591",
            r"tok\u0025\u0032Fen+k\u00fc\ud83d\udd11",
            "tok&#47;en&#x2B;k&#252;&#x1F511;",
            r"tok\x2fen\x2Bk\xfc🔑",
        ] {
            assert_eq!(scrubber.text(&format!("a%2{form}\\b")).as_deref(), Some("a%2[redacted]\\b"), "{form}");
        }
        let encoded = STANDARD_NO_PAD.encode("bob:tok/en+k\u{fc}\u{1f511}???").replace('/', "\\/").replace('+', "%2b");
        assert!(scrubber.text(&encoded).is_some_and(|clean| clean.len() < 30), "{encoded}");
        // Its own escapes, and what looks like them at its ends, are its letters.
        let odd = Scrubber::of(["%25%2F\\\\u0041&amp;"]);
        assert_eq!(odd.text("\\%%25%2F\\\\u0041&amp;%2F").as_deref(), Some("\\%[redacted]%2F"));
        let host = "http://tr0ub4dor-correct-horse.example";
        assert_eq!(Scrubber::of(["Tr0ub4dor-Correct-Horse"]).text(host).as_deref(), Some("http://[redacted].example"));
        // A space, as forms write it.
        assert_eq!(Scrubber::of(["a long secret"]).text("q=a+long+secret&").as_deref(), Some("q=[redacted]&"));
    }

    #[test]
    fn a_long_secret_that_is_cut_off_is_found_and_the_longest_first() {
        let long = "0123456789".repeat(50);
        let scrubber = Scrubber::of([long.as_str(), &long[..20]]);
        assert_eq!(scrubber.text(&format!("<{long}>")).as_deref(), Some("<[redacted]>"));
        assert_eq!(scrubber.text(&format!("<{}>", &long[..300])).as_deref(), Some("<[redacted]>"));
        assert_eq!(scrubber.text(&format!("<{}>", &long[..20])).as_deref(), Some("<[redacted]>"));
    }

    fn within_json(text: &str) -> String {
        let quoted = serde_json::to_string(text).unwrap();
        quoted[1..quoted.len() - 1].to_owned()
    }

    fn spelt(letter: char, how: u8) -> String {
        let bytes = letter.to_string().into_bytes();
        let units = letter.encode_utf16(&mut [0; 2]).to_vec();
        match how % 8 {
            0 => units.iter().map(|unit| format!("\\u{unit:04X}")).collect(),
            1 => units.iter().map(|unit| format!("\\u{unit:04x}")).collect(),
            2 => bytes.iter().map(|byte| format!("%{byte:02X}")).collect(),
            3 => bytes.iter().map(|byte| format!("%{byte:02x}")).collect(),
            4 => format!("&#{};", u32::from(letter)),
            5 => within_json(&letter.to_string()),
            6 if letter == '/' => "\\/".to_owned(),
            _ => letter.to_string(),
        }
    }

    proptest! {
        #[test]
        fn every_mix_of_spellings_is_found_at_every_place(
            letters in vec((prop_oneof![any::<char>(), select(vec!['%', '\\', '/', '2', 'u', '&', 'n', '+'])], any::<u8>()), 6..200),
            before in "[a-z%&0-9/+]{0,9}", after in "[ -~]{0,9}", quoted in 0..3,
        ) {
            let secret: String = letters.iter().map(|(letter, _)| *letter).collect();
            let written: String = letters.iter().map(|(letter, how)| spelt(*letter, *how)).collect();
            let written = (0..quoted).fold(written, |text, _| {
                within_json(&text)
            });
            let clean = Scrubber::of([secret.as_str()]).text(&format!("{before}{written}{after}"));
            prop_assert!(clean.as_ref().is_some_and(|clean| !clean.contains(&written)), "{secret:?} {written} {clean:?}");
        }
    }

    #[test]
    fn a_secret_within_base64_is_cut_out_wherever_it_stands() {
        let secret = "tr0ub4dor&3-correct";
        let scrubber = Scrubber::of([secret]);
        for before in ["", "u:", "bob:", "alice:", "a longer name:"] {
            for after in ["", "!", "?!", "...."] {
                for encoded in [STANDARD_NO_PAD, URL_SAFE_NO_PAD].map(|e| e.encode(format!("{before}{secret}{after}")))
                {
                    let clean = scrubber.text(&encoded).unwrap_or_else(|| panic!("{encoded} is left"));
                    // At most the letters that hold bits of what stands around it are left.
                    let left = clean.replace(REDACTED, "").len();
                    assert!(left <= (before.len() + after.len()) * 4 / 3 + 4, "{encoded}: {clean}");
                }
            }
        }
    }
}
