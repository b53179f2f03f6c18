//! Reading a document.

use serde_json::{Map, Value};

/// Largest document, in bytes, unless asked for otherwise.
pub const MAX_DOCUMENT: usize = 16 * 1024 * 1024;

/// Deepest nesting of a YAML document: its parser recurses, and a thread of the runtime has 2 MiB of stack.
const MAX_DEPTH: usize = 64;

/// Longest chain of references to references.
const MAX_CHAIN: usize = 16;

/// Why a document, or an operation of it, can't be imported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// Above the limit.
    #[error("the document has {size} bytes, above the limit of {limit}")]
    TooLarge {
        /// What it has.
        size: usize,
        /// What it may have.
        limit: usize,
    },
    /// More than a spoke may offer.
    #[error(
        "{operations} operations of together {bytes} bytes are more than the {most} operations or {limit} bytes that can be registered; pick some with `only`, by name or tag"
    )]
    TooMany {
        /// How many.
        operations: usize,
        /// How many there may be.
        most: usize,
        /// Of their declarations, at their shortest.
        bytes: usize,
        /// How many bytes there may be.
        limit: usize,
    },
    /// Whoever writes a document does not choose who is sent the client's credential.
    #[error(
        "the document of {document} names the server {server}, which is another; if that is right, name it (baseUrl, --base-url)"
    )]
    OtherServer {
        /// Where the document is from.
        document: String,
        /// Where requests would go.
        server: String,
    },
    /// One operation that fits no message.
    #[error("its declaration has {bytes} bytes; one that can be registered has at most {limit}")]
    LargeOperation {
        /// What it has.
        bytes: usize,
        /// What it may have.
        limit: usize,
    },
    /// Nothing that can be offered.
    #[error("{}", nothing(*.skipped, .why.as_deref(), *.only))]
    Empty {
        /// Operations with faults of their own.
        skipped: usize,
        /// These faults, as far as there is room for them.
        why: Option<String>,
        /// Whether operations were picked.
        only: bool,
    },
    /// Nothing at all.
    #[error("the document is empty")]
    Blank,
    /// A page for people.
    #[error(
        "this is an HTML page and no OpenAPI document: give the document itself, such as openapi.json or openapi.yaml"
    )]
    Page,
    /// Neither JSON nor YAML.
    #[error("the document is not readable {format}: {reason}")]
    Syntax {
        /// `JSON` or `YAML`.
        format: &'static str,
        /// Where and why.
        reason: String,
    },
    /// Not an OpenAPI document of a known version.
    #[error("{0}")]
    Version(String),
    /// A part has the wrong shape.
    #[error("{at}: {reason}")]
    Shape {
        /// JSON pointer or another name of the place.
        at: String,
        /// What is wrong there.
        reason: String,
    },
    /// A reference to another document.
    #[error(
        "{reference:?} refers to another document: bundle the document into one file first (`redocly bundle` does that)"
    )]
    RemoteReference {
        /// As written.
        reference: String,
    },
    /// A reference to nothing.
    #[error("{reference:?} refers to nothing in the document, or only to itself")]
    MissingReference {
        /// As written.
        reference: String,
    },
    /// The name of the client can't begin operation ids.
    #[error("the name can't be used: {0}")]
    Name(String),
    /// The server can't be told, or can't be used.
    #[error("{0}")]
    Server(String),
}

fn nothing(skipped: usize, why: Option<&str>, only: bool) -> String {
    match (only, why) {
        (true, _) => "`only` leaves none of the document's operations".to_owned(),
        (false, None) => "the document has no operations".to_owned(),
        (false, Some(why)) => format!("none of the document's {skipped} operations can be offered, {why}"),
    }
}

impl ImportError {
    pub(super) fn shape(at: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Shape { at: at.into(), reason: reason.into() }
    }
}

/// Which edition of OpenAPI a document follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edition {
    /// Schemas are a dialect of their own.
    V30,
    /// Schemas are JSON Schema 2020-12.
    V31,
}

/// An OpenAPI document, in memory.
#[derive(Debug, Clone)]
pub struct Document {
    pub(super) root: Value,
    pub(super) edition: Edition,
}

impl Document {
    /// Reads a document of at most [`MAX_DOCUMENT`] bytes; JSON when it begins with a brace, else YAML.
    ///
    /// # Errors
    /// When it is too large, unreadable, or of another version than 3.0, 3.1 or 3.2.
    pub fn parse(text: &str) -> Result<Self, ImportError> {
        Self::parse_within(text, MAX_DOCUMENT)
    }

    /// As [`Document::parse`], with a limit of the caller's own.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse_within(text: &str, limit: usize) -> Result<Self, ImportError> {
        if text.len() > limit {
            return Err(ImportError::TooLarge { size: text.len(), limit });
        }
        let text = text.trim_start_matches('\u{feff}');
        let root = match text.trim_start().as_bytes().first() {
            Some(b'{') => parse_json(text)?,
            Some(b'<') => return Err(ImportError::Page),
            None => return Err(ImportError::Blank),
            _ => parse_yaml(text)?,
        };
        let edition = edition(&root)?;
        Ok(Self { root, edition })
    }

    /// The document's own title, if it has one.
    #[must_use]
    pub fn title(&self) -> Option<&str> {
        self.root.pointer("/info/title")?.as_str()
    }

    /// Follows the reference of an object that may be one. Answers its place, too, when there was a reference.
    pub(super) fn resolve<'a>(&'a self, value: &'a Value) -> Result<&'a Value, ImportError> {
        let mut value = value;
        for _ in 0..MAX_CHAIN {
            let Some(reference) = value.get("$ref").and_then(Value::as_str) else {
                return Ok(value);
            };
            value = self.at(&pointer_of(reference)?, reference)?;
        }
        let reference = value.get("$ref").and_then(Value::as_str).unwrap_or_default().to_owned();
        Err(ImportError::MissingReference { reference })
    }

    /// What a decoded JSON pointer leads to.
    pub(super) fn at(&self, pointer: &str, reference: &str) -> Result<&Value, ImportError> {
        self.root.pointer(pointer).ok_or_else(|| ImportError::MissingReference { reference: reference.to_owned() })
    }
}

/// The JSON pointer of a local reference, percent-decoded.
pub(super) fn pointer_of(reference: &str) -> Result<String, ImportError> {
    match reference.strip_prefix('#') {
        Some(fragment) if fragment.is_empty() || fragment.starts_with('/') => Ok(percent_decoded(fragment)),
        // `#name` would be an anchor, which nobody uses in OpenAPI.
        Some(_) => Err(ImportError::MissingReference { reference: reference.to_owned() }),
        None => Err(ImportError::RemoteReference { reference: reference.to_owned() }),
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match (first, hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn parse_json(text: &str) -> Result<Value, ImportError> {
    // The parser itself refuses to nest more than 128 deep.
    serde_json::from_str(text).map_err(|e| ImportError::Syntax { format: "JSON", reason: e.to_string() })
}

fn parse_yaml(text: &str) -> Result<Value, ImportError> {
    let mut options = serde_saphyr::Options::default();
    options.with_snippet = false;
    // As YAML 1.2 has it: `no` and `y` are texts.
    options.strict_booleans = true;
    // A document has few aliases; what they expand to is bounded, so that nested ones can't fill the memory.
    options.alias_limits.max_total_replayed_events = 200_000;
    if let Some(budget) = &mut options.budget {
        budget.max_depth = MAX_DEPTH;
        budget.max_events = 8_000_000;
        budget.max_nodes = 4_000_000;
        budget.max_documents = 1;
        budget.max_inclusion_depth = 0;
    }
    serde_saphyr::from_str_with_options(text, options).map_err(|e| {
        let reason: String = e.to_string().lines().next().unwrap_or_default().chars().take(300).collect();
        ImportError::Syntax { format: "YAML", reason }
    })
}

fn edition(root: &Value) -> Result<Edition, ImportError> {
    let no_version = "the document has no \"openapi\" member: is it an OpenAPI document?";
    // YAML reads an unquoted 3.0 as a number.
    let version = match root.get("openapi") {
        Some(Value::String(version)) => version.clone(),
        Some(Value::Number(version)) => version.to_string(),
        _ if root.get("swagger").is_some() => {
            let reason = "the document is Swagger 2.0: convert it to OpenAPI 3 first (swagger2openapi does that)";
            return Err(ImportError::Version(reason.to_owned()));
        }
        _ => return Err(ImportError::Version(no_version.to_owned())),
    };
    let mut parts = version.split('.');
    match (parts.next(), parts.next()) {
        (Some("3"), Some("0")) => Ok(Edition::V30),
        (Some("3"), Some("1" | "2")) => Ok(Edition::V31),
        _ => {
            let shown: String = version.chars().take(40).collect();
            Err(ImportError::Version(format!("OpenAPI version {shown:?} is not known: 3.0, 3.1 and 3.2 are")))
        }
    }
}

/// A member that should be an object; anything else counts as an empty one.
pub(super) fn object<'a>(value: &'a Value, member: &str) -> Option<&'a Map<String, Value>> {
    value.get(member)?.as_object()
}

/// A member that should be a text.
pub(super) fn text<'a>(value: &'a Value, member: &str) -> Option<&'a str> {
    value.get(member)?.as_str().filter(|text| !text.is_empty())
}

/// A member that should be true or false.
pub(super) fn flag(value: &Value, member: &str) -> Option<bool> {
    value.get(member)?.as_bool()
}

/// At most `most` characters, with a mark where text was left out.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}\u{2026}", &text[..end]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_read_the_same() {
        let json = r##"{"openapi": "3.1.0", "info": {"title": "T", "version": "1"}, "paths": {"/a": {"get": {"responses": {"200": {"description": "ok"}}}}}}"##;
        let yaml = "openapi: 3.1.0\ninfo: {title: T, version: '1'}\npaths:\n  /a:\n    get:\n      responses:\n        200:\n          description: ok\n";
        assert_eq!(Document::parse(json).unwrap().root, Document::parse(yaml).unwrap().root);
        assert_eq!(Document::parse(yaml).unwrap().title(), Some("T"));
        let words = "openapi: 3.1.0\ny: [y, n, no, on, Off, yes, true, ~]\n";
        let root = Document::parse(words).unwrap().root;
        assert_eq!(root["y"], serde_json::json!(["y", "n", "no", "on", "Off", "yes", true, null]));
    }

    #[test]
    fn versions() {
        for (version, edition) in [("3.0.3", Edition::V30), ("\"3.0\"", Edition::V30), ("3.1", Edition::V31)] {
            assert_eq!(Document::parse(&format!("openapi: {version}\n")).unwrap().edition, edition, "{version}");
        }
        assert_eq!(Document::parse(" \n").unwrap_err(), ImportError::Blank);
        for text in ["swagger: '2.0'", "openapi: 2.9", "openapi: 4.0.0", "a: b", "{}", "[]", "just text"] {
            assert!(Document::parse(text).is_err(), "{text}");
        }
        assert!(Document::parse("swagger: '2.0'").unwrap_err().to_string().contains("convert"));
        assert_eq!(Document::parse("\n<!doctype html><p>Docs</p>").unwrap_err(), ImportError::Page);
    }

    #[test]
    fn bombs_are_refused() {
        let mut laughs = String::from("openapi: 3.0.0\na0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..10 {
            let refs = vec![format!("*a{}", i - 1); 10].join(",");
            laughs += &format!("a{i}: &a{i} [{refs}]\n");
        }
        assert!(matches!(Document::parse(&laughs), Err(ImportError::Syntax { .. })));
        for deep in [format!("openapi: 3.0.0\na: {}", "[".repeat(100_000)), format!("{{\"a\":{}", "[".repeat(100_000))]
        {
            assert!(matches!(Document::parse(&deep), Err(ImportError::Syntax { .. })));
        }
        let indented: String = (0..2_000).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(matches!(Document::parse(&format!("openapi: 3.0.0\n{indented}")), Err(ImportError::Syntax { .. })));
        assert!(matches!(Document::parse_within("openapi: 3.0.0", 4), Err(ImportError::TooLarge { .. })));
    }

    #[test]
    fn errors_say_where() {
        let error = Document::parse("{\"openapi\": \"3.0.0\",\n oops}").unwrap_err().to_string();
        assert!(error.contains("line 2"), "{error}");
        let error = Document::parse("openapi: 3.0.0\n\tpaths: x\n").unwrap_err().to_string();
        assert!(error.contains("YAML") && error.contains("line"), "{error}");
    }

    #[test]
    fn references() {
        let document = Document::parse(
            r##"{"openapi":"3.0.0","a/b":{"x":{"$ref":"#/y"}},"y":{"z":1},"l":{"$ref":"#/l"},"r":{"$ref":"other.yaml#/x"}}"##,
        )
        .unwrap();
        let root = &document.root;
        assert_eq!(document.resolve(&serde_json::json!({"$ref": "#/a~1b/x"})).unwrap(), &root["y"]);
        assert_eq!(document.resolve(&serde_json::json!({"$ref": "#/a%7E1b/x"})).unwrap(), &root["y"]);
        assert!(matches!(document.resolve(&root["l"]), Err(ImportError::MissingReference { .. })));
        assert!(matches!(document.resolve(&root["r"]), Err(ImportError::RemoteReference { .. })));
    }
}
