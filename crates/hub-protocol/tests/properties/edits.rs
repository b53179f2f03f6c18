use proptest::prelude::*;
use proptest::sample::{Index, select};

/// Damage to a frame.
#[derive(Debug, Clone)]
pub(crate) enum Edit {
    Cut(Index),
    Flip(Index, u8),
    Insert(Index, Vec<u8>),
    Copy(Index, Index, Index),
}

pub(crate) fn edit() -> impl Strategy<Value = Edit> {
    let pieces: Vec<Vec<u8>> = [
        "\"",
        "\\",
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\\ud800",
        "null",
        "1e400",
        "\"id\":\"x\",",
        "\"requestId\":\"x\",",
        "\"input\":",
    ]
    .map(|piece| piece.as_bytes().to_vec())
    .to_vec();
    prop_oneof![
        any::<Index>().prop_map(Edit::Cut),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Edit::Flip(at, byte)),
        (any::<Index>(), select(pieces)).prop_map(|(at, piece)| Edit::Insert(at, piece)),
        any::<(Index, Index, Index)>().prop_map(|(from, to, at)| Edit::Copy(from, to, at)),
    ]
}

pub(crate) fn apply(frame: &mut Vec<u8>, edit: &Edit) {
    let at = |index: &Index, frame: &[u8]| index.index(frame.len() + 1);
    match edit {
        Edit::Cut(end) => frame.truncate(at(end, frame)),
        Edit::Flip(index, byte) => {
            let at = at(index, frame);
            if let Some(slot) = frame.get_mut(at) {
                *slot = *byte;
            }
        }
        Edit::Insert(index, piece) => {
            let at = at(index, frame);
            frame.splice(at..at, piece.iter().copied());
        }
        Edit::Copy(from, to, index) => {
            let (from, to) = (at(from, frame), at(to, frame));
            let piece = frame[from.min(to)..from.max(to)].to_vec();
            let at = at(index, frame);
            frame.splice(at..at, piece);
        }
    }
}
