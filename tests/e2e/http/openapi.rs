//! The hub's own OpenAPI document, before two validators that know nothing of each other and of the hub, and the hub
//! before a property-based tester of what the document promises.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_protocol::CallError;
use hub_spoke::RunningSpoke;
use hub_testkit::{TestHub, http, run};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

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

#[tokio::test(flavor = "multi_thread")]
async fn two_validators_find_nothing() -> Result<()> {
    let hub = TestHub::start().await?;
    let _shop = shop(&hub).await?;
    let document = http(hub.address(), "GET", "/openapi.json", hub.admin_key(), &Value::Null).await?.body;
    ensure!(document.contains("/api/operations/shop.order") && document.contains("/api/operations/keys.create"));
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
