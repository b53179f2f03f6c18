//! What a hostile or broken peer can do to others: nothing (must hold 3).

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hub_testkit::{Closed, HubProcess, RawPeer, TestHub, free_port};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_tungstenite::tungstenite::Message;

/// The hub as a process of its own, so that its memory can be told from the test's.
struct Hub {
    process: HubProcess,
    address: SocketAddr,
    key: String,
    _folder: TempDir,
}

impl Hub {
    async fn start(flags: &[&str]) -> Result<Self> {
        let folder = TempDir::new()?;
        let port = free_port()?;
        let flags = [&["--log", "error"], flags].concat();
        let process = HubProcess::start(folder.path(), port, &flags).await?;
        let key = process.admin_key()?;
        Ok(Self { process, address: ([127, 0, 0, 1], port).into(), key, _folder: folder })
    }

    async fn raw(&self) -> Result<RawPeer> {
        RawPeer::connect(self.address, &self.key).await
    }

    /// Resident memory in KiB.
    fn memory(&self) -> Result<u64> {
        let pid = self.process.pid().context("it has ended")?;
        memory_of(Path::new(&format!("/proc/{pid}/status")))
    }
}

fn memory_of(status: &Path) -> Result<u64> {
    let status = std::fs::read_to_string(status)?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse()?)
}

/// The same numbers on every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// What a message should lead to if the connection stays open.
enum Due {
    /// A `hub.protocol_error`.
    Fault,
    /// An answer to this call.
    Answer(String),
    /// Two answers to this call.
    Both(String),
    /// Nothing: the protocol has no answer to it.
    Silence,
    /// The end of the connection.
    Close,
}

fn text(text: impl Into<String>) -> Message {
    Message::text(text.into())
}

fn call(id: &str, operation: &str, input: &str) -> String {
    format!(
        r#"{{"type":"call.requested","id":"","payload":{{"requestId":"{id}","operationId":"{operation}","input":{input}}}}}"#
    )
}

/// One message that no sane peer would send.
fn message(n: &mut Numbers, id: &str) -> (Vec<Message>, Due) {
    let one = |m: Message, due: Due| (vec![m], due);
    let answer = || Due::Answer(id.to_owned());
    let deep = "[".repeat(20_000) + &"]".repeat(20_000);
    let requested = |rest: &str| text(format!(r#"{{"type":"call.requested","id":"","payload":{{{rest}}}}}"#));
    match n.below(32) {
        0 => one(text("{"), Due::Fault),
        1 => one(text(""), Due::Fault),
        2 => one(text("\0\0\0"), Due::Fault),
        3 => one(text(r#"["call.requested"]"#), Due::Fault),
        4 => one(text(r#"{"id":"x","payload":{}}"#), Due::Fault),
        5 => one(text(r#"{"type":"nonsense","id":"","payload":{"a":1}}"#), Due::Fault),
        6 => one(text(r#"{"type":"__shutdown","id":"","payload":{}}"#), Due::Fault),
        7 => one(text(r#"{"type":"call.requested","id":"","payload":"boo"}"#), Due::Fault),
        8 => one(requested(&format!(r#""requestId":"{id}","operationId":7"#)), answer()),
        9 => one(requested(&format!(r#""requestId":"{id}","operationId":"a.b","deadline":"soon""#)), answer()),
        10 => one(requested(&format!(r#""requestId":"{id}","operationId":"a.b","deadline":1e400"#)), answer()),
        11 => one(text(format!(r#"{{"type":"x","id":"","payload":{deep}"#)), Due::Fault),
        12 => one(text(call(id, "hub.whoami", &deep)), answer()),
        13 => one(text(call(id, "hub.list", r#"{"namespace":"\ud800"}"#)), answer()),
        14 => one(text(call(id, "hub.list", r#"{"limit":1e400}"#)), answer()),
        15 => one(requested(r#""requestId":"\udfff","operationId":"hub.whoami""#), Due::Fault),
        16 => one(Message::binary(vec![0xff, 0xfe, 0x00, b'{']), Due::Fault),
        17 => one(Message::binary(call(id, "no.such", "null").into_bytes()), answer()),
        18 => {
            let twice = call(id, "calls.observe", r#"{"after":0}"#);
            (vec![text(twice.clone()), text(twice), text(abort(id))], Due::Both(id.to_owned()))
        }
        19 => {
            let huge = format!("{id}{}", "i".repeat(100_000));
            one(text(call(&huge, "hub.whoami", "{}")), Due::Answer(huge))
        }
        20 => one(text(call(id, &"o".repeat(100_000), "{}")), answer()),
        21 => one(text(r#"{"type":"__subscribe","id":"","payload":{"topic":["a"]}}"#), Due::Fault),
        22 => one(text(format!(r#"{{"type":"__subscribe","id":"","payload":{{"topic":"x:{id}"}}}}"#)), Due::Silence),
        23 => one(text(format!(r#"{{"type":"__pause","id":"","payload":{{"requestId":"{id}"}}}}"#)), Due::Silence),
        24 => one(text(r#"{"type":"call.responded","id":"nobody","payload":{"output":{}}}"#), Due::Silence),
        25 => one(text(call(id, "hub.register", r#"{"name":"../..","operations":{}}"#)), answer()),
        26 => one(text(call(id, "keys.create", r#"{"name":1,"scopes":"*"}"#)), answer()),
        27 => one(text(call(id, "hub.search", &json!({"query": "q".repeat(5_000)}).to_string())), answer()),
        28 => {
            one(requested(&format!(r#""requestId":"{id}","operationId":"hub.whoami","parentRequestId":"x""#)), answer())
        }
        29 => one(requested(&format!(r#""requestId":"{id}","operationId":"hub.whoami","identity":[]"#)), answer()),
        // Above the limit of 1 MiB: with a head that can be read, and without.
        30 if n.below(8) == 0 => one(text(call(id, "hub.whoami", &format!("\"{}\"", "x".repeat(1 << 20)))), answer()),
        31 if n.below(8) == 0 => one(text("x".repeat((1 << 20) + 1)), Due::Close),
        _ => one(text(call(id, "events.list", r#"{"topics":[]}"#)), answer()),
    }
}

fn abort(id: &str) -> String {
    json!({"type": "call.aborted", "id": "", "payload": {"requestId": id}}).to_string()
}

/// What has come of the messages so far.
#[derive(Default)]
struct Tally {
    sent: usize,
    answered: usize,
    closed: usize,
    unanswered_at_close: usize,
}

/// Sends a burst and reads until all of it is answered or the connection is closed.
async fn burst(peer: &mut RawPeer, n: &mut Numbers, serial: &mut u64, tally: &mut Tally) -> Result<Option<Closed>> {
    let (mut faults, mut answers, mut doomed) = (0_usize, Vec::new(), false);
    let before = tally.answered;
    let mut due = 0;
    for _ in 0..8 {
        *serial += 1;
        let (messages, expected) = message(n, &format!("h{serial}"));
        tally.sent += messages.len();
        match expected {
            Due::Fault => faults += 1,
            Due::Answer(id) => answers.push(id),
            Due::Both(id) => answers.extend([id.clone(), id]),
            Due::Silence => {}
            Due::Close => doomed = true,
        }
        for message in messages {
            if peer.send(message).await.is_err() {
                // The hub has closed; how, the reading below tells.
                doomed = true;
                break;
            }
        }
        due = faults + answers.len();
        if doomed {
            break;
        }
    }
    while doomed || faults > 0 || !answers.is_empty() {
        match peer.next_or_close().await? {
            Err(closed) => {
                tally.closed += 1;
                tally.unanswered_at_close += due - (tally.answered - before);
                return Ok(Some(closed));
            }
            Ok(message) if message["type"] == "hub.protocol_error" => {
                ensure!(
                    message["payload"]["code"].is_string() && message["payload"]["message"].is_string(),
                    "{message}"
                );
                faults = faults.checked_sub(1).context("a fault too many")?;
                tally.answered += 1;
            }
            Ok(message) => {
                // Of a stream only the end is an answer.
                let id = message["payload"]["requestId"].as_str().unwrap_or_default();
                let kind = message["type"].as_str().unwrap_or_default();
                let item = kind == "call.responded" && message["payload"]["output"]["data"]["callId"].is_string();
                if !item {
                    let at = answers.iter().position(|a| a == id);
                    answers.swap_remove(at.with_context(|| format!("nobody asked for {kind} of {id:.40}"))?);
                    tally.answered += 1;
                }
            }
        }
    }
    Ok(None)
}

/// Calls on a connection of its own until told to stop; answers how long each call took.
async fn times(mut peer: RawPeer, stop: Arc<AtomicBool>, least: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    while times.len() < least || !stop.load(Ordering::Relaxed) {
        let started = Instant::now();
        let answer = peer.call(&format!("b{}", times.len()), "hub.whoami", json!({})).await?;
        ensure!(answer["type"] == "call.responded", "{answer}");
        times.push(started.elapsed());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    times.sort();
    Ok(times)
}

/// Must hold 3. The attacker waits for answers between its bursts, as the promise is about every message having one;
/// what is measured is then the hub and not how two processes share two cores.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_hostile_messages_are_answered_and_others_notice_nothing() -> Result<()> {
    let hub = Hub::start(&[]).await?;
    let calm = times(hub.raw().await?, Arc::new(AtomicBool::new(true)), 300).await?;
    let before = calm[calm.len() / 2];
    // Once before measuring, so that caches and pools have their size.
    let (mut n, mut serial, mut tally) = (Numbers(7), 0, Tally::default());
    let mut peer = hub.raw().await?;
    while tally.sent < 1_000 {
        if burst(&mut peer, &mut n, &mut serial, &mut tally).await?.is_some() {
            peer = hub.raw().await?;
        }
    }
    let memory = hub.memory()?;
    let stop = Arc::new(AtomicBool::new(false));
    let bystander = tokio::spawn(times(hub.raw().await?, Arc::clone(&stop), 100));
    let mut codes = HashSet::new();
    let mut tally = Tally::default();
    while tally.sent < 10_000 {
        if let Some(closed) = burst(&mut peer, &mut n, &mut serial, &mut tally).await? {
            ensure!([1008, 1009].contains(&closed.code), "{closed:?}");
            codes.insert(closed.code);
            peer = hub.raw().await?;
        }
    }
    stop.store(true, Ordering::Relaxed);
    let during = bystander.await??;
    let median = during[during.len() / 2];
    let grown = hub.memory()?.saturating_sub(memory);
    println!(
        "sent {}, answered {}, closed {} with {} due; median {before:?} before, {median:?} during; +{grown} KiB",
        tally.sent, tally.answered, tally.closed, tally.unanswered_at_close
    );
    assert_eq!(codes, HashSet::from([1008, 1009]));
    assert!(tally.answered > 5_000, "the hub must answer, not only close: {}", tally.answered);
    assert!(median <= 2 * before, "{median:?} during, {before:?} before");
    assert!(grown < 64 * 1024, "{grown} KiB more");
    Ok(())
}

/// A call in flight for each id up to the limit; the next is refused and all others go on.
#[tokio::test(flavor = "multi_thread")]
async fn the_call_after_the_last_allowed_one_is_overloaded() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = hub.raw().await?;
    for i in 0..=1_024 {
        // Streams that stay open.
        peer.request(&i.to_string(), "events.subscribe", json!({"topics": ["none:*"]})).await?;
    }
    let refused = peer.next().await?;
    assert_eq!(refused["type"], "call.error");
    assert_eq!(refused["payload"]["requestId"], "1024");
    assert_eq!(refused["payload"]["code"], "OVERLOADED");
    assert_eq!(refused["payload"]["retryable"], true);
    peer.event("call.aborted", json!({"requestId": "3"})).await?;
    let aborted = peer.next().await?;
    assert_eq!((&aborted["type"], &aborted["payload"]["requestId"]), (&json!("call.aborted"), &json!("3")));
    let answer = peer.call("again", "hub.whoami", json!({})).await?;
    assert_eq!(answer["type"], "call.responded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_id_is_a_conflict_and_the_first_call_goes_on() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = hub.raw().await?;
    peer.request("same", "events.subscribe", json!({"topics": ["t:*"]})).await?;
    peer.request("same", "hub.whoami", json!({})).await?;
    let refused = peer.next().await?;
    assert_eq!((&refused["type"], &refused["payload"]["code"]), (&json!("call.error"), &json!("CONFLICT")));
    // "From now on" begins when the hub has asked the store where the log ends, which no message tells and which takes
    // a Postgres longer than the way of another call: published again and again.
    let client = hub.client().await?;
    let publish = async {
        loop {
            client.call_raw("events.publish", json!({"topic": "t:1", "type": "x"})).await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let item = tokio::select! {
        item = peer.next() => item?,
        failed = publish => return failed,
    };
    assert_eq!((&item["type"], &item["payload"]["requestId"]), (&json!("call.responded"), &json!("same")));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_does_not_fit_fails_its_call_and_counts_as_a_fault() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = hub.raw().await?;
    peer.event("call.requested", json!({"requestId": "r", "operationId": "a.b", "onDisconnect": "explode"})).await?;
    let answer = peer.next().await?;
    assert_eq!(answer["type"], "call.error");
    assert_eq!(answer["id"], "");
    assert_eq!(answer["payload"]["requestId"], "r");
    assert_eq!(answer["payload"]["code"], "VALIDATION_ERROR");
    assert!(answer["payload"]["details"][0]["message"].as_str().is_some_and(|m| m.contains("abort")), "{answer}");
    // In the other style of ids, too.
    peer.text(json!({"type": "call.requested", "id": "e", "payload": {"operationId": 1}}).to_string()).await?;
    let answer = peer.next().await?;
    assert_eq!((&answer["id"], &answer["payload"]["requestId"]), (&json!("e"), &json!("e")));
    for i in 2..=16 {
        peer.event("call.requested", json!({"requestId": i.to_string(), "operationId": []})).await?;
    }
    peer.event("call.requested", json!({"requestId": "17", "operationId": []})).await?;
    assert_eq!(peer.closed().await?.code, 1008);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_type_that_the_hub_does_not_know_is_told_and_counted() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = hub.raw().await?;
    for _ in 0..16 {
        peer.event("weather.changed", json!({})).await?;
        let fault = peer.next().await?;
        assert_eq!(fault["type"], "hub.protocol_error");
        assert_eq!(fault["payload"]["code"], "UNKNOWN_TYPE");
    }
    let fine = peer.call("1", "hub.whoami", json!({})).await?;
    assert_eq!(fine["type"], "call.responded");
    peer.event("weather.changed", json!({})).await?;
    assert_eq!(peer.closed().await?, Closed { code: 1008, reason: "too many unreadable messages".into() });
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_longer_than_any_sane_one_is_refused_and_recorded_nowhere() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut peer = hub.raw().await?;
    let id = "i".repeat(257);
    let answer = peer.call(&id, "events.publish", json!({"topic": "t:1", "type": "x"})).await?;
    assert_eq!(answer["payload"]["code"], "VALIDATION_ERROR");
    let answer = peer.call(&id[1..], "events.publish", json!({"topic": "t:1", "type": "x"})).await?;
    assert_eq!(answer["type"], "call.responded");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_above_the_limit_fails_its_call_or_closes_the_connection() -> Result<()> {
    let hub = TestHub::start_with(&["--max-message-bytes", "10000"]).await?;
    let mut peer = hub.raw().await?;
    // The members in the order of the TypeScript library, so that the id stands before the input.
    peer.text(call("big", "hub.whoami", &format!("\"{}\"", "y".repeat(10_000)))).await?;
    let refused = peer.next().await?;
    assert_eq!(refused["payload"]["requestId"], "big");
    assert_eq!(refused["payload"]["code"], "PAYLOAD_TOO_LARGE");
    assert_eq!(refused["payload"]["details"], json!({"limit": 10_000, "of": "messageBytes"}));
    let fine = peer.call("small", "hub.whoami", json!({})).await?;
    assert_eq!(fine["type"], "call.responded");
    // An id that the input only quotes is none.
    let quoted = format!(r#"{{"payload":{{"input":{{"requestId":"fake","pad":"{}"}}}}}}"#, "p".repeat(10_000));
    peer.text(quoted).await?;
    let closed = peer.closed().await?;
    assert_eq!(closed.code, 1009);
    assert!(closed.reason.contains("10000"), "{closed:?}");
    // So large that the hub does not even read it to its end.
    for size in [50_000, 8 << 20] {
        let mut peer = hub.raw().await?;
        // The hub may close while this is being sent.
        peer.text("x".repeat(size)).await.ok();
        assert_eq!(peer.closed().await?.code, 1009, "{size}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_subscriptions_is_bounded_and_slows_nobody() -> Result<()> {
    let hub = TestHub::start().await?;
    let mut flood = hub.raw().await?;
    for i in 0..256 {
        flood.event("__subscribe", json!({"topic": format!("t:{i}")})).await?;
    }
    flood.event("__subscribe", json!({"topic": "t:one-too-many"})).await?;
    let fault = flood.next().await?;
    assert_eq!(fault["type"], "hub.protocol_error");
    assert!(fault["payload"]["message"].as_str().is_some_and(|m| m.contains("256")), "{fault}");
    let client = hub.client().await?;
    // What is published before the hub reads for a connection is not for it.
    let mut begun = false;
    for _ in 0..100 {
        client.call_raw("events.publish", json!({"topic": "t:0", "type": "first", "payload": null})).await?;
        begun = tokio::time::timeout(Duration::from_millis(100), flood.next()).await.is_ok();
        if begun {
            break;
        }
    }
    assert!(begun, "no event of its topics comes");
    let started = Instant::now();
    for i in 0..100 {
        client.call_raw("events.publish", json!({"topic": format!("t:{i}"), "type": "x", "payload": i})).await?;
    }
    // 256 readers of the log would each look at every event.
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let mut seen = Vec::new();
    while seen.len() < 100 {
        let message = flood.next().await?;
        assert_eq!(message["type"], "t");
        if message["payload"]["type"] == "first" {
            continue;
        }
        seen.push((message["id"].as_str().unwrap_or_default().to_owned(), message["payload"]["payload"].clone()));
    }
    let expected: Vec<_> = (0..100).map(|i| (i.to_string(), json!(i))).collect();
    assert_eq!(seen, expected);
    // 16 more that are not allowed are too many.
    for _ in 0..16 {
        flood.event("__subscribe", json!({"topic": "x".repeat(300)})).await?;
    }
    assert_eq!(flood.closed().await?.code, 1008);
    Ok(())
}

/// Registers one operation with this input schema; answers the message and how long it took.
async fn register_schema(peer: &mut RawPeer, name: &str, schema: Value) -> Result<(Value, Duration)> {
    let mut spec = RawPeer::spec(&format!("evil.{name}"), "query");
    spec["inputSchema"] = schema;
    let started = Instant::now();
    let answer = peer.register(name, &[], json!({"operations": [spec]})).await?;
    Ok((answer, started.elapsed()))
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_can_neither_stall_the_hub_nor_make_it_reach_out() -> Result<()> {
    let hub = TestHub::start().await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let remote = format!("http://{}/schema.json", listener.local_addr()?);
    for (i, schema) in [
        json!({"$ref": remote}),
        json!({"properties": {"a": {"$ref": "file:///etc/passwd"}}}),
        json!({"allOf": [{"$ref": format!("{remote}#/$defs/a")}]}),
        json!({"type": "strange"}),
        json!({"pattern": "("}),
        json!({"pattern": r"(\w{1000}){1000}"}),
        json!({"$ref": "#/$defs/none"}),
        // Endless: the hub once ended with an exhausted stack at the first call.
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "string"}]}}}),
    ]
    .into_iter()
    .enumerate()
    {
        let mut peer = hub.raw().await?;
        let (answer, took) = register_schema(&mut peer, &format!("refused{i}"), schema.clone()).await?;
        assert_eq!(answer["payload"]["code"], "VALIDATION_ERROR", "{schema}: {answer}");
        assert!(took < Duration::from_secs(3), "{schema} took {took:?}");
    }
    let nothing = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(nothing.is_err(), "the hub has fetched a schema");

    let mut spoke = hub.raw().await?;
    let (answer, _) = register_schema(&mut spoke, "regex", json!({"type": "string", "pattern": "^(a+)+$"})).await?;
    assert_eq!(answer["type"], "call.responded", "{answer}");
    let mut caller = hub.raw().await?;
    let started = Instant::now();
    let answer = caller.call("1", "evil.regex", json!(format!("{}!", "a".repeat(50_000)))).await?;
    assert_eq!(answer["payload"]["code"], "VALIDATION_ERROR");
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());

    // A schema may recur into itself with a smaller value.
    let tree = json!({"type": "object", "properties": {"c": {"items": {"$ref": "#"}}}, "additionalProperties": false});
    let mut spoke = hub.raw().await?;
    let (answer, _) = register_schema(&mut spoke, "tree", tree).await?;
    assert_eq!(answer["type"], "call.responded", "{answer}");
    let called = caller.call("2", "evil.tree", json!({"c": [{"c": [{"x": 1}]}]})).await?;
    assert_eq!(called["payload"]["code"], "VALIDATION_ERROR");
    assert_eq!(called["payload"]["details"][0]["path"], "/c/0/c/0");
    let fine = caller.call("3", "hub.whoami", json!({})).await?;
    assert_eq!(fine["type"], "call.responded");
    Ok(())
}

/// 100,000 operations need a message of some 15 MB, so the limit is raised for this.
#[tokio::test(flavor = "multi_thread")]
async fn a_registration_of_a_hundred_thousand_operations_is_refused_and_slows_nobody() -> Result<()> {
    let hub = Hub::start(&["--max-message-bytes", "67108864"]).await?;
    let spec = RawPeer::spec("many.NAME", "query").to_string();
    let operations: Vec<String> = (0..100_000).map(|i| spec.replace("NAME", &format!("op{i}"))).collect();
    let id = uuid::Uuid::new_v4();
    let input = format!(
        r#"{{"name":"many","spokeType":"compute","instanceId":"{id}","startedAt":1,"operations":[{}]}}"#,
        operations.join(",")
    );
    let mut spoke = hub.raw().await?;
    let stop = Arc::new(AtomicBool::new(false));
    let bystander = tokio::spawn(times(hub.raw().await?, Arc::clone(&stop), 20));
    let started = Instant::now();
    spoke.text(call("register", "hub.register", &input)).await?;
    let answer = spoke.next().await?;
    let took = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    let during = bystander.await??;
    let (median, longest) = (during[during.len() / 2], during[during.len() - 1]);
    println!("refused after {took:?}; others took {median:?}, at most {longest:?}");
    assert_eq!(answer["payload"]["code"], "PAYLOAD_TOO_LARGE", "{answer}");
    assert!(longest < Duration::from_secs(2), "{longest:?}");
    let memory = hub.memory()?;
    assert!(memory < 600 * 1024, "{memory} KiB");
    Ok(())
}
