//! Documents that change while their operations are in use.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hub_adapters::net::NetPolicy;
use hub_adapters::openapi::{Document, FollowedApi, Make, OpenApiClient, Options, Served, Source};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::upstream::{Request, Upstream, response};

const SOON: Duration = Duration::from_millis(20);

fn document(operation: &str) -> String {
    format!(
        r#"{{"openapi": "3.1.0", "servers": [{{"url": "https://api.example.com"}}],
            "paths": {{"/a": {{"get": {{"operationId": "{operation}", "responses": {{}}}}}}}}}}"#
    )
}

fn make() -> Arc<Make> {
    Arc::new(|text: &str| {
        let import = Document::parse(text).and_then(|document| document.operations_to_register(&Options::new("api")));
        OpenApiClient::builder(import.map_err(|e| e.to_string())?).build().map_err(|e| e.to_string())
    })
}

fn names(served: &Served) -> Vec<String> {
    served.client.operations().map(|one| one.spec.id()).collect()
}

async fn until(watched: &mut watch::Receiver<Served>, what: impl FnMut(&Served) -> bool) -> Served {
    tokio::time::timeout(Duration::from_secs(10), watched.wait_for(what)).await.unwrap().unwrap().clone()
}

#[tokio::test]
async fn a_document_behind_a_url_is_followed() {
    // What is published, with its mark; without a body the server is away.
    let published = Arc::new(Mutex::new(("\"1\"", document("first"))));
    let shared = Arc::clone(&published);
    let upstream = Upstream::answering(move |request: &Request| {
        let (etag, body) = shared.lock().unwrap().clone();
        match request.header("if-none-match") {
            _ if body.is_empty() => response("503 Away", "", ""),
            Some(known) if known == etag => response("304 Not Modified", "", ""),
            _ => {
                response("200 OK", &format!("ETag: {etag}\r\nLast-Modified: Sat, 21 Nov 2026 07:00:00 GMT\r\n"), &body)
            }
        }
    })
    .await;
    let publish = |etag, body: String| *published.lock().unwrap() = (etag, body);
    let source = Source::url(upstream.url().parse().unwrap(), NetPolicy::private());
    let api = FollowedApi::open(source, SOON, make()).await.unwrap();
    let mut watched = api.watch();
    assert_eq!(names(&api.now()), ["api.first"]);
    let mark = |served: &Served| served.client.operations().next().unwrap().spec.version.clone();
    assert!(mark(&api.now()).starts_with("1.0.0+"), "{}", mark(&api.now()));

    publish("\"2\"", document("second"));
    until(&mut watched, |now| names(now) == ["api.second"]).await;
    let asked = upstream.last();
    assert_eq!(asked.header("if-modified-since"), Some("Sat, 21 Nov 2026 07:00:00 GMT"));
    assert!(asked.header("if-none-match").is_some());
    // What can't be used, or got, changes nothing but what is told.
    publish("\"3\"", "<html>Welcome</html>".to_owned());
    let bad = until(&mut watched, |now| now.trouble.is_some()).await;
    assert!(names(&bad) == ["api.second"] && bad.trouble.as_ref().unwrap().contains("HTML"), "{:?}", bad.trouble);
    publish("\"3\"", String::new());
    let away = until(&mut watched, |now| now.trouble.as_ref().is_some_and(|why| why.contains("503"))).await;
    assert_eq!(names(&away), ["api.second"]);
    // It is bad still when the server is back and says that nothing has changed.
    publish("\"3\"", "<html>Welcome</html>".to_owned());
    until(&mut watched, |now| now.trouble.as_ref().is_some_and(|why| why.contains("HTML"))).await;
    publish("\"4\"", document("third"));
    let now = until(&mut watched, |now| names(now) == ["api.third"]).await;
    assert_eq!(now.trouble, None);
}

#[tokio::test]
async fn a_file_is_followed_until_the_api_is_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("api.json");
    std::fs::write(&file, document("first")).unwrap();
    let api = FollowedApi::open(Source::file(&file), SOON, make()).await.unwrap();
    let mut watched = api.watch();
    std::fs::remove_file(&file).unwrap();
    let gone = until(&mut watched, |now| now.trouble.is_some()).await;
    assert!(gone.trouble.as_ref().unwrap().contains("api.json can't be read"), "{:?}", gone.trouble);
    std::fs::write(&file, document("a_second_one")).unwrap();
    let now = until(&mut watched, |now| names(now) == ["api.a_second_one"]).await;
    assert_eq!(now.trouble, None);
    drop(api);
    assert!(tokio::time::timeout(Duration::from_secs(10), watched.changed()).await.unwrap().is_err());
}

#[tokio::test]
async fn a_document_that_is_not_to_be_followed_is_read_once() {
    let upstream = Upstream::answering(|_| response("200 OK", "", &document("first"))).await;
    for source in [Source::url(upstream.url().parse().unwrap(), NetPolicy::private()), Source::given(document("first"))]
    {
        let api = FollowedApi::open(source, Duration::ZERO, make()).await.unwrap();
        assert!(api.watch().changed().await.is_err());
    }
    assert_eq!(upstream.count(), 1);
}

#[tokio::test]
async fn why_there_is_no_document_is_told() {
    let said = async |url: &str, policy: NetPolicy| {
        let opened = FollowedApi::open(Source::url(url.parse().unwrap(), policy), Duration::ZERO, make()).await;
        opened.unwrap_err().to_string()
    };
    for (status, words) in
        [("404 None", "404: there is no document"), ("401 Who", "without credentials"), ("500 Oops", "500")]
    {
        let upstream = Upstream::answering(move |_| response(status, "", "<html>")).await;
        let error = said(&upstream.url(), NetPolicy::private()).await;
        assert!(error.contains(words), "{error}");
    }
    let upstream = Upstream::answering(|_| response("200 OK", "", " <!doctype html>")).await;
    let error = said(&upstream.url(), NetPolicy::private()).await;
    assert!(error.contains("HTML page"), "{error}");
    let error = said(&upstream.url(), NetPolicy::default()).await;
    assert!(error.contains("this machine"), "{error}");
    // It speaks no TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap());
    let plain = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        socket
    };
    let (error, _socket) = tokio::join!(said(&url, NetPolicy::private()), plain);
    assert!(error.contains("can't be read from 127.0.0.1: 127.0.0.1:"), "{error}");
    assert!(error.contains("answers, but not in TLS; use http:// if it is plain"), "{error}");
    // It speaks nothing else: an alert of TLS.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let encrypted = async {
        let (mut socket, _) = listener.accept().await.unwrap();
        let _request = socket.read(&mut [0; 1024]).await.unwrap();
        socket.write_all(b"\x15\x03\x03\x00\x02\x02\x0a").await.unwrap();
        socket
    };
    let (error, _socket) = tokio::join!(said(&url, NetPolicy::private()), encrypted);
    assert!(error.contains("answers, but not in HTTP; use https:// if it has TLS"), "{error}");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = said(&format!("http://{closed}/"), NetPolicy::private()).await;
    assert!(error.contains(&format!("connection refused by {closed}: ")), "{error}");
}
