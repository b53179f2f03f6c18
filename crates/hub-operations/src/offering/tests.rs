use std::sync::Mutex;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hub_protocol::ops::Operation;
use hub_protocol::ops::hub::{Exposure, UpdatedOperations, WhoAmI};
use hub_protocol::{Event, Fault, Json, ResponseEnvelope};
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::*;
use crate::{Answer, Incoming, Outbox, OutboxReader, PeerConfig, Reply, Responder};

fn registry(operations: &[(&str, &str)]) -> Registry<()> {
    let specs = operations
        .iter()
        .map(|(id, version)| OperationSpec { version: (*version).to_owned(), ..WhoAmI::spec().with_id(id) });
    let all =
        specs.fold(Registry::builder(), |all, spec| all.raw(spec, |(), _| async { Ok(Reply::Value(Json::null())) }));
    all.build().unwrap()
}

#[test]
fn only_what_differs_is_told() {
    let before = registry(&[("a.gone", "1.0.0"), ("a.same", "1.0.0"), ("a.changed", "1.0.0")]);
    let next = registry(&[("a.same", "1.0.0"), ("a.changed", "1.0.0+b"), ("a.new", "1.0.0")]);
    let told = updates(steps(Some(&before), &next), 1 << 20).unwrap();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!(told.withdraw, ["a.gone", "a.changed"]);
    assert_eq!(told.operations.iter().map(OperationSpec::id).collect::<Vec<_>>(), ["a.changed", "a.new"]);
    assert!(updates(steps(Some(&next), &next), 1 << 20).unwrap().is_empty());
}

#[test]
fn what_was_taken_is_taken_back() {
    let before = registry(&[("a.gone", "1.0.0"), ("a.same", "1.0.0"), ("a.changed", "1.0.0")]);
    let next = registry(&[("a.same", "1.0.0"), ("a.changed", "1.0.0+b"), ("a.new", "1.0.0")]);
    let told = updates(steps(Some(&before), &next), 1 << 20).unwrap();
    let back = updates(undo(&told, &before), 1 << 20).unwrap();
    assert_eq!(back[0].withdraw, ["a.changed", "a.new"]);
    let offered: Vec<String> =
        back[0].operations.iter().map(|spec| format!("{} {}", spec.id(), spec.version)).collect();
    assert_eq!(offered, ["a.gone 1.0.0", "a.changed 1.0.0"]);
    assert!(undo(&[], &before).is_empty());
}

#[test]
fn what_does_not_fit_one_message_goes_in_several() {
    let ids: Vec<String> = (0..100).map(|n| format!("a.n{n}")).collect();
    let all = registry(&ids.iter().map(|id| (id.as_str(), "1.0.0")).collect::<Vec<_>>());
    let one = serde_json::to_string(all.get("a.n10").unwrap().definition().spec()).unwrap().len();
    let told = updates(steps(None, &all), ROOM + 10 * (one + 4)).unwrap();
    assert_eq!(told.len(), 10);
    assert_eq!(told.iter().map(|update| update.operations.len()).sum::<usize>(), 100);
    let error = updates(steps(None, &all), ROOM + one / 2).unwrap_err();
    assert!(error.is(ErrorCode::PayloadTooLarge) && error.message.contains("a.n0 has"), "{error}");
}

/// A hub that takes everything.
#[derive(Default)]
struct Hub(Mutex<Vec<UpdateOperations>>);

impl Responder for Hub {
    fn call(&self, incoming: Incoming) -> BoxFuture<'static, Result<Answer, CallError>> {
        let request = incoming.request;
        let answer: Json = if request.operation_id == UpdateOperations::ID {
            self.0.lock().unwrap().push(request.input.parse().unwrap());
            Json::from_serialize(&UpdatedOperations { operations: Vec::new() }).unwrap()
        } else {
            let id = Uuid::nil();
            Json::from(json!({ "spokeId": id, "connectionId": id, "hubId": id, "heartbeatMs": 0, "operations": [],
                "superseded": false }))
        };
        let envelope = ResponseEnvelope::local("hub", 1, answer).to_json();
        async move { Ok(Answer::One(envelope)) }.boxed()
    }

    fn other(&self, _: Event) -> Result<(), Fault> {
        Ok(())
    }
}

async fn carry(mut from: OutboxReader, to: Peer) {
    let mut batch = Vec::new();
    while from.next_batch(&mut batch, 1 << 20).await.is_none() {
        batch.drain(..).for_each(|frame| to.receive(&frame).unwrap());
    }
}

/// The spoke's end of a connection to a hub.
fn connected(hub: &Arc<Hub>) -> (Peer, JoinSet<()>) {
    let ((near, near_queue), (far, far_queue)) = (Outbox::new(1 << 20), Outbox::new(1 << 20));
    let peer = |outbox| Peer::new(PeerConfig::default(), outbox, Arc::clone(hub) as _, TaskTracker::new());
    let (spoke, hub) = (peer(near), peer(far));
    let mut carrying = JoinSet::new();
    carrying.spawn(carry(near_queue, hub));
    carrying.spawn(carry(far_queue, spoke.clone()));
    (spoke, carrying)
}

fn registration() -> RegisterSpoke {
    let registration =
        json!({ "name": "s", "spokeType": "compute", "operations": [], "instanceId": Uuid::nil(), "startedAt": 1 });
    RegisterSpoke { exposure: Some(Exposure::Pooled), ..serde_json::from_value(registration).unwrap() }
}

#[tokio::test]
async fn a_change_between_registration_and_connection_is_told_as_soon_as_it_is_up() {
    let hub = Arc::new(Hub::default());
    let (peer, _carrying) = connected(&hub);
    let offering = Offering::new(registry(&[("a.gone", "1.0.0")]));
    offering.register(&peer, &registration()).await.unwrap();
    assert!(offering.change(|| None, registry(&[("a.new", "1.0.0")])).await.unwrap());
    assert!(hub.0.lock().unwrap().is_empty() && offering.get("a.new").is_some() && offering.get("a.gone").is_none());
    offering.settle(&peer).await.unwrap();
    offering.settle(&peer).await.unwrap();
    let told = hub.0.lock().unwrap();
    let [told] = told.as_slice() else { panic!("{told:?}") };
    assert_eq!((told.withdraw.as_slice(), told.operations[0].id()), (&["a.gone".to_owned()][..], "a.new".to_owned()));
}
