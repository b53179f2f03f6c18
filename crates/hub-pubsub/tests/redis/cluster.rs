//! The servers are a Redis Cluster.

use std::time::Duration;

use hub_pubsub::contract::{self, Bus as Targets};
use hub_pubsub::{Bus, BusDelivery, Delivery, EventTarget, Inbox, Message, RedisOptions, Subscription, TargetError};
use hub_testkit::servers::RedisCluster;

use crate::{FIXTURES, options, trusted, within};

/// The prefix of [`RedisOptions::default`], whose slot decides.
const PREFIX: &str = "hub:";

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_fulfils_the_contract() {
    let cluster = RedisCluster::start().expect("a cluster");
    fulfils_the_contract(&cluster.url()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_cluster_on_tls_fulfils_the_contract() {
    let cluster = RedisCluster::start_with(Some(FIXTURES.into())).expect("a cluster");
    fulfils_the_contract(&trusted(&cluster.tls_url())).await;
}

async fn fulfils_the_contract(url: &str) {
    // Each with another prefix, so at another node.
    contract::run(async |capacity| {
        let options = options().with_capacity(capacity);
        let [publisher, subscriber] = [(); 2].map(|()| EventTarget::redis(url, options.clone()).expect("a URL"));
        Targets { publisher, subscriber }
    })
    .await;
    contract::run_bus(async |bytes| {
        let options = options().with_inbox_bytes(bytes);
        [(); 2].map(|()| Bus::redis(url, options.clone()).expect("a URL"))
    })
    .await;
}

/// What two hubs have of a cluster, one that sends and one that receives.
struct Hubs {
    publisher: EventTarget,
    _subscriber: EventTarget,
    subscription: Subscription,
    sender: Bus,
    _receiver: Bus,
    inbox: Inbox,
}

impl Hubs {
    async fn start(url: &str) -> Self {
        let [publisher, subscriber] =
            [(); 2].map(|()| EventTarget::redis(url, RedisOptions::default()).expect("a URL"));
        let [sender, receiver] = [(); 2].map(|()| Bus::redis(url, RedisOptions::default()).expect("a URL"));
        let subscription = subscriber.subscribe("t:*").await.expect("subscribe");
        let inbox = receiver.listen("a").await.expect("listen");
        let mut hubs = Self { publisher, _subscriber: subscriber, subscription, sender, _receiver: receiver, inbox };
        hubs.works("before").await;
        hubs
    }

    /// Sends until it has arrived, and is counted; what was left of the time before may come first.
    async fn works(&mut self, text: &'static str) {
        let sent = async {
            while let Err(error) = self.sender.send("a", text).await {
                assert!(matches!(error, TargetError::Unavailable(_) | TargetError::NobodyThere), "{error}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            while self.publisher.publish(Message::new("t:1", text)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("the other end", sent).await;
        while within("a frame", self.inbox.recv()).await != Some(BusDelivery::Frame(text.into())) {}
        let message = Some(Delivery::Message(Message::new("t:1", text)));
        while within("a message", self.subscription.recv()).await != message {}
        assert_eq!(self.sender.send("nobody", text).await, Err(TargetError::NobodyThere));
    }

    /// What is sent after this comes behind the mark.
    async fn are_interrupted(&mut self) {
        while within("the mark", self.inbox.recv()).await != Some(BusDelivery::Interrupted) {}
        while within("the mark", self.subscription.recv()).await != Some(Delivery::Interrupted) {}
    }
}

#[tokio::test]
async fn the_replica_that_takes_the_place_of_a_lost_node_is_found() {
    let mut cluster = RedisCluster::start().expect("a cluster");
    // One seed that is not there besides those that are.
    let url = cluster.url().replace('@', "@127.0.0.1:1,");
    let mut hubs = Hubs::start(&url).await;
    let lost = cluster.serving(PREFIX).expect("a node");
    cluster.nodes[lost].kill().expect("kill");
    hubs.are_interrupted().await;
    assert_ne!(cluster.serving(PREFIX).expect("another node"), lost);
    hubs.works("after").await;
    // As a replica: nobody has a reason to go there.
    cluster.nodes[lost].start_again().expect("start");
    hubs.works("later").await;
    assert_ne!(cluster.serving(PREFIX).expect("another node"), lost);
}

#[tokio::test]
async fn a_slot_that_moves_takes_everyone_along() {
    let cluster = RedisCluster::start().expect("a cluster");
    all_follow_the_slot(&cluster, &cluster.url()).await;
}

#[tokio::test]
async fn a_slot_that_moves_on_tls_takes_everyone_along_who_trusts_the_nodes() {
    let cluster = RedisCluster::start_with(Some(FIXTURES.into())).expect("a cluster");
    all_follow_the_slot(&cluster, &trusted(&cluster.tls_url())).await;
    let stranger = EventTarget::redis(&cluster.tls_url(), RedisOptions::default()).expect("a URL");
    let told = within("a refusal", stranger.check()).await;
    assert_eq!(told, Err(TargetError::Unavailable("the server's certificate is not valid")));
}

async fn all_follow_the_slot(cluster: &RedisCluster, url: &str) {
    let mut hubs = Hubs::start(url).await;
    for text in ["once", "again"] {
        let before = cluster.serving(PREFIX).expect("a node");
        cluster.move_slot(PREFIX).expect("move");
        hubs.are_interrupted().await;
        let now = cluster.serving(PREFIX).expect("a node");
        assert_ne!(now, before);
        let listening = async |node: usize, number: &str| {
            while !cluster.nodes[node].command(&["PUBSUB", "NUMSUB", "hub:h:a"]).expect("a number").ends_with(number) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within("all of them", listening(now, ":1\r\n")).await;
        within("none", listening(before, ":0\r\n")).await;
        hubs.works(text).await;
    }
}
