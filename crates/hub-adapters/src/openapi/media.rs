//! Media types, told apart as far as it matters here.

/// What is text though its type does not begin with `text/`.
const TEXTS: [&str; 6] = [
    "application/javascript",
    "application/json-seq",
    "application/jsonl",
    "application/x-ndjson",
    "application/x-yaml",
    "application/yaml",
];

/// A media type without its parameters, in lower case.
pub(super) fn essence(media_type: &str) -> String {
    media_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub(super) fn is_json(medium: &str) -> bool {
    medium == "application/json" || medium == "text/json" || medium.ends_with("+json")
}

pub(super) fn is_event_stream(medium: &str) -> bool {
    medium == "text/event-stream"
}

pub(super) fn is_text(medium: &str) -> bool {
    medium.starts_with("text/") || is_xml(medium) || TEXTS.contains(&medium)
}

/// Whether an answer of this type is one of what was declared. Bytes of any type are `application/octet-stream`.
pub(super) fn fits(medium: &str, declared: &str) -> bool {
    let in_range = |kind: &str| medium.split('/').next() == Some(kind);
    medium == declared
        || matches!(declared, "*/*" | "*" | "application/octet-stream")
        || declared.strip_suffix("/*").is_some_and(in_range)
        || (is_json(medium) && is_json(declared))
        || (is_xml(medium) && is_xml(declared))
}

fn is_xml(medium: &str) -> bool {
    medium.ends_with("/xml") || medium.ends_with("+xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds() {
        assert!(is_json("application/json") && is_json("application/hal+json") && is_json("text/json"));
        // Lines of JSON are no JSON.
        assert!(!is_json("application/x-ndjson") && is_text("application/x-ndjson") && is_text("image/svg+xml"));
        assert_eq!(essence(" Text/HTML ; charset=utf-8"), "text/html");
    }

    #[test]
    fn what_fits_what_was_declared() {
        for (medium, declared) in [
            ("image/png", "image/png"),
            ("image/png", "image/*"),
            ("text/html", "*/*"),
            ("application/zip", "application/octet-stream"),
            ("application/vnd.a+json", "application/json"),
            ("text/xml", "application/xml"),
        ] {
            assert!(fits(medium, declared), "{medium} {declared}");
        }
        for (medium, declared) in
            [("text/html", "application/json"), ("imagex/png", "image/*"), ("text/html", "text/plain"), ("", "a/b")]
        {
            assert!(!fits(medium, declared), "{medium} {declared}");
        }
    }
}
