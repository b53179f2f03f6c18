use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::stream::{self, Stream};
use hub_operations::{End, now_ms};
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::AbortMode;
use hub_protocol::ops::hub::{Exposure, GetStatus, WhoAmI};
use hub_protocol::{CallError, CallRequested, ErrorCode, Json};
use hub_spoke::{
    CancellationToken, ClosedReason, ConnectionState, Context, Registry, Reply, RunningSpoke, Spoke, SpokeError,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::Notify;

use crate::hub::{Connection, FakeHub, KEY, soon};

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Add {
    a: u32,
    b: u32,
}

struct Rejected;

impl From<Rejected> for CallError {
    fn from(_: Rejected) -> Self {
        CallError::domain("REJECTED", "by a rule").with_details(&json!([1]))
    }
}

/// Sets its flag when it is dropped.
struct Flag(Arc<AtomicBool>);

impl Drop for Flag {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

async fn hang(_: Context, _: Json) -> Result<u32, CallError> {
    std::future::pending().await
}

async fn panics(_: Context, _: Json) -> Result<u32, CallError> {
    panic!("secret text of a panic")
}

async fn count(_: Context, to: u64) -> Result<impl Stream<Item = Result<u64, CallError>>, Rejected> {
    if to == 0 {
        return Err(Rejected);
    }
    Ok(stream::iter((1..=to).map(Ok)))
}

async fn nested(context: Context, _: Json) -> Result<Json, CallError> {
    assert_eq!(context.caller().id, "ann");
    assert_eq!(context.metadata().unwrap().as_str(), r#"{"m":1}"#);
    context.call_raw("demo.inner", json!(1)).await?;
    context.request("demo.short").deadline(Duration::from_millis(100)).call().await
}

fn declared(hub: &FakeHub) -> hub_spoke::SpokeBuilder {
    let raw = WhoAmI::spec().with_id("raw.envelope");
    Spoke::builder(&hub.url(), KEY, "laptop")
        .query("math.add", "Adds.", async |_, p: Add| p.a.checked_add(p.b).ok_or(Rejected))
        .mutation("math.hang", "Never ends.", hang)
        .query("math.panics", "Panics.", panics)
        .query("math.nested", "Calls on.", nested)
        .stream("math.count", "Counts.", count)
        .stream("math.never", "Gives nothing.", async |_, _: Json| {
            Ok::<_, CallError>(stream::pending::<Result<u32, CallError>>())
        })
        .raw(raw, async |_, _| Ok(Reply::Envelope(Json::from_text(r#"{"data":5,"meta":{"source":"http"}}"#).unwrap())))
}

async fn started(hub: &FakeHub) -> (RunningSpoke, Connection) {
    let spoke = soon(declared(hub).build().unwrap().start()).await.unwrap();
    (spoke, hub.connection(0).await)
}

#[tokio::test]
async fn it_registers_first_and_serves() {
    let hub = FakeHub::echo().await;
    let builder = declared(&hub).spoke_type("compute").exposure(Exposure::Pooled).label("gpu", "1").max_in_flight(4);
    let spoke = soon(builder.build().unwrap().start()).await.unwrap();
    let connection = hub.connection(0).await;
    let sent = hub.registration(0).await;
    assert_eq!((sent.name.as_str(), sent.spoke_type.as_str(), sent.max_in_flight), ("laptop", "compute", Some(4)));
    assert_eq!((sent.operations.len(), sent.labels.unwrap().len()), (7, 1));
    assert_eq!(spoke.registered().operations.len(), 7);
    let call = async |operation: &str, input: serde_json::Value| soon(connection.call(operation, input.into())).await;
    assert_eq!(call("math.add", json!({"a": 1, "b": 2})).await.unwrap().as_str(), "3");
    assert_eq!(call("raw.envelope", json!({})).await.unwrap().as_str(), "5");
    let error = call("math.add", json!({"a": u32::MAX, "b": 2})).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.details.unwrap().as_str()), ("REJECTED", "[1]"));
    assert!(call("math.add", json!({"a": "x"})).await.unwrap_err().is(ErrorCode::ValidationError));
    assert!(call("math.nothing", json!(1)).await.unwrap_err().is(ErrorCode::OperationNotFound));
    let error = call("math.panics", json!(1)).await.unwrap_err();
    assert!(error.is(ErrorCode::ExecutionError) && !error.message.contains("secret"), "{error}");
    let mut pending =
        connection.start(CallRequested::new("env", "math.add", json!({"a": 1, "b": 1}).into()), true).await;
    let envelope = soon(pending.next()).await.unwrap();
    assert!(envelope.as_str().contains(r#""operationId":"math.add""#), "{}", envelope.as_str());
    assert_eq!(spoke.client().call_raw("demo.echo", json!(4)).await.unwrap().as_str(), "4");
    hub.until(|hub| hub.seen("hub.heartbeat").len() >= 2).await;
    soon(spoke.stop()).await.unwrap();
    assert_eq!(hub.seen("hub.drain").len(), 1);
}

#[tokio::test]
async fn streams_are_served_item_by_item() {
    let hub = FakeHub::echo().await;
    let (_spoke, connection) = started(&hub).await;
    let mut pending = connection.start(CallRequested::new("s", "math.count", json!(20_000).into()), false).await;
    let mut items = 0;
    let end = loop {
        match soon(pending.next()).await {
            Ok(_) => items += 1,
            Err(end) => break end,
        }
    };
    assert_eq!((items, end), (20_000, End::Completed));
    let mut refused = connection.start(CallRequested::new("r", "math.count", json!(0).into()), false).await;
    assert!(matches!(soon(refused.end()).await, End::Failed(e) if e.code == "REJECTED"));
}

#[tokio::test]
async fn an_abort_drops_the_handler_and_is_confirmed() {
    let (dropped, token) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::Mutex::new(None)));
    let (seen, kept) = (Arc::clone(&dropped), Arc::clone(&token));
    let hub = FakeHub::echo().await;
    let spoke = Spoke::builder(&hub.url(), KEY, "laptop")
        .mutation("math.hang", "Never ends.", move |context: Context, _: Json| {
            let flag = Flag(Arc::clone(&seen));
            *kept.lock().unwrap() = Some(context.aborted().clone());
            async move {
                let _flag = flag;
                std::future::pending::<Result<u32, CallError>>().await
            }
        })
        .stream("math.never", "Gives nothing.", async |_, _: Json| {
            Ok::<_, CallError>(stream::pending::<Result<u32, CallError>>())
        })
        .build()
        .unwrap();
    let _spoke = soon(spoke.start()).await.unwrap();
    let connection = hub.connection(0).await;
    for operation in ["math.hang", "math.never"] {
        let mut pending = connection.start(CallRequested::new(operation, operation, Json::null()), false).await;
        tokio::time::sleep(Duration::from_millis(30)).await;
        pending.abort(Some("enough".into()), Some(AbortMode::Kill));
        assert!(matches!(soon(pending.end()).await, End::Aborted { .. }), "{operation}");
    }
    assert!(dropped.load(Ordering::SeqCst));
    let token: Option<CancellationToken> = token.lock().unwrap().take();
    assert!(token.unwrap().is_cancelled());
}

#[tokio::test]
async fn the_spoke_keeps_deadlines_and_idle_timeouts_too() {
    let hub = FakeHub::echo().await;
    let (_spoke, connection) = started(&hub).await;
    for operation in ["math.hang", "math.never"] {
        let mut request = CallRequested::new(operation, operation, Json::null());
        request.deadline = Some(now_ms() + 40);
        let mut pending = connection.start(request, false).await;
        assert!(matches!(soon(pending.end()).await, End::Failed(e) if e.is(ErrorCode::Timeout)), "{operation}");
    }
    let mut request = CallRequested::new("idle", "math.never", Json::null());
    request.idle_timeout = Some(40);
    let mut pending = connection.start(request, false).await;
    assert!(matches!(soon(pending.end()).await, End::Failed(e) if e.is(ErrorCode::Timeout)));
}

#[tokio::test]
async fn nested_calls_carry_their_parent_and_what_is_left_of_its_deadline() {
    let hub = FakeHub::echo().await;
    let (_spoke, connection) = started(&hub).await;
    let deadline = now_ms() + 5000;
    let mut request = CallRequested::new("parent-1", "math.nested", Json::null());
    (request.deadline, request.traceparent) = (Some(deadline), Some("00-aa-bb-01".into()));
    request.metadata = Some(json!({"m": 1}).into());
    soon(connection.request(request)).await.unwrap();
    let (inner, short) = (hub.seen("demo.inner").remove(0), hub.seen("demo.short").remove(0));
    for sent in [&inner, &short] {
        assert_eq!(sent.parent_request_id.as_deref(), Some("parent-1"));
        assert_eq!(sent.traceparent.as_deref(), Some("00-aa-bb-01"));
        assert!(sent.metadata.is_none(), "metadata does not leak down");
    }
    assert_eq!(inner.deadline, Some(deadline));
    assert!(short.deadline.unwrap() < deadline);
}

#[tokio::test]
async fn a_lost_connection_drops_its_handlers_and_is_registered_anew() {
    let hub = FakeHub::echo().await;
    let (spoke, connection) = started(&hub).await;
    let mut pending = connection.start(CallRequested::new("h", "math.hang", Json::null()), true).await;
    connection.kill();
    assert_eq!(soon(pending.end()).await, End::Lost);
    let (first, second) = (hub.registration(0).await, hub.registration(1).await);
    assert_eq!((first.instance_id, first.started_at), (second.instance_id, second.started_at));
    let connection = hub.connection(1).await;
    let sum = soon(connection.call("math.add", json!({"a": 2, "b": 2}).into())).await.unwrap();
    assert_eq!(sum.as_str(), "4");
    soon(spoke.stop()).await.unwrap();
}

#[tokio::test]
async fn what_is_offered_while_there_is_no_connection_is_registered_with_the_next() {
    let hub = FakeHub::echo().await;
    let (spoke, connection) = started(&hub).await;
    hub.refuse_upgrades(503);
    connection.kill();
    let mut state = spoke.client().state();
    soon(state.wait_for(|state| matches!(state, ConnectionState::Reconnecting { .. }))).await.unwrap();
    let first = hub.registration(0).await.operations;
    let one = Registry::builder().raw(first[0].clone(), |_: Context, _| async { Ok(Reply::Value(Json::null())) });
    assert!(soon(spoke.offer(one.build().unwrap())).await.unwrap());
    hub.refuse_upgrades(0);
    assert_eq!(hub.registration(1).await.operations, first[..1]);
    soon(spoke.stop()).await.unwrap();
}

#[tokio::test]
async fn a_final_close_ends_the_run_with_its_reason() {
    for (code, expected) in
        [(4001, ClosedReason::KeyRevoked), (4009, ClosedReason::NameHeld), (4010, ClosedReason::Superseded)]
    {
        let hub = FakeHub::echo().await;
        let run = declared(&hub).build().unwrap().run(CancellationToken::new());
        let close = async {
            hub.registration(0).await;
            hub.connection(0).await.close(code, "final");
        };
        let (ended, ()) = soon(async { tokio::join!(run, close) }).await;
        assert!(matches!(&ended, Err(SpokeError::Closed(reason)) if *reason == expected), "{ended:?}");
        assert_eq!(hub.upgrades().len(), 1);
    }
}

#[tokio::test]
async fn a_refused_registration_is_final_unless_it_may_pass() {
    let hub = FakeHub::echo().await;
    hub.refuse_registration(Some(CallError::new(ErrorCode::Conflict, "fs.read 1.0.0: input differs at /path")));
    let error = soon(declared(&hub).build().unwrap().start()).await.err().unwrap();
    assert!(matches!(&error, SpokeError::Refused(e) if e.is(ErrorCode::Conflict)), "{error}");
    let run = declared(&hub).build().unwrap().run(CancellationToken::new());
    assert!(matches!(soon(run).await, Err(SpokeError::Refused(_))));

    hub.refuse_registration(Some(CallError::new(ErrorCode::Overloaded, "later")));
    let stop = CancellationToken::new();
    let later = async {
        hub.until(|hub| hub.seen("hub.register").len() >= 4).await;
        hub.refuse_registration(None);
        hub.registration(0).await;
        stop.cancel();
    };
    let run = declared(&hub).build().unwrap().run(stop.clone());
    let (ended, ()) = soon(async { tokio::join!(run, later) }).await;
    ended.unwrap();
}

#[tokio::test]
async fn a_bad_key_ends_the_run_and_a_missing_hub_does_not() {
    let hub = FakeHub::echo().await;
    hub.refuse_upgrades(401);
    let run = declared(&hub).build().unwrap().run(CancellationToken::new());
    assert!(matches!(soon(run).await, Err(SpokeError::Closed(ClosedReason::Unauthorized))));
    hub.refuse_upgrades(503);
    assert!(matches!(soon(declared(&hub).build().unwrap().start()).await, Err(SpokeError::Connect(_))));
    let stop = CancellationToken::new();
    let later = async {
        hub.until(|hub| hub.upgrades().len() >= 4).await;
        hub.refuse_upgrades(0);
        hub.registration(0).await;
        stop.cancel();
    };
    let run = declared(&hub).build().unwrap().run(stop.clone());
    let (ended, ()) = soon(async { tokio::join!(run, later) }).await;
    ended.unwrap();
}

#[tokio::test]
async fn stopping_waits_for_running_calls() {
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let hub = FakeHub::echo().await;
    let spoke = Spoke::builder(&hub.url(), KEY, "laptop")
        .mutation("job.run", "Runs.", move |_: Context, _: Json| {
            let released = Arc::clone(&released);
            async move {
                released.notified().await;
                Ok::<_, CallError>("done")
            }
        })
        .build()
        .unwrap();
    let spoke = soon(spoke.start()).await.unwrap();
    let connection = hub.connection(0).await;
    let mut pending = connection.start(CallRequested::new("j", "job.run", Json::null()), true).await;
    hub.until(|_| connection.peer.outbox().queued() == 0).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    let finish = async {
        hub.until(|hub| hub.seen("hub.drain").len() == 1).await;
        release.notify_one();
        pending.next().await
    };
    let (stopped, answer) = soon(async { tokio::join!(spoke.stop(), finish) }).await;
    stopped.unwrap();
    assert!(answer.unwrap().as_str().contains("done"));
}

#[tokio::test]
async fn a_call_that_never_ends_does_not_hold_the_spoke_for_ever() {
    let hub = FakeHub::echo().await;
    let spoke = declared(&hub).drain_timeout(Duration::from_millis(80)).build().unwrap();
    let spoke = soon(spoke.start()).await.unwrap();
    let connection = hub.connection(0).await;
    let mut pending = connection.start(CallRequested::new("h", "math.hang", Json::null()), true).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    soon(spoke.stop()).await.unwrap();
    assert_eq!(soon(pending.end()).await, End::Lost);
}

#[tokio::test]
async fn declarations_that_no_hub_would_take_are_refused_at_build() {
    let hub = FakeHub::echo().await;
    let twice = declared(&hub).query("math.add", "Again.", hang).build().err().unwrap().to_string();
    assert!(twice.contains("math.add") && twice.matches("serving.rs:").count() == 2, "{twice}");
    assert!(matches!(declared(&hub).query("nodot", "Bad.", hang).build(), Err(SpokeError::Declaration(_))));
    assert!(matches!(Spoke::builder(&hub.url(), KEY, "").build(), Err(SpokeError::Setting { .. })));
    assert!(!format!("{:?}", declared(&hub)).contains(KEY));
}

#[tokio::test]
async fn typed_operations_of_the_protocol_can_be_served() {
    let hub = FakeHub::echo().await;
    let spoke = Spoke::builder(&hub.url(), KEY, "other")
        .operation::<GetStatus, _, _>(async |_, _| Err::<_, CallError>(CallError::domain("NO", "no status")))
        .build()
        .unwrap();
    let _spoke = soon(spoke.start()).await.unwrap();
    let error = soon(hub.connection(0).await.call("hub.status", json!({}).into())).await.unwrap_err();
    assert_eq!(error.code, "NO");
}
