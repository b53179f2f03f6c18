//! The graph of operations: whole, however large, in messages that stay within their bound.

use anyhow::{Result, ensure};
use hub_protocol::ErrorCode;
use hub_protocol::ops::graph::GetGraph;
use hub_testkit::{RawPeer, TestHub, binary, command, run};
use serde_json::{Value, json};

/// Operations of which each two differ in ten members; all pairs together are far above one message.
const WIDE: usize = 60;

async fn offered(hub: &TestHub) -> Result<RawPeer> {
    let object = |kind: &str| {
        let names: Vec<String> = (0..10).map(|n| format!("a-member-with-a-long-name-{n}")).collect();
        let members: serde_json::Map<String, Value> =
            names.iter().map(|name| (name.clone(), json!({ "type": kind }))).collect();
        json!({ "type": "object", "properties": members, "required": names })
    };
    let spec = |n: usize| {
        let mut spec = RawPeer::spec(&format!("wide.op{n:02}"), "query");
        spec["outputSchema"] = object("string");
        spec["inputSchema"] = object("integer");
        spec
    };
    let mut raw = hub.raw().await?;
    let operations: Vec<Value> = (0..WIDE).map(spec).collect();
    let answer = raw.register("wide", &[], json!({ "operations": operations })).await?;
    ensure!(answer["type"] == "call.responded", "{answer}");
    Ok(raw)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_above_one_message_comes_in_pages_that_miss_nothing() -> Result<()> {
    let hub = TestHub::start().await?;
    let _spoke = offered(&hub).await?;
    let client = hub.client().await?;
    let mut params = GetGraph { namespace: Some("wide".into()), include_incompatible: Some(true), cursor: None };
    let (mut pairs, mut bytes) = (Vec::new(), 0);
    loop {
        let page = client.call(&params).await?;
        bytes += serde_json::to_string(&page)?.len();
        assert_eq!((page.nodes.len(), page.truncated), (if params.cursor.is_none() { WIDE } else { 0 }, false));
        pairs.extend(page.edges.into_iter().map(|edge| (edge.from, edge.to)));
        params.cursor = page.next_cursor;
        if params.cursor.is_none() {
            break;
        }
    }
    assert!(bytes > 2 * 1024 * 1024, "{bytes} would have fitted into a message");
    assert_eq!(pairs.len(), WIDE * WIDE);
    assert!(pairs.is_sorted() && pairs.windows(2).all(|two| two[0] != two[1]));
    // A cursor may name what is gone.
    params.cursor = Some("wide.op58x wide.op99".into());
    assert_eq!(client.call(&params).await?.edges.first().map(|edge| edge.from.as_str()), Some("wide.op59"));
    params.cursor = Some("wide".into());
    assert!(client.call(&params).await.is_err_and(|error| error.is(ErrorCode::ValidationError)));

    let mut program = command(binary("hub")?, hub.folder());
    program.args(["ops", "graph", "--all", "--namespace", "wide", "--json"]);
    let ran = run(program.env("HUB_URL", hub.url()).env("HUB_KEY", hub.admin_key())).await?;
    let drawn: Value = serde_json::from_str(&ran.out)?;
    let count = |member: &str| drawn[member].as_array().map(Vec::len);
    assert_eq!((count("nodes"), count("edges")), (Some(WIDE), Some(WIDE * WIDE)), "{}", ran.err);
    assert_eq!(drawn.get("nextCursor"), None);
    Ok(())
}
