//! The bus is a Redis Cluster.

use anyhow::{Result, ensure};
use hub_protocol::CallError;
use hub_testkit::eventually;
use hub_testkit::servers::RedisCluster;
use serde_json::{Value, json};

use super::bed::Bed;

/// The nodes that hubs have subscribed at, and the beginning of their channels' names.
fn met_at(cluster: &RedisCluster) -> (Vec<usize>, String) {
    let (mut nodes, mut prefix) = (Vec::new(), String::new());
    for (n, node) in cluster.nodes.iter().enumerate() {
        let channels = node.command(&["PUBSUB", "CHANNELS", "hub:*:lost"]).unwrap_or_default();
        if let Some(channel) = channels.lines().find_map(|line| line.strip_suffix("lost")) {
            nodes.push(n);
            channel.clone_into(&mut prefix);
        }
    }
    (nodes, prefix)
}

#[tokio::test(flavor = "multi_thread")]
async fn hubs_meet_at_one_node_of_a_cluster_and_after_its_loss_at_another() -> Result<()> {
    let mut cluster = tokio::task::spawn_blocking(RedisCluster::start).await??;
    let bed = Bed::start_at(Some(&cluster.url()), 2, &[]).await?;
    let echo = |_, input: Value| async move { Ok::<_, CallError>(input) };
    let _spoke = bed.spoke(0, "worker").query("work.echo", "Answers its input.", echo).build()?.start().await?;
    let client = bed.client(1).await?;
    let answered = async || {
        eventually("the spoke at the other hub answers", || async {
            Ok(client.call_raw("work.echo", json!({ "n": 1 })).await.ok().map(drop))
        })
        .await
    };
    answered().await?;
    let (nodes, prefix) = met_at(&cluster);
    let before = cluster.serving(&prefix)?;
    ensure!(nodes == [before], "{nodes:?} instead of {before}");
    cluster.nodes[before].kill()?;
    let after = tokio::task::block_in_place(|| cluster.serving(&prefix))?;
    eventually("the hubs meet again", || async { Ok((met_at(&cluster).0 == [after]).then_some(())) }).await?;
    bed.all_linked().await?;
    answered().await?;
    Ok(())
}
