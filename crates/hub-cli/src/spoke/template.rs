//! A command line with places for a caller's values. It stays a list of arguments: no shell ever reads it.

use std::collections::BTreeMap;

use hub_protocol::Violation;
use hub_spoke::{CallError, ErrorCode};
use serde_json::{Map, Value, json};

/// What a member of the input is filled in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// `{name}`: one string.
    One,
    /// `{name...}`: an array of strings, each an argument of its own.
    Many,
    /// `--stdin-from`: text for standard input.
    Stdin,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Literal(String),
    Member(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Argument {
    Parts(Vec<Part>),
    Splice(String),
}

/// The parsed command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Template {
    pub(super) program: String,
    arguments: Vec<Argument>,
    members: BTreeMap<String, Place>,
    allow_dash: bool,
}

/// A command line with the values of one call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) arguments: Vec<String>,
    pub(super) stdin: Option<String>,
}

impl Template {
    /// Reads a command line.
    ///
    /// # Errors
    /// What makes it unsafe or unclear, for the person who wrote it.
    pub(super) fn parse(words: &[String], stdin: Option<&str>, allow_dash: bool) -> Result<Self, String> {
        let Some((program, words)) = words.split_first() else {
            return Err("there is no command after --".to_owned());
        };
        if parse_parts(program).iter().any(|part| matches!(part, Part::Member(_))) {
            return Err(format!("{program:?}: the program can't be a placeholder, or callers could run anything"));
        }
        let program = program.clone();
        let mut this = Self { program, arguments: Vec::new(), members: BTreeMap::new(), allow_dash };
        for word in words {
            let argument = parse_argument(word)?;
            this.note_members(&argument, word)?;
            this.arguments.push(argument);
        }
        if let Some(name) = stdin {
            if !is_name(name) {
                return Err(format!(
                    "--stdin-from {name:?}: a name has letters, digits, _ and -, and begins with a letter or _"
                ));
            }
            this.add(name, Place::Stdin)?;
        }
        Ok(this)
    }

    fn note_members(&mut self, argument: &Argument, word: &str) -> Result<(), String> {
        match argument {
            Argument::Splice(name) => self.add(name, Place::Many),
            Argument::Parts(parts) => {
                if let [Part::Literal(before), Part::Member(_), ..] = parts.as_slice()
                    && before.starts_with('-')
                    && !before.contains('=')
                    && before.chars().all(|c| c == '-')
                    && !self.allow_dash
                {
                    return Err(format!(
                        "{word:?} would let callers choose the option; if that is meant, add --allow-dash"
                    ));
                }
                parts.iter().try_for_each(|part| match part {
                    Part::Member(name) => self.add(name, Place::One),
                    Part::Literal(_) => Ok(()),
                })
            }
        }
    }

    fn add(&mut self, name: &str, place: Place) -> Result<(), String> {
        match self.members.insert(name.to_owned(), place) {
            Some(before) if before != place => {
                Err(format!("{name:?} is used in two ways: {{{name}}}, {{{name}...}} or --stdin-from"))
            }
            _ => Ok(()),
        }
    }

    /// JSON Schema of the input.
    pub(super) fn input_schema(&self) -> Value {
        let dash = if self.allow_dash { "" } else { " Must not make an argument that begins with '-'." };
        let properties: Map<String, Value> = self
            .members
            .iter()
            .map(|(name, place)| {
                let schema = match place {
                    Place::One => json!({ "type": "string", "description": format!("Part of an argument.{dash}") }),
                    Place::Many => json!({
                        "type": "array", "items": { "type": "string" }, "maxItems": 1000,
                        "description": format!("Arguments of the command, each as it is.{dash}"),
                    }),
                    Place::Stdin => json!({ "type": "string", "description": "Text for standard input." }),
                };
                (name.clone(), schema)
            })
            .collect();
        let required: Vec<&String> = self.members.keys().collect();
        json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
    }

    /// The command line for one call.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` when a value is missing or would become an option.
    pub(super) fn fill(&self, input: &Map<String, Value>) -> Result<Filled, CallError> {
        let mut arguments = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            match argument {
                Argument::Parts(parts) => arguments.push(self.join(parts, input)?),
                Argument::Splice(name) => {
                    for value in many(name, input)? {
                        arguments.push(self.checked(name, text(name, value)?.to_owned())?);
                    }
                }
            }
        }
        let stdin = self.members.iter().find(|(_, place)| **place == Place::Stdin);
        let stdin = stdin.map(|(name, _)| one(name, input).map(str::to_owned)).transpose()?;
        Ok(Filled { arguments, stdin })
    }

    fn join(&self, parts: &[Part], input: &Map<String, Value>) -> Result<String, CallError> {
        let mut argument = String::new();
        // What follows the author's own characters can't turn the argument into an option; what stands first can.
        let mut first = None;
        for part in parts {
            match part {
                Part::Literal(literal) => argument.push_str(literal),
                Part::Member(name) => {
                    let value = one(name, input)?;
                    if argument.is_empty() && !value.is_empty() {
                        first = Some(name);
                    }
                    argument.push_str(value);
                }
            }
        }
        match first {
            Some(name) => self.checked(name, argument),
            None => no_nul("an argument", argument),
        }
    }

    fn checked(&self, name: &str, argument: String) -> Result<String, CallError> {
        if argument.starts_with('-') && !self.allow_dash {
            return Err(invalid(name, "it begins with '-', so the command could take it for an option"));
        }
        no_nul(name, argument)
    }
}

fn parse_argument(word: &str) -> Result<Argument, String> {
    if let Some(name) = word.strip_prefix('{').and_then(|w| w.strip_suffix("...}")).filter(|name| is_name(name)) {
        return Ok(Argument::Splice(name.to_owned()));
    }
    let parts = parse_parts(word);
    let inside = |part: &Part| matches!(part, Part::Literal(text) if has_splice(text));
    if parts.iter().any(inside) {
        return Err(format!("{word:?}: {{name...}} must be a whole argument"));
    }
    Ok(Argument::Parts(parts))
}

fn has_splice(text: &str) -> bool {
    text.match_indices("...}")
        .any(|(end, _)| text[..end].rfind('{').is_some_and(|start| is_name(&text[start + 1..end])))
}

/// `{name}` is a placeholder and `{{name}}` the text `{name}`; every other brace is only a brace, as in `{}` of find or
/// in `{print $1}`.
fn parse_parts(word: &str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut literal = String::new();
    let mut rest = word;
    while let Some(start) = rest.find('{') {
        let (before, from) = rest.split_at(start);
        literal.push_str(before);
        let quoted = from.strip_prefix("{{").and_then(|f| f.split_once("}}")).filter(|(name, _)| is_name(name));
        let named = from.strip_prefix('{').and_then(|f| f.split_once('}')).filter(|(name, _)| is_name(name));
        if let Some((name, after)) = quoted {
            literal.push_str(&format!("{{{name}}}"));
            rest = after;
        } else if let Some((name, after)) = named {
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal)));
            }
            parts.push(Part::Member(name.to_owned()));
            rest = after;
        } else {
            literal.push('{');
            rest = &from[1..];
        }
    }
    literal.push_str(rest);
    if !literal.is_empty() || parts.is_empty() {
        parts.push(Part::Literal(literal));
    }
    parts
}

fn is_name(name: &str) -> bool {
    let starts = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    starts && name.len() <= 64 && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
}

fn one<'a>(name: &str, input: &'a Map<String, Value>) -> Result<&'a str, CallError> {
    text(name, input.get(name).ok_or_else(|| invalid(name, "it is missing"))?)
}

fn many<'a>(name: &str, input: &'a Map<String, Value>) -> Result<&'a [Value], CallError> {
    let values = input.get(name).and_then(Value::as_array);
    values.map(Vec::as_slice).ok_or_else(|| invalid(name, "it is no array of strings"))
}

fn text<'a>(name: &str, value: &'a Value) -> Result<&'a str, CallError> {
    value.as_str().ok_or_else(|| invalid(name, "it is no string"))
}

fn no_nul(name: &str, argument: String) -> Result<String, CallError> {
    if argument.contains('\0') {
        return Err(invalid(name, "it has a NUL character, which no argument can have"));
    }
    Ok(argument)
}

fn invalid(name: &str, message: &str) -> CallError {
    let violation = Violation { path: format!("/{name}"), message: message.to_owned() };
    CallError::new(ErrorCode::ValidationError, format!("{name}: {message}")).with_details(&[violation])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &[&str]) -> Vec<String> {
        line.iter().map(|w| (*w).to_owned()).collect()
    }

    fn template(line: &[&str]) -> Template {
        Template::parse(&words(line), None, false).unwrap()
    }

    fn fill(template: &Template, input: Value) -> Result<Vec<String>, CallError> {
        template.fill(input.as_object().unwrap()).map(|filled| filled.arguments)
    }

    #[test]
    fn values_become_arguments_and_nothing_more() {
        let grep = template(&["rg", "--json", "{pattern}", "--glob={glob}", "{paths...}", "{}", "{{x}}", "{print $1}"]);
        let evil = "a b; rm -rf / $(x) `y` \"'\n*";
        let args = fill(&grep, json!({ "pattern": evil, "glob": "-x", "paths": ["p q", "r"] })).unwrap();
        assert_eq!(args, ["--json", evil, "--glob=-x", "p q", "r", "{}", "{x}", "{print $1}"]);
        assert_eq!(fill(&grep, json!({ "pattern": "", "glob": "", "paths": [] })).unwrap()[1], "");
    }

    #[test]
    fn a_value_can_not_become_an_option() {
        let t = template(&["x", "{a}{b}"]);
        for (a, b) in [("-rf", "x"), ("", "-rf"), ("--pre=sh", ""), ("-", "")] {
            let error = fill(&t, json!({ "a": a, "b": b })).unwrap_err();
            assert!(error.is(ErrorCode::ValidationError) && error.message.contains("'-'"), "{a:?} {b:?} {error}");
        }
        assert!(fill(&t, json!({ "a": "a", "b": "-b" })).is_ok());
        let many = template(&["x", "{a...}"]);
        assert!(fill(&many, json!({ "a": ["ok", "-o"] })).is_err());
        let allowed = Template::parse(&words(&["x", "{a}", "{b...}"]), None, true).unwrap();
        assert_eq!(fill(&allowed, json!({ "a": "-a", "b": ["-b"] })).unwrap(), ["-a", "-b"]);
        for word in ["-{a}", "--{a}", "--{a}=1"] {
            assert!(Template::parse(&words(&["x", word]), None, false).is_err(), "{word}");
            assert!(Template::parse(&words(&["x", word]), None, true).is_ok(), "{word}");
        }
        assert!(Template::parse(&words(&["x", "-n{a}", "--n={a}"]), None, false).is_ok());
    }

    #[test]
    fn odd_values_are_refused() {
        let t = template(&["x", "{a}"]);
        for input in [json!({}), json!({ "a": 5 }), json!({ "a": null }), json!({ "a": "x\0y" })] {
            assert!(fill(&t, input.clone()).is_err(), "{input}");
        }
        assert!(fill(&template(&["x", "{a...}"]), json!({ "a": "x" })).is_err());
        assert!(fill(&template(&["x", "y{a}"]), json!({ "a": "\0" })).is_err());
    }

    #[test]
    fn odd_command_lines_are_refused() {
        for (line, says) in [
            (&[][..], "no command"),
            (&["{program}"], "can't be a placeholder"),
            (&["x{y}"], "can't be a placeholder"),
            (&["x", "{a}", "{a...}"], "two ways"),
            (&["x", "y{a...}"], "whole argument"),
        ] {
            let error = Template::parse(&words(line), None, false).unwrap_err();
            assert!(error.contains(says), "{line:?}: {error}");
        }
        assert!(Template::parse(&words(&["x", "{a}"]), Some("a"), false).is_err());
        assert!(Template::parse(&words(&["x"]), Some("a b"), false).is_err());
    }

    #[test]
    fn the_schema_names_every_member() {
        let t = Template::parse(&words(&["x", "{a}", "{b...}"]), Some("text"), false).unwrap();
        let schema = t.input_schema();
        assert_eq!(schema["required"], json!(["a", "b", "text"]));
        assert_eq!(schema["additionalProperties"], json!(false));
        assert_eq!(schema["properties"]["b"]["type"], "array");
        let input = json!({ "a": "1", "b": [], "text": "in" });
        assert_eq!(t.fill(input.as_object().unwrap()).unwrap().stdin.as_deref(), Some("in"));
    }
}
