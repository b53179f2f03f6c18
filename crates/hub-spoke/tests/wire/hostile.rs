use futures_util::StreamExt;
use hub_operations::Answer;
use hub_protocol::{CallError, ErrorCode, Json};
use hub_spoke::{CancellationToken, Client, Spoke};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::hub::{FakeHub, KEY, soon};

fn garbage() -> Vec<Message> {
    let deep = format!(
        r#"{{"type":"call.responded","payload":{{"requestId":"a","output":{}1{}}}}}"#,
        "[".repeat(5000),
        "]".repeat(5000)
    );
    let texts = [
        "",
        "null",
        "[]",
        "{",
        "\"x\"",
        "\u{0}",
        "{}",
        r#"{"type":1}"#,
        r#"{"type":"call.responded"}"#,
        r#"{"type":"call.responded","id":"","payload":{"requestId":"nobody","output":{"data":1}}}"#,
        r#"{"type":"call.responded","id":"","payload":{"requestId":{},"output":1}}"#,
        r#"{"type":"call.completed","id":"","payload":{"requestId":"nobody"}}"#,
        r#"{"type":"call.error","id":"x","payload":{}}"#,
        r#"{"type":"call.aborted","id":"","payload":{"requestId":"nobody","receipts":[1]}}"#,
        r#"{"type":"call.requested","id":"","payload":{}}"#,
        r#"{"type":"call.requested","id":"","payload":{"operationId":"x.y"}}"#,
        r#"{"type":"call.requested","id":"q","payload":{"operationId":"x.y","deadline":1e400}}"#,
        r#"{"type":"call.requested","id":"q","payload":{"operationId":"x.y","deadline":-1,"identity":7}}"#,
        r#"{"type":"__pause","id":"","payload":{"requestId":"nobody"}}"#,
        r#"{"type":"__resume","id":"","payload":null}"#,
        r#"{"type":"__evil","id":"","payload":null}"#,
        r#"{"type":"hub.protocol_error","id":"","payload":{"code":"UNKNOWN_TYPE","message":"\ud800"}}"#,
        r#"{"type":"task.changed","id":"task:1","payload":{"lone":"\ud800","huge":1e999}}"#,
    ];
    let mut all: Vec<Message> = texts.iter().map(|text| Message::text(*text)).collect();
    all.push(Message::text(deep));
    all.push(Message::binary(vec![0xff, 0xfe, 0x00]));
    all.push(Message::Ping(vec![0; 125].into()));
    all.push(Message::Pong(vec![1, 2, 3].into()));
    all
}

#[tokio::test]
async fn no_frame_of_the_hub_harms_a_client_or_a_spoke() {
    let hub = FakeHub::echo().await;
    let client = Client::builder(&hub.url(), KEY).reconnect(false).connect().await.unwrap();
    for _ in 0..5 {
        hub.connection(0).await.send_raw(garbage());
        soon(client.call_raw("demo.echo", json!(1))).await.unwrap();
    }
    let spoke = Spoke::builder(&hub.url(), KEY, "laptop")
        .query("demo.one", "One.", async |_, _: Json| Ok::<_, CallError>(1))
        .build()
        .unwrap();
    let stop = CancellationToken::new();
    let checks = async {
        let connection = hub.connection(1).await;
        hub.registration(0).await;
        for _ in 0..5 {
            connection.send_raw(garbage());
            assert_eq!(soon(connection.call("demo.one", Json::null())).await.unwrap().as_str(), "1");
        }
        stop.cancel();
    };
    let (ended, ()) = soon(async { tokio::join!(spoke.run(stop.clone()), checks) }).await;
    ended.unwrap();
}

#[tokio::test]
async fn responses_that_are_no_envelopes_are_errors_of_their_call_alone() {
    let hub = FakeHub::start(|incoming, _| async move {
        let text = r#"{"data":1}"#;
        match incoming.request.operation_id.as_str() {
            "demo.bad" => Ok(Answer::One(Json::from_text(text).unwrap())),
            "demo.null" => Ok(Answer::One(Json::from_text(r#"{"meta":{"source":"local"}}"#).unwrap())),
            _ => Ok(Answer::Many(futures_util::stream::iter([Ok(Json::null())]).boxed().into())),
        }
    })
    .await;
    let client = Client::builder(&hub.url(), KEY).reconnect(false).connect().await.unwrap();
    assert!(soon(client.call_raw("demo.bad", json!(1))).await.unwrap_err().is(ErrorCode::ExecutionError));
    assert!(soon(client.call_raw("demo.null", json!(1))).await.unwrap().is_null(), "a missing data is null");
    let items: Vec<_> = soon(client.request("demo.many").subscribe().await.unwrap().collect()).await;
    assert!(items.len() == 1 && items[0].as_ref().unwrap_err().is(ErrorCode::ExecutionError));
}

#[tokio::test]
async fn a_message_above_the_limit_costs_the_connection_and_no_more() {
    let hub = FakeHub::echo().await;
    let client = Client::builder(&hub.url(), KEY).message_limit(10_000).connect().await.unwrap();
    hub.connection(0).await.send_raw(vec![Message::text("x".repeat(10_001))]);
    hub.connection(1).await;
    soon(client.call_raw("demo.echo", json!(1))).await.unwrap();
}
