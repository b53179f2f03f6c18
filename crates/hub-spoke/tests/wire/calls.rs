use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use hub_operations::{AbortSignal, Answer, now_ms};
use hub_protocol::ops::calls::{AbortOutcome, CallStatus, GetCallStats};
use hub_protocol::ops::hub::{CallerIdentity, WhoAmI};
use hub_protocol::{CallError, CallId, ErrorCode, Identity, Json};
use hub_spoke::{AbortMode, Client, OnDisconnect, Receipt};
use serde_json::json;

use crate::hub::{FakeHub, KEY, one, soon};

#[tokio::test]
async fn typed_and_raw_calls() {
    let hub = FakeHub::start(|incoming, _| async move {
        match incoming.request.operation_id.as_str() {
            "hub.whoami" => {
                let identity = Identity { id: "ann".into(), ..Identity::default() };
                Ok(one(&CallerIdentity { identity, key: None, key_name: None, expires_at: None }))
            }
            "demo.fail" => Err(CallError::domain("NO_LUCK", "try another day").with_details(&json!({"n": 1}))),
            _ => Ok(one(&incoming.request.input)),
        }
    })
    .await;
    let client = Client::connect(&format!("{}/hub/", hub.url()), KEY).await.unwrap();
    assert_eq!(soon(client.call(&WhoAmI {})).await.unwrap().identity.id, "ann");
    let data = client.call_raw("demo.echo", json!({"a": [1, 2]})).await.unwrap();
    assert_eq!(data.as_str(), r#"{"a":[1,2]}"#);
    let error = client.call_raw("demo.fail", json!(null)).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.details.unwrap().as_str()), ("NO_LUCK", r#"{"n":1}"#));
    let envelope = client.request("demo.echo").input(json!(7)).envelope().await.unwrap();
    assert!(envelope.as_str().contains(r#""source":"local""#), "{}", envelope.as_str());
    assert_eq!(hub.upgrades(), [("/hub/ws".to_owned(), format!("Bearer {KEY}"))]);
    client.close().await;
    let error = client.call_raw("demo.echo", json!(1)).await.unwrap_err();
    assert!(error.is(ErrorCode::SpokeDisconnected) && !error.retryable, "{error}");
}

#[tokio::test]
async fn calls_do_not_wait_for_each_other() {
    let hub = FakeHub::start(|incoming, _| async move {
        let n: u64 = incoming.request.input.parse().unwrap();
        tokio::time::sleep(Duration::from_millis(200 - n)).await;
        Ok(one(&n))
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let calls = (0..200_u64).map(|n| client.call_raw("demo.slow", json!(n)));
    let answers = soon(join_all(calls)).await;
    for (n, answer) in answers.into_iter().enumerate() {
        assert_eq!(answer.unwrap().as_str(), n.to_string());
    }
}

#[tokio::test]
async fn every_setting_of_a_request_is_sent() {
    let hub = FakeHub::echo().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let before = now_ms();
    let request = client.request("demo.echo").input(json!(1)).deadline(Duration::from_secs(5));
    let request = request.idle_timeout(Duration::from_secs(2)).idempotency_key("k").version("^1").budget(9);
    let request = request.metadata(json!({"m": 1})).on_disconnect(OnDisconnect::Detach).traceparent("00-ab-cd-01");
    request.call().await.unwrap();
    let sent = hub.seen("demo.echo").remove(0);
    let deadline = sent.deadline.unwrap();
    assert!((before + 5000..=now_ms() + 5000).contains(&deadline), "{deadline}");
    assert_eq!((sent.idle_timeout, sent.budget, sent.on_disconnect), (Some(2000), Some(9), Some(OnDisconnect::Detach)));
    assert_eq!((sent.idempotency_key.as_deref(), sent.version.as_deref()), (Some("k"), Some("^1")));
    assert_eq!((sent.metadata.unwrap().as_str(), sent.traceparent.as_deref()), (r#"{"m":1}"#, Some("00-ab-cd-01")));
    assert_eq!(sent.parent_request_id, None);

    client.call_raw("demo.plain", json!(1)).await.unwrap();
    let sent = hub.seen("demo.plain").remove(0).deadline.unwrap();
    assert!((before + 30_000..=now_ms() + 30_000).contains(&sent), "the default is 30 s");
    let _stream = client.request("demo.stream").subscribe().await.unwrap();
    hub.until(|hub| !hub.seen("demo.stream").is_empty()).await;
    assert_eq!(hub.seen("demo.stream").remove(0).deadline, None);
}

/// A hub whose calls never answer; tells through the channel when one is aborted.
async fn silent_hub() -> (FakeHub, tokio::sync::mpsc::UnboundedReceiver<Option<String>>) {
    let (told, aborts) = tokio::sync::mpsc::unbounded_channel();
    let hub = FakeHub::start(move |incoming, _| {
        let told = told.clone();
        async move {
            incoming.abort.fired().await;
            told.send(incoming.abort.reason()).unwrap();
            Err::<Answer, _>(CallError::new(ErrorCode::Aborted, "stopped"))
        }
    })
    .await;
    (hub, aborts)
}

#[tokio::test]
async fn a_passed_deadline_is_an_error_here_and_an_abort_there() {
    let (hub, mut aborts) = silent_hub().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let error = soon(client.request("demo.hang").deadline(Duration::from_millis(30)).call()).await.unwrap_err();
    assert!(error.is(ErrorCode::Timeout) && error.retryable, "{error}");
    assert!(soon(aborts.recv()).await.unwrap().unwrap().contains("deadline"));
    let mut call = client.request("demo.hang").idle_timeout(Duration::from_millis(30)).start().await.unwrap();
    let error = soon(call.next()).await.unwrap().unwrap_err();
    assert!(error.is(ErrorCode::Timeout) && error.message.contains("idle"), "{error}");
    assert!(call.next().await.is_none(), "an error is the last item");
    assert!(soon(aborts.recv()).await.unwrap().unwrap().contains("idle"));
}

#[tokio::test]
async fn dropping_a_call_or_a_subscription_aborts_it() {
    let (hub, mut aborts) = silent_hub().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let subscription = client.request("demo.hang").subscribe().await.unwrap();
    hub.until(|hub| hub.seen("demo.hang").len() == 1).await;
    drop(subscription);
    soon(aborts.recv()).await.unwrap();
    let gone = tokio::time::timeout(Duration::from_millis(30), client.call_raw("demo.hang", json!(1))).await;
    assert!(gone.is_err());
    soon(aborts.recv()).await.unwrap();
}

fn receipt(abort: &AbortSignal) -> Receipt {
    let outcome = if abort.mode() == AbortMode::Kill { AbortOutcome::Stopped } else { AbortOutcome::NoAnswer };
    Receipt { call_id: CallId::new(), operation_id: "demo.hang".into(), spoke: None, outcome, after_ms: 3 }
}

#[tokio::test]
async fn an_abort_brings_receipts() {
    let hub = FakeHub::start(|incoming, _| async move {
        incoming.abort.fired().await;
        incoming.abort.set_receipts(vec![receipt(&incoming.abort)]);
        Err::<Answer, _>(CallError::new(ErrorCode::Aborted, "stopped"))
    })
    .await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let call = client.request("demo.hang").start().await.unwrap();
    assert!(!call.request_id().is_empty());
    let receipts = soon(call.abort(Some("enough".into()), AbortMode::Kill, Duration::from_secs(5))).await;
    assert_eq!(receipts.len(), 1);
    assert_eq!(receipts[0].outcome, AbortOutcome::Stopped);
}

#[tokio::test]
async fn calls_in_flight_at_a_loss_fail_unless_they_have_a_key_and_only_repeatable_ones_are_retryable() {
    let (hub, _aborts) = silent_hub().await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let stats = GetCallStats::default();
    let mut stream = client.request("demo.stream").subscribe().await.unwrap();
    let calls = async {
        let keyed = client.request("demo.hang").idempotency_key("k").deadline(Duration::from_secs(3)).call();
        tokio::join!(client.call_raw("demo.hang", json!(1)), keyed, client.call(&stats))
    };
    let lose = async {
        let seen = [("demo.stream", 1), ("demo.hang", 2), ("calls.stats", 1)];
        hub.until(|hub| seen.iter().all(|(id, count)| hub.seen(id).len() == *count)).await;
        hub.connection(0).await.kill();
    };
    let ((raw, keyed, query), ()) = soon(async { tokio::join!(calls, lose) }).await;
    let errors = [raw.unwrap_err(), query.unwrap_err(), soon(stream.next()).await.unwrap().unwrap_err()];
    assert!(errors.iter().all(|e| e.is(ErrorCode::SpokeDisconnected)), "{errors:?}");
    assert_eq!(errors.map(|e| e.retryable), [false, true, true]);
    // The one with a key was made again on the next connection, where it waited for its deadline.
    assert!(keyed.unwrap_err().is(ErrorCode::Timeout));
    assert_eq!(hub.seen("demo.hang").len(), 3);
}

#[tokio::test]
async fn a_message_above_the_limit_is_refused_before_it_is_sent() {
    let hub = FakeHub::echo().await;
    let client = Client::builder(&hub.url(), KEY).message_limit(64 * 1024).connect().await.unwrap();
    let error = client.call_raw("demo.echo", json!("x".repeat(64 * 1024))).await.unwrap_err();
    assert!(error.is(ErrorCode::PayloadTooLarge), "{error}");
    assert!(client.call_raw("demo.echo", json!("x".repeat(50 * 1024))).await.is_ok());
}

#[tokio::test]
async fn a_reply_of_another_type_is_an_error() {
    let hub = FakeHub::start(|_, _| async { Ok(one(&CallStatus::Running)) }).await;
    let client = Client::connect(&hub.url(), KEY).await.unwrap();
    let error = client.call(&WhoAmI {}).await.unwrap_err();
    assert!(error.is(ErrorCode::ExecutionError), "{error}");
    let none: Json = client.call_raw("demo.x", json!(1)).await.unwrap();
    assert_eq!(none.as_str(), r#""running""#);
}
