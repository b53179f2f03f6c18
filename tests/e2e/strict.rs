//! What is refused before anybody acts on it, and that refusals say what is wrong and nothing more.

use anyhow::{Context, Result};
use hub_operations::now_ms;
use hub_testkit::{RawPeer, TestHub, eventually, http};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn post(hub: &TestHub, path: &str, body: Value) -> Result<(u16, Value)> {
    let answer = http(hub.address(), "POST", path, hub.admin_key(), &body).await?;
    Ok((answer.status, answer.json()?))
}

/// Fails if the spoke has been asked for anything.
async fn saw_nothing(spoke: &mut RawPeer) -> Result<()> {
    spoke.request("probe", "hub.whoami", json!({})).await?;
    let next = spoke.next().await?;
    assert_eq!(next["payload"]["requestId"], "probe", "it was given {next}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_time_is_over_is_given_to_nobody() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = hub.raw().await?;
    let operations = [("late.mutation", "mutation"), ("late.query", "query"), ("late.stream", "subscription")];
    spoke.register("late", &operations, json!({"maxInFlight": 1})).await?;
    let mut caller = hub.raw().await?;
    for n in 0..50 {
        for (operation, _) in operations {
            let deadline = if n % 2 == 0 { 1 } else { now_ms() };
            let request =
                json!({"requestId": format!("{operation}{n}"), "operationId": operation, "deadline": deadline});
            caller.event("call.requested", request).await?;
            assert_eq!(caller.next_of("call.error").await?["code"], "TIMEOUT", "{operation}");
        }
        let nested = json!({"operationId": "late.mutation", "input": {}, "deadline": 1});
        assert_eq!(caller.call("n", "hub.call", nested.clone()).await?["payload"]["code"], "TIMEOUT");
        let (status, answer) = post(&hub, "/api/call", nested).await?;
        assert_eq!((status, &answer["code"]), (504, &json!("TIMEOUT")));
    }
    // The hub's own operations, too.
    let publish = json!({"requestId": "p", "operationId": "events.publish", "deadline": 1, "input": {"topic": "t:1", "type": "x"}});
    caller.event("call.requested", publish).await?;
    assert_eq!(caller.next_of("call.error").await?["code"], "TIMEOUT");
    let events = caller.call("e", "events.list", json!({"topics": ["t:*"]})).await?;
    assert_eq!(events["payload"]["output"]["data"]["events"], json!([]));
    saw_nothing(&mut spoke).await?;
    // One that waited for a place until its time was over.
    caller.request("first", "late.mutation", json!({})).await?;
    let first = spoke.requested().await?["requestId"].take();
    let waits = json!({"requestId": "waits", "operationId": "late.mutation", "deadline": now_ms() + 200});
    caller.event("call.requested", waits).await?;
    assert_eq!(caller.next_of("call.error").await?["requestId"], "waits");
    spoke.respond(&first, json!(1)).await?;
    caller.next_of("call.responded").await?;
    saw_nothing(&mut spoke).await?;
    let recorded = eventually("the record", || async {
        let path = "/api/calls?operationId=late.mutation&status=failed&limit=1000";
        let page = http(hub.address(), "GET", path, hub.admin_key(), &Value::Null).await?.json()?;
        let calls = page["calls"].as_array().cloned().unwrap_or_default();
        // 50 directly, 50 by hub.call, 50 over HTTP, one that has waited.
        Ok((calls.len() == 151).then_some(calls))
    });
    let recorded = recorded.await?;
    assert!(recorded.iter().all(|c| c["error"]["code"] == "TIMEOUT" && c["attempts"] == 0), "{:?}", recorded.first());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_tells_nothing_of_what_is_hidden() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = hub.raw().await?;
    let mut secret = RawPeer::spec("demo.secret", "query");
    secret["accessControl"] = json!({"requiredScopes": ["demo:secret"]});
    spoke.register("s", &[], json!({"operations": [secret]})).await?;
    let mut low = RawPeer::connect(hub.address(), &hub.new_key(&[]).await?).await?;
    for version in ["garbage", "^99", "^1"] {
        let mut answers = Vec::new();
        for operation in ["hub.status", "keys.create", "demo.secret", "hub.statux"] {
            let request = json!({"requestId": "r", "operationId": operation, "input": {}, "version": version});
            low.event("call.requested", request).await?;
            answers.push(low.next().await?.to_string().replace(operation, "X"));
        }
        answers.dedup();
        assert_eq!(answers.len(), 1, "{version}: {answers:?}");
    }
    // To whom it is visible it is told, for the hub's own operations as for those of spokes.
    let mut admin = hub.raw().await?;
    for operation in ["hub.status", "demo.secret"] {
        for (version, code) in [("garbage", "VALIDATION_ERROR"), ("^99", "OPERATION_NOT_FOUND")] {
            let request = json!({"requestId": "r", "operationId": operation, "input": {}, "version": version});
            admin.event("call.requested", request).await?;
            assert_eq!(admin.next_of("call.error").await?["code"], code, "{operation} {version}");
        }
    }
    let request = json!({"requestId": "r", "operationId": "hub.status", "version": "^1"});
    admin.event("call.requested", request).await?;
    admin.next_of("call.responded").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nests_without_end_reaches_nobody() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = hub.raw().await?;
    spoke.register("deep", &[("deep.q", "query")], json!({})).await?;
    let mut caller = hub.raw().await?;
    let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
    for member in ["metadata", "input"] {
        let request = |levels| {
            let value = deep(levels);
            format!(
                r#"{{"type":"call.requested","payload":{{"requestId":"r","operationId":"deep.q","{member}":{value}}}}}"#
            )
        };
        caller.text(request(5_000)).await?;
        let refused = caller.next_of("call.error").await?;
        assert_eq!(refused["code"], "VALIDATION_ERROR", "{member}: {refused}");
        saw_nothing(&mut spoke).await?;
        caller.text(request(100)).await?;
        let id = spoke.requested().await?["requestId"].take();
        spoke.respond(&id, json!(1)).await?;
        caller.next_of("call.responded").await?;
    }
    // What a spoke gives back reaches callers no deeper.
    for (kind, answer) in [
        ("call.responded", r#""output":{"meta":{"source":"local"},"data":DEEP}"#),
        ("call.error", r#""code":"BROKEN","message":"m","details":DEEP"#),
    ] {
        caller.request("a", "deep.q", json!({})).await?;
        let id = spoke.requested().await?["requestId"].take();
        let answer = answer.replace("DEEP", &deep(5_000));
        spoke.text(format!(r#"{{"type":"{kind}","payload":{{"requestId":{id},{answer}}}}}"#)).await?;
        let failed = caller.next_of("call.error").await?;
        let code = if kind == "call.error" { "BROKEN" } else { "EXECUTION_ERROR" };
        assert_eq!((&failed["code"], &failed["details"]), (&json!(code), &Value::Null), "{failed}");
    }
    Ok(())
}

/// `levels` arrays in each other.
fn arrays(levels: usize) -> Value {
    (1..levels).fold(json!([]), |below, _| json!([below]))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_hub_took_it_can_list() -> Result<()> {
    let hub = TestHub::start().await?;
    let (mut spoke, mut caller) = (hub.raw().await?, hub.raw().await?);
    let mut operation = RawPeer::spec("deep.q", "mutation");
    let schema = |levels| (1..levels).fold(json!({}), |below, _| json!({"items": below}));
    operation["outputSchema"] = schema(91);
    let refused = spoke.register("deep", &[], json!({"operations": [operation]})).await?;
    let message = refused["payload"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("outputSchema") && message.contains("nests deeper than 90 levels"), "{refused}");
    operation["outputSchema"] = schema(90);
    let labels = json!({"operations": [operation], "hostInfo": arrays(99)});
    assert_eq!(spoke.register("deep", &[], labels).await?["type"], "call.responded");
    // As deep as may be, and deeper: also what is refused is in the record.
    for (levels, taken) in [(100, true), (101, false), (127, false), (5_000, false)] {
        let input = arrays(levels.min(1_000)).to_string();
        let input = "[".repeat(levels.max(1_000) - 1_000) + &input + &"]".repeat(levels.max(1_000) - 1_000);
        for (operation, input) in [
            ("deep.q", input.clone()),
            ("hub.call", format!(r#"{{"operationId":"deep.q","input":{}}}"#, &input[1..input.len() - 1])),
            ("events.publish", format!(r#"{{"topic":"t:1","type":"x","payload":{}}}"#, &input[1..input.len() - 1])),
            (
                "clients.create",
                format!(r#"{{"name":"c{levels}","type":"custom","config":{{"x":{}}}}}"#, &input[2..input.len() - 2]),
            ),
        ] {
            let request = format!(r#"{{"requestId":"r","operationId":"{operation}","input":{input}}}"#);
            caller.text(format!(r#"{{"type":"call.requested","payload":{request}}}"#)).await?;
            if taken && !operation.contains('s') {
                let id = spoke.requested().await?["requestId"].take();
                spoke.respond(&id, arrays(levels)).await?;
            }
            let answer = caller.next().await?;
            assert_eq!(answer["type"] == "call.responded", taken, "{operation} {levels}: {answer}");
            let told = answer["payload"]["message"].as_str().unwrap_or_default();
            assert!(taken || told.contains("nests deeper than 100 levels"), "{told}");
        }
    }
    let failed = eventually("the record", || async {
        let page = http(hub.address(), "GET", "/api/calls?limit=1000", hub.admin_key(), &Value::Null).await?;
        assert_eq!(page.status, 200, "{}", page.body);
        let calls = page.json()?["calls"].as_array().cloned().unwrap_or_default();
        let of = |operation: &str| calls.iter().filter(|call| call["operationId"] == operation).count();
        let all = ["deep.q", "hub.call", "events.publish", "clients.create"].map(of);
        // The last three at each depth, and the one below `hub.call`.
        Ok((all == [5, 4, 4, 4]).then_some(calls))
    });
    let calls = failed.await?;
    let kept = |call: &&Value| {
        call["operationId"] == "deep.q" && call["input"] == arrays(100) && call["output"] == arrays(100)
    };
    assert_eq!(calls.iter().filter(kept).count(), 1);
    for call in &calls {
        let (id, root) = (json!({"callId": call["callId"]}), json!({"callId": call["root"]}));
        for (operation, input) in [("calls.get", id), ("calls.tree", root)] {
            let answer = caller.call("get", operation, input).await?;
            assert_eq!(answer["type"], "call.responded", "{answer}");
        }
    }
    let schemas = json!({"operationIds": ["deep.q"]});
    for (operation, input) in [
        ("events.list", json!({"topics": ["t:*", "call:*", "client:*", "spoke:*"], "limit": 1_000})),
        ("clients.list", json!({})),
        ("hub.spokes", json!({})),
        ("audit.list", json!({})),
        ("hub.schema", schemas),
    ] {
        let answer = caller.call("list", operation, input).await?;
        assert_eq!(answer["type"], "call.responded", "{operation}: {answer}");
    }
    let document = http(hub.address(), "GET", "/openapi.json", hub.admin_key(), &Value::Null).await?;
    assert!(document.json()?["paths"]["/api/operations/deep.q"].is_object());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_beyond_the_end_of_the_log_is_told_and_goes_on_from_the_end() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = hub.raw().await?;
    let published = peer.call("p", "events.publish", json!({"topic": "t:1", "type": "x"})).await?;
    let last = published["payload"]["output"]["data"]["seq"].as_u64().context("a position")?;
    let mut last = last;
    for (operation, input) in [
        ("events.subscribe", json!({"topics": ["t:*"], "after": last + 1_000})),
        ("calls.observe", json!({"after": last + 1_000, "operationId": "events.publish"})),
    ] {
        peer.request("s", operation, input).await?;
        let gap = loop {
            // The answer to the last publication may come late.
            let mut answer = peer.next_of("call.responded").await?;
            if answer["requestId"] == "s" {
                break answer["output"]["data"].take();
            }
        };
        let end = gap["seq"].as_u64().context("a position")?;
        assert!(end >= last && end < last + 1_000, "{gap}");
        if operation == "events.subscribe" {
            assert_eq!((&gap["type"], &gap["payload"]["from"]), (&json!("gap"), &json!(end + 1)));
            assert_eq!(gap["payload"]["to"], last + 1_000);
        } else {
            assert_eq!((&gap["type"], &gap["gapFrom"]), (&json!("gap"), &json!(end + 1)));
        }
        // The last publication may not be answered yet, so this one has an id of its own.
        peer.request(&format!("p-{operation}"), "events.publish", json!({"topic": "t:1", "type": "y"})).await?;
        let next = loop {
            let answer = peer.next_of("call.responded").await?;
            if answer["requestId"] == "s" {
                break answer["output"]["data"].clone();
            }
        };
        assert!(next["seq"].as_u64() > Some(end), "{next}");
        last = next["seq"].as_u64().unwrap_or_default();
        peer.event("call.aborted", json!({"requestId": "s"})).await?;
        peer.next_of("call.aborted").await?;
    }
    let page = peer.call("l", "events.list", json!({"topics": ["t:*"], "after": last + 1_000})).await?;
    let page = &page["payload"]["output"]["data"];
    assert_eq!(page["events"][0]["type"], "gap", "{page}");
    assert!(page["nextAfter"].as_u64() < Some(last + 1_000), "{page}");
    // Server-sent events: the gap's id is where to resume.
    let mut stream = tokio::net::TcpStream::connect(hub.address()).await?;
    let key = hub.admin_key();
    let request =
        format!("GET /api/events?topics=t:* HTTP/1.0\r\nlast-event-id: 99999\r\nauthorization: Bearer {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    while !text.contains("event: gap") || !text.contains("\"to\":99999") {
        let mut bytes = [0; 1024];
        let read = tokio::time::timeout(std::time::Duration::from_secs(5), stream.read(&mut bytes)).await??;
        anyhow::ensure!(read > 0, "the stream has ended: {text}");
        text.push_str(std::str::from_utf8(&bytes[..read])?);
    }
    assert!(!text.contains("id: 99999"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_spoke_is_shown_with_what_it_offers_now() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = hub.raw().await?;
    spoke.register("changing", &[("a.one", "query"), ("a.two", "query")], json!({})).await?;
    let mut asking = hub.raw().await?;
    let mut shown = async || -> Result<Value> {
        let spokes = asking.call("s", "hub.spokes", json!({})).await?;
        Ok(spokes["payload"]["output"]["data"]["spokes"][0]["operations"].clone())
    };
    assert_eq!(shown().await?, json!(["a.one", "a.two"]));
    spoke.call("u", "hub.unregister", json!({"operations": ["a.two"]})).await?;
    assert_eq!(shown().await?, json!(["a.one"]));
    let mut newer = hub.raw().await?;
    newer.register("changing", &[("a.three", "query")], json!({"startedAt": now_ms() + 1_000})).await?;
    assert_eq!(spoke.closed().await?.code, 4010);
    assert_eq!(shown().await?, json!(["a.three"]));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_fit_is_told_by_its_place() -> Result<()> {
    let hub = TestHub::start().await?;
    for (body, path, word) in [
        (json!({"operationId": "hub.whoami", "imput": 1}), "/imput", "no such member"),
        (json!({"operationId": "hub.whoami", "deadline": "hunter2"}), "/deadline", "expected u64"),
        (json!({"input": 1}), "", "missing field `operationId`"),
    ] {
        let (status, answer) = post(&hub, "/api/call", body.clone()).await?;
        assert_eq!((status, &answer["code"]), (422, &json!("VALIDATION_ERROR")), "{body}");
        assert_eq!(answer["details"][0]["path"], path, "{answer}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(word) && !message.contains("hunter2"), "{answer}");
        // In a batch only that item fails.
        let whole = json!([{"operationId": "hub.whoami"}, body, "x", {"operationId": "hub.whoami"}]);
        let (status, answers) = post(&hub, "/api/batch", whole).await?;
        let statuses: Vec<&Value> = answers.as_array().into_iter().flatten().map(|a| &a["status"]).collect();
        assert_eq!((status, statuses), (200, vec![&json!(200), &json!(422), &json!(422), &json!(200)]), "{answers}");
        assert_eq!(answers[1]["error"]["details"][0]["path"], path, "{answers}");
    }
    // A rule that no schema states.
    let (_, answer) = post(
        &hub,
        "/api/operations/hub.register",
        json!({
            "name": "x", "spokeType": "client", "operations": [], "instanceId": "not-a-uuid", "startedAt": 1,
        }),
    )
    .await?;
    assert_eq!((&answer["code"], &answer["details"][0]["path"]), (&json!("VALIDATION_ERROR"), &json!("/instanceId")));
    for (method, path) in
        [("GET", "/api/operations/%ff"), ("POST", "/api/operations/%ff"), ("GET", "/api/calls/%ff/tree")]
    {
        let answer = http(hub.address(), method, path, hub.admin_key(), &Value::Null).await?;
        assert_eq!((answer.status, &answer.json()?["code"]), (400, &json!("BAD_REQUEST")), "{answer:?}");
        assert!(answer.head.contains("application/problem+json"), "{answer:?}");
    }
    Ok(())
}
