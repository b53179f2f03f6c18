//! The HTTP face (protocol §8): every route, what it answers and how it fails.

mod openapi;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_protocol::CallError;
use hub_spoke::{Client, Context as Call, RunningSpoke};
use hub_testkit::{HttpAnswer, TestHub, eventually, http};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Operations of one spoke, each for a way in which an HTTP call can go.
async fn spoke(hub: &TestHub) -> Result<RunningSpoke> {
    let mut declared = serde_json::from_value::<hub_protocol::OperationSpec>(json!({
        "namespace": "demo", "name": "empty", "version": "1.0.0", "type": "query", "description": "Fails by its own code.",
        "inputSchema": true, "outputSchema": true, "accessControl": { "requiredScopes": [] },
        "errorSchemas": [{ "code": "TANK_EMPTY", "description": "No fuel.", "httpStatus": 418 }],
    }))?;
    declared.title = Some("Empty".to_owned());
    let spoke = hub.spoke("web").spoke_type("compute");
    let spoke = spoke
        .query("demo.add", "Adds.", |_, n: Vec<i64>| async move { Ok::<_, CallError>(n.iter().sum::<i64>()) })
        .query("demo.wait", "Waits for ever.", |_, _: Value| std::future::pending::<Result<u8, CallError>>())
        .query("demo.fail", "Fails.", |_, _: Value| async {
            Err::<u8, _>(CallError::new(hub_protocol::ErrorCode::ExecutionError, "it broke"))
        })
        .mutation("demo.work", "Takes 300 ms; answers how it was called.", |call: Call, _: Value| async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            let key = call.idempotency_key().map(str::to_owned);
            Ok::<_, CallError>(json!({"call": call.call_id(), "key": key, "deadline": call.deadline_ms()}))
        })
        .query("demo.parent", "Waits for a child that waits for ever.", |call: Call, _: Value| async move {
            call.call_raw("demo.wait", json!({})).await.map(|_| 0_u8)
        })
        .stream("demo.count", "Counts to a number.", |_, to: u64| async move {
            Ok::<_, CallError>(stream::iter((0..to).map(Ok::<_, CallError>)))
        })
        .stream("demo.break", "One item, then a failure.", |_, _: Value| async {
            let items = [Ok(json!("a\nb")), Err(CallError::domain("SNAPPED", "it snapped"))];
            Ok::<_, CallError>(stream::iter(items))
        })
        .stream("demo.silent", "Gives nothing.", |_, _: Value| async {
            Ok::<_, CallError>(stream::pending::<Result<u8, CallError>>())
        })
        .raw(declared, |_, _| async {
            Err(CallError::domain("TANK_EMPTY", "refill").with_details(&json!({"left": 0})))
        })
        .build()?;
    Ok(spoke.start().await?)
}

async fn get(hub: &TestHub, path: &str) -> Result<HttpAnswer> {
    http(hub.address(), "GET", path, hub.admin_key(), &Value::Null).await
}

async fn post(hub: &TestHub, path: &str, body: Value) -> Result<HttpAnswer> {
    http(hub.address(), "POST", path, hub.admin_key(), &body).await
}

/// A request with headers of its own; gives the connection to read from.
async fn send(hub: &TestHub, request: &str, headers: &[&str], body: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(hub.address()).await?;
    let mut text = format!("{request} HTTP/1.0\r\nhost: {}\r\ncontent-length: {}\r\n", hub.address(), body.len());
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text.push_str(&format!("authorization: Bearer {}\r\n\r\n{body}", hub.admin_key()));
    stream.write_all(text.as_bytes()).await?;
    Ok(stream)
}

async fn ask(hub: &TestHub, request: &str, headers: &[&str], body: &str) -> Result<HttpAnswer> {
    let mut stream = send(hub, request, headers, body).await?;
    let mut answer = String::new();
    tokio::time::timeout(Duration::from_secs(15), stream.read_to_string(&mut answer)).await.context("no answer")??;
    let (head, body) = answer.split_once("\r\n\r\n").context("no head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(HttpAnswer { status, head: head.to_owned(), body: body.to_owned() })
}

fn content_type(answer: &HttpAnswer) -> &str {
    let line =
        answer.head.lines().find_map(|l| l.split_once(':').filter(|(n, _)| n.eq_ignore_ascii_case("content-type")));
    line.map_or("", |(_, value)| value.trim())
}

/// Checks the members of RFC 9457 and protocol §8; answers the code.
fn problem(answer: &HttpAnswer) -> Result<String> {
    ensure!(content_type(answer) == "application/problem+json", "{answer:?}");
    let body = answer.json()?;
    ensure!(body["status"] == answer.status, "{body}");
    for member in ["type", "title", "code", "message"] {
        ensure!(body[member].is_string(), "{member} of {body}");
    }
    ensure!(body["retryable"].is_boolean(), "{body}");
    Ok(body["code"].as_str().unwrap_or_default().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_with_its_content_type() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let call = post(&hub, "/api/operations/demo.work", json!({})).await?.json()?["data"]["call"].clone();
    let call = call.as_str().context("a call id")?;
    let json = "application/json";
    for (path, kind, member) in [
        ("/api/operations", json, "/operations/0/id"),
        ("/api/operations?q=add", json, "/operations/0/score"),
        ("/api/operations?namespace=demo&limit=2", json, "/nextCursor"),
        ("/api/operations/demo.add", json, "/inputSchema"),
        ("/api/calls?operationId=demo.work", json, "/calls/0/callId"),
        (&format!("/api/calls/{call}"), json, "/status"),
        (&format!("/api/calls/{call}/tree"), json, "/calls/0/callId"),
        ("/openapi.json", json, "/paths/~1api~1operations~1demo.add/post/operationId"),
        ("/healthz", json, "/status"),
        ("/readyz", json, "/steps/3/name"),
    ] {
        let answer = get(&hub, path).await?;
        assert_eq!((answer.status, content_type(&answer)), (200, kind), "{path}: {answer:?}");
        assert!(answer.json()?.pointer(member).is_some(), "{path} has no {member}: {}", answer.body);
    }
    let metrics = get(&hub, "/metrics").await?;
    assert_eq!((metrics.status, content_type(&metrics)), (200, "text/plain; version=0.0.4"));
    assert!(metrics.body.contains("\nhub_spokes 1"), "{}", metrics.body);
    let events = get(&hub, &format!("/api/calls/{call}/events?untilDone=true")).await?;
    assert_eq!((events.status, content_type(&events)), (200, "text/event-stream"));
    for (method, path, status, code) in [
        ("GET", "/nowhere", 404, "NOT_FOUND"),
        ("PUT", "/api/call", 405, "METHOD_NOT_ALLOWED"),
        ("GET", "/api/calls/not-a-uuid", 422, "VALIDATION_ERROR"),
        ("GET", "/api/calls/01890000-0000-7000-8000-000000000000", 404, "NOT_FOUND"),
        ("GET", "/api/operations/no.such", 404, "OPERATION_NOT_FOUND"),
        ("GET", "/ws", 426, "UPGRADE_REQUIRED"),
    ] {
        let answer = http(hub.address(), method, path, hub.admin_key(), &Value::Null).await?;
        assert_eq!((answer.status, problem(&answer)?.as_str()), (status, code), "{method} {path}");
    }
    for path in ["/api/operations?limit=many", "/api/calls?status=odd", "/api/events?after=x"] {
        let answer = get(&hub, path).await?;
        assert_eq!(answer.status / 100, 4, "{path}");
        problem(&answer).with_context(|| path.to_owned())?;
    }
    // Nothing but liveness, readiness and metrics without a key.
    for path in ["/api/operations", "/api/calls", "/api/events", "/openapi.json", "/ws"] {
        let answer = http(hub.address(), "GET", path, "", &Value::Null).await?;
        assert_eq!((answer.status, problem(&answer)?.as_str()), (401, "ACCESS_DENIED"), "{path}");
        assert!(answer.head.to_lowercase().contains("www-authenticate: bearer"), "{path}");
    }
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(http(hub.address(), "GET", path, "", &Value::Null).await?.status, 200, "{path}");
    }
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_answers_the_envelope_and_fails_as_a_problem() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    for (path, body) in [
        ("/api/operations/demo.add", json!([1, 2])),
        ("/api/call", json!({"operationId": "demo.add", "input": [1, 2]})),
    ] {
        let answer = post(&hub, path, body).await?;
        assert_eq!((answer.status, content_type(&answer)), (200, "application/json"));
        let envelope = answer.json()?;
        assert_eq!((&envelope["data"], &envelope["meta"]["source"]), (&json!(3), &json!("local")));
        assert!(envelope["meta"]["timestamp"].is_u64());
    }
    for (operation, input, status, code) in [
        ("demo.add", json!(["x"]), 422, "VALIDATION_ERROR"),
        ("demo.fail", json!({}), 502, "EXECUTION_ERROR"),
        ("demo.empty", json!({}), 418, "TANK_EMPTY"),
        ("no.such", json!({}), 404, "OPERATION_NOT_FOUND"),
        ("events.publish", json!({"topic": "hub:x", "type": "x"}), 422, "VALIDATION_ERROR"),
        ("calls.get", json!({"callId": "01890000-0000-7000-8000-000000000000"}), 404, "NOT_FOUND"),
        ("hub.drain", json!({}), 409, "CONFLICT"),
    ] {
        let direct = post(&hub, &format!("/api/operations/{operation}"), input.clone()).await?;
        assert_eq!((direct.status, problem(&direct)?.as_str()), (status, code), "{operation}");
        let by_body = post(&hub, "/api/call", json!({"operationId": operation, "input": input})).await?;
        assert_eq!((by_body.status, problem(&by_body)?.as_str()), (status, code), "{operation}");
        // What was admitted has an id, and by that a record.
        let (direct, called) = (direct.json()?, by_body.json()?);
        assert_eq!(direct["callId"].is_string(), code != "OPERATION_NOT_FOUND", "{direct}");
        assert_eq!(direct["message"], called["message"]);
    }
    let details = post(&hub, "/api/operations/demo.add", json!([1, "x"])).await?.json()?["details"].clone();
    assert_eq!(details[0]["path"], "/1");
    for (body, why) in [("{", "not JSON"), ("\u{1}", "a control character"), ("[1,]", "a comma too many")] {
        let answer = ask(&hub, "POST /api/operations/demo.add", &[], body).await?;
        assert_eq!((answer.status, problem(&answer)?.as_str()), (400, "BAD_REQUEST"), "{why}");
    }
    let unknown = post(&hub, "/api/call", json!({"operationId": "demo.add", "imput": []})).await?;
    assert_eq!((unknown.status, problem(&unknown)?.as_str()), (422, "VALIDATION_ERROR"));
    spoke.stop().await?;
    let gone = post(&hub, "/api/operations/demo.add", json!([])).await?;
    assert_eq!((gone.status, problem(&gone)?.as_str()), (503, "OPERATION_UNAVAILABLE"));
    assert_eq!(gone.json()?["retryable"], true);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_given_as_server_sent_events() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let answer = post(&hub, "/api/operations/demo.count", json!(3)).await?;
    assert_eq!((answer.status, content_type(&answer)), (200, "text/event-stream"));
    let call = answer.head.lines().find_map(|l| l.to_lowercase().strip_prefix("x-hub-call-id: ").map(str::to_owned));
    let blocks: Vec<&str> = answer.body.split("\n\n").filter(|b| !b.is_empty()).collect();
    assert_eq!(blocks.len(), 4, "{}", answer.body);
    for (i, block) in blocks[..3].iter().enumerate() {
        let data = block.strip_prefix("data: ").context("data alone")?;
        let envelope: Value = serde_json::from_str(data)?;
        assert_eq!((&envelope["data"], &envelope["meta"]["source"]), (&json!(i), &json!("local")));
    }
    assert_eq!(blocks[3], "event: completed\ndata: {}");
    let path = format!("/api/calls/{}", call.context("x-hub-call-id")?);
    eventually("the record has counted the items", || async {
        Ok((get(&hub, &path).await?.json()?["items"] == 3).then_some(()))
    })
    .await?;

    // A failure in the middle; line breaks in a value stay in one data line.
    let broken = post(&hub, "/api/operations/demo.break", json!({})).await?;
    let blocks: Vec<&str> = broken.body.split("\n\n").filter(|b| !b.is_empty()).collect();
    assert_eq!(blocks.len(), 2, "{}", broken.body);
    assert_eq!(serde_json::from_str::<Value>(&blocks[0]["data: ".len()..])?["data"], "a\nb");
    let error = blocks[1].strip_prefix("event: error\ndata: ").context("an error event")?;
    let error: Value = serde_json::from_str(error)?;
    assert_eq!((&error["code"], &error["message"]), (&json!("SNAPPED"), &json!("it snapped")));
    assert!(error["callId"].is_string());

    // What can't begin is a problem and no stream.
    let refused = post(&hub, "/api/operations/demo.count", json!("x")).await?;
    assert_eq!((refused.status, problem(&refused)?.as_str()), (422, "VALIDATION_ERROR"));
    // Whoever accepts nothing but events gets a query's answer as one.
    let one = ask(&hub, "POST /api/operations/demo.add", &["accept: text/event-stream"], "[4]").await?;
    assert_eq!(content_type(&one), "text/event-stream");
    assert!(
        one.body.starts_with("data: {\"data\":4,") && one.body.ends_with("event: completed\ndata: {}\n\n"),
        "{}",
        one.body
    );
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_stream_shows_every_ten_seconds_that_it_lives() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let started = Instant::now();
    let mut stream = send(&hub, "POST /api/operations/demo.silent", &[], "{}").await?;
    let mut text = String::new();
    while !text.contains("\r\n\r\n:") {
        let mut bytes = [0; 4096];
        let read =
            tokio::time::timeout(Duration::from_secs(14), stream.read(&mut bytes)).await.context("no sign")??;
        ensure!(read > 0, "the stream has ended: {text}");
        text.push_str(std::str::from_utf8(&bytes[..read])?);
    }
    assert!(text.ends_with(":heartbeat\n\n") || text.ends_with(": heartbeat\n\n"), "{text}");
    assert!(started.elapsed() >= Duration::from_secs(9), "{:?}", started.elapsed());
    drop(stream);
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_name_one_execution_and_its_deadline() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let keyed = |body: &'static str| ask(&hub, "POST /api/operations/demo.work", &["Idempotency-Key: k1"], body);
    // At the same time, and afterwards.
    let (first, second) = tokio::join!(keyed("{}"), keyed("{}"));
    let (first, second, third) = (first?.json()?, second?.json()?, keyed("{}").await?.json()?);
    assert_eq!(first["data"]["key"], "k1");
    assert_eq!((&second["data"], &third["data"]), (&first["data"], &first["data"]));
    let other = keyed(r#"{"a":1}"#).await?;
    assert_eq!((other.status, problem(&other)?.as_str()), (409, "CONFLICT"));
    let long = format!("Idempotency-Key: {}", "k".repeat(256));
    let long = ask(&hub, "POST /api/operations/demo.work", &[&long], "{}").await?;
    assert_eq!((long.status, problem(&long)?.as_str()), (422, "VALIDATION_ERROR"));

    let started = Instant::now();
    let late = ask(&hub, "POST /api/operations/demo.wait", &["X-Hub-Deadline-Ms: 200"], "{}").await?;
    assert_eq!((late.status, problem(&late)?.as_str()), (504, "TIMEOUT"));
    assert!(started.elapsed() >= Duration::from_millis(200) && started.elapsed() < Duration::from_secs(5));
    let now = hub_operations::now_ms();
    let told = ask(&hub, "POST /api/operations/demo.work", &["X-Hub-Deadline-Ms: 5000"], "{}").await?.json()?;
    let deadline = told["data"]["deadline"].as_u64().context("a deadline")?;
    assert!((now + 4_000..now + 6_000).contains(&deadline), "{deadline} {now}");
    for header in ["X-Hub-Deadline-Ms: soon", "X-Hub-Deadline-Ms: -1", "X-Hub-On-Disconnect: explode"] {
        let answer = ask(&hub, "POST /api/operations/demo.work", &[header], "{}").await?;
        assert_eq!((answer.status, problem(&answer)?.as_str()), (422, "VALIDATION_ERROR"), "{header}");
    }
    spoke.stop().await?;
    Ok(())
}

/// The newest call of an operation, once there is one and `when` holds.
async fn call_of(client: &Client, operation: &str, when: impl Fn(&Value) -> bool) -> Result<Value> {
    eventually(operation, || async {
        let page: Value = client.call_raw("calls.list", json!({"operationId": operation})).await?.parse()?;
        Ok(page["calls"].get(0).filter(|c| when(c)).cloned())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_goes_away_aborts_its_query_and_lets_its_mutation_finish() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let client = hub.client().await?;
    let running = |c: &Value| c["status"] == "running";
    let ended = |c: &Value| c["completedAt"].is_u64();
    for (operation, headers, status) in [
        ("demo.wait", &[][..], "aborted"),
        ("demo.work", &[], "completed"),
        ("demo.silent", &[], "aborted"),
        ("demo.work", &["X-Hub-On-Disconnect: abort"], "aborted"),
    ] {
        let stream = send(&hub, &format!("POST /api/operations/{operation}"), headers, "{}").await?;
        let begun = call_of(&client, operation, running).await?;
        drop(stream);
        let call = call_of(&client, operation, ended).await?;
        assert_eq!((&call["callId"], &call["status"]), (&begun["callId"], &json!(status)), "{operation} {headers:?}");
    }
    // Everything below the call is aborted, too.
    let stream = send(&hub, "POST /api/operations/demo.parent", &[], "{}").await?;
    call_of(&client, "demo.parent", running).await?;
    let child = call_of(&client, "demo.wait", running).await?;
    drop(stream);
    assert_eq!(call_of(&client, "demo.parent", ended).await?["status"], "aborted");
    let child_ended = call_of(&client, "demo.wait", ended).await?;
    assert_eq!((&child_ended["callId"], &child_ended["status"]), (&child["callId"], &json!("aborted")));
    hub.settled().await?;
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_call_aborts_it_and_all_below_with_a_receipt_for_each() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let client = hub.client().await?;
    let mut stream = send(&hub, "POST /api/operations/demo.parent", &[], "{}").await?;
    let running = |c: &Value| c["status"] == "running";
    let child = call_of(&client, "demo.wait", running).await?;
    let root = child["root"].as_str().context("a root")?;
    let answer =
        http(hub.address(), "DELETE", &format!("/api/calls/{root}?reason=enough"), hub.admin_key(), &Value::Null)
            .await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    let receipts = answer.json()?["receipts"].clone();
    let told: Vec<_> = receipts
        .as_array()
        .context("a list")?
        .iter()
        .map(|r| (&r["operationId"], &r["outcome"], &r["spoke"]))
        .collect();
    let (stopped, web) = (json!("stopped"), json!("web"));
    assert_eq!(told, [(&json!("demo.wait"), &stopped, &web), (&json!("demo.parent"), &stopped, &web)], "leaves first");
    let mut ended = String::new();
    stream.read_to_string(&mut ended).await?;
    assert!(ended.starts_with("HTTP/1.0 499") && ended.contains("\"ABORTED\"") && ended.contains("enough"), "{ended}");
    let again = http(hub.address(), "DELETE", &format!("/api/calls/{root}"), hub.admin_key(), &Value::Null).await?;
    assert_eq!((again.status, again.json()?["receipts"].clone()), (200, json!([])), "it has ended already");
    let unknown = "/api/calls/01890000-0000-7000-8000-000000000000";
    assert_eq!(http(hub.address(), "DELETE", unknown, hub.admin_key(), &Value::Null).await?.status, 404);
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_answered_in_order_and_failures_stay_with_their_item() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let call = |operation: &str, input: Value| json!({"operationId": operation, "input": input});
    let batch = json!([
        call("demo.work", json!({})),
        call("demo.add", json!([1, 1])),
        call("no.such", json!({})),
        call("demo.add", json!(["x"])),
        call("demo.count", json!(3)),
        call("demo.empty", json!({})),
        call("demo.add", json!([2, 2])),
    ]);
    let answer = post(&hub, "/api/batch", batch).await?;
    assert_eq!((answer.status, content_type(&answer)), (200, "application/json"));
    let items = answer.json()?;
    let statuses: Vec<_> =
        items.as_array().context("a list")?.iter().map(|i| i["status"].as_u64().unwrap_or(0)).collect();
    assert_eq!(statuses, [200, 200, 404, 422, 422, 418, 200]);
    assert_eq!((&items[1]["response"]["data"], &items[6]["response"]["data"]), (&json!(2), &json!(4)));
    for failed in [2, 3, 4, 5] {
        assert!(items[failed]["response"].is_null() && items[failed]["error"]["code"].is_string(), "{}", items[failed]);
    }
    assert_eq!(items[5]["error"]["details"], json!({"left": 0}));
    assert_eq!(post(&hub, "/api/batch", json!([])).await?.json()?, json!([]));
    let many: Vec<_> = (0..101).map(|_| call("demo.add", json!([]))).collect();
    let refused = post(&hub, "/api/batch", json!(many)).await?;
    assert_eq!((refused.status, problem(&refused)?.as_str()), (422, "VALIDATION_ERROR"));
    let no_list = post(&hub, "/api/batch", call("demo.add", json!([]))).await?;
    assert_eq!((no_list.status, problem(&no_list)?.as_str()), (422, "VALIDATION_ERROR"));
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_below_the_base_path() -> Result<()> {
    let hub = TestHub::start_with(&["--base-path", "/hub"]).await?;
    for path in ["/hub/healthz", "/hub/readyz", "/hub/metrics", "/hub/api/operations", "/hub/openapi.json"] {
        assert_eq!(get(&hub, path).await?.status, 200, "{path}");
    }
    for path in ["/healthz", "/api/operations", "/hubapi/operations", "/ws", "/hub/nowhere"] {
        let answer = get(&hub, path).await?;
        assert_eq!((answer.status, problem(&answer)?.as_str()), (404, "NOT_FOUND"), "{path}");
    }
    assert_eq!(get(&hub, "/hub/openapi.json").await?.json()?["servers"], json!([{"url": "/hub"}]));
    // The SDK is given the base URL and finds the rest.
    let client = hub.client().await?;
    client.call_raw("hub.whoami", json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_judged_by_the_host_that_a_trusted_proxy_names() -> Result<()> {
    let upgrade = |origin: &str, forwarded: &str| {
        let mut headers = vec![
            "upgrade: websocket".to_owned(),
            "connection: upgrade".to_owned(),
            "sec-websocket-version: 13".to_owned(),
            "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==".to_owned(),
            format!("origin: {origin}"),
        ];
        if !forwarded.is_empty() {
            headers.push(format!("x-forwarded-host: {forwarded}"));
        }
        headers
    };
    for (flags, origin, forwarded, status) in [
        (&[][..], "https://hub.example", "hub.example", 403),
        (&["--trusted-proxies", "10.0.0.0/8"], "https://hub.example", "hub.example", 403),
        (&["--trusted-proxies", "127.0.0.1"], "https://hub.example", "hub.example", 101),
        (&["--trusted-proxies", "127.0.0.1"], "https://evil.example", "hub.example", 403),
        (
            &["--trusted-proxies", "127.0.0.1", "--allowed-origins", "https://app.example"],
            "https://app.example",
            "",
            101,
        ),
        (&["--allowed-origins", "https://app.example"], "https://app.example.evil", "", 403),
    ] {
        let hub = TestHub::start_with(flags).await?;
        let headers = upgrade(origin, forwarded);
        let mut stream = TcpStream::connect(hub.address()).await?;
        let request = format!(
            "GET /ws HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {}\r\n{}\r\n\r\n",
            hub.address(),
            hub.admin_key(),
            headers.join("\r\n")
        );
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = [0; 1024];
        let read = tokio::time::timeout(Duration::from_secs(5), stream.read(&mut bytes)).await??;
        let line = String::from_utf8_lossy(&bytes[..read]).into_owned();
        assert!(line.starts_with(&format!("HTTP/1.1 {status}")), "{flags:?} {origin} {forwarded}: {line}");
    }
    Ok(())
}

/// Resolves a reference within the document.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> Result<&'a Value> {
    match value["$ref"].as_str() {
        Some(reference) => document.pointer(reference.trim_start_matches('#')).with_context(|| reference.to_owned()),
        None => Ok(value),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_openapi_document_describes_every_path_completely() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = spoke(&hub).await?;
    let document = get(&hub, "/openapi.json").await?.json()?;
    assert!(document["openapi"].as_str().is_some_and(|v| v.starts_with("3.1")));
    let mut ids = std::collections::HashSet::new();
    for (path, item) in document["paths"].as_object().context("paths")? {
        for (method, operation) in item.as_object().context("an item")? {
            let at = format!("{method} {path}");
            ensure!(["get", "post", "put", "delete", "patch"].contains(&method.as_str()), "{at}");
            let id = operation["operationId"].as_str().with_context(|| format!("operationId of {at}"))?;
            ensure!(ids.insert(id.to_owned()), "operationId {id} twice");
            let mut names = std::collections::HashSet::new();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let (name, place) =
                    (parameter["name"].as_str().context("name")?, parameter["in"].as_str().context("in")?);
                ensure!(names.insert((name, place)), "{at}: {name} twice");
                ensure!(
                    place != "path" || parameter["required"] == true && path.contains(&format!("{{{name}}}")),
                    "{at}"
                );
                ensure!(parameter["schema"].is_object(), "{at}: {name}");
            }
            let templates = path.matches('{').count();
            ensure!(names.iter().filter(|(_, place)| *place == "path").count() == templates, "{at}");
            let responses = operation["responses"].as_object().with_context(|| at.clone())?;
            ensure!(!responses.is_empty(), "{at}");
            for (status, response) in responses {
                ensure!(
                    status == "default" || status.parse::<u16>().is_ok_and(|s| (100..600).contains(&s)),
                    "{at} {status}"
                );
                ensure!(resolve(&document, response)?["description"].is_string(), "{at} {status}");
            }
            let bodies = operation["requestBody"]["content"].as_object().into_iter().flatten();
            let answers =
                responses.values().filter_map(|r| resolve(&document, r).ok()?["content"].as_object()).flatten();
            for (kind, media) in bodies.chain(answers) {
                ensure!(kind.contains('/') && media.get("schema").is_some(), "{at} {kind}");
            }
        }
    }
    let listed = get(&hub, "/api/operations?limit=1000").await?.json()?;
    for operation in listed["operations"].as_array().context("a list")? {
        let id = operation["id"].as_str().context("id")?;
        let path = &document["paths"][format!("/api/operations/{id}")]["post"];
        assert_eq!(path["operationId"], id);
        assert_eq!(path["x-hub-type"], operation["type"]);
    }
    assert_eq!(
        document["paths"]["/api/operations/demo.empty"]["post"]["responses"]["418"]["description"],
        "TANK_EMPTY: No fuel."
    );
    // Whoever may see less is shown less.
    let key = hub.new_key(&[]).await?;
    let less = http(hub.address(), "GET", "/openapi.json", &key, &Value::Null).await?;
    assert!(!less.body.contains("keys.create") && less.body.contains("/api/operations/demo.add"));
    spoke.stop().await?;
    Ok(())
}
