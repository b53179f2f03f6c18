//! Readers of the event log miss nothing and see nothing twice (must hold 6), and see only what they may.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use hub_protocol::CallError;
use hub_protocol::ops::calls::{CallEvent, CallEventKind, ObserveCalls};
use hub_protocol::ops::events::{EventPage, ListEvents, PublishEvent};
use hub_spoke::{Client, RunningSpoke};
use hub_storage::{Retention, Stamp};
use hub_testkit::{RawPeer, TestHub, eventually, http};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Calls that an observer watches.
const CALLS: usize = 10_000;

/// Times that its connection is lost meanwhile.
const LOSSES: usize = 5;

async fn echo(hub: &TestHub) -> Result<RunningSpoke> {
    let spoke = hub.spoke("echo").spoke_type("compute");
    Ok(spoke
        .query("demo.echo", "Answers its input.", |_, v: Value| async { Ok::<_, CallError>(v) })
        .build()?
        .start()
        .await?)
}

/// Makes calls side by side on one connection.
async fn calls(hub: &TestHub, count: usize) -> Result<JoinHandle<Result<()>>> {
    let client = hub.client().await?;
    Ok(tokio::spawn(async move {
        let calls = futures_util::stream::iter(0..count).map(|i| client.call_raw("demo.echo", json!(i)));
        let mut done = calls.buffer_unordered(32);
        while let Some(answer) = done.next().await {
            answer?;
        }
        Ok(())
    }))
}

/// Every call begins once and ends once after that, positions only grow, and nothing is missing in between.
#[derive(Default)]
struct Seen {
    last: u64,
    begun: HashMap<String, bool>,
    ended: usize,
}

impl Seen {
    fn add(&mut self, seq: u64, kind: &str, call: &str) -> Result<()> {
        ensure!(seq > self.last, "{seq} after {}", self.last);
        self.last = seq;
        match kind {
            "requested" => ensure!(self.begun.insert(call.to_owned(), false).is_none(), "{call} began twice"),
            "completed" => {
                let ended = self.begun.get_mut(call).with_context(|| format!("{call} ended before it began"))?;
                ensure!(!std::mem::replace(ended, true), "{call} ended twice");
                self.ended += 1;
            }
            other => bail!("unexpected {other}"),
        }
        Ok(())
    }

    fn is_all(&self) -> bool {
        self.ended == CALLS
    }
}

/// Must hold 6. All three kinds of observers watch the same calls, each losing its connection five times.
#[tokio::test(flavor = "multi_thread")]
async fn an_observer_that_reconnects_five_times_during_ten_thousand_calls_has_every_event_once_in_order() -> Result<()>
{
    let hub = TestHub::start().await?;
    let spoke = echo(&hub).await?;
    let work = calls(&hub, CALLS).await?;
    let (raw, sdk, source) = tokio::join!(raw_observer(&hub), sdk_observer(&hub), event_source(&hub));
    raw.context("raw")?;
    sdk.context("sdk")?;
    source.context("event source")?;
    work.await??;
    spoke.stop().await?;
    Ok(())
}

/// Resumes with `after` on new connections. Events that are on their way at a loss are lost with the connection.
async fn raw_observer(hub: &TestHub) -> Result<()> {
    let (mut seen, mut connections) = (Seen::default(), 0);
    while !seen.is_all() {
        let mut peer = hub.raw().await?;
        connections += 1;
        let input = json!({"operationId": "demo.echo", "after": seen.last});
        peer.request("o", "calls.observe", input).await?;
        let mut events = 0;
        while !seen.is_all() && (connections > LOSSES || events < 2 * CALLS / (LOSSES + 1)) {
            let event = peer.next_of("call.responded").await?["output"]["data"].take();
            let text = |member: &str| event[member].as_str().unwrap_or_default().to_owned();
            seen.add(event["seq"].as_u64().context("seq")?, &text("type"), &text("callId"))?;
            events += 1;
        }
    }
    ensure!((seen.begun.len(), connections) == (CALLS, LOSSES + 1), "{} {connections}", seen.begun.len());
    Ok(())
}

/// Passes bytes between clients and the hub, and cuts them all off when told to.
struct Proxy {
    address: SocketAddr,
    cut: Arc<std::sync::Mutex<CancellationToken>>,
    _accepting: tokio_util::sync::DropGuard,
}

impl Proxy {
    async fn start(to: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let cut = Arc::new(std::sync::Mutex::new(CancellationToken::new()));
        let stop = CancellationToken::new();
        let (current, until) = (Arc::clone(&cut), stop.clone());
        tokio::spawn(async move {
            while let Some(Ok((mut client, _))) = until.run_until_cancelled(listener.accept()).await {
                let cut = current.lock().unwrap().clone();
                tokio::spawn(async move {
                    let mut hub = TcpStream::connect(to).await?;
                    tokio::select! {
                        () = cut.cancelled() => Ok((0, 0)),
                        copied = tokio::io::copy_bidirectional(&mut client, &mut hub) => copied,
                    }
                });
            }
        });
        Ok(Self { address, cut, _accepting: stop.drop_guard() })
    }

    fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }
}

/// The SDK resumes by itself.
async fn sdk_observer(hub: &TestHub) -> Result<()> {
    let proxy = Proxy::start(hub.address()).await?;
    let observer = Client::connect(&format!("http://{}", proxy.address), hub.admin_key()).await?;
    let params = ObserveCalls { operation_id: Some("demo.echo".into()), after: Some(0), ..ObserveCalls::default() };
    let mut events = observer.observe_calls(params);
    let (mut seen, mut count, mut losses) = (Seen::default(), 0, 0);
    while !seen.is_all() {
        let next = tokio::time::timeout(Duration::from_secs(20), events.next()).await.context("no event in time")?;
        let CallEvent { seq, kind, call_id, .. } = next.context("the stream has ended")??;
        seen.add(seq, kind.as_str(), &call_id.to_string())?;
        count += 1;
        if losses < LOSSES && count % (2 * CALLS / (LOSSES + 1)) == 0 {
            proxy.cut();
            losses += 1;
        }
    }
    ensure!((seen.begun.len(), losses) == (CALLS, LOSSES), "{} {losses}", seen.begun.len());
    Ok(())
}

/// Server-sent events as a browser reads them.
struct Sse {
    stream: TcpStream,
    rest: String,
}

impl Sse {
    async fn open(hub: &TestHub, path: &str, last: Option<&str>) -> Result<Self> {
        let mut stream = TcpStream::connect(hub.address()).await?;
        let last = last.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        // Version 1.0: not chunked.
        let key = hub.admin_key();
        let request = format!("GET {path} HTTP/1.0\r\nhost: hub\r\nauthorization: Bearer {key}\r\n{last}\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut this = Self { stream, rest: String::new() };
        let head = this.block("\r\n\r\n").await?;
        ensure!(head.starts_with("HTTP/1.0 200") && head.contains("text/event-stream"), "{head}");
        Ok(this)
    }

    async fn block(&mut self, end: &str) -> Result<String> {
        loop {
            if let Some((block, rest)) = self.rest.split_once(end) {
                let block = block.to_owned();
                self.rest = rest.to_owned();
                return Ok(block);
            }
            let mut bytes = vec![0; 64 * 1024];
            let read = tokio::time::timeout(Duration::from_secs(15), self.stream.read(&mut bytes)).await??;
            ensure!(read > 0, "the stream has ended: {}", self.rest);
            self.rest.push_str(std::str::from_utf8(&bytes[..read])?);
        }
    }

    /// The next event's id and data, past comments.
    async fn next(&mut self) -> Result<(String, Value)> {
        loop {
            let block = self.block("\n\n").await?;
            let field = |name: &str| block.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
            if let Some(data) = field("data:") {
                return Ok((field("id:").unwrap_or_default().to_owned(), serde_json::from_str(data)?));
            }
        }
    }
}

/// Resumes with `Last-Event-ID`.
async fn event_source(hub: &TestHub) -> Result<()> {
    let (mut seen, mut connections, mut last) = (Seen::default(), 0, "0".to_owned());
    while !seen.is_all() {
        let mut source = Sse::open(hub, "/api/events?topics=call:*", Some(&last)).await?;
        connections += 1;
        let mut events = 0;
        while !seen.is_all() && (connections > LOSSES || events < 2 * CALLS / (LOSSES + 1)) {
            let (id, event) = source.next().await?;
            let seq = event["seq"].to_string();
            ensure!(*id == *seq, "{id} {event}");
            last = id;
            // The observers' own calls are among the events, too.
            if event["payload"]["operationId"] == "demo.echo" {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let call = text(&event["payload"]["callId"]);
                seen.add(event["seq"].as_u64().context("seq")?, &text(&event["type"]), &call)?;
            }
            events += 1;
        }
    }
    ensure!((seen.begun.len(), connections) == (CALLS, LOSSES + 1), "{} {connections}", seen.begun.len());
    Ok(())
}

async fn publish(client: &Client, topic: &str, kind: &str) -> Result<u64, CallError> {
    let event = PublishEvent { topic: topic.into(), kind: kind.into(), payload: json!({"k": kind}).into() };
    Ok(client.call(&event).await?.seq)
}

fn list(topics: &[&str], after: u64, limit: Option<u32>) -> ListEvents {
    ListEvents { topics: topics.iter().map(|t| (*t).to_owned()).collect(), after: Some(after), limit }
}

fn kinds(page: &EventPage) -> Vec<&str> {
    page.events.iter().map(|e| e.kind.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn patterns_choose_topics_and_rights_are_looked_at_for_each_of_them() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let spoke = echo(&hub).await?;
    for (topic, kind) in [("task:1", "a"), ("task.sub:1", "b"), ("task:2", "c"), ("other:1", "d")] {
        publish(&admin, topic, kind).await?;
    }
    for (patterns, expected) in [
        (&["task:*"][..], vec!["a", "c"]),
        (&["task.*"], vec!["a", "c"]),
        (&["task:**"], vec!["a", "b", "c"]),
        (&["task:1"], vec!["a"]),
        (&["*:1"], vec!["a", "d"]),
        (&["task:2", "other:*"], vec!["c", "d"]),
        (&["none:*"], vec![]),
    ] {
        assert_eq!(kinds(&admin.call(&list(patterns, 0, None)).await?), expected, "{patterns:?}");
    }
    for bad in ["", "a*", "**.a", "a.**.b"] {
        assert_eq!(admin.call(&list(&[bad], 0, None)).await.unwrap_err().code, "VALIDATION_ERROR", "{bad}");
    }
    let all = admin.call(&list(&["**"], 0, Some(1_000))).await?;
    for first in ["key:", "spoke:", "call:", "task:"] {
        assert!(all.events.iter().any(|e| e.topic.starts_with(first)), "{first}");
    }
    // Whoever asks for everything gets what it may read.
    for (scopes, prefixes) in [
        (&[][..], &[][..]),
        (&["events:read"], &["task", "other"]),
        (&["hub:read"], &["spoke"]),
        (&["keys:admin"], &["key"]),
        (&["calls:read"], &["call"]),
    ] {
        let client = hub.client_with(scopes).await?;
        let page = client.call(&list(&["**"], 0, Some(1_000))).await?;
        let allowed = |topic: &str| prefixes.iter().any(|p| topic.split(['.', ':']).next() == Some(p));
        assert!(page.events.iter().all(|e| allowed(&e.topic)), "{scopes:?}: {:?}", page.events);
        assert_eq!(page.events.is_empty(), prefixes.is_empty(), "{scopes:?}");
    }
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_live_subscription_gives_only_what_its_reader_may_see() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let reader = hub.client_with(&["events:read"]).await?;
    let mut items = reader.follow_events(vec!["**".into()], Some(0));
    publish(&admin, "t:1", "before").await?;
    assert_eq!(items.next().await.context("an item")??.kind, "before");
    // An event of a key comes first, and is not shown.
    hub.new_key(&[]).await?;
    publish(&admin, "t:1", "after").await?;
    assert_eq!(items.next().await.context("an item")??.kind, "after");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn topics_and_types_of_the_hub_and_the_protocol_can_not_be_published() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    for (topic, kind) in [
        ("call:1", "x"),
        ("call.sub:1", "x"),
        ("spoke:laptop", "x"),
        ("key:1", "x"),
        ("hub:log", "x"),
        ("hub.log:1", "x"),
        ("audit:1", "x"),
        ("no-colon", "x"),
        ("__subscribe:x", "x"),
        ("t:1", "call.requested"),
        ("t:1", "hub.protocol_error"),
        ("t:1", "__pause"),
        ("t:1", "gap"),
        ("t:1", ""),
        ("", "x"),
    ] {
        let refused = publish(&admin, topic, kind).await;
        assert_eq!(refused.unwrap_err().code, "VALIDATION_ERROR", "{topic} {kind}");
    }
    let reader = hub.client_with(&["events:read"]).await?;
    assert_eq!(publish(&reader, "t:1", "x").await.unwrap_err().code, "OPERATION_NOT_FOUND");
    publish(&admin, "callcenter:1", "called").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_goes_on_where_the_one_before_it_ended() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    for i in 0..25 {
        publish(&admin, if i % 5 == 0 { "five:1" } else { "t:1" }, &format!("e{i}")).await?;
    }
    let (mut after, mut seen, mut pages) = (0, Vec::new(), 0);
    loop {
        let page = admin.call(&list(&["five:*"], after, Some(7))).await?;
        assert!(page.next_after >= after && page.events.iter().all(|e| e.seq > after && e.seq <= page.next_after));
        seen.extend(page.events.iter().map(|e| e.kind.clone()));
        after = page.next_after;
        pages += 1;
        if !page.more {
            break;
        }
    }
    assert_eq!(seen, ["e0", "e5", "e10", "e15", "e20"]);
    assert!(pages >= 4, "{pages}");
    let end = admin.call(&list(&["five:*"], after, Some(7))).await?;
    assert_eq!((end.events.len(), end.next_after), (0, after), "reading on from the end stays there");
    for limit in [0, 1_001] {
        assert_eq!(admin.call(&list(&["**"], 0, Some(limit))).await.unwrap_err().code, "VALIDATION_ERROR");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_reads_from_before_retention_is_told_what_is_missing() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    for i in 0..5 {
        publish(&admin, "t:1", &format!("old{i}")).await?;
    }
    let last_old = hub.hub().status().await?.last_event;
    let everything = Retention { events: Some(Duration::ZERO), ..Retention::default() };
    let swept = hub.hub().store().sweep(&everything, Stamp::from_millis(hub_operations::now_ms() + 1)).await?;
    assert!(swept.events >= 5);
    publish(&admin, "t:1", "new").await?;
    // By pages.
    let page = admin.call(&list(&["t:*"], 0, None)).await?;
    assert_eq!(kinds(&page), ["gap", "new"]);
    let gap: Value = page.events[0].payload.parse()?;
    let (from, to) = (gap["from"].as_u64().context("from")?, gap["to"].as_u64().context("to")?);
    assert!(from == 1 && to >= last_old && to < page.events[1].seq, "{gap}");
    // As a stream, from the beginning and from within what is gone.
    for after in [0, last_old - 2] {
        let mut items = admin.follow_events(vec!["t:*".into()], Some(after));
        let first = items.next().await.context("an item")??;
        assert_eq!(first.kind, "gap");
        assert_eq!(first.payload.parse::<Value>()?, json!({"from": after + 1, "to": to}));
        assert_eq!(items.next().await.context("an item")??.kind, "new");
    }
    // From where nothing is missing there is no notice.
    let mut items = admin.follow_events(vec!["t:*".into()], Some(to));
    assert_eq!(items.next().await.context("an item")??.kind, "new");
    // An observer of calls and an event source are told, too.
    let mut calls = admin.observe_calls(ObserveCalls { after: Some(0), ..ObserveCalls::default() });
    let first = calls.next().await.context("an event")??;
    assert_eq!((first.kind, first.gap_from, first.seq), (CallEventKind::Gap, Some(1), to));
    let mut source = Sse::open(&hub, "/api/events?topics=t:*&after=0", None).await?;
    let (id, event) = source.next().await?;
    assert_eq!((id, &event["type"]), (to.to_string(), &json!("gap")));
    assert_eq!(source.next().await?.1["type"], "new");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_followed_topic_gives_hints_to_those_who_may_read_it() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let mut peer = RawPeer::connect(hub.address(), &hub.new_key(&["events:read"]).await?).await?;
    // Calls of a TypeScript peer: accepted, and of other connections nothing comes.
    peer.event("__subscribe", json!({"topic": "call.responded:"})).await?;
    peer.event("__subscribe", json!({"topic": "key:x"})).await?;
    let refused = peer.next_of("hub.protocol_error").await?;
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("may not read")), "{refused}");
    peer.event("__subscribe", json!({"topic": "t:1"})).await?;
    let told = Arc::new(AtomicBool::new(false));
    let (publisher, until) = (admin.clone(), Arc::clone(&told));
    let publishing = tokio::spawn(async move {
        // When following begins the peer is not told, so this goes on until it has.
        while !until.load(Ordering::Relaxed) {
            publish(&publisher, "t:2", "not asked for").await?;
            publish(&publisher, "t:1", "hint").await?;
        }
        Ok::<_, CallError>(())
    });
    let hint = peer.next().await?;
    told.store(true, Ordering::Relaxed);
    publishing.await??;
    assert_eq!((&hint["type"], &hint["id"], &hint["payload"]["type"]), (&json!("t"), &json!("1"), &json!("hint")));
    assert_eq!(hint["payload"]["payload"], json!({"k": "hint"}));
    peer.event("__unsubscribe", json!({"topic": "t:1"})).await?;
    // Everything that was on its way comes before the answer to this call or soon after it.
    peer.call("1", "hub.whoami", json!({})).await?;
    publish(&admin, "t:1", "too late").await?;
    peer.event("__subscribe", json!({"topic": "t:3"})).await?;
    let last = eventually("the other topic's hint", || async {
        publish(&admin, "t:3", "end").await?;
        Ok(Some(()))
    });
    last.await?;
    for _ in 0..1_000 {
        let message = match tokio::time::timeout(Duration::from_millis(300), peer.next()).await {
            Ok(message) => message?,
            Err(_) => break,
        };
        ensure!(message["payload"]["type"] != "too late", "{message}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn observing_until_done_ends_with_the_tree() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = hub
        .spoke("tree")
        .spoke_type("compute")
        .query("demo.leaf", "A leaf.", |_, n: u64| async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok::<_, CallError>(n)
        })
        .query("demo.root", "Calls two leaves, one after the other.", |ctx: hub_spoke::Context, _: Value| async move {
            ctx.call_raw("demo.leaf", json!(1)).await?;
            ctx.call_raw("demo.leaf", json!(2)).await?;
            Ok::<_, CallError>(0)
        })
        .build()?
        .start()
        .await?;
    let client = hub.client().await?;
    let caller = client.clone();
    let call = tokio::spawn(async move { caller.call_raw("demo.root", json!({})).await });
    let root = eventually("the root is recorded", || async {
        let page = client.call_raw("calls.list", json!({"operationId": "demo.root"})).await?.parse::<Value>()?;
        Ok(page["calls"][0]["callId"].as_str().map(str::to_owned))
    })
    .await?;
    let params = ObserveCalls { call_id: Some(root.parse()?), until_done: Some(true), ..ObserveCalls::default() };
    // While it runs, and again when it is over.
    for _ in 0..2 {
        let seen = async {
            let events: Vec<_> = client.observe_calls(params.clone()).collect().await;
            events.into_iter().collect::<Result<Vec<_>, _>>()
        };
        let events = tokio::time::timeout(Duration::from_secs(10), seen).await.context("it does not end")??;
        let shown: Vec<_> = events.iter().map(|e| (e.operation_id.as_str(), e.kind.as_str())).collect();
        assert_eq!(
            shown,
            [
                ("demo.root", "requested"),
                ("demo.leaf", "requested"),
                ("demo.leaf", "completed"),
                ("demo.leaf", "requested"),
                ("demo.leaf", "completed"),
                ("demo.root", "completed"),
            ]
        );
        let path = format!("/api/calls/{root}/events?untilDone=true");
        let stream = http(hub.address(), "GET", &path, hub.admin_key(), &Value::Null).await?;
        assert_eq!(stream.body.matches("\ndata:").count() + usize::from(stream.body.starts_with("data:")), 7);
        assert!(stream.body.trim_end().ends_with("event: completed\ndata: {}"), "{}", stream.body);
    }
    call.await??;
    spoke.stop().await?;
    Ok(())
}
