//! Answers that keep, or break, what the document promises of them.

use std::sync::{Arc, Mutex};

use futures_util::StreamExt;
use hub_adapters::openapi::{CallLimits, Credential, OpenApiClient};
use hub_operations::Reply;
use hub_protocol::CallError;
use serde_json::{Value, json};

use crate::upstream::{Request, Upstream, json as ok_json, response};
use crate::{NOTHING, SECRET, builder, call, client, details};

const DOCUMENT: &str = r##"
openapi: 3.0.3
info: { title: Promises, version: "1" }
components:
  securitySchemes: { key: { type: apiKey, in: header, name: X-Key } }
  schemas:
    Thing:
      type: object
      required: [id, pin, kind]
      properties:
        id: { type: integer, readOnly: true }
        pin: { type: string, writeOnly: true }
        kind: { type: string, enum: [a, b] }
        note: { type: string, nullable: true }
        made: { type: string, format: date-time }
        tags: { type: array, items: { type: string } }
        next: { nullable: true, allOf: [{ $ref: "#/components/schemas/Thing" }] }
    Login: { properties: { password: { type: string, writeOnly: true }, name: { type: string } } }
    # What is required stands apart from what has the mark.
    Account: { allOf: [{ $ref: "#/components/schemas/Login" }, { required: [name, password] }] }
    Cat: { type: object, required: [t], properties: { t: { type: string }, lives: { type: integer } } }
    Dog: { type: object, required: [t], properties: { t: { type: string }, barks: { type: boolean } } }
    Error: { type: object, required: [code], properties: { code: { type: integer } } }
security: [{ key: [] }]
paths:
  /thing/{case}:
    parameters: [{ name: case, in: path, required: true, schema: { type: string } }]
    get: &thing
      operationId: getThing
      responses:
        200: { description: It., content: { application/json: { schema: { $ref: "#/components/schemas/Thing" } } } }
        202: { description: Later. }
        203: { description: Text., content: { text/plain: {}, application/json: { schema: { type: array } } } }
        206: { description: Bytes., content: { image/*: { schema: { type: string, format: binary } } } }
        304: { description: As it was. }
        default: { description: Fault., content: { application/json: { schema: { $ref: "#/components/schemas/Error" } } } }
    post: { <<: *thing, operationId: makeThing }
    head: { <<: *thing, operationId: headThing }
  /account:
    get:
      operationId: account
      responses: { 2XX: { description: It., content: { application/json: { schema: { $ref: "#/components/schemas/Account" } } } } }
  /pet:
    get:
      operationId: pet
      responses:
        default:
          description: It.
          content:
            application/json:
              schema:
                oneOf: [{ $ref: "#/components/schemas/Cat" }, { $ref: "#/components/schemas/Dog" }]
                discriminator: { propertyName: t }
  /events/{case}:
    get:
      operationId: events
      parameters: [{ name: case, in: path, required: true, schema: { type: string } }]
      responses: { 200: { description: Them., content: { text/event-stream: { schema: { $ref: "#/components/schemas/Cat" } } } } }
  /lines:
    get:
      operationId: lines
      responses: { 200: { description: Them., content: { text/event-stream: { schema: { type: string } } } } }
"##;

fn case(request: &Request) -> String {
    let path = request.line.split(' ').nth(1).unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default().to_owned()
}

async fn thing(api: &OpenApiClient, case: &str) -> Result<Value, CallError> {
    call(api, "getThing", json!({ "case": case })).await
}

fn lie(request: &Request) -> String {
    let of = |status: &str, medium: &str, body: &str| response(status, &format!("Content-Type: {medium}\r\n"), body);
    match case(request).as_str() {
        "schema" => {
            let you = request.header("x-key").unwrap_or_default();
            ok_json(&json!({ "id": 1, "kind": "a", "tags": ["x", 4242], "you": you }).to_string())
        }
        "enum" => ok_json(r#"{"id": 1, "kind": "c"}"#),
        "html" => of("200 OK", "text/html", "<html>Sign in</html>"),
        "json" => of("200 OK", "application/json", "{oops"),
        "none" => response("200 OK", "", ""),
        "error" => of("206 Partial", "application/json", r#"{"error": "no image"}"#),
        "text" => of("203 Other", "application/json", r#"{"no": "list"}"#),
        _ => response("404 None", "", ""),
    }
}

const LIES: [(&str, u16, &str); 7] = [
    ("schema", 200, "breaks the schema of its document: /tags/1: value is not of type \"string\""),
    ("enum", 200, "/kind: value must be one of \"a\", \"b\""),
    ("html", 200, "answered text/html where its document promises application/json"),
    ("json", 200, "says application/json, but its body is not JSON"),
    ("none", 200, "answered nothing where its document promises application/json"),
    ("error", 206, "answered application/json where its document promises image/*"),
    ("text", 203, "breaks the schema of its document: value is not of type \"array\""),
];

#[tokio::test]
async fn an_answer_that_breaks_its_document_fails() {
    let upstream = Upstream::answering(lie).await;
    let key = Credential::Key { place: None, value: SECRET.into() };
    let api = builder(DOCUMENT, &upstream.url()).credential(key).build().unwrap();
    for (n, (case, status, words)) in LIES.into_iter().enumerate() {
        let error = thing(&api, case).await.unwrap_err();
        assert_eq!((error.code.as_str(), error.retryable, upstream.count()), ("EXECUTION_ERROR", false, 2 * n + 1));
        assert!(error.message.contains(words) && !error.message.contains("carried out"), "{error}");
        assert_eq!(details(&error)["status"], status, "{error}");
        // What an upstream has done it does again when it is asked again.
        let error = call(&api, "makeThing", json!({ "case": case })).await.unwrap_err();
        assert!(error.message.contains(words) && !error.retryable, "{error}");
        assert!(error.message.ends_with("; the request was carried out, so do not repeat it blindly"), "{error}");
        assert_eq!(upstream.count(), 2 * n + 2);
    }
    let error = thing(&api, "schema").await.unwrap_err();
    let details = details(&error);
    assert_eq!((&details["violations"][0]["path"], &details["body"]["id"]), (&json!("/tags/1"), &json!(1)));
    assert_eq!(details["body"]["you"], "[redacted]");
    assert!(!format!("{error} {details}").contains(SECRET) && !error.message.contains("4242"), "{error}");
}

#[tokio::test]
async fn a_lenient_client_passes_it_on_and_tells() {
    let (upstream, told) = (Upstream::answering(lie).await, Arc::new(Mutex::new(Vec::new())));
    let heard = Arc::clone(&told);
    let key = Credential::Key { place: None, value: SECRET.into() };
    let lenient = builder(DOCUMENT, &upstream.url()).lenient(move |text| heard.lock().unwrap().push(text.to_owned()));
    let api = lenient.credential(key).build().unwrap();
    for (case, data) in [
        ("html", json!("<html>Sign in</html>")),
        ("json", json!("{oops")),
        ("none", Value::Null),
        ("enum", json!({ "id": 1, "kind": "c" })),
    ] {
        assert_eq!(thing(&api, case).await.unwrap()["data"], data, "{case}");
    }
    let told = told.lock().unwrap().clone();
    assert!(told.len() == 1 && told[0].starts_with("api.getThing: the upstream answered text/html"), "{told:?}");
    assert!(thing(&api, "missing").await.is_err());
}

#[tokio::test]
async fn what_a_document_does_not_promise_is_not_broken() {
    let upstream = Upstream::answering(|request| match case(request).as_str() {
        "thing" => ok_json(r#"{"id": 1, "kind": "a", "note": null, "made": "soon", "next": null, "more": 1}"#),
        "account" => ok_json(r#"{"name": "n"}"#),
        "pet" => ok_json(r#"{"t": "Cat"}"#),
        "later" => response("202 Later", "Content-Type: text/plain\r\n", "in an hour"),
        "made" => response("201 Made", "Content-Type: application/json\r\n", r#"["of", "no", "status"]"#),
        "text" => response("203 Other", "Content-Type: text/plain\r\n", "neither JSON nor a lie"),
        "image" => response("206 Part", "Content-Type: image/png\r\n", "\u{1}"),
        "problem" => response("200 OK", "Content-Type: application/hal+json\r\n", r#"{"id": 1, "kind": "b"}"#),
        "same" => "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned(),
        _ => NOTHING.to_owned(),
    })
    .await;
    let api = client(DOCUMENT, &upstream.url());
    for (case, status, data) in [
        ("later", 202, json!("in an hour")),
        ("made", 201, json!(["of", "no", "status"])),
        ("text", 203, json!("neither JSON nor a lie")),
        ("image", 206, json!("AQ==")),
        ("problem", 200, json!({ "id": 1, "kind": "b" })),
        ("same", 304, Value::Null),
        ("gone", 204, Value::Null),
    ] {
        let answer = thing(&api, case).await.unwrap_or_else(|error| panic!("{case}: {error}"));
        assert_eq!((&answer["data"], &answer["meta"]["statusCode"]), (&data, &json!(status)), "{case}");
    }
    assert_eq!(thing(&api, "thing").await.unwrap()["data"]["more"], 1);
    for operation in ["account", "pet"] {
        call(&api, operation, json!({})).await.unwrap_or_else(|error| panic!("{operation}: {error}"));
    }
    let head = call(&api, "headThing", json!({ "case": "head" })).await.unwrap();
    assert_eq!((&head["data"], upstream.last().line.split(' ').next()), (&Value::Null, Some("HEAD")));
    // Nobody asked for it: the document knows nothing of such an answer.
    let pet = Upstream::answering(|_| "HTTP/1.1 304 Not Modified\r\nConnection: close\r\n\r\n".to_owned()).await;
    let error = call(&client(DOCUMENT, &pet.url()), "pet", json!({})).await.unwrap_err();
    assert!(error.code == "EXECUTION_ERROR" && error.message.contains("304"), "{error}");
}

async fn items(api: &OpenApiClient, operation: &str, input: Value) -> Vec<Result<Value, CallError>> {
    let reply = api.call(&format!("api.{operation}"), &input.into(), &CallLimits::default()).await;
    let Ok(Reply::Stream(items)) = reply else { panic!("no stream") };
    items.map(|item| item.map(|item| item.parse::<Value>().unwrap()["data"].clone())).collect().await
}

#[tokio::test]
async fn an_event_that_breaks_its_schema_ends_the_stream() {
    let events = |text: &str| response("200 OK", "Content-Type: text/event-stream\r\n", text);
    let upstream = Upstream::answering(move |request| match case(request).as_str() {
        "good" => {
            events(": hello\r\nretry: 5\r\n\r\nevent: cat\r\ndata: {\"t\":\r\ndata: \"c\"}\r\n\r\ndata: [DONE]\r\n\r\n")
        }
        "bad" => events("data: {\"t\": \"c\"}\n\ndata: {\"t\": 1}\n\ndata: {\"t\": \"d\"}\n\n"),
        "at-once" => ok_json("{\"t\": 2}"),
        "lines" => events("data: plain\ndata: text\n\ndata: {\"a\": 1}\n\n"),
        _ => response("200 OK", "Content-Type: text/html\r\n", "<html>"),
    })
    .await;
    let (strict, told) = (client(DOCUMENT, &upstream.url()), Arc::new(Mutex::new(0)));
    let of = |case: &str| json!({ "case": case });
    let good: Vec<_> = items(&strict, "events", of("good")).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(good, [json!({ "t": "c" }), json!("[DONE]")]);
    let bad = items(&strict, "events", of("bad")).await;
    assert_eq!((bad.len(), bad[0].as_ref().unwrap()), (2, &json!({ "t": "c" })));
    let error = bad[1].as_ref().unwrap_err();
    assert!(error.code == "EXECUTION_ERROR" && error.message.contains("/t: value is not of type"), "{error}");
    assert_eq!(details(error)["body"], json!({ "t": 1 }));
    for (case, words) in
        [("at-once", "/t: "), ("html", "answered text/html where its document promises text/event-stream")]
    {
        let reply = strict.call("api.events", &of(case).into(), &CallLimits::default()).await;
        let error = reply.err().unwrap_or_else(|| panic!("{case} is taken"));
        assert!(error.message.contains(words), "{error}");
    }
    // The whole is a text, says the document, and nothing of what its events hold.
    let lines: Vec<_> = items(&strict, "lines", json!({})).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(lines, [json!("plain\ntext"), json!({ "a": 1 })]);
    let count = Arc::clone(&told);
    let lenient = builder(DOCUMENT, &upstream.url()).lenient(move |_| *count.lock().unwrap() += 1).build().unwrap();
    assert_eq!((items(&lenient, "events", of("bad")).await.len(), *told.lock().unwrap()), (3, 1));
}
