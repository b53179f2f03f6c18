//! What a document promises of an answer, and an answer that breaks it.

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::StatusCode;
use hub_operations::Schema;
use hub_protocol::{Json, Violation};
use serde_json::Value;

use super::document::shortened;
use super::media::{fits, is_event_stream, is_json};
use super::plan::Answers;

/// Most violations that an error tells of, and most characters of each of their texts.
const MAX_VIOLATIONS: usize = 8;
const MAX_WORDS: usize = 200;

/// How often answers that are passed on all the same are told of.
const EVERY: Duration = Duration::from_secs(10);

/// A success of the document.
#[derive(Debug, Clone, Default)]
pub(super) struct Success {
    /// `200`, `2XX` or `default`.
    pub(super) status: String,
    /// Media types; empty when nothing is said of a body.
    pub(super) media: Vec<String>,
    pub(super) promise: Option<Promise>,
}

/// The schema of what one medium brings.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    pub(super) medium: String,
    /// JSON pointer into the operation's output schema.
    pub(super) at: String,
    /// Compiled with the first answer: most operations of a large document are never called.
    pub(super) compiled: OnceLock<Option<Arc<Schema>>>,
}

impl Answers {
    /// What is said of a status; nothing of one that has no body by itself, or that the document does not name.
    pub(super) fn success(&self, status: StatusCode) -> Option<&Success> {
        if has_no_body(status.as_str()) {
            return None;
        }
        let of = |name: &str| self.successes.iter().find(|success| success.status == name);
        of(status.as_str()).or_else(|| of("2XX")).or_else(|| of("default"))
    }

    /// Whether a status is an answer and no failure. 304 is one where the document has callers ask for it.
    pub(super) fn takes(&self, status: StatusCode) -> bool {
        status.is_success() || self.successes.iter().any(|success| success.status == status.as_str())
    }
}

/// Statuses of HTTP that never bring a body.
pub(super) fn has_no_body(status: &str) -> bool {
    ["204", "205", "304"].contains(&status)
}

impl Success {
    /// Whether it is JSON and nothing else.
    pub(super) fn is_json(&self) -> bool {
        !self.media.is_empty() && self.media.iter().all(|medium| is_json(medium))
    }

    /// Whether an answer may be of this type. What can be read as JSON serves in the place of JSON and of events,
    /// whatever it calls itself.
    pub(super) fn check_medium(&self, medium: &str, reads_as_json: bool) -> Result<(), Broken> {
        let serves = |declared: &String| {
            fits(medium, declared) || (reads_as_json && (is_json(declared) || is_event_stream(declared)))
        };
        if self.media.is_empty() || self.media.iter().any(serves) || (medium.is_empty() && !self.is_json()) {
            return Ok(());
        }
        let medium = if medium.is_empty() { "a body of no type" } else { medium };
        let promised = shortened(&self.media.join(" or "), MAX_WORDS);
        let medium = shortened(medium, MAX_WORDS);
        Err(Broken::new(format!("the upstream answered {medium} where its document promises {promised}")))
    }

    /// Holds a value against the schema of its medium. `output` is the operation's output schema.
    pub(super) fn check(&self, medium: &str, data: &Json, output: &Value) -> Result<(), Broken> {
        let is_other = |promise: &&Promise| promise.medium != medium && self.media.iter().any(|own| own == medium);
        let Some(promise) = self.promise.as_ref().filter(|promise| !is_other(promise)) else { return Ok(()) };
        let Some(schema) = promise.compiled.get_or_init(|| compiled(output, &promise.at)) else { return Ok(()) };
        schema.check(data).map_err(Broken::schema)
    }
}

/// The part of a schema at a pointer, with the definitions of the whole.
fn compiled(output: &Value, at: &str) -> Option<Arc<Schema>> {
    let mut part = output.pointer(at)?.clone();
    if let (Some(part), Some(definitions)) = (part.as_object_mut(), output.get("$defs")) {
        part.insert("$defs".to_owned(), definitions.clone());
    }
    Schema::compile(&part).ok().map(Arc::new)
}

/// How an answer breaks what was promised.
#[derive(Debug)]
pub(super) struct Broken {
    pub(super) message: String,
    pub(super) violations: Vec<Violation>,
}

impl Broken {
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), violations: Vec::new() }
    }

    /// Names of members are the upstream's: as long as it likes, and of letters that a terminal would obey.
    fn schema(mut violations: Vec<Violation>) -> Self {
        violations.truncate(MAX_VIOLATIONS);
        for text in violations.iter_mut().flat_map(|violation| [&mut violation.path, &mut violation.message]) {
            *text = shortened(text, MAX_WORDS).replace(char::is_control, "\u{fffd}");
        }
        let first = violations.first().map(|v| format!("{}: {}", v.path, v.message)).unwrap_or_default();
        let first = first.trim_start_matches(": ");
        Self { message: format!("the upstream's answer breaks the schema of its document: {first}"), violations }
    }
}

/// Tells of answers that are passed on although they break their document, at most every 10 s.
pub(super) struct Lenience {
    note: Box<dyn Fn(&str) + Send + Sync>,
    /// When something was told last, and how often nothing was since.
    told: Mutex<(Option<Instant>, u64)>,
}

impl Lenience {
    pub(super) fn new(note: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { note: Box::new(note), told: Mutex::new((None, 0)) }
    }

    pub(super) fn tell(&self, operation: &str, what: &str) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.0.is_some_and(|at| at.elapsed() < EVERY) {
            told.1 += 1;
            return;
        }
        let untold = match std::mem::replace(&mut *told, (Some(Instant::now()), 0)).1 {
            0 => String::new(),
            more => format!("; so were {more} more answers before"),
        };
        drop(told);
        (self.note)(&format!("{operation}: {what}; it is passed on{untold}"));
    }
}

impl std::fmt::Debug for Lenience {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lenience").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_answer_is_held_against_its_own_status_before_others() {
        let of = |status: &str| Success { status: status.into(), ..Success::default() };
        let answers = |all: &[&str]| Answers { successes: all.iter().map(|s| of(s)).collect(), ..Answers::default() };
        let found = |all: &[&str], status: u16| {
            let status = StatusCode::from_u16(status).unwrap();
            answers(all).success(status).map(|success| success.status.clone())
        };
        assert_eq!(found(&["2XX", "200"], 200).as_deref(), Some("200"));
        assert_eq!(found(&["2XX", "200"], 201).as_deref(), Some("2XX"));
        assert_eq!(found(&["default"], 201).as_deref(), Some("default"));
        assert_eq!((found(&["200"], 201), found(&["2XX"], 204)), (None, None));
        assert!(answers(&["304"]).takes(StatusCode::NOT_MODIFIED) && !answers(&[]).takes(StatusCode::NOT_MODIFIED));
    }

    #[test]
    fn schemas_are_compiled_with_the_first_answer() {
        let text = r#"{"openapi": "3.1.0", "paths": {"/a": {"get": {"responses": {"200": {"description": "",
            "content": {"application/json": {"schema": {"type": "integer"}}}}, "202": {"description": ""}}}}}}"#;
        let document = crate::openapi::Document::parse(text).unwrap();
        let import = document.operations(&crate::openapi::Options::new("api")).unwrap();
        let (spec, plan) = (&import.operations[0].spec, &import.operations[0].plan);
        assert_eq!(spec.output_schema, json!({ "anyOf": [{ "type": "integer" }, true] }));
        let success = plan.answers.success(StatusCode::OK).unwrap();
        let compiled = || success.promise.as_ref().unwrap().compiled.get().is_some();
        assert!(!compiled());
        assert!(success.check("application/json", &json!("x").into(), &spec.output_schema).is_err());
        assert!(compiled());
    }

    #[test]
    fn what_an_upstream_names_its_members_is_bounded() {
        let schema = json!({ "additionalProperties": { "type": "integer" }, "maxProperties": 1 });
        let promise = Promise { medium: "application/json".into(), at: String::new(), compiled: OnceLock::new() };
        let success = Success { promise: Some(promise), ..Success::default() };
        let members: serde_json::Map<String, Value> =
            (0..100).map(|n| (format!("{n}\u{1b}[2J{}", "x".repeat(10_000)), json!("no"))).collect();
        let broken = success.check("application/json", &Json::from(Value::Object(members)), &schema).unwrap_err();
        assert_eq!(broken.violations.len(), MAX_VIOLATIONS);
        assert!(broken.message.len() < 1_000 && broken.violations.iter().all(|v| v.path.chars().count() <= 201));
        assert!(!broken.message.contains(char::is_control), "{}", broken.message);
    }

    #[test]
    fn what_is_passed_on_is_told_of_once_in_a_while() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&told);
        let lenience = Lenience::new(move |text| heard.lock().unwrap().push(text.to_owned()));
        (0..3).for_each(|_| lenience.tell("a.b", "it is wrong"));
        assert_eq!(*told.lock().unwrap(), ["a.b: it is wrong; it is passed on"]);
        lenience.told.lock().unwrap().0 = None;
        lenience.tell("a.b", "it is wrong");
        assert_eq!(told.lock().unwrap()[1], "a.b: it is wrong; it is passed on; so were 2 more answers before");
    }
}
