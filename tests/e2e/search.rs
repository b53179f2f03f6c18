//! Search: the right operation among ten thousand, and nothing that the caller may not see. How fast it is, the
//! benchmarks tell.

use anyhow::{Result, ensure};
use hub_protocol::ops::hub::SearchOperations;
use hub_spoke::Client;
use hub_testkit::corpus::{QUERIES, SCOPE, operations};
use hub_testkit::{RawPeer, TestHub};
use serde_json::json;

/// Connects spokes that offer the corpus.
async fn offered(hub: &TestHub) -> Result<Vec<RawPeer>> {
    let mut spokes = Vec::new();
    for (number, operations) in operations().chunks(1_000).enumerate() {
        let mut raw = hub.raw().await?;
        let answer = raw.register(&format!("s{number}"), &[], json!({ "operations": operations })).await?;
        ensure!(answer["type"] == "call.responded", "{answer}");
        spokes.push(raw);
    }
    Ok(spokes)
}

async fn ids(client: &Client, query: &str, limit: u32) -> Result<Vec<String>> {
    let params = SearchOperations { query: query.into(), namespace: None, limit: Some(limit) };
    Ok(client.call(&params).await?.operations.into_iter().map(|o| o.id).collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_fifty_queries_over_ten_thousand_operations_each_finds_its_own_among_the_first_three() -> Result<()> {
    let hub = TestHub::start().await?;
    let spokes = offered(&hub).await?;
    let client = hub.client_with(&[SCOPE]).await?;
    let mut missed = Vec::new();
    for (query, wanted) in QUERIES {
        let found = ids(&client, query, 3).await?;
        if !found.iter().any(|id| id == wanted) {
            missed.push(format!("{query:?} should find {wanted}, found {found:?}"));
        }
    }
    assert!(missed.is_empty(), "{missed:#?}");

    let stranger = hub.client_with(&[]).await?;
    for (query, wanted) in QUERIES {
        let found = ids(&stranger, query, 100).await?;
        // Some queries fit operations of the hub itself, which everybody may see.
        ensure!(!found.iter().any(|id| id == wanted), "{query:?} shows {wanted} to who may not see it");
    }

    drop(spokes);
    hub.settled().await
}
