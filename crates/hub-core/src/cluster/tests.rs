//! A hub and a puppet of one, where messages must come in a certain order.

mod puppet;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use hub_operations::{Answer, Incoming, Outbox, OutboxReader, Peer, PeerConfig, Responder, now_ms};
use hub_protocol::ops::Operation as _;
use hub_protocol::ops::hub::RegisterSpoke;
use hub_protocol::{
    CallError, CallRequested, ErrorCode, Event, Fault, Json, OperationSpec, OperationType, ResponseEnvelope,
};
use hub_pubsub::Bus;
use hub_storage::{SqliteOptions, Store};
use serde_json::json;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{ClusterOptions, to_serve};
use crate::hub::Hub;
use crate::key::Principal;
use crate::router::{Called, Caller, Leash};
use puppet::{Puppet, Said};

/// A hub over a store and a bus of its own.
struct Bed {
    hub: Hub,
    store: Store,
    bus: Bus,
    tasks: TaskTracker,
    _folder: tempfile::TempDir,
}

impl Bed {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open_sqlite(&folder.path().join("hub.db"), SqliteOptions::default()).await.unwrap();
        let bus = Bus::memory();
        let options = ClusterOptions { bus: bus.clone(), address: "hub".into() };
        let hub = Hub::builder(store.clone()).cluster(options).build().await.unwrap();
        Self { hub, store, bus, tasks: TaskTracker::new(), _folder: folder }
    }

    async fn puppet(&self) -> Puppet {
        Puppet::linked(&self.bus, &self.store, self.hub.id()).await
    }

    /// Waits until somebody provides the operation.
    async fn knows(&self, id: &str) {
        let mut changed = self.hub.directory().changed();
        while self.hub.directory().get(id).is_none_or(|offered| !offered.is_active()) {
            tokio::time::timeout(Duration::from_secs(10), changed.changed()).await.expect("nobody offers it").unwrap();
        }
    }

    fn call(&self, id: &str) -> tokio::task::JoinHandle<Called> {
        let (hub, request) = (self.hub.clone(), CallRequested::new("call", id, json!({}).into()));
        self.tasks.spawn(async move { hub.call(Caller::new(&Principal::root()), request, Leash::default()).await })
    }

    /// A spoke on a connection of this hub that answers every call with `data`.
    async fn spoke(&self, name: &str, offers: OperationSpec, data: Json) {
        let ((near, from_hub), (far, from_spoke)) = (Outbox::new(1 << 20), Outbox::new(1 << 20));
        let session = self.hub.connect(Principal::root(), near);
        let peer = Peer::new(PeerConfig::default(), far, Arc::new(Answers(data)), self.tasks.clone());
        let (to_spoke, to_hub) = (peer.clone(), Arc::clone(&session));
        self.tasks.spawn(async move {
            tokio::select! {
                () = carry(from_hub, |frame| drop(to_spoke.receive(frame))) => {}
                () = carry(from_spoke, |frame| drop(to_hub.receive(frame))) => {}
            }
            session.end().await;
        });
        let registration = RegisterSpoke {
            name: name.into(),
            spoke_type: "compute".into(),
            operations: vec![offers],
            instance_id: Uuid::new_v4(),
            started_at: now_ms(),
            host_info: None,
            project_id: None,
            version: None,
            exposure: None,
            policy: None,
            max_in_flight: None,
            labels: None,
        };
        let input = Json::from_serialize(&registration).unwrap();
        let request = CallRequested::new("register", RegisterSpoke::ID, input);
        peer.start(&request, true).await.unwrap().next().await.unwrap();
    }
}

async fn carry(mut from: OutboxReader, to: impl Fn(&bytes::Bytes)) {
    let mut batch = Vec::new();
    while from.next_batch(&mut batch, 1 << 20).await.is_none() {
        batch.drain(..).for_each(|frame| to(&frame));
    }
}

/// Answers all calls alike.
struct Answers(Json);

impl Responder for Answers {
    fn call(&self, _incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let envelope = ResponseEnvelope::local("work", now_ms(), self.0.clone()).to_json();
        async move { Ok(Answer::One(envelope)) }.boxed()
    }

    fn other(&self, _event: Event) -> Result<(), Fault> {
        Ok(())
    }
}

fn spec(id: &str, kind: OperationType) -> OperationSpec {
    let spec = json!({
        "namespace": "work", "name": "x", "version": "1.0.0", "type": kind, "description": "Works.",
        "inputSchema": true, "outputSchema": true, "accessControl": { "requiredScopes": [] },
    });
    serde_json::from_value::<OperationSpec>(spec).unwrap().with_id(id)
}

/// A mutation that a hub has not taken when it leaves; `meanwhile`, over their link, it runs.
async fn left_with_a_call(meanwhile: impl AsyncFnOnce(&mut Puppet, hub_protocol::HubId)) -> Called {
    let bed = Bed::start().await;
    let mut puppet = bed.puppet().await;
    let work = spec("work.do", OperationType::Mutation);
    puppet.has_spoke(&bed.store, "far", &work).await;
    bed.knows("work.do").await;
    let call = bed.call("work.do");
    puppet.is_asked().await;
    meanwhile(&mut puppet, bed.hub.id()).await;
    bed.spoke("near", work, json!("near").into()).await;
    puppet.leaves().await;
    call.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mutation_that_a_leaving_hub_has_not_taken_goes_to_another_spoke() {
    let called = left_with_a_call(async |_, _| {}).await;
    let Ok(Answer::One(envelope)) = called.result else { panic!("it failed") };
    assert!(envelope.as_str().contains(r#""data":"near""#), "{}", envelope.as_str());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_is_asked_for_again_keeps_its_calls() {
    let called = left_with_a_call(async |puppet, hub| puppet.opens(hub).await).await;
    assert!(called.result.is_ok(), "the call was lost with its link");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_whose_answers_are_still_on_their_way_does_not_say_that_it_has_left() {
    let bed = Bed::start().await;
    let mut puppet = bed.puppet().await;
    let large = "x".repeat(900_000);
    bed.spoke("near", spec("work.do", OperationType::Mutation), json!(large).into()).await;
    let connection = bed.hub.directory().spoke("near").unwrap().connection;
    // Together more than may be under way while nobody says that any has arrived.
    for n in 0..8 {
        let request = CallRequested::new(hub_protocol::CallId::new().to_string(), "work.do", json!({ "n": n }).into());
        puppet.ask(bed.hub.id(), &to_serve("near", connection, true, request)).await;
    }
    let mut answered = 0;
    while answered < 5 {
        let Said::Events(events) = puppet.hears().await.unwrap() else { continue };
        answered += events.iter().filter(|event| matches!(event, Event::Responded(_))).count();
    }
    bed.hub.shut_down(Duration::from_secs(5)).await;
    bed.bus.close();
    while let Some(said) = puppet.hears().await {
        assert!(!matches!(said, Said::Beat(beat) if beat.gone), "calls that have begun would be given to others");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_hub_can_not_be_reached_may_be_subscribed_to_again_and_a_mutation_not() {
    let bed = Bed::start().await;
    let mut puppet = bed.puppet().await;
    for kind in [OperationType::Subscription, OperationType::Mutation] {
        let id = format!("work.{}", kind.as_str());
        puppet.has_spoke(&bed.store, kind.as_str(), &spec(&id, kind)).await;
        bed.knows(&id).await;
        let call = bed.call(&id);
        puppet.is_asked().await;
        puppet.gives_up(bed.hub.id()).await;
        let error = match call.await.unwrap().result {
            Err(error) => error,
            Ok(Answer::Many(mut items)) => items.next().await.unwrap().unwrap_err(),
            Ok(Answer::One(answer)) => panic!("answered {}", answer.as_str()),
        };
        assert!(error.is(ErrorCode::SpokeDisconnected), "{error:?}");
        assert_eq!(error.retryable, kind == OperationType::Subscription, "{error:?}");
        assert!(error.message.contains("hub") && error.message.contains("can't be reached"), "{error:?}");
        puppet = bed.puppet().await;
    }
}
