//! Finds operations by words (ADR 0018).

mod words;

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::{Arc, PoisonError, RwLock};

use hub_protocol::{AccessControl, OperationSpec};
use serde_json::Value;

use words::{stems, synonyms, wanted};

/// Most different words of one operation that can be searched.
const MAX_WORDS: usize = 512;

/// What a word counts for, by where it stands. Part of what the id gives is shared among its words: `users.list` is a
/// better answer to "list users" than `admin.users.sessions.list`.
const ID: f32 = 4.0;
const ID_SHARED: f32 = 4.0;
const TITLE: f32 = 4.0;
const TAG: f32 = 3.0;
const PARAMETER: f32 = 2.0;
const DESCRIPTION: f32 = 1.5;

/// How much of it is left for another form of the word.
const BEGINNING: f32 = 0.9;
const SYNONYM: f32 = 0.6;
const TYPO: f32 = 0.5;

/// What the whole query adds as an id, or as the beginning of one.
const WHOLE_ID: f32 = 1_000.0;
const ID_BEGINS: f32 = 10.0;

/// The words of all operations. A search holds up changes of the directory, and no call.
#[derive(Default)]
pub(crate) struct SearchIndex(RwLock<Entries>);

#[derive(Default)]
struct Entries {
    /// Nothing is ever taken out: a directory forgets no operation.
    operations: Vec<Entry>,
    /// Places in `operations`.
    places: HashMap<Arc<str>, u32>,
    /// Rules of access, each once: asked once per search, they answer for thousands of operations.
    rules: Vec<AccessControl>,
    /// Places in `rules`, by their text.
    rule_places: HashMap<String, usize>,
    /// Where each word stands, and what it counts for there.
    words: BTreeMap<Arc<str>, Vec<(u32, f32)>>,
}

struct Entry {
    id: Arc<str>,
    /// Whether anybody provides it.
    active: bool,
    rule: usize,
    words: Vec<Arc<str>>,
}

/// Places where a word of a query was found, each with the most that it counts for.
type Found = Vec<(u32, f32)>;

impl SearchIndex {
    /// Takes in an operation, in place of what was known of it.
    pub(crate) fn put(&self, spec: &OperationSpec, active: bool) {
        let words = words_of(spec);
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let rule = entries.rule(&spec.access_control);
        entries.put(Entry { id: spec.id().into(), active, rule, words: Vec::new() }, words);
    }

    /// Whether anybody provides it now.
    pub(crate) fn set_active(&self, id: &str, active: bool) {
        let mut entries = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = entries.places.get(id).copied() {
            entries.operations[place as usize].active = active;
        }
    }

    /// Ids in a namespace that fit best, with how well. Only operations with a rule that `may` lets through have a part
    /// in it: nobody can tell by a score that there are others.
    pub(crate) fn find(
        &self,
        query: &str,
        namespace: Option<&str>,
        limit: usize,
        may: impl Fn(&AccessControl) -> bool,
    ) -> Vec<(Arc<str>, f32)> {
        let entries = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let may: Vec<bool> = entries.rules.iter().map(may).collect();
        let seen = |entry: &Entry| entry.active && may[entry.rule] && is_below(&entry.id, namespace);
        entries.find(query.trim(), limit, seen)
    }
}

/// Whether an id is in a namespace or in one below it.
pub(crate) fn is_below(id: &str, namespace: Option<&str>) -> bool {
    namespace.is_none_or(|n| id.strip_prefix(n).is_some_and(|rest| rest.starts_with('.')))
}

/// Each word of an operation with the most that it counts for.
fn words_of(spec: &OperationSpec) -> HashMap<String, f32> {
    let mut words = HashMap::new();
    // The places are in descending order of what they give, so the first one counts.
    let mut add = |text: &str, weight: f32| {
        for word in stems(text) {
            if words.len() < MAX_WORDS {
                words.entry(word).or_insert(weight);
            }
        }
    };
    #[expect(clippy::cast_precision_loss, reason = "an id has at most 200 characters")]
    add(&spec.id(), ID + ID_SHARED / stems(&spec.id()).count().max(1) as f32);
    add(spec.title.as_deref().unwrap_or_default(), TITLE);
    spec.tags.iter().for_each(|tag| add(tag, TAG));
    let params = spec.input_schema.get("properties").and_then(Value::as_object);
    params.into_iter().flat_map(|p| p.keys()).for_each(|name| add(name, PARAMETER));
    add(&spec.description, DESCRIPTION);
    words
}

impl Entries {
    fn rule(&mut self, rule: &AccessControl) -> usize {
        let text = serde_json::to_string(rule).unwrap_or_default();
        *self.rule_places.entry(text).or_insert_with(|| {
            self.rules.push(rule.clone());
            self.rules.len() - 1
        })
    }

    fn put(&mut self, new: Entry, words: HashMap<String, f32>) {
        let next = u32::try_from(self.operations.len()).unwrap_or(u32::MAX);
        let place = *self.places.entry(Arc::clone(&new.id)).or_insert(next);
        let older = match self.operations.get_mut(place as usize) {
            Some(entry) => std::mem::replace(entry, new).words,
            None => {
                self.operations.push(new);
                Vec::new()
            }
        };
        for word in older {
            if let Some(standing) = self.words.get_mut(&word) {
                standing.retain(|(other, _)| *other != place);
                if standing.is_empty() {
                    self.words.remove(&word);
                }
            }
        }
        for (word, weight) in words {
            let word =
                self.words.get_key_value(word.as_str()).map_or_else(|| word.into(), |(word, _)| Arc::clone(word));
            self.words.entry(Arc::clone(&word)).or_default().push((place, weight));
            self.operations[place as usize].words.push(word);
        }
    }

    fn find(&self, query: &str, limit: usize, seen: impl Fn(&Entry) -> bool) -> Vec<(Arc<str>, f32)> {
        let count = self.operations.len();
        let mut search = Search { entries: self, seen, verdicts: vec![None; count], best: vec![0.0; count] };
        let words: Vec<Found> = wanted(query).iter().map(|word| search.places_of(word)).collect();
        let hits = (0..).zip(&search.verdicts).filter(|(_, verdict)| **verdict == Some(true)).map(|(place, _)| place);
        let hits: Vec<u32> = hits.collect();

        // A word counts the more, the fewer of the hits have it; a hit the more, the less is missing.
        let mut scores = vec![(0.0, 0.0); count];
        let mut all = 0.0;
        for word in words.iter().filter(|word| !word.is_empty()) {
            #[expect(clippy::cast_precision_loss, reason = "operations are far below 2^23")]
            let rarity = 1.0 + (hits.len() as f32 / word.len() as f32).ln();
            all += rarity;
            for (place, weight) in word {
                let (score, covered) = &mut scores[*place as usize];
                *score += weight * rarity;
                *covered += rarity;
            }
        }
        let id = |place: u32| &self.operations[place as usize].id;
        let score = |place: u32| {
            let (score, covered) = scores[place as usize];
            let begins = id(place).get(..query.len()).is_some_and(|start| start.eq_ignore_ascii_case(query));
            let as_id = if !begins {
                0.0
            } else if id(place).len() == query.len() {
                WHOLE_ID
            } else {
                ID_BEGINS
            };
            score * covered / all + as_id
        };
        let mut hits: Vec<(u32, f32)> = hits.into_iter().map(|place| (place, score(place))).collect();
        let order = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then_with(|| id(a.0).cmp(id(b.0)));
        if hits.len() > limit {
            hits.select_nth_unstable_by(limit, order);
            hits.truncate(limit);
        }
        hits.sort_unstable_by(order);
        hits.into_iter().map(|(place, score)| (Arc::clone(id(place)), score)).collect()
    }
}

/// What is left of a word's weight for its beginning.
#[expect(clippy::cast_precision_loss, reason = "words have at most 40 characters")]
fn beginning(start: &str, word: &str) -> f32 {
    if start.len() == word.len() { 1.0 } else { BEGINNING * start.len() as f32 / word.len() as f32 }
}

/// One search.
struct Search<'a, S> {
    entries: &'a Entries,
    seen: S,
    /// Whether the caller may see an operation that was found, by place.
    verdicts: Vec<Option<bool>>,
    /// What the word that is looked for counts for, by place; all zero between two words.
    best: Vec<f32>,
}

impl<S: Fn(&Entry) -> bool> Search<'_, S> {
    fn places_of(&mut self, word: &str) -> Found {
        let entries = self.entries;
        let mut places = Vec::new();
        let from = |start| entries.words.range::<str, _>((Bound::Included(start), Bound::Unbounded));
        let letters = word.chars().count();
        // Two letters begin too many words.
        let longer =
            |(other, _): &(&Arc<str>, _)| if letters < 3 { ***other == *word } else { other.starts_with(word) };
        for (other, standing) in from(word).take_while(longer) {
            self.note(standing, beginning(word, other), &mut places);
        }
        let shorter = (4..word.len()).filter_map(|end| word.get(..end)).map(|start| (start, beginning(start, word)));
        let others = synonyms(word).iter().map(|other| (other.as_str(), SYNONYM));
        for (other, share) in shorter.chain(others) {
            if let Some(standing) = entries.words.get(other) {
                self.note(standing, share, &mut places);
            }
        }
        let typos = match letters {
            0..=3 => 0,
            4..=7 => 1,
            _ => 2,
        };
        if let (true, 1.., Some(first)) = (places.is_empty(), typos, word.get(..1)) {
            // People get the first letter right.
            for (other, standing) in from(first).take_while(|(other, _)| other.starts_with(first)) {
                if other.len().abs_diff(word.len()) <= typos && strsim::osa_distance(word, other) <= typos {
                    self.note(standing, TYPO, &mut places);
                }
            }
        }
        places.into_iter().map(|place| (place, std::mem::take(&mut self.best[place as usize]))).collect()
    }

    fn note(&mut self, standing: &[(u32, f32)], share: f32, places: &mut Vec<u32>) {
        for (place, weight) in standing {
            let at = *place as usize;
            if *self.verdicts[at].get_or_insert_with(|| (self.seen)(&self.entries.operations[at])) {
                if self.best[at] == 0.0 {
                    places.push(*place);
                }
                self.best[at] = self.best[at].max(weight * share);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use hub_protocol::ops::Operation;
    use hub_protocol::ops::hub::{ListSpokes, RegisterSpoke, WhoAmI};

    use super::*;

    fn index() -> SearchIndex {
        let index = SearchIndex::default();
        [ListSpokes::spec(), RegisterSpoke::spec(), WhoAmI::spec()].iter().for_each(|spec| index.put(spec, true));
        index
    }

    fn ids(index: &SearchIndex, query: &str) -> Vec<String> {
        index.find(query, None, 10, |_| true).into_iter().map(|(id, _)| id.to_string()).collect()
    }

    #[test]
    fn the_right_operation_comes_first() {
        for (query, id) in [
            ("hub.spokes", "hub.spokes"),
            ("HUB.SPOKES", "hub.spokes"),
            ("list spokes", "hub.spokes"),
            ("enumerates a spoke", "hub.spokes"),
            ("lsit spoeks", "hub.spokes"),
            ("regist", "hub.register"),
            ("max in flight", "hub.register"),
            ("identity scopes", "hub.whoami"),
        ] {
            assert_eq!(ids(&index(), query)[0], id, "{query}");
        }
        for nothing in ["", "...", "zzzz", "\u{1F980}"] {
            assert!(ids(&index(), nothing).is_empty(), "{nothing}");
        }
    }

    #[test]
    fn what_may_not_be_seen_has_no_part_in_a_search() {
        let without = SearchIndex::default();
        [ListSpokes::spec(), WhoAmI::spec()].iter().for_each(|spec| without.put(spec, true));
        // The last one is written right in the hidden operation alone.
        for query in ["spokes you", "registers a spoke", "hub", "regostration"] {
            let hidden = index().find(query, None, 10, |rule| rule.required_scopes != ["spoke"]);
            assert_eq!(hidden, without.find(query, None, 10, |_| true), "{query}");
        }
    }

    #[test]
    fn a_changed_operation_is_found_by_its_new_words_alone() {
        let index = index();
        let changed = OperationSpec { description: "Sings a melody.".into(), ..WhoAmI::spec() };
        index.put(&changed, true);
        assert_eq!(ids(&index, "melodies"), ["hub.whoami"]);
        assert!(!ids(&index, "identity").contains(&"hub.whoami".to_owned()));
        assert_eq!(ids(&index, "hub").len(), 3);
        index.set_active("hub.whoami", false);
        assert!(ids(&index, "melodies").is_empty());
    }
}
