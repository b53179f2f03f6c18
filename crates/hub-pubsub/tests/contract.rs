//! Every target passes the same suite.

use hub_pubsub::EventTarget;
use hub_pubsub::contract::{self, Bus};

#[tokio::test]
async fn memory_on_one_thread() {
    contract::run(async |capacity| Bus::from(EventTarget::memory_with_capacity(capacity))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_on_many_threads() {
    contract::run(async |capacity| Bus::from(EventTarget::memory_with_capacity(capacity))).await;
}
