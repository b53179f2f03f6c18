//! What is said of a violation: the rule and the values that would fit, never the value that does not.

use jsonschema::error::{TypeKind, ValidationErrorKind};
use jsonschema::{JsonType, ValidationError};
use serde_json::Value;

/// Longest list of values that would fit, in characters.
const MAX_LIST: usize = 500;

/// Longest of these values, in characters.
const MAX_CHOICE: usize = 100;

/// One line about a violation.
pub(super) fn message(error: &ValidationError<'_>) -> String {
    match choices(error).as_deref() {
        None | Some([]) => error.masked().to_string(),
        Some([one]) => format!("value must be {}", shown(one)),
        Some(many) => format!("value must be one of {}", listed(many)),
    }
}

/// The values that would fit, where that is what the rule says; enums with a description for each choice are an
/// `anyOf` or `oneOf` of constants.
fn choices<'e>(error: &'e ValidationError<'_>) -> Option<Vec<&'e Value>> {
    match error.kind() {
        ValidationErrorKind::Enum { options } => Some(options.as_array()?.iter().collect()),
        ValidationErrorKind::Constant { expected_value } => Some(vec![expected_value]),
        ValidationErrorKind::Type { kind: TypeKind::Single(JsonType::Null) } => Some(vec![&Value::Null]),
        ValidationErrorKind::AnyOf { context } | ValidationErrorKind::OneOfNotValid { context } => {
            let here = |found: &&ValidationError<'_>| found.instance_path() == error.instance_path();
            let of_branch = |branch: &'e Vec<ValidationError<'static>>| branch.iter().filter(here).find_map(choices);
            let by_branch: Option<Vec<_>> = context.iter().map(of_branch).collect();
            by_branch.map(|lists| lists.concat())
        }
        _ => None,
    }
}

fn listed(choices: &[&Value]) -> String {
    let mut text = String::new();
    for (n, choice) in choices.iter().enumerate() {
        if text.len() > MAX_LIST {
            return format!("{text} and {} more", choices.len() - n);
        }
        if n > 0 {
            text.push_str(", ");
        }
        text.push_str(&shown(choice));
    }
    text
}

fn shown(choice: &Value) -> String {
    let text = choice.to_string();
    match text.char_indices().nth(MAX_CHOICE) {
        None => text,
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::Schema;

    fn said(schema: serde_json::Value, value: serde_json::Value) -> String {
        let violations = Schema::compile(&schema).unwrap().check(&value.into()).unwrap_err();
        assert_eq!(violations.len(), 1, "{violations:?}");
        violations.into_iter().map(|v| v.message).collect()
    }

    #[test]
    fn the_values_that_would_fit_are_named() {
        let described = json!({ "oneOf": [
            { "const": "a", "type": "string", "description": "The first." }, { "const": "b", "type": "string" }] });
        let optional = json!({ "anyOf": [described, { "type": "null" }] });
        for (schema, wanted) in [
            (json!({ "enum": ["a", "b", "c", 4, null] }), r#"value must be one of "a", "b", "c", 4, null"#),
            (json!({ "const": "a" }), r#"value must be "a""#),
            (described, r#"value must be one of "a", "b""#),
            (optional, r#"value must be one of "a", "b", null"#),
        ] {
            for wrong in [json!("canary"), json!(7)] {
                assert_eq!(said(schema.clone(), wrong), wanted);
            }
        }
    }

    #[test]
    fn what_is_no_list_of_values_is_told_as_before() {
        let shapes = json!({ "anyOf": [{ "const": "a" }, { "type": "object", "required": ["x"] }] });
        assert!(said(shapes.clone(), json!("canary")).contains("'anyOf'"));
        // A constant of a member is no choice of the whole.
        let tagged = json!({ "oneOf": [{ "properties": { "t": { "const": "a" } } }, { "properties": { "t": { "const": "b" } } }] });
        assert!(said(tagged, json!({ "t": "canary" })).contains("'oneOf'"));
    }

    #[test]
    fn long_lists_and_values_are_cut() {
        let many: Vec<String> = (0..10_000).map(|n| format!("choice {n}")).collect();
        let text = said(json!({ "enum": many }), json!("canary"));
        assert!(text.len() < 600 && text.ends_with(" more") && text.contains("\"choice 3\""), "{text}");
        let text = said(json!({ "const": "ü".repeat(10_000) }), json!("canary"));
        assert!(text.chars().count() < 200 && text.ends_with('…'), "{text}");
    }
}
