//! Upstreams that lie, flood and hang.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use crate::upstream::{Upstream, closed, json as ok_json, response};
use crate::{PET, PETSTORE, builder, call, client, details};

#[tokio::test]
async fn liars_are_told_apart() {
    let upstream = Upstream::answering(|request| match request.line.split(' ').nth(1).unwrap() {
        "/base/pets/1" => ok_json("{oops"),
        "/base/pets/2" => response("200 OK", "Content-Type: text/html\r\n", "<html>"),
        "/base/pets/3" => response("200 OK", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", "\u{1f}"),
        "/base/pets/4" => {
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{".to_owned()
        }
        "/base/pets/5" => "nonsense\r\n\r\n".to_owned(),
        "/base/pets/6" => String::new(),
        _ => response("200 OK", "Content-Type: text/plain\r\n", PET),
    })
    .await;
    let pets = client(PETSTORE, &upstream.url());
    for (id, word) in
        [(1, "not JSON"), (2, "text/html"), (3, "compressed"), (4, "broke off"), (5, "127.0.0.1"), (6, "127.0.0.1")]
    {
        let error = call(&pets, "getPet", json!({"petId": id})).await.unwrap_err();
        assert!(error.code == "EXECUTION_ERROR" && error.message.contains(word), "{id}: {error}");
    }
    assert_eq!(call(&pets, "getPet", json!({"petId": 7})).await.unwrap()["data"]["id"], 1);
    drop(upstream);
    let error = call(&pets, "createPet", json!({"body": {}})).await.unwrap_err();
    assert!(error.message.contains("can't be reached") && error.retryable, "{error}");
}

/// 100 MB, with and without saying so.
#[tokio::test]
async fn a_flood_is_cut_off() {
    let (sent, mut lengths) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |request, mut socket| {
        let sent = sent.clone();
        async move {
            let size = if request.line.contains("/1") { "Content-Length: 104857600\r\n" } else { "" };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n{size}\r\n\"");
            let _ = socket.write_all(head.as_bytes()).await;
            let (chunk, mut total) = (vec![b'x'; 64 * 1024], 0_usize);
            while total < 100 << 20 && socket.write_all(&chunk).await.is_ok() {
                total += chunk.len();
            }
            let _ = sent.send(total);
        }
    })
    .await;
    let pets = builder(PETSTORE, &upstream.url()).response_limit(1 << 20).build().unwrap();
    for id in [1, 2] {
        let error = call(&pets, "getPet", json!({"petId": id})).await.unwrap_err();
        assert_eq!((error.code.as_str(), details(&error)["limit"].clone()), ("PAYLOAD_TOO_LARGE", json!(1 << 20)));
        assert!(lengths.recv().await.unwrap() < 50 << 20, "the flood was read");
    }
}

#[tokio::test]
async fn a_hung_upstream_times_out_and_a_dropped_call_closes() {
    let (gone, mut closings) = mpsc::unbounded_channel();
    let upstream = Upstream::start(move |_, mut socket| {
        let gone = gone.clone();
        async move {
            closed(&mut socket).await;
            let _ = gone.send(Instant::now());
        }
    })
    .await;
    let pets = builder(PETSTORE, &upstream.url()).timeout(Duration::from_millis(150)).build().unwrap();
    let error = call(&pets, "listPets", json!({})).await.unwrap_err();
    assert_eq!(error.code, "TIMEOUT");
    assert!(closings.recv().await.unwrap().elapsed() < Duration::from_millis(100));
    let pets = client(PETSTORE, &upstream.url());
    let dropped = tokio::time::timeout(Duration::from_millis(100), call(&pets, "listPets", json!({}))).await;
    assert!(dropped.is_err());
    let now = Instant::now();
    let closing = tokio::time::timeout(Duration::from_millis(100), closings.recv()).await;
    assert!(closing.is_ok(), "the connection is still open after {:?}", now.elapsed());
}

/// Each byte comes in time, and the whole never does.
#[tokio::test]
async fn an_answer_that_drips_times_out() {
    let upstream = Upstream::start(move |_, mut socket| async move {
        let mut next = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n";
        while socket.write_all(next.as_bytes()).await.is_ok() {
            next = " ";
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let pets = builder(PETSTORE, &upstream.url()).timeout(Duration::from_millis(300)).build().unwrap();
    let error = call(&pets, "listPets", json!({})).await.unwrap_err();
    assert_eq!((error.code.as_str(), error.retryable), ("TIMEOUT", true));
    // Its beginning says that the pet was made.
    let error = call(&pets, "createPet", json!({"body": {}})).await.unwrap_err();
    assert!(error.code == "TIMEOUT" && !error.retryable && error.message.contains("was carried out"), "{error}");
}
