use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hub_operations::{End, now_ms};
use hub_protocol::{CallError, CallRequested, ErrorCode, Identity, Json};
use hub_spoke::{Context, RunningSpoke, Spoke};
use serde_json::json;
use tokio::sync::Semaphore;

use crate::hub::{FakeHub, KEY, soon};

/// A spoke whose one operation counts its runs and waits for a permit.
struct Job {
    hub: FakeHub,
    spoke: RunningSpoke,
    runs: Arc<AtomicU64>,
    go: Arc<Semaphore>,
}

impl Job {
    async fn start() -> Self {
        let hub = FakeHub::echo().await;
        let (runs, go) = (Arc::new(AtomicU64::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, gate) = (Arc::clone(&runs), Arc::clone(&go));
        let handler = move |context: Context, fail: Json| {
            let run = counted.fetch_add(1, Ordering::SeqCst) + 1;
            let gate = Arc::clone(&gate);
            async move {
                gate.acquire().await.unwrap().forget();
                match fail.as_str() {
                    "\"panic\"" => panic!("on purpose"),
                    "\"later\"" => Err(CallError::new(ErrorCode::Overloaded, "later")),
                    "\"nested\"" => context.call_raw("demo.inner", json!(run)).await.map(|_| run),
                    _ => Ok(run),
                }
            }
        };
        let spoke = Spoke::builder(&hub.url(), KEY, "laptop").mutation("job.run", "Runs.", handler).build().unwrap();
        let spoke = soon(spoke.start()).await.unwrap();
        Self { hub, spoke, runs, go }
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

fn request(id: &str, key: &str, input: &str) -> CallRequested {
    let mut request = CallRequested::new(id, "job.run", json!(input).into());
    request.idempotency_key = Some(key.into());
    request.deadline = Some(now_ms() + 15_000);
    request
}

#[tokio::test]
async fn a_keyed_call_survives_a_lost_connection_and_its_retry_gets_the_result() {
    let job = Job::start().await;
    let first = job.hub.connection(0).await;
    let mut lost = first.start(request("a", "k", ""), true).await;
    job.hub.until(|_| job.runs() == 1).await;
    first.kill();
    assert_eq!(soon(lost.end()).await, End::Lost);
    let second = job.hub.connection(1).await;
    job.hub.registration(1).await;
    let retry = second.start(request("b", "k", ""), true).await;
    job.go.add_permits(1);
    let mut retry = retry;
    assert!(soon(retry.next()).await.unwrap().as_str().contains(r#""data":1"#));
    // And again after the end; another key or another caller is another run.
    assert_eq!(soon(second.request(request("c", "k", ""))).await.unwrap().as_str(), "1");
    assert_eq!(job.runs(), 1);
    job.go.add_permits(2);
    assert_eq!(soon(second.request(request("d", "k2", ""))).await.unwrap().as_str(), "2");
    let bob = Some(Identity { id: "bob".into(), ..Identity::default() });
    let other = CallRequested { identity: bob, ..request("e", "k", "") };
    assert_eq!(soon(second.request(other)).await.unwrap().as_str(), "3");
    soon(job.spoke.stop()).await.unwrap();
}

#[tokio::test]
async fn nested_calls_of_a_survivor_go_out_under_the_call_that_took_over() {
    let job = Job::start().await;
    let first = job.hub.connection(0).await;
    let _lost = first.start(request("a", "k", "nested"), true).await;
    job.hub.until(|_| job.runs() == 1).await;
    first.kill();
    job.hub.registration(1).await;
    job.go.add_permits(1);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(job.hub.seen("demo.inner").is_empty(), "a nested call without a living parent must wait");
    let second = job.hub.connection(1).await;
    assert_eq!(soon(second.request(request("b", "k", "nested"))).await.unwrap().as_str(), "1");
    assert_eq!(job.hub.seen("demo.inner")[0].parent_request_id.as_deref(), Some("b"));
}

#[tokio::test]
async fn concurrent_calls_with_one_key_share_one_run() {
    let job = Job::start().await;
    let connection = job.hub.connection(0).await;
    let calls = (0..20).map(|n| {
        let connection = connection.clone();
        async move { connection.request(request(&format!("r{n}"), "k", "")).await }
    });
    let release = async {
        job.hub.until(|_| job.runs() == 1).await;
        job.go.add_permits(1);
    };
    let (answers, ()) = soon(async { tokio::join!(futures_util::future::join_all(calls), release) }).await;
    assert!(answers.iter().all(|answer| answer.as_ref().unwrap().as_str() == "1"));
    assert_eq!(job.runs(), 1);
}

#[tokio::test]
async fn an_outcome_that_may_pass_or_was_no_outcome_is_not_kept() {
    let job = Job::start().await;
    let connection = job.hub.connection(0).await;
    job.go.add_permits(3);
    for (n, input) in [(1, "later"), (2, "later"), (3, "panic"), (3, "panic")] {
        let error = soon(connection.request(request(&format!("{n}{input}"), input, input))).await.unwrap_err();
        let expected = if input == "later" { ErrorCode::Overloaded } else { ErrorCode::ExecutionError };
        assert!(error.is(expected), "{error}");
        assert_eq!(job.runs(), n, "{input}");
    }
    // The deadline ends the run; a later call runs anew.
    let short = CallRequested { deadline: Some(now_ms() + 40), ..request("t", "t", "") };
    assert!(soon(connection.request(short)).await.unwrap_err().is(ErrorCode::Timeout));
    tokio::time::sleep(Duration::from_millis(50)).await;
    job.go.add_permits(1);
    assert_eq!(soon(connection.request(request("t2", "t", ""))).await.unwrap().as_str(), "5");
}

#[tokio::test]
async fn an_abort_by_the_last_who_waits_stops_the_run() {
    let job = Job::start().await;
    let connection = job.hub.connection(0).await;
    let mut a = connection.start(request("a", "k", ""), true).await;
    let mut b = connection.start(request("b", "k", ""), true).await;
    job.hub.until(|_| job.runs() == 1).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    a.abort(None, None);
    assert!(matches!(soon(a.end()).await, End::Aborted { .. }));
    job.go.add_permits(1);
    assert!(soon(b.next()).await.is_ok(), "the other still gets its result");
    let mut c = connection.start(request("c", "k2", ""), true).await;
    job.hub.until(|_| job.runs() == 2).await;
    c.abort(None, None);
    assert!(matches!(soon(c.end()).await, End::Aborted { .. }));
    job.go.add_permits(1);
    assert_eq!(soon(connection.request(request("d", "k2", ""))).await.unwrap().as_str(), "3");
}
