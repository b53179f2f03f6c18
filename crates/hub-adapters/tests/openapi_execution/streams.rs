//! Server-sent events.

use std::time::Duration;

use futures_util::StreamExt;
use hub_adapters::openapi::CallLimits;
use hub_operations::Reply;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::upstream::{Upstream, closed, json as ok_json, response};
use crate::{FORGE, builder, client};

#[tokio::test]
async fn events_are_streamed_and_a_dropped_stream_closes() {
    let (gone, mut closings) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_, mut socket| {
        let gone = gone.clone();
        async move {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n\r\n";
            let events = "data: {\"n\": 1}\nid: 1\n\n: heartbeat\n\nevent: note\ndata: {\"n\":\ndata: 2}\n\n";
            let _ = socket.write_all(format!("{head}{events}").as_bytes()).await;
            closed(&mut socket).await;
            let _ = gone.send(());
        }
    })
    .await;
    let forge = client(FORGE, &upstream.url());
    let reply = forge.call("api.activity_stream", &json!({}).into(), &CallLimits::default()).await;
    let Ok(Reply::Stream(mut items)) = reply else { panic!("no stream") };
    assert_eq!(items.next().await.unwrap().unwrap().as_str(), r#"{"event":"message","id":"1","data":{"n": 1}}"#);
    assert_eq!(items.next().await.unwrap().unwrap().as_str(), "{\"event\":\"note\",\"id\":\"1\",\"data\":{\"n\":\n2}}");
    assert_eq!(upstream.last().header("accept"), Some("text/event-stream"));
    drop(items);
    tokio::time::timeout(Duration::from_millis(100), closings.recv()).await.expect("the stream is closed");
}

#[tokio::test]
async fn streams_end_well_and_badly() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n";
    let upstream = Upstream::answering(move |request| match request.header("x-case").unwrap() {
        "end" => format!("{head}Connection: close\r\n\r\ndata: {{}}\n\ndata: 2"),
        "cut" => format!("{head}Content-Length: 1000\r\n\r\ndata: {{}}\n\n"),
        "flood" => format!("{head}\r\ndata: {}\n\n", "x".repeat(5_000)),
        "json" => ok_json("{\"all\": 1}"),
        _ => response("404 None", "", ""),
    })
    .await;
    let mut ends = Vec::new();
    for case in ["end", "cut", "flood", "json"] {
        let client =
            builder(FORGE, &upstream.url()).header("X-Case", case.into()).response_limit(1_000).build().unwrap();
        let reply = client.call("api.activity_stream", &json!({}).into(), &CallLimits::default()).await;
        let Ok(Reply::Stream(items)) = reply else { panic!("no stream") };
        let items: Vec<_> = items.collect().await;
        ends.push(
            items
                .into_iter()
                .map(|item| item.map_or_else(|e| e.code, |json| json.as_str().to_owned()))
                .collect::<Vec<_>>(),
        );
    }
    let one = r#"{"event":"message","data":{}}"#;
    // What is not ended by an empty line is no event.
    assert_eq!(ends[0], [one]);
    assert_eq!(ends[1], [one, "EXECUTION_ERROR"]);
    assert_eq!(ends[2], ["PAYLOAD_TOO_LARGE"]);
    assert_eq!(ends[3], [r#"{"event":"message","data":{"all": 1}}"#]);
}
