//! The contract, in every arrangement.

use hub_pubsub::contract::{self, Bus};
use hub_pubsub::{Bus as FrameBus, EventTarget};

use crate::{options, shared_url};

async fn one_target(capacity: usize) -> Bus {
    EventTarget::redis(&shared_url(), options().with_capacity(capacity)).expect("a URL").into()
}

async fn two_targets(capacity: usize) -> Bus {
    let options = options().with_capacity(capacity);
    let [publisher, subscriber] =
        [&options; 2].map(|options| EventTarget::redis(&shared_url(), options.clone()).expect("a URL"));
    Bus { publisher, subscriber }
}

async fn two_buses(bytes: usize) -> [FrameBus; 2] {
    let options = options().with_inbox_bytes(bytes);
    [&options; 2].map(|options| FrameBus::redis(&shared_url(), options.clone()).expect("a URL"))
}

#[tokio::test]
async fn one_target_on_one_thread() {
    contract::run(one_target).await;
}

#[tokio::test]
async fn two_targets_on_one_thread() {
    contract::run(two_targets).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_targets_on_many_threads() {
    contract::run(two_targets).await;
}

#[tokio::test]
async fn two_buses_on_one_thread() {
    contract::run_bus(two_buses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_buses_on_many_threads() {
    contract::run_bus(two_buses).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn one_bus_on_many_threads() {
    let make = async |bytes| {
        let bus = FrameBus::redis(&shared_url(), options().with_inbox_bytes(bytes)).expect("a URL");
        [bus.clone(), bus]
    };
    contract::run_bus(make).await;
}
