//! Idempotency: `(principal, operation, key)` names one execution (protocol §4).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use futures_util::future::join_all;
use hub_protocol::ops::calls::{AbortMode, CallStatus, EdgeKind, GetTree, ListCalls};
use hub_protocol::{AccessControl, CallError, ErrorCode, Json, OperationSpec, OperationType};
use hub_spoke::{Client, Context, Reply, RunningSpoke};
use hub_testkit::{TestHub, eventually};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

/// A spoke whose mutations count their executions.
struct Counting {
    _spoke: RunningSpoke,
    runs: Arc<AtomicU64>,
    /// `count.gated` waits for a permit.
    gate: Arc<Semaphore>,
}

impl Counting {
    async fn start(hub: &TestHub) -> Result<Self> {
        let (runs, gate) = (Arc::<AtomicU64>::default(), Arc::new(Semaphore::new(0)));
        let count = {
            let runs = Arc::clone(&runs);
            move |_: Context, _: Value| {
                let n = runs.fetch_add(1, Ordering::SeqCst) + 1;
                async move { Ok::<u64, CallError>(n) }
            }
        };
        let gated = {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            move |_: Context, _: Value| {
                let (n, gate) = (runs.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&gate));
                async move {
                    gate.acquire().await.map_err(|e| CallError::domain("CLOSED", e.to_string()))?.forget();
                    Ok::<u64, CallError>(n)
                }
            }
        };
        let fail = {
            let (runs, gate) = (Arc::clone(&runs), Arc::clone(&gate));
            move |_: Context, error: Value| {
                let (n, gate) = (runs.fetch_add(1, Ordering::SeqCst) + 1, Arc::clone(&gate));
                async move {
                    if error["gated"] == true {
                        gate.acquire().await.map_err(|e| CallError::domain("CLOSED", e.to_string()))?.forget();
                    }
                    let code = error["code"].as_str().unwrap_or_default().to_owned();
                    let retryable = error["retryable"] == true;
                    Err::<u64, CallError>(CallError::domain(code, format!("run {n}")).with_retryable(retryable))
                }
            }
        };
        let spoke = hub.spoke("counting").spoke_type("compute");
        let spoke = spoke.mutation("count.up", "Counts.", count.clone()).mutation("count.other", "Counts.", count);
        let spoke = spoke.mutation("count.gated", "Counts.", gated).mutation("count.fail", "Fails.", fail);
        Ok(Self { _spoke: spoke.build()?.start().await?, runs, gate })
    }

    fn runs(&self) -> u64 {
        self.runs.load(Ordering::SeqCst)
    }
}

async fn keyed(client: &Client, operation: &str, key: &str, input: Value) -> Result<Value, CallError> {
    let data = client.request(operation).input(input).idempotency_key(key).call().await?;
    Ok(data.parse().unwrap_or_default())
}

/// Waits until so many calls of an operation are live in the hub.
async fn live(hub: &TestHub, count: u64) -> Result<()> {
    eventually("the calls have arrived", || async {
        Ok((hub.hub().status().await?.calls_in_flight == count).then_some(()))
    })
    .await
}

/// Waits until so many calls wait for the one that runs.
async fn attached(client: &Client, operation: &str, count: usize) -> Result<()> {
    eventually("the calls have attached to the running one", || async {
        let filter = ListCalls { operation_id: Some(operation.into()), ..ListCalls::default() };
        let Some(call) = client.call(&filter).await?.calls.into_iter().next() else { return Ok(None) };
        let edges = client.call(&GetTree { call_id: call.call_id, below: None }).await?.edges;
        Ok((edges.iter().filter(|e| e.target == call.call_id).count() == count).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_and_input_runs_once_and_gives_the_stored_result() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    let client = hub.client().await?;
    assert_eq!(keyed(&client, "count.up", "k", json!({"a": 1, "b": [2]})).await?, 1);
    assert_eq!(keyed(&client, "count.up", "k", json!({"a": 1, "b": [2]})).await?, 1);
    // The same value in another spelling, and from another connection of the same key.
    let again = hub.client().await?.request("count.up").idempotency_key("k");
    let again = again.input(Json::from_text("{ \"b\": [ 2 ],\n \"a\": 1 }")?).call().await?;
    assert_eq!((again.as_str(), counting.runs()), ("1", 1));
    let refused = keyed(&client, "count.up", "k", json!({"a": 2})).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.retryable), ("CONFLICT", false));
    // Without a key, and with another one, it runs.
    assert_eq!(client.call_raw("count.up", json!({"a": 1, "b": [2]})).await?.as_str(), "2");
    assert_eq!(keyed(&client, "count.up", "k2", json!({"a": 1, "b": [2]})).await?, 3);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_belongs_to_its_principal_and_its_operation() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    let (client, other) = (hub.client().await?, hub.client_with(&[]).await?);
    assert_eq!(keyed(&client, "count.up", "k", json!(1)).await?, 1);
    assert_eq!(keyed(&other, "count.up", "k", json!(1)).await?, 2);
    assert_eq!(keyed(&client, "count.other", "k", json!(1)).await?, 3);
    assert_eq!(keyed(&other, "count.up", "k", json!(1)).await?, 2);
    assert_eq!(counting.runs(), 3);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_callers_at_once_share_one_execution() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    let clients = [hub.client().await?, hub.client().await?, hub.client().await?];
    let calls = (0..50).map(|n| keyed(&clients[n % 3], "count.gated", "k", json!({})));
    let release = async {
        live(&hub, 50).await?;
        counting.gate.add_permits(50);
        Ok::<_, anyhow::Error>(())
    };
    let (results, released) = tokio::join!(join_all(calls), release);
    released?;
    for result in results {
        assert_eq!(result?, 1);
    }
    assert_eq!(counting.runs(), 1);
    // All are in the record, and 49 of them say whose result they have.
    let (calls, edges) = eventually("all are recorded with their edges", || async {
        let filter = ListCalls { operation_id: Some("count.gated".into()), limit: Some(100), ..ListCalls::default() };
        let calls = clients[0].call(&filter).await?.calls;
        let mut edges = Vec::new();
        for call in &calls {
            let tree = clients[0].call(&GetTree { call_id: call.call_id, below: None }).await?;
            edges.extend(tree.edges.into_iter().filter(|e| e.kind == EdgeKind::DependsOn && e.source == call.call_id));
        }
        Ok((calls.len() == 50 && edges.len() == 49).then_some((calls, edges)))
    })
    .await?;
    assert!(calls.iter().all(|c| c.status == CallStatus::Completed && c.output == Some(json!(1).into())));
    assert!(edges.iter().all(|e| e.target == edges[0].target && e.source != e.target));
    assert_eq!(calls.iter().filter(|c| c.spoke.is_some()).count(), 1, "one call went to the spoke");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_domain_error_is_stored_and_a_retryable_failure_frees_the_key() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    let client = hub.client().await?;
    for _ in 0..2 {
        let error = keyed(&client, "count.fail", "stored", json!({"code": "TANK_EMPTY"})).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("TANK_EMPTY", "run 1"));
    }
    assert_eq!(counting.runs(), 1);
    for n in 2..4 {
        let input = json!({"code": "BUSY", "retryable": true});
        let error = keyed(&client, "count.fail", "freed", input).await.unwrap_err();
        assert_eq!(error.message, format!("run {n}"));
    }
    // A failure before the handler was asked is none of the execution's.
    let refused = client.request("count.up").input(json!({})).idempotency_key("").call().await.unwrap_err();
    assert_eq!(refused.code, "VALIDATION_ERROR");
    let late = client.request("count.gated").input(json!({})).idempotency_key("late");
    let late = late.deadline(Duration::from_millis(200)).call().await.unwrap_err();
    assert_eq!(late.code, "TIMEOUT");
    // A timeout frees the key: the next call with it runs.
    hub.settled().await?;
    let before = counting.runs();
    let again = keyed(&client, "count.gated", "late", json!({}));
    let release = async {
        eventually("it runs again", || async { Ok((counting.runs() == before + 1).then_some(())) }).await?;
        counting.gate.add_permits(1);
        Ok::<_, anyhow::Error>(())
    };
    let (again, released) = tokio::join!(again, release);
    released?;
    assert_eq!(again?, before + 1);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_attached_to_a_failing_execution_shares_its_failure_and_runs_nothing_again() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    let client = hub.client().await?;
    let input = json!({"code": "BUSY", "retryable": true, "gated": true});
    let calls = (0..10).map(|_| keyed(&client, "count.fail", "k", input.clone()));
    let release = async {
        attached(&client, "count.fail", 9).await?;
        counting.gate.add_permits(10);
        Ok::<_, anyhow::Error>(())
    };
    let (results, released) = tokio::join!(join_all(calls), release);
    released?;
    for result in results {
        assert_eq!(result.unwrap_err().message, "run 1");
    }
    assert_eq!(counting.runs(), 1);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_abort_of_the_first_caller_does_not_take_the_result_from_the_second() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    let client = hub.client().await?;
    let first = client.request("count.gated").input(json!({})).idempotency_key("k").start().await?;
    eventually("it runs", || async { Ok((counting.runs() == 1).then_some(())) }).await?;
    let mut second = client.request("count.gated").input(json!({})).idempotency_key("k").start().await?;
    live(&hub, 2).await?;
    first.abort(None, AbortMode::Kill, Duration::from_secs(10)).await;
    counting.gate.add_permits(2);
    second.next().await.context("an answer")??;
    assert!(counting.runs() <= 2);
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_of_a_first_answer_are_not_stored_and_not_given_again() -> Result<()> {
    let hub = TestHub::start().await?;
    let secret_text = json!({"type": "string", "x-secret": true});
    let output = json!({"type": "object", "properties": {"token": secret_text, "id": {"type": "integer"}}});
    let input = json!({"type": "object", "properties": {"password": {"type": "string", "writeOnly": true}}});
    let spec = OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".into(),
        kind: OperationType::Mutation,
        title: None,
        description: "Logs in.".into(),
        tags: Vec::new(),
        input_schema: input,
        output_schema: output,
        error_schemas: Vec::new(),
        access_control: AccessControl::default(),
        meta: None,
    };
    let login = |_: Context, input: Json| async move {
        let input: Value = input.parse().unwrap_or_default();
        match input["password"].as_str() {
            Some("in-the-clear-4711") => Ok(Reply::Value(json!({"token": "out-in-the-clear-0815", "id": 7}).into())),
            _ => Err(CallError::new(ErrorCode::AccessDenied, "no")),
        }
    };
    let spoke = hub.spoke("vault").spoke_type("compute").raw(spec.with_id("vault.login"), login);
    let _spoke = spoke.build()?.start().await?;
    let client = hub.client().await?;
    let input = json!({"password": "in-the-clear-4711"});
    let first = keyed(&client, "vault.login", "k", input.clone()).await?;
    assert_eq!(first, json!({"token": "out-in-the-clear-0815", "id": 7}));
    let second = keyed(&client, "vault.login", "k", input).await?;
    assert_eq!(second, json!({"token": "[redacted]", "id": 7}));
    hub.settled().await?;
    let (clean, folder) = hub.stop().await;
    assert!(clean);
    let mut files = 0;
    for entry in std::fs::read_dir(folder.path())? {
        let path = entry?.path();
        let bytes = std::fs::read(&path)?;
        files += 1;
        for secret in ["in-the-clear-4711", "out-in-the-clear-0815"] {
            let found = bytes.windows(secret.len()).any(|w| w == secret.as_bytes());
            assert!(!found, "{secret} is in {}", path.display());
        }
    }
    assert!(files > 0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_result_outlives_a_restart_of_hub_and_spoke() -> Result<()> {
    let hub = TestHub::start().await?;
    let counting = Counting::start(&hub).await?;
    assert_eq!(keyed(&hub.client().await?, "count.up", "k", json!(1)).await?, 1);
    drop(counting);
    let (clean, folder) = hub.stop().await;
    assert!(clean);
    let hub = TestHub::start_in(folder, &[]).await?;
    let counting = Counting::start(&hub).await?;
    let client = hub.client().await?;
    assert_eq!(keyed(&client, "count.up", "k", json!(1)).await?, 1);
    assert_eq!(counting.runs(), 0);
    assert_eq!(keyed(&client, "count.up", "k", json!(2)).await.unwrap_err().code, "CONFLICT");
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_of_the_hub_itself_is_not_kept_waiting_by_its_key() -> Result<()> {
    let hub = TestHub::start().await?;
    let client = hub.client().await?;
    let began = Instant::now();
    for limit in [1, 1, 2] {
        let answer = keyed(&client, "hub.list", "again", json!({ "limit": limit })).await?;
        assert_eq!(answer["operations"].as_array().map(Vec::len), Some(limit));
    }
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    Ok(())
}
