//! Every target and every bus passes the same suite.

use hub_pubsub::contract::{self, Bus};
use hub_pubsub::{Bus as FrameBus, EventTarget};

#[tokio::test]
async fn memory_on_one_thread() {
    contract::run(async |capacity| Bus::from(EventTarget::memory_with_capacity(capacity))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_on_many_threads() {
    contract::run(async |capacity| Bus::from(EventTarget::memory_with_capacity(capacity))).await;
}

#[tokio::test]
async fn memory_bus_on_one_thread() {
    contract::run_bus(memory_bus).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_bus_on_many_threads() {
    contract::run_bus(memory_bus).await;
}

async fn memory_bus(bytes: usize) -> [FrameBus; 2] {
    let bus = FrameBus::memory_with_inbox_bytes(bytes);
    [bus.clone(), bus]
}
