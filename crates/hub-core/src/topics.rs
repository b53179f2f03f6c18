//! Topic patterns and who may read which topic (protocol §7).

use hub_protocol::Identity;

use crate::CoreError;

/// A pattern over topics: segments end at `.` and `:`; `*` is one segment, `**` the rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    segments: Vec<String>,
}

const MAX_PATTERN: usize = 200;

fn segments(topic: &str) -> impl Iterator<Item = &str> {
    topic.split(['.', ':'])
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, CoreError> {
        let segments: Vec<String> = segments(text).map(str::to_owned).collect();
        let rest_early = segments.iter().rev().skip(1).any(|s| s == "**");
        let partial = segments.iter().any(|s| s.contains('*') && s != "*" && s != "**");
        if text.is_empty() || text.len() > MAX_PATTERN || rest_early || partial {
            return Err(CoreError::Invalid(
                "a topic pattern is 1 to 200 bytes; `*` stands for one whole segment, `**` only at the end".into(),
            ));
        }
        Ok(Self { segments })
    }

    pub(crate) fn matches(&self, topic: &str) -> bool {
        let mut parts = segments(topic);
        for pattern in &self.segments {
            if pattern == "**" {
                return true;
            }
            match parts.next() {
                Some(part) if pattern == "*" || pattern == part => {}
                _ => return false,
            }
        }
        parts.next().is_none()
    }
}

/// Topic types that only the hub itself writes.
const OWN: [&str; 6] = ["call", "spoke", "key", "client", "hub", "audit"];

/// Whether callers may publish on the topic.
pub(crate) fn is_public(topic: &str) -> bool {
    segments(topic).next().is_some_and(|first| !OWN.contains(&first)) && topic.contains(':')
}

/// Whether a message of this type would read as one of the protocol's own.
pub(crate) fn is_reserved(kind: &str) -> bool {
    ["__", "call.", "hub."].iter().any(|prefix| kind.starts_with(prefix))
}

/// Whether the caller may read the topic.
pub(crate) fn may_read(caller: &Identity, topic: &str) -> bool {
    let scope = match segments(topic).next() {
        Some("call") => "calls:read",
        Some("spoke" | "hub") => "hub:read",
        Some("key") => "keys:admin",
        Some("client") => "clients:read",
        Some("audit") => "audit:read",
        _ => "events:read",
    };
    caller.has_scope(scope)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_by_whole_segments() {
        let table = [
            ("task.*", "task.a", true),
            ("task.*", "task.a.b", false),
            ("task.*", "task:a", true),
            ("spoke:laptop", "spoke:laptop", true),
            ("spoke:laptop", "spoke:lap", false),
            ("**", "anything:at.all", true),
            ("call:**", "call:1", true),
            ("call:*", "call", false),
            ("*:x", "y:x", true),
        ];
        for (pattern, topic, expected) in table {
            assert_eq!(Pattern::parse(pattern).unwrap().matches(topic), expected, "{pattern} {topic}");
        }
    }

    #[test]
    fn malformed_patterns_are_refused() {
        for pattern in ["", "a*", "**.a", "a.**.b", &"x".repeat(201)] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }
}
