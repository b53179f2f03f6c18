//! The hub's own OpenAPI document, before two validators that know nothing of each other and of the hub, and the hub
//! before a property-based tester of what the document promises.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_protocol::CallError;
use hub_spoke::RunningSpoke;
use hub_testkit::{RawPeer, TestHub, http, run};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::tools::{node, python};

/// An order, whose parts are orders: its schema refers to itself.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Order {
    item: String,
    count: u8,
    price: Option<f64>,
    kind: Kind,
    parts: Vec<Order>,
}

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
enum Kind {
    Whole,
    InParts { of: u16 },
}

async fn shop(hub: &TestHub) -> Result<RunningSpoke> {
    let shop = hub.spoke("shop").spoke_type("compute");
    let shop = shop
        .query("shop.price", "Prices an order.", |_, order: Order| async move {
            Ok::<_, CallError>(order.price.unwrap_or_default() * f64::from(order.count))
        })
        .mutation("shop.order", "Takes an order.", |_, order: Order| async move { Ok::<_, CallError>(order) })
        .stream("shop.parts", "Says of what an order is made.", |_, order: Order| async move {
            Ok::<_, CallError>(stream::iter(order.parts.into_iter().map(Ok::<_, CallError>)))
        });
    Ok(shop.build()?.start().await?)
}

/// Operations with all that a hub takes and a document may trip over.
async fn zoo(hub: &TestHub) -> Result<RawPeer> {
    let mut spoke = hub.raw().await?;
    let tree =
        json!({"type": "object", "properties": {"kids": {"type": "array", "items": {"$ref": "#/$defs/Node-1"}}}});
    let schemas = [
        json!(true),
        json!(false),
        json!({}),
        json!({"$ref": "#/$defs/Node-1", "$defs": {"Node-1": tree}}),
        json!({"$id": "urn:zoo", "$ref": "#/$defs/Node-1", "$defs": {"Node-1": tree}}),
        json!({"$id": "urn:zoo", "type": "object", "properties": {"next": {"$ref": "#"}}}),
        json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "items": {"$ref": "#n"}, "$defs": {"a/b ~c%": {"$anchor": "n", "items": {"$ref": "#n"}}}}),
        json!({"$dynamicAnchor": "n", "type": "object", "properties": {"kids": {"items": {"$dynamicRef": "#n"}}}}),
        json!({"properties": {"a": {"$id": "urn:a", "items": {"$ref": "#/$defs/x"}, "$defs": {"x": {"type": "string"}}}}, "$defs": {"x": false}}),
        json!({"properties": {"enum": {"type": "string"}, "ünïcode ✓": {"description": "日本語 \u{1f41f}"}}}),
        json!({"enum": ["a", 1, null, {"b": [1]}], "default": {"b": [1]}, "examples": [{"b": [1]}]}),
        json!({"items": {"$ref": "https://json-schema.org/draft/2020-12/schema"}}),
        // As deep as the stack of a Python validator goes.
        (1..60).fold(json!({}), |below, _| json!({"items": below})),
    ];
    let mut operations = Vec::new();
    for (n, schema) in schemas.iter().enumerate() {
        for kind in ["query", "mutation", "subscription"] {
            let mut operation = RawPeer::spec(&format!("zoo.{kind}-{n}.a_b"), kind);
            (operation["inputSchema"], operation["outputSchema"]) = (schema.clone(), schema.clone());
            operation["description"] = json!("# *日本語*\n\n<b>\u{1f41f}</b> {x} \u{7}");
            operation["errorSchemas"] =
                json!([{"code": "A", "httpStatus": 400}, {"code": "B", "httpStatus": 599}, {"code": "C"}]);
            operations.push(operation);
        }
    }
    let long = format!("zoo.{}", ["x"; 3].map(|x| x.repeat(64)).join(".")) + "." + "y";
    operations.push(RawPeer::spec(&long, "query"));
    operations.push(RawPeer::spec("zoo.0._-", "query"));
    let registered = spoke.register("zoo", &[], json!({"operations": operations})).await?;
    ensure!(registered["type"] == "call.responded", "{registered}");
    for status in [0, 99, 200, 399, 600, 65535] {
        let mut odd = RawPeer::spec("zoo.odd", "query");
        odd["errorSchemas"] = json!([{"code": "ODD", "httpStatus": status}]);
        let refused = spoke.call("odd", "hub.update", json!({"operations": [odd]})).await?;
        let message = refused["payload"]["message"].as_str().unwrap_or_default();
        ensure!(
            message.contains(&format!("HTTP status {status} for its error \"ODD\": it must be 400 to 599")),
            "{refused}"
        );
    }
    Ok(spoke)
}

#[tokio::test(flavor = "multi_thread")]
async fn two_validators_find_nothing() -> Result<()> {
    let hub = TestHub::start().await?;
    let _shop = shop(&hub).await?;
    let _zoo = zoo(&hub).await?;
    let document = http(hub.address(), "GET", "/openapi.json", hub.admin_key(), &Value::Null).await?.body;
    ensure!(
        document.contains("/api/operations/shop.order")
            && document.contains("/api/operations/zoo.0._-")
            && document.contains("/api/operations/keys.create")
    );
    // What is wrong here they must find, too.
    let wrong = document.replacen("\"in\":\"path\"", "\"in\":\"nowhere\"", 1);
    ensure!(wrong != document);
    let (path, wrong_path) = (hub.folder().join("openapi.json"), hub.folder().join("wrong.json"));
    std::fs::write(&path, document)?;
    std::fs::write(&wrong_path, wrong)?;
    for (path, valid) in [(path, true), (wrong_path, false)] {
        if let Some(python) = python().await? {
            let ran = run(python.command(hub.folder()).args(["-m", "openapi_spec_validator"]).arg(&path)).await?;
            ensure!((ran.code == Some(0)) == valid, "{ran:?}");
        }
        if let Some(node) = node().await? {
            let validator = node.file("@seriousme/openapi-schema-validator/bin/validate-api-cli.js");
            let ran = run(node.command(hub.folder()).arg(validator).arg(&path)).await?;
            ensure!((ran.code == Some(0) && ran.out.contains("\"valid\": true")) == valid, "{ran:?}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_property_based_tester_finds_no_server_error() -> Result<()> {
    let Some(python) = python().await? else { return Ok(()) };
    let hub = TestHub::start().await?;
    let _shop = shop(&hub).await?;
    let mut document = http(hub.address(), "GET", "/openapi.json", hub.admin_key(), &Value::Null).await?.json()?;
    let paths = document["paths"].as_object_mut().context("paths")?;
    for (path, item) in paths.iter_mut().filter(|(path, _)| path.starts_with("/api/operations/")) {
        // All operations take the same headers, by the same code: they are tried out on some.
        let some = path.contains("/hub.") || path.contains("/shop.");
        let post = item.get_mut("post").and_then(Value::as_object_mut).filter(|_| !some);
        post.and_then(|post| post.remove("parameters"));
    }
    let operations = paths.values().filter_map(Value::as_object).map(serde_json::Map::len).sum::<usize>();
    std::fs::write(hub.folder().join("openapi.json"), document.to_string())?;
    let mut tester = python.command(hub.folder());
    tester.env("SCHEMATHESIS_HOOKS", concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/http/cut_streams.py"));
    tester.args(["-m", "schemathesis.cli", "run", "openapi.json", "--url", &hub.url()]);
    tester.args(["--header", &format!("Authorization: Bearer {}", hub.admin_key())]);
    // A caller whose own deadline is over is told so by 504: not the tester's to choose.
    tester.args(["--header", "X-Hub-Deadline-Ms: 20000", "--request-timeout", "20"]);
    tester.args(["--checks", "not_a_server_error", "--continue-on-failure", "--seed", "1", "--max-examples", "3"]);
    tester.args(["--no-color", "--warnings", "off"]).stdin(Stdio::null());
    let ran = tokio::time::timeout(Duration::from_secs(180), tester.output()).await.context("it goes on and on")??;
    let told = String::from_utf8_lossy(&ran.stdout);
    ensure!(ran.status.success(), "{told}\n{}", String::from_utf8_lossy(&ran.stderr));
    // It was let in, to the end, and has seen all.
    let count =
        |before: &str, after: &str| told.split_once(before)?.1.split_once(after)?.0.trim().parse::<usize>().ok();
    ensure!(count("Tested:", "\n") == Some(operations), "{operations} {told}");
    ensure!(count("Test cases:\n", " generated") > Some(1_000), "{told}");
    hub.settled().await
}
