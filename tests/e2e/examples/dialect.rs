//! Messages exactly as `@alkdev/operations` 0.1.0 over `@alkdev/pubsub` 0.1.0 writes them, without those libraries.

use super::*;

const EVENTS: [&str; 4] = ["call.responded:", "call.error:", "call.completed:", "call.aborted:"];

/// Connects as the library does: `__subscribe` for the four answers, and for requests if it serves.
async fn peer(hub: &TestHub, serves: bool) -> Result<RawPeer> {
    let mut peer = hub.raw().await?;
    for topic in EVENTS.into_iter().chain(serves.then_some("call.requested:")) {
        peer.event("__subscribe", json!({ "topic": topic })).await?;
    }
    Ok(peer)
}

async fn spoke(hub: &TestHub) -> Result<RawPeer> {
    let mut peer = peer(hub, true).await?;
    let spec = |name: &str, kind: &str| {
        json!({ "name": name, "namespace": "demo", "version": "1.0.0", "type": kind, "description": "d",
            "inputSchema": { "type": "object" }, "outputSchema": {}, "accessControl": { "requiredScopes": [] } })
    };
    let operations = [spec("ask", "query"), spec("do", "mutation"), spec("watch", "subscription")];
    let input = json!({ "name": "ts", "spokeType": "client", "operations": operations,
        "instanceId": "6a6fd7c5-4fcd-4d0c-b0b5-2b47cf2c5ef0", "startedAt": 1_750_000_000_000_u64,
        "hostInfo": { "os": "linux", "arch": "x64", "nodeVersion": "v22" } });
    let answer = peer.call("8c5f8f9a-0d3f-4a52-9d7b-8a4c9b6f6f01", "hub.register", input).await?;
    assert_eq!(answer["type"], "call.responded", "{answer}");
    assert_eq!(answer["id"], "", "the style of the request is mirrored");
    assert_eq!(answer["payload"]["output"]["data"]["operations"].as_array().context("a list")?.len(), 3);
    Ok(peer)
}

/// A request of the hub's as the library can take it: empty id, everything in the payload.
async fn requested(peer: &mut RawPeer) -> Result<Value> {
    let message = peer.next().await?;
    assert_eq!((&message["type"], &message["id"]), (&json!("call.requested"), &json!("")), "{message}");
    let mut members: Vec<_> = message.as_object().context("an object")?.keys().cloned().collect();
    members.sort_unstable();
    assert_eq!(members, ["id", "payload", "type"]);
    assert!(message["payload"]["requestId"].is_string() && message["payload"]["input"].is_object(), "{message}");
    Ok(message["payload"].clone())
}

fn output(data: Option<Value>) -> Value {
    let meta = json!({ "source": "local", "operationId": "demo.ask", "timestamp": 1_750_000_000_000_u64 });
    data.map_or_else(|| json!({ "meta": meta }), |data| json!({ "data": data, "meta": meta }))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_data_is_null_and_an_envelope_passes_through() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = spoke(&hub).await?;
    let mut caller = peer(&hub, false).await?;
    caller.request("r1", "client.ts.demo.do", json!({ "x": 1 })).await?;
    let asked = requested(&mut spoke).await?;
    assert_eq!((&asked["operationId"], &asked["input"]), (&json!("demo.do"), &json!({ "x": 1 })));
    spoke.event("call.responded", json!({ "requestId": asked["requestId"], "output": output(None) })).await?;
    let answer = caller.next().await?;
    assert_eq!((&answer["type"], &answer["id"]), (&json!("call.responded"), &json!("")));
    assert_eq!(answer["payload"]["requestId"], "r1");
    assert!(answer["payload"]["output"]["data"].is_null(), "{answer}");
    // HTTP gives the same null.
    let mut tasks = tokio::task::JoinSet::new();
    let (address, key) = (hub.address(), hub.admin_key().to_owned());
    tasks.spawn(async move { http(address, "POST", "/api/operations/client.ts.demo.ask", &key, &json!({})).await });
    let asked = requested(&mut spoke).await?;
    let envelope = json!({ "data": { "n": 1 }, "meta": { "source": "http", "statusCode": 201,
        "headers": { "x": "y" }, "contentType": "application/json" } });
    spoke.event("call.responded", json!({ "requestId": asked["requestId"], "output": envelope })).await?;
    // A second answer to a settled call is passed over.
    spoke.event("call.responded", json!({ "requestId": asked["requestId"], "output": output(None) })).await?;
    let answer = tasks.join_next().await.context("a task")???;
    assert_eq!(answer.json()?, envelope);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_are_flat_and_keep_what_the_handler_said() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = spoke(&hub).await?;
    let mut caller = peer(&hub, false).await?;
    for (code, message, details) in [
        ("EXECUTION_ERROR", "boom", json!({ "message": "boom" })),
        ("UNKNOWN_ERROR", "unknown error", json!({ "raw": "7" })),
        ("TANK_EMPTY", "TANK_EMPTY: refill", json!({ "liters": 0 })),
    ] {
        caller.request("e", "client.ts.demo.ask", json!({})).await?;
        let asked = requested(&mut spoke).await?;
        let error = json!({ "requestId": asked["requestId"], "code": code, "message": message, "details": details });
        spoke.event("call.error", error).await?;
        let answer = caller.next().await?;
        assert_eq!((&answer["type"], &answer["id"]), (&json!("call.error"), &json!("")), "{answer}");
        assert_eq!((&answer["payload"]["code"], &answer["payload"]["details"]), (&json!(code), &details), "{answer}");
    }
    caller.request("none", "client.ts.demo.none", json!({})).await?;
    assert_eq!(caller.next().await?["payload"]["code"], "OPERATION_NOT_FOUND");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_by_completed() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = spoke(&hub).await?;
    let mut caller = peer(&hub, false).await?;
    caller.request("s", "client.ts.demo.watch", json!({})).await?;
    let asked = requested(&mut spoke).await?;
    for n in 0..3 {
        let item = json!({ "requestId": asked["requestId"], "output": output(Some(json!(n))) });
        spoke.event("call.responded", item).await?;
    }
    spoke.event("call.completed", json!({ "requestId": asked["requestId"] })).await?;
    for n in 0..3 {
        assert_eq!(caller.next().await?["payload"]["output"]["data"], n);
    }
    let end = caller.next().await?;
    assert_eq!((&end["type"], &end["id"]), (&json!("call.completed"), &json!("")));
    assert_eq!(end["payload"], json!({ "requestId": "s" }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_not_confirmed_and_late_answers_are_passed_over() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = spoke(&hub).await?;
    let mut caller = peer(&hub, false).await?;
    caller.request("a", "client.ts.demo.watch", json!({})).await?;
    let asked = requested(&mut spoke).await?;
    // The caller's library forgets the call when it sends this, and waits for nothing.
    caller.event("call.aborted", json!({ "requestId": "a" })).await?;
    let told = spoke.next().await?;
    assert_eq!((&told["type"], &told["id"]), (&json!("call.aborted"), &json!("")));
    assert_eq!(told["payload"]["requestId"], asked["requestId"]);
    // The handler's library goes on as if nothing had happened.
    for n in 0..20 {
        let item = json!({ "requestId": asked["requestId"], "output": output(Some(json!(n))) });
        spoke.event("call.responded", item).await?;
    }
    spoke.event("call.completed", json!({ "requestId": asked["requestId"] })).await?;
    hub.settled().await?;
    // Nothing of it reaches the caller but the confirmation, and both connections still serve.
    caller.request("b", "client.ts.demo.ask", json!({})).await?;
    let asked = requested(&mut spoke).await?;
    spoke.event("call.responded", json!({ "requestId": asked["requestId"], "output": output(Some(json!(1))) })).await?;
    loop {
        let message = caller.next().await?;
        if message["payload"]["requestId"] == "b" {
            assert_eq!(message["payload"]["output"]["data"], 1, "{message}");
            break;
        }
        assert_eq!(message["type"], "call.aborted", "{message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nested_call_carries_its_parent_in_the_payload() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut spoke = spoke(&hub).await?;
    let mut caller = peer(&hub, false).await?;
    caller.request("p", "client.ts.demo.ask", json!({})).await?;
    let asked = requested(&mut spoke).await?;
    let nested = json!({ "requestId": "n", "operationId": "hub.status", "input": {},
        "parentRequestId": asked["requestId"], "deadline": 4_102_444_800_000_u64 });
    spoke.event("call.requested", nested).await?;
    let answer = spoke.next().await?;
    assert_eq!((&answer["payload"]["requestId"], &answer["id"]), (&json!("n"), &json!("")), "{answer}");
    let passed_on = json!({ "requestId": asked["requestId"], "output": answer["payload"]["output"] });
    spoke.event("call.responded", passed_on).await?;
    let answer = caller.next().await?;
    assert!(answer["payload"]["output"]["data"]["hubId"].is_string(), "wrapped twice: {answer}");
    let forged = json!({ "requestId": "f", "operationId": "hub.status", "input": {},
        "parentRequestId": asked["requestId"] });
    caller.event("call.requested", forged).await?;
    assert_eq!(caller.next().await?["payload"]["code"], "ACCESS_DENIED");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_are_subscribed_and_unsubscribed_without_an_answer() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = peer(&hub, true).await?;
    let client = hub.client().await?;
    let publish = async |n: u64| {
        let event = json!({ "topic": "task:1", "type": "made", "payload": n });
        client.call_raw("events.publish", event).await
    };
    peer.event("__subscribe", json!({ "topic": "task:1" })).await?;
    // Subscribing is not confirmed; a call behind it is answered after it.
    peer.call("x", "hub.whoami", json!({})).await?;
    publish(1).await?;
    let event = peer.next().await?;
    assert_eq!((&event["type"], &event["id"], &event["payload"]["payload"]), (&json!("task"), &json!("1"), &json!(1)));
    peer.event("__unsubscribe", json!({ "topic": "task:1" })).await?;
    peer.call("y", "hub.whoami", json!({})).await?;
    publish(2).await?;
    publish(3).await?;
    let answer = peer.call("z", "hub.whoami", json!({})).await?;
    assert_eq!(answer["type"], "call.responded");
    Ok(())
}
