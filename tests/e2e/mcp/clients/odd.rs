//! Operations that are tools of their own, with schemas that an official client alone would refuse or read differently,
//! and with answers that break theirs.

use anyhow::{Result, ensure};
use hub_operations::Reply;
use hub_protocol::{CallError, ErrorCode, OperationSpec};
use hub_spoke::RunningSpoke;
use hub_testkit::TestHub;
use serde_json::{Map, Value, json};

use super::{says, start};
use crate::tools::{Tool, node, python};

/// Taken as they are by no client: one with such a schema had the whole list refused.
fn inputs() -> Vec<(&'static str, Value)> {
    vec![
        ("any", json!(true)),
        ("empty", json!({})),
        ("or-null", json!({ "type": ["object", "null"] })),
        ("flags", json!({ "type": "object", "properties": { "x": true, "y": false } })),
        ("either", json!({ "anyOf": [true, { "type": "string" }], "required": [] })),
        ("named", json!({ "$ref": "#/$defs/it", "$defs": { "it": { "properties": { "x": true } } } })),
        ("dialect", json!({ "$schema": "http://json-schema.org/draft-07/schema#", "type": "object" })),
        ("header", json!({ "properties": { "x": { "type": "string", "x-mcp-header": "two words" } } })),
        ("member", json!({ "properties": { "__proto__": true, "x-mcp-header": true, "properties": true } })),
    ]
}

/// No tools: their inputs are no objects.
fn not_offered() -> Vec<(&'static str, Value)> {
    vec![
        ("text", json!({ "type": "string" })),
        ("nothing", json!(false)),
        ("values", json!({ "enum": ["a", 1] })),
        ("texts", json!({ "oneOf": [{ "type": "string" }, { "const": null }] })),
    ]
}

/// Output schemas, what is answered, and whether it fits.
fn outputs() -> Vec<(&'static str, Value, Value, bool)> {
    let with = |schema: Value| json!({ "type": "object", "properties": { "a": schema } });
    vec![
        ("flags", with(json!(true)), json!({ "a": 1 }), true),
        ("pattern", with(json!({ "pattern": "(?i)^\\pL$" })), json!({ "a": "x" }), true),
        ("format", with(json!({ "type": "string", "format": "email" })), json!({ "a": "x" }), true),
        ("tuple", with(json!({ "prefixItems": [true], "items": false })), json!({ "a": [1] }), true),
        ("nullable", with(json!({ "nullable": true, "discriminator": 1 })), json!({ "a": 1 }), true),
        ("none", with(json!({ "enum": [] })), json!({}), true),
        ("dialect", json!({ "type": "object", "$schema": "urn:of:mine" }), json!({}), true),
        ("names-a", json!({ "type": "object", "$id": "urn:same" }), json!({ "data": 1 }), true),
        ("names-b", json!({ "type": "object", "$id": "urn:same", "required": ["b"] }), json!({ "b": 1 }), true),
        ("or-null", json!({ "type": ["object", "null"] }), json!(null), true),
        ("broken", with(json!({ "type": "integer" })), json!({ "a": "x" }), false),
        ("absent", json!({ "type": "object", "required": ["a"] }), json!({}), false),
        ("other", json!({ "type": "object" }), json!([1]), false),
    ]
}

fn spec(name: &str, input: Value, output: Value) -> Result<OperationSpec> {
    Ok(serde_json::from_value(json!({
        "namespace": "odd", "name": name, "version": "1.0.0", "type": "query", "description": "Odd.",
        "inputSchema": input, "outputSchema": output, "accessControl": { "requiredScopes": [] },
        "_meta": { "mcp": { "tool": true } },
    }))?)
}

async fn spoke(hub: &TestHub) -> Result<RunningSpoke> {
    let mut spoke = hub.spoke("odd").spoke_type("compute");
    for (name, schema) in inputs().into_iter().chain(not_offered()) {
        let spec = spec(&format!("in-{name}"), schema, json!(true))?;
        spoke = spoke.raw(spec, |_, _| async { Ok(Reply::Value(json!("ok").into())) });
    }
    for (name, schema, answer, _) in outputs() {
        let spec = spec(&format!("out-{name}"), json!(true), schema)?;
        spoke = spoke.raw(spec, move |_, _| {
            let answer = answer.clone();
            async move { Ok(Reply::Value(answer.into())) }
        });
    }
    let fails = |_, _| async { Err(CallError::new(ErrorCode::ExecutionError, "no")) };
    spoke = spoke.raw(spec("fails", json!(true), json!(true))?, fails);
    spoke = spoke.raw(spec("fails-typed", json!(true), json!({ "type": "object" }))?, fails);
    Ok(spoke.build()?.start().await?)
}

/// What a client is to say of each tool: whether it is an error, and whether it has a structured result.
fn expected() -> Map<String, Value> {
    let ok = inputs().into_iter().map(|(name, _)| (format!("odd_in-{name}"), json!([false, true])));
    let answers = outputs().into_iter().map(|(name, _, _, fits)| (format!("odd_out-{name}"), json!([!fits, fits])));
    let fails = ["odd_fails", "odd_fails-typed"].map(|name| (name.to_owned(), json!([true, false])));
    ok.chain(answers).chain(fails).collect()
}

async fn takes_all(tool: Option<Tool>, program: &str, mode: &str) -> Result<()> {
    let Some(tool) = tool else { return Ok(()) };
    let hub = TestHub::start().await?;
    let _spoke = spoke(&hub).await?;
    let mut host = start(&tool, &hub, &[program, mode, "own"]).await?;
    says(&mut host).await?;
    let (expected, mut said) = (expected(), Map::new());
    while said.len() < expected.len() {
        let line = says(&mut host).await?;
        ensure!(line.get("raised").is_none(), "{line}");
        let outcome = json!([line["isError"], line.get("structuredContent").is_some()]);
        said.insert(line["name"].as_str().unwrap_or_default().to_owned(), outcome);
    }
    assert_eq!(said, expected);
    ensure!(host.child.wait().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_takes_them() -> Result<()> {
    takes_all(node().await?, "client.mjs", "client").await
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_of_the_first_generation_takes_them() -> Result<()> {
    takes_all(node().await?, "client.mjs", "sdk").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_takes_them() -> Result<()> {
    takes_all(python().await?, "client.py", "auto").await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_with_a_session_takes_them() -> Result<()> {
    takes_all(python().await?, "client.py", "legacy").await
}
