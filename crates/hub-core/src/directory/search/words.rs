//! Words as they are compared.

use std::collections::HashMap;
use std::sync::LazyLock;

use snowball_stemmers_rs::{Algorithm, Stemmer};

/// Longest word that is told from others, in characters.
const LONGEST: usize = 40;

/// Most words of a query.
const MOST: usize = 32;

/// What says nothing about an operation. A query of nothing else is taken as it is.
const FILLERS: &str = "a about all an and any are at be by can do does for from has have how i in into is it its me my of \
                       on or our please so some that the their them there these this to us want was we what when where \
                       which who will with you your";

/// Words that people take for one another.
const SYNONYMS: [&str; 26] = [
    "create add make new insert open generate",
    "delete remove erase destroy drop",
    "get fetch read show view retrieve load download",
    "list enumerate browse",
    "update change edit modify set",
    "search find query lookup grep",
    "send post publish deliver",
    "run execute exec start launch invoke",
    "stop kill cancel abort terminate end",
    "store save put keep remember write",
    "move rename",
    "copy duplicate clone",
    "merge join combine",
    "undo revert rollback restore",
    "restart reboot",
    "resize scale",
    "convert transform exchange",
    "summarize summarise summary",
    "folder directory dir",
    "image picture photo",
    "email mail",
    "repository repo",
    "configuration config setting",
    "database db",
    "internet web online",
    "kubernetes k8s",
];

static STEMMER: LazyLock<Stemmer> = LazyLock::new(|| Stemmer::create(Algorithm::English));

static BY_WORD: LazyLock<HashMap<String, Vec<String>>> = LazyLock::new(|| {
    let mut by_word: HashMap<String, Vec<String>> = HashMap::new();
    for group in SYNONYMS.map(|group| stems(group).collect::<Vec<_>>()) {
        for word in &group {
            by_word.entry(word.clone()).or_default().extend(group.iter().filter(|other| *other != word).cloned());
        }
    }
    by_word
});

/// The words of a text in lower case and without endings; `readFiles` and `read_file` both give `read` and `file`.
pub(super) fn stems(text: &str) -> impl Iterator<Item = String> {
    split(text).into_iter().map(|word| stem(&word))
}

/// The words that a query asks for, each once.
pub(super) fn wanted(query: &str) -> Vec<String> {
    let words = split(query);
    let filler = |word: &String| FILLERS.split_whitespace().any(|filler| filler == word);
    let all_fillers = words.iter().all(filler);
    let mut wanted: Vec<String> = Vec::new();
    for word in words.iter().filter(|word| all_fillers || !filler(word)).map(|word| stem(word)).take(MOST) {
        if !wanted.contains(&word) {
            wanted.push(word);
        }
    }
    wanted
}

/// Stems that may mean the same.
pub(super) fn synonyms(stem: &str) -> &'static [String] {
    BY_WORD.get(stem).map_or(&[], Vec::as_slice)
}

/// Words of other alphabets have no English endings.
fn stem(word: &str) -> String {
    if word.is_ascii() { STEMMER.stem(word).into_owned() } else { word.to_owned() }
}

fn split(text: &str) -> Vec<String> {
    let mut split = String::with_capacity(text.len() + 8);
    let mut lower_before = false;
    for c in text.chars() {
        if c.is_uppercase() && lower_before {
            split.push(' ');
        }
        lower_before = c.is_lowercase() || c.is_numeric();
        split.push(if c.is_alphanumeric() { c } else { ' ' });
    }
    split.to_lowercase().split_whitespace().map(|word| word.chars().take(LONGEST).collect()).collect()
}
