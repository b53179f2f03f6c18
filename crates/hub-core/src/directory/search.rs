use std::collections::BTreeSet;

use hub_protocol::OperationSpec;
use serde_json::Value;

/// Most words of one operation that can be searched.
const MAX_WORDS: usize = 512;

/// The words of an operation with how much each counts.
#[derive(Debug, Default)]
pub(crate) struct Index {
    id: String,
    words: Vec<(String, f64)>,
}

impl Index {
    /// Id, title and tags count more than parameter names, those more than the description.
    pub(crate) fn of(spec: &OperationSpec) -> Self {
        let mut index = Self { id: spec.id().to_lowercase(), words: Vec::new() };
        index.add(&spec.id(), 5.0);
        index.add(spec.title.as_deref().unwrap_or_default(), 4.0);
        index.add(&spec.tags.join(" "), 3.0);
        let params = spec.input_schema.get("properties").and_then(Value::as_object);
        for name in params.into_iter().flat_map(|p| p.keys()) {
            index.add(name, 2.0);
        }
        index.add(&spec.description, 1.0);
        index
    }

    fn add(&mut self, text: &str, weight: f64) {
        for word in words(text) {
            if self.words.len() < MAX_WORDS && !self.words.iter().any(|(w, _)| *w == word) {
                self.words.push((word, weight));
            }
        }
    }

    /// How well the query fits; zero is not at all. Every word of the query should be found somewhere.
    pub(crate) fn score(&self, query: &Query) -> f64 {
        if self.id == query.whole {
            return 1_000.0;
        }
        let mut total = 0.0;
        let mut found = 0usize;
        for word in &query.words {
            let best = self.words.iter().map(|(w, weight)| weight * similarity(word, w)).fold(0.0, f64::max);
            if best > 0.0 {
                found += 1;
                total += best;
            }
        }
        #[expect(clippy::cast_precision_loss, reason = "a query has at most a few hundred words")]
        let coverage = found as f64 / query.words.len().max(1) as f64;
        let prefix = if self.id.starts_with(&query.whole) { 10.0 } else { 0.0 };
        total * coverage * coverage + prefix
    }
}

/// A query in words.
pub(crate) struct Query {
    whole: String,
    words: BTreeSet<String>,
}

impl Query {
    pub(crate) fn parse(text: &str) -> Self {
        Self { whole: text.trim().to_lowercase(), words: words(text).take(32).collect() }
    }
}

/// Lower-case words; `readFile` and `read_file` both give `read` and `file`.
fn words(text: &str) -> impl Iterator<Item = String> {
    let mut split = String::with_capacity(text.len() + 8);
    let mut lower_before = false;
    for c in text.chars() {
        if c.is_uppercase() && lower_before {
            split.push(' ');
        }
        lower_before = c.is_lowercase() || c.is_numeric();
        split.push(if c.is_alphanumeric() { c } else { ' ' });
    }
    let lower = split.to_lowercase();
    lower.split_whitespace().map(|w| w.chars().take(40).collect()).collect::<Vec<String>>().into_iter()
}

/// 1 for the same word, less for a beginning of it or a small typo, 0 for another word.
fn similarity(query: &str, word: &str) -> f64 {
    if query == word {
        return 1.0;
    }
    if query.len() >= 3 && word.starts_with(query) || word.len() >= 3 && query.starts_with(word) {
        return 0.7;
    }
    let allowed = match query.chars().count() {
        0..=3 => 0,
        4..=7 => 1,
        _ => 2,
    };
    if allowed > 0 && query.len().abs_diff(word.len()) <= allowed && distance_within(query, word, allowed) {
        0.5
    } else {
        0.0
    }
}

/// Whether `a` becomes `b` by at most `limit` insertions, deletions, replacements or swaps of neighbours.
fn distance_within(a: &str, b: &str, limit: usize) -> bool {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replace = above[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut best = replace.min(above[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before[j - 2] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()] <= limit
}

#[cfg(test)]
mod tests {
    use hub_protocol::ops::Operation;
    use hub_protocol::ops::hub::{ListSpokes, RegisterSpoke, WhoAmI};

    use super::*;

    fn first(query: &str) -> String {
        let specs = [ListSpokes::spec(), RegisterSpoke::spec(), WhoAmI::spec()];
        let query = Query::parse(query);
        let mut scored: Vec<(f64, String)> = specs.iter().map(|s| (Index::of(s).score(&query), s.id())).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0));
        scored[0].1.clone()
    }

    #[test]
    fn the_right_operation_comes_first() {
        for (query, id) in [
            ("hub.spokes", "hub.spokes"),
            ("list spokes", "hub.spokes"),
            ("lsit spoeks", "hub.spokes"),
            ("regist", "hub.register"),
            ("max in flight", "hub.register"),
            ("identity scopes", "hub.whoami"),
        ] {
            assert_eq!(first(query), id, "{query}");
        }
    }
}
