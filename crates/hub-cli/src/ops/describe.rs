//! A specification as a readable page.

use hub_protocol::OperationSpec;
use serde_json::Value;

use crate::output::{Cell, Paint, Style, Table, clean};

/// Deepest member that is shown by a row of its own.
const DEPTH: usize = 4;

/// Most rows of one table: schemas come from peers.
const ROWS: usize = 400;

pub(super) fn operation(spec: &OperationSpec, style: Style, width: Option<usize>) -> String {
    let mut page = format!("{}\n", style.paint(Paint::Bold, &clean(&spec.id())));
    if let Some(title) = &spec.title {
        page.push_str(&format!("{}\n", clean(title)));
    }
    page.push_str(&format!("{}\n\n", clean(&spec.description)));
    page.push_str(&facts(spec).render(style, width));
    section(&mut page, "Input", &spec.input_schema, style, width);
    section(&mut page, "Output", &spec.output_schema, style, width);
    if !spec.error_schemas.is_empty() {
        let mut table = Table::facts();
        for error in &spec.error_schemas {
            table.row([error.code.as_str().into(), error.description.as_str().into()]);
        }
        page.push_str(&format!("\n{}\n{}", style.paint(Paint::Dim, "Errors"), table.render(style, width)));
    }
    page
}

fn facts(spec: &OperationSpec) -> Table {
    let access = &spec.access_control;
    let mut needs: Vec<String> = access.required_scopes.clone();
    if !access.required_scopes_any.is_empty() {
        needs.push(format!("one of {}", access.required_scopes_any.join(", ")));
    }
    if let (Some(kind), Some(action)) = (&access.resource_type, &access.resource_action) {
        needs.push(format!("{action} on {kind}"));
    }
    let mut table = Table::facts();
    table.fact("type", spec.kind.as_str());
    table.fact("version", &spec.version);
    table.fact("needs", if needs.is_empty() { "any key".to_owned() } else { needs.join(", ") });
    if !spec.tags.is_empty() {
        table.fact("tags", spec.tags.join(", "));
    }
    table
}

fn section(page: &mut String, name: &str, schema: &Value, style: Style, width: Option<usize>) {
    let mut table = Table::new(&["NAME", "TYPE", "", "DESCRIPTION"]).wrapping();
    members(&mut table, schema, schema, "", 0);
    let whole = if table.is_empty() { format!(": {}", type_of(schema, schema)) } else { String::new() };
    page.push_str(&format!("\n{}{}\n", style.paint(Paint::Dim, name), clean(&whole)));
    if !table.is_empty() {
        page.push_str(&table.render(style, width));
    }
}

/// A row for each member, those of members indented by their path.
fn members(table: &mut Table, root: &Value, schema: &Value, path: &str, depth: usize) {
    let schema = resolve(root, schema);
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
    let required: Vec<&str> =
        schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect();
    // What must be given comes first.
    let (first, rest): (Vec<_>, Vec<_>) = properties.iter().partition(|(name, _)| required.contains(&name.as_str()));
    for (name, member) in first.into_iter().chain(rest) {
        if table.len() >= ROWS {
            return;
        }
        let member_path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        let must = if required.contains(&name.as_str()) { Cell::new("required", Paint::Yellow) } else { "".into() };
        let shown = resolve(root, member);
        table.row([Cell::new(&member_path, Paint::Bold), type_of(root, member).into(), must, text_of(shown).into()]);
        if depth + 1 < DEPTH {
            members(table, root, shown, &member_path, depth + 1);
            if let Some(items) = shown.get("items") {
                members(table, root, items, &format!("{member_path}[]"), depth + 1);
            }
        }
    }
}

fn text_of(schema: &Value) -> String {
    let mut text = schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let mut add = |more: String| {
        if !text.is_empty() {
            text.push(' ');
        }
        text.push_str(&more);
    };
    let number = |key: &str| schema.get(key).filter(|v| v.is_number()).map(Value::to_string);
    for (low, high, what) in
        [("minimum", "maximum", ""), ("minLength", "maxLength", " characters"), ("minItems", "maxItems", " items")]
    {
        match (number(low), number(high)) {
            (Some(low), Some(high)) => add(format!("[{low} to {high}{what}]")),
            (Some(low), None) if low != "0" => add(format!("[at least {low}{what}]")),
            (None, Some(high)) => add(format!("[at most {high}{what}]")),
            _ => {}
        }
    }
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        add(format!("[default {default}]"));
    }
    text
}

/// `string`, `integer`, `object[]`, `"a" | "b"`, `string | null`.
fn type_of(root: &Value, schema: &Value) -> String {
    let schema = resolve(root, schema);
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    if let Some(values) = schema.get("enum").and_then(Value::as_array) {
        return join(values.iter().map(Value::to_string));
    }
    for key in ["oneOf", "anyOf"] {
        if let Some(options) = schema.get(key).and_then(Value::as_array) {
            return join(options.iter().take(12).map(|option| shallow(root, resolve(root, option))));
        }
    }
    shallow(root, schema)
}

fn shallow(root: &Value, schema: &Value) -> String {
    if let Some(value) = schema.get("const") {
        return value.to_string();
    }
    match schema.get("type") {
        Some(Value::Array(types)) => join(types.iter().filter_map(Value::as_str).map(|t| named(root, t, schema))),
        Some(Value::String(name)) => named(root, name, schema),
        _ if schema.get("properties").is_some() => "object".to_owned(),
        _ if schema.get("enum").is_some() => "enum".to_owned(),
        _ => "any".to_owned(),
    }
}

fn named(root: &Value, name: &str, schema: &Value) -> String {
    let item = schema.get("items").and_then(|items| resolve(root, items).get("type")).and_then(Value::as_str);
    match (name, item) {
        ("array", Some(item)) => format!("{item}[]"),
        ("array", None) => "any[]".to_owned(),
        (name, _) => name.to_owned(),
    }
}

fn join(parts: impl Iterator<Item = String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for part in parts {
        if !seen.contains(&part) {
            seen.push(part);
        }
    }
    seen.join(" | ")
}

/// Follows one `$ref` into the same document.
fn resolve<'a>(root: &'a Value, schema: &'a Value) -> &'a Value {
    let pointer = schema.get("$ref").and_then(Value::as_str).and_then(|r| r.strip_prefix('#'));
    pointer.and_then(|pointer| root.pointer(pointer)).unwrap_or(schema)
}

#[cfg(test)]
mod tests {
    use hub_protocol::ops::Operation;
    use hub_protocol::ops::calls::AbortCall;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page() {
        let spec = OperationSpec {
            input_schema: json!({
                "type": "object",
                "required": ["pattern"],
                "properties": {
                    "limit": { "type": ["integer", "null"], "minimum": 1, "maximum": 10, "description": "Most." },
                    "pattern": { "type": "string", "description": "What to\nfind." },
                    "where": { "type": "array", "items": { "$ref": "#/$defs/place" } },
                },
                "$defs": { "place": { "type": "object", "properties": { "kind": { "enum": ["a", "b"] } } } },
            }),
            output_schema: json!({ "type": "string" }),
            tags: vec!["text".into()],
            ..AbortCall::spec()
        };
        let page = operation(&spec.with_id("search.grep"), Style { colour: false }, None);
        let expected = "\
search.grep
Abort a call and everything below it; answers with a receipt per call. Calls of others need the scope calls:abort.

type     mutation
version  1.0.0
needs    any key
tags     text

Input
NAME          TYPE                      DESCRIPTION
pattern       string          required  What to find.
limit         integer | null            Most. [1 to 10]
where         object[]
where[].kind  \"a\" | \"b\"

Output: string
";
        assert_eq!(page, expected);
    }

    #[test]
    fn odd_schemas_do_no_harm() {
        for schema in [json!(true), json!({}), json!({"$ref": "#"}), json!({"properties": 5}), json!({"type": 7})] {
            let mut table = Table::facts();
            members(&mut table, &schema, &schema, "", 0);
            assert!(!type_of(&schema, &schema).is_empty());
        }
        let cycle = json!({"properties": {"a": {"$ref": "#"}, "b": {"$ref": "#"}}});
        let mut table = Table::facts();
        members(&mut table, &cycle, &cycle, "", 0);
        assert!(table.len() <= 30);
    }
}
