//! `fs.*`: one file per operation. Parameter and reply types are public, for callers in Rust.

pub mod edit;
pub mod list;
pub mod read;
pub mod search;
mod walk;
pub mod write;

use std::sync::Arc;

use hub_spoke::SpokeBuilder;

use crate::declare::offer;
use crate::root::Root;

pub(crate) fn offer_reads(spoke: SpokeBuilder, root: &Arc<Root>) -> SpokeBuilder {
    let spoke = offer(spoke, root, &read::TOOL, read::read);
    let spoke = offer(spoke, root, &list::TOOL, list::list);
    offer(spoke, root, &search::TOOL, search::search)
}

pub(crate) fn offer_writes(spoke: SpokeBuilder, root: &Arc<Root>) -> SpokeBuilder {
    let spoke = offer(spoke, root, &write::TOOL, write::write);
    offer(spoke, root, &edit::TOOL, edit::edit)
}

/// Length of a text inside a JSON string. A reply is bounded by it, since a file of control characters grows sixfold.
fn json_len(text: &str) -> usize {
    text.bytes()
        .map(|byte| match byte {
            b'"' | b'\\' | b'\n' | b'\r' | b'\t' => 2,
            0..0x20 => 6,
            _ => 1,
        })
        .sum()
}

/// The beginning of a text that fits into `budget` bytes of JSON.
fn head(text: &str, budget: usize) -> &str {
    let mut left = budget;
    let mut buffer = [0; 4];
    for (at, character) in text.char_indices() {
        match left.checked_sub(json_len(character.encode_utf8(&mut buffer))) {
            Some(rest) => left = rest,
            None => return &text[..at],
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_fits_its_budget_and_splits_no_character() {
        for text in ["plain", "ä€😀", "\u{1}\u{2}\n\"\\", ""] {
            assert_eq!(json_len(text) + 2, serde_json::to_string(text).unwrap().len(), "{text:?}");
            for budget in 0..20 {
                let cut = head(text, budget);
                assert!(json_len(cut) <= budget && text.starts_with(cut), "{text:?} {budget}");
            }
        }
        assert_eq!(head("ä€", 4), "ä");
    }
}
