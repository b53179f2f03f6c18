//! Finding any of many texts at a place of another, in any spelling.

use std::collections::BTreeSet;

use super::spelling::{Letter, is_plain, readings};

/// So much of a long text is enough to find it: what goes on as it does belongs to it. Bounds the work for each place.
const ENOUGH: usize = 128;

/// Most steps at one place while it reads in several ways as a form: what still does then is taken for it.
const AMBIGUOUS: usize = 64;

/// Texts that are looked for.
pub(super) struct Forms {
    /// In order, so that those that begin alike are a range.
    sorted: Vec<Vec<u8>>,
    begins: [bool; 256],
    /// Pairs of bytes that forms begin with, a bit each.
    pairs: Box<[u64; 1024]>,
}

/// Texts that may still be the one that is there, as a range of all, after so many of their bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Walk {
    at: usize,
    from: usize,
    to: usize,
    depth: usize,
}

impl Forms {
    /// Each has two bytes or more.
    pub(super) fn new(mut sorted: Vec<Vec<u8>>) -> Self {
        sorted.sort_unstable();
        sorted.dedup();
        let (mut begins, mut pairs) = ([false; 256], Box::new([0; 1024]));
        for form in &sorted {
            let [first, second, ..] = form[..] else { continue };
            begins[usize::from(first)] = true;
            let (word, bit) = pair(first, second);
            pairs[word] |= bit;
        }
        Self { sorted, begins, pairs }
    }

    pub(super) fn with(&self, other: &Self) -> Self {
        Self::new(self.sorted.iter().chain(&other.sorted).cloned().collect())
    }

    /// Whether one of them may begin here; tells of nearly every place of most texts that none does.
    fn may_begin(&self, first: u8, second: u8) -> bool {
        let (word, bit) = pair(first, second);
        !is_plain(first) || if is_plain(second) { self.pairs[word] & bit != 0 } else { self.begins[usize::from(first)] }
    }

    /// Where the longest that begins at this place ends.
    pub(super) fn end_of(&self, text: &[u8], at: usize) -> Option<usize> {
        if !self.may_begin(*text.get(at)?, *text.get(at + 1)?) {
            return None;
        }
        let (mut end, mut ambiguous) = (None, 0);
        let mut walk = Walk { at, from: 0, to: self.sorted.len(), depth: 0 };
        // Other readings than the one that is followed, the first place first, each only once.
        let mut others = BTreeSet::new();
        loop {
            self.run(&mut walk, text);
            end = end.max(self.is_whole(walk).then_some(walk.at));
            let mut next = None;
            readings(text, walk.at, |letter| {
                let Some(further) = self.further(walk, letter) else { return };
                end = end.max(self.is_whole(further).then_some(further.at));
                others.extend(next.replace(further));
            });
            if !others.is_empty() {
                others.extend(next.take());
                ambiguous += 1;
            }
            if ambiguous > AMBIGUOUS {
                return end.max(Some(walk.at));
            }
            match next.or_else(|| others.pop_first()) {
                Some(next) => walk = next,
                None => return end,
            }
        }
    }

    fn is_whole(&self, walk: Walk) -> bool {
        walk.depth >= ENOUGH || self.sorted.get(walk.from).is_some_and(|form| form.len() == walk.depth)
    }

    /// Goes on while there is one form left, and one reading.
    fn run(&self, walk: &mut Walk, text: &[u8]) {
        let [form] = &self.sorted[walk.from..walk.to] else { return };
        while let (Some(byte), Some(wanted)) = (text.get(walk.at), form.get(walk.depth))
            && byte == wanted
            && is_plain(*byte)
        {
            walk.at += 1;
            walk.depth += 1;
        }
    }

    fn further(&self, mut walk: Walk, letter: Letter) -> Option<Walk> {
        for byte in letter.bytes() {
            let range = &self.sorted[walk.from..walk.to];
            let before = range.partition_point(|form| form.get(walk.depth) < Some(byte));
            let with = range.partition_point(|form| form.get(walk.depth) <= Some(byte));
            (walk.from, walk.to) = (walk.from + before, walk.from + with);
            walk.depth += 1;
        }
        walk.at = letter.end;
        (walk.from < walk.to).then_some(walk)
    }
}

/// Where the bit of two bytes is.
fn pair(first: u8, second: u8) -> (usize, u64) {
    (usize::from(first) << 2 | usize::from(second >> 6), 1 << (second & 63))
}
