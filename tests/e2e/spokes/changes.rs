//! What a connected spoke offers changes.

use anyhow::{Context as _, Result, ensure};
use hub_protocol::ops::hub::{GetSchemas, ListOperations, SpokeStatus};
use hub_protocol::{Json, OperationSpec};
use hub_spoke::{Context, Registry, Reply};
use hub_testkit::{RawPeer, TestHub};
use serde_json::json;

use super::{code, spoke_item};

#[tokio::test(flavor = "multi_thread")]
async fn operations_come_and_go_by_update_and_unregister() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let mut spoke = hub.raw().await?;
    spoke.register("s", &[("a.run", "query")], json!({})).await?;
    let updated = spoke.call("u", "hub.update", json!({ "operations": [RawPeer::spec("b.run", "query")] })).await?;
    let names = updated["payload"]["output"]["data"]["operations"].as_array().map(Vec::len);
    assert_eq!(names, Some(2), "{updated}");
    for id in ["a.run", "b.run"] {
        let mut call = client.request(id).input(json!({})).start().await?;
        let got = spoke.requested().await?;
        assert_eq!(got["operationId"], id);
        spoke.respond(&got["requestId"], json!(1)).await?;
        call.next().await.context("an answer")??;
    }
    let gone = spoke.call("x", "hub.unregister", json!({ "operations": ["a.run"] })).await?;
    assert_eq!(gone["payload"]["output"]["data"]["operations"], json!(["a.run"]));
    assert_eq!(code(&client, "a.run").await?, "OPERATION_UNAVAILABLE");
    let unknown = spoke.call("y", "hub.unregister", json!({ "operations": ["no.such"] })).await?;
    assert_eq!(unknown["payload"]["code"], "NOT_FOUND");
    let unknown = spoke.call("v", "hub.update", json!({ "withdraw": ["no.such"] })).await?;
    assert_eq!(unknown["payload"]["code"], "NOT_FOUND");
    let list = client.call(&ListOperations { namespace: Some("a".into()), ..ListOperations::default() }).await?;
    assert!(list.operations.is_empty(), "{list:?}");
    spoke.call("z", "hub.unregister", json!({})).await?;
    assert_eq!(code(&client, "b.run").await?, "OPERATION_UNAVAILABLE");
    assert_eq!(spoke_item(&client, "s").await?.status, SpokeStatus::Connected);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_puts_one_version_in_the_place_of_another_while_calls_run() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let mut spoke = hub.raw().await?;
    let spec = |id: &str, version: &str| {
        let mut spec = RawPeer::spec(id, "query");
        spec["version"] = version.into();
        spec
    };
    let both = json!({ "operations": [spec("a.run", "2.0.0"), spec("b.run", "1.0.0")] });
    spoke.register("s", &[], both).await?;
    let mut running = client.request("a.run").input(json!({})).start().await?;
    let first = spoke.requested().await?;
    // Also downwards; what it takes back and does not offer again is gone.
    let update =
        json!({ "operations": [spec("a.run", "1.0.0"), spec("c.run", "1.0.0")], "withdraw": ["a.run", "b.run"] });
    let updated = spoke.call("u", "hub.update", update).await?;
    let names = json!([{ "local": "a.run", "id": "a.run" }, { "local": "c.run", "id": "c.run" }]);
    assert_eq!(updated["payload"]["output"]["data"]["operations"], names);
    assert_eq!(code(&client, "b.run").await?, "OPERATION_UNAVAILABLE");
    let mut call = client.request("a.run").input(json!({})).start().await?;
    let got = spoke.requested().await?;
    assert_eq!(got["version"], "1.0.0", "{got}");
    for request in [&got, &first] {
        spoke.respond(&request["requestId"], json!(1)).await?;
    }
    call.next().await.context("an answer")??;
    running.next().await.context("an answer of the version that is gone")??;
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_offers_others_all_or_none_of_them() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let registry = |operations: &[(&str, &str, usize)]| {
        let all = operations.iter().fold(Registry::builder(), |all, &(id, version, length)| {
            let mut spec: OperationSpec =
                serde_json::from_value(RawPeer::spec(id, "query")).unwrap_or_else(|_| panic!());
            (spec.version, spec.description) = (version.to_owned(), "x".repeat(length));
            let answer = format!("{id} {version}");
            all.raw(spec, move |_: Context, _| {
                let answer = Json::from(json!(answer));
                async move { Ok(Reply::Value(answer)) }
            })
        });
        all.build()
    };
    let first = registry(&[("m.kept", "1.0.0", 10), ("m.changed", "1.0.0", 10), ("m.gone", "1.0.0", 10)])?;
    let specs = first.specs();
    let spoke = hub.spoke("s").spoke_type("compute").build()?.start().await?;
    ensure!(spoke.offer(first).await? && client.call_raw("m.gone", json!({})).await?.as_str().contains("1.0.0"));
    // Three messages, of which the last can't be taken: a definition becomes another only with its version.
    let large = 600 * 1024;
    let clash = registry(&[("m.a", "1.0.0", large), ("m.changed", "2.0.0", large), ("m.kept", "1.0.0", large)])?;
    let refused = spoke.offer(clash).await.err().context("a refusal")?;
    ensure!(refused.code == "CONFLICT" && refused.message.contains("m.kept"), "{refused}");
    ensure!(code(&client, "m.a").await? == "OPERATION_UNAVAILABLE");
    let ids: Vec<String> = specs.iter().map(OperationSpec::id).collect();
    let known = client.call(&GetSchemas { operation_ids: ids }).await?.operations;
    ensure!(known == specs, "{known:?}");
    for id in ["m.kept", "m.changed", "m.gone"] {
        ensure!(client.call_raw(id, json!({})).await?.as_str() == format!("\"{id} 1.0.0\""));
    }
    ensure!(spoke.offer(registry(&[("m.kept", "1.0.0", 10), ("m.changed", "3.0.0", 10)])?).await?);
    ensure!(client.call_raw("m.changed", json!({})).await?.as_str() == "\"m.changed 3.0.0\"");
    ensure!(code(&client, "m.gone").await? == "OPERATION_UNAVAILABLE");
    ensure!(!spoke.offer(registry(&[("m.kept", "1.0.0", 10), ("m.changed", "3.0.0", 10)])?).await?);
    spoke.stop().await?;
    hub.settled().await
}
