//! Taking known secrets out of what others say: some repeat what they were sent.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hub_protocol::{CallError, Json};

use crate::REDACTED;

/// Shortest secret that is looked for in texts: shorter ones are found by chance.
pub const MIN_SCRUBBED: usize = 6;

/// Takes secrets out of texts: as they are, and as JSON, base64 (also as a part of something longer, as in the header of
/// basic authentication), hexadecimal digits or percent-encoding write them.
pub struct Scrubber {
    forms: Vec<String>,
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
            let quoted = serde_json::to_string(secret).unwrap_or_default();
            let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            let found = [
                secret.to_owned(),
                quoted.strip_prefix('"').and_then(|q| q.strip_suffix('"')).unwrap_or_default().to_owned(),
                hex.to_uppercase(),
                hex,
                percent_encoded(bytes),
                percent_encoded(bytes).to_lowercase(),
            ];
            forms.extend(found.into_iter().chain(in_base64(bytes)).filter(|form| form.len() >= MIN_SCRUBBED));
        }
        // The longest first: one secret may begin with another.
        forms.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        forms.dedup();
        Self { forms }
    }

    /// The text without secrets; `None` when it has none.
    #[must_use]
    pub fn text(&self, text: &str) -> Option<String> {
        let mut clean: Option<String> = None;
        for form in &self.forms {
            let now = clean.as_deref().unwrap_or(text);
            if now.contains(form) {
                clean = Some(now.replace(form, REDACTED));
            }
        }
        clean
    }

    /// The value without secrets.
    #[must_use]
    pub fn json(&self, value: Json) -> Json {
        match self.text(value.as_str()) {
            None => value,
            // A secret that reads like JSON may leave something else behind.
            Some(text) => Json::from_text(text).unwrap_or_default(),
        }
    }

    /// The error without secrets.
    #[must_use]
    pub fn error(&self, mut error: CallError) -> CallError {
        if let Some(message) = self.text(&error.message) {
            error.message = message;
        }
        error.details = error.details.map(|details| self.json(details));
        error
    }
}

fn percent_encoded(bytes: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let letter = |byte: &u8| if plain(*byte) { char::from(*byte).to_string() } else { format!("%{byte:02X}") };
    bytes.iter().map(letter).collect()
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
    use serde_json::json;

    use super::*;

    #[test]
    fn secrets_are_cut_out_in_every_spelling() {
        let secret = "a/\"b\\c+d e";
        let scrubber = Scrubber::of([secret, "abc"]);
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
        let clean = scrubber.error(error);
        assert!(!clean.message.contains("b\\c") && clean.details.is_some_and(|d| !d.as_str().contains("c+d")));
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
