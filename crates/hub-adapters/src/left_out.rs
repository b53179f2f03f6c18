//! What of an import is not offered, for people.

/// Most that are named.
const NAMED: usize = 3;

/// One line for all of it; `None` when that is nothing.
pub(crate) fn summary(all: &[String]) -> Option<String> {
    let named = all.get(..NAMED).unwrap_or(all).join("; ");
    match all.len() {
        0 => None,
        count if count > NAMED => Some(format!("left out: {named}; and {} more", count - NAMED)),
        _ => Some(format!("left out: {named}")),
    }
}
