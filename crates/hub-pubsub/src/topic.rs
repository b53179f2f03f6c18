//! Which topics and patterns are accepted.

use std::sync::Arc;

use crate::TargetError;

/// Longest topic or pattern in bytes: a type and an id that a peer may have chosen, kept small because topics are
/// index keys and are sent with every message.
pub const MAX_TOPIC_BYTES: usize = 512;

/// What a subscription listens to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Pattern {
    Exact(Arc<str>),
    /// All topics that start with this, without the `*`; may be empty.
    Prefix(Arc<str>),
}

impl Pattern {
    pub(crate) fn parse(text: &str) -> Result<Self, TargetError> {
        // The length counts with the star, so that one check of a peer's text is enough.
        check_length(text)?;
        let (fixed, pattern): (&str, fn(Arc<str>) -> Self) = match text.strip_suffix('*') {
            Some(prefix) => (prefix, Self::Prefix),
            None => (text, Self::Exact),
        };
        check_characters(fixed)?;
        Ok(pattern(fixed.into()))
    }
}

/// Checks a topic to publish on.
pub(crate) fn check(topic: &str) -> Result<(), TargetError> {
    check_length(topic)?;
    check_characters(topic)
}

fn check_length(text: &str) -> Result<(), TargetError> {
    match text.len() {
        0 => Err(TargetError::InvalidTopic("empty")),
        1..=MAX_TOPIC_BYTES => Ok(()),
        _ => Err(TargetError::InvalidTopic("longer than 512 bytes")),
    }
}

fn check_characters(text: &str) -> Result<(), TargetError> {
    // A star inside would be a pattern to some targets and a plain character to others.
    if text.contains('*') {
        return Err(TargetError::InvalidTopic("`*` is allowed at the end of a pattern only"));
    }
    if text.chars().any(char::is_control) {
        return Err(TargetError::InvalidTopic("control character"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_exact_or_a_prefix() {
        assert_eq!(Pattern::parse("call:1"), Ok(Pattern::Exact("call:1".into())));
        assert_eq!(Pattern::parse("call:*"), Ok(Pattern::Prefix("call:".into())));
        assert_eq!(Pattern::parse("*"), Ok(Pattern::Prefix("".into())));
    }

    #[test]
    fn bad_topics_are_refused() {
        let longest = "x".repeat(MAX_TOPIC_BYTES);
        assert_eq!(check(&longest), Ok(()));
        assert!(Pattern::parse(&longest).is_ok());
        for bad in ["", "a\nb", "a*b", "**", &format!("{longest}*"), &format!("{longest}x")] {
            assert!(matches!(Pattern::parse(bad), Err(TargetError::InvalidTopic(_))), "{bad:?}");
            assert!(matches!(check(bad), Err(TargetError::InvalidTopic(_))), "{bad:?}");
        }
        assert!(matches!(check("call:*"), Err(TargetError::InvalidTopic(_))));
    }

    #[test]
    fn the_error_names_the_limit() {
        assert_eq!(check(&"x".repeat(600)), Err(TargetError::InvalidTopic("longer than 512 bytes")));
        assert_eq!(MAX_TOPIC_BYTES, 512);
    }
}
