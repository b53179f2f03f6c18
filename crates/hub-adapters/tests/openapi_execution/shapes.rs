//! What real documents hold, each in a request as it should be.

use hub_adapters::openapi::{Document, OpenApiClient, Options};
use hub_operations::Definition;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;

use crate::upstream::{Upstream, json as ok_json, response};
use crate::{NOTHING, builder, call, client};

const DOCUMENT: &str = r##"
openapi: 3.1.0
info: { title: Shapes, version: 2024-01-01 }
servers: [{ url: "{scheme}://shapes.example.com/{v}", variables: { scheme: { default: https }, v: { default: v1 } } }]
components:
  schemas:
    Tree:
      $defs: { leaf: { type: [string, "null"] } }
      type: object
      properties:
        leaf: { $ref: "#/components/schemas/Tree/$defs/leaf" }
        children: { type: array, items: { $ref: "#/components/schemas/Tree" } }
        any: { $dynamicRef: "#node" }
    Upload:
      type: object
      required: [file]
      properties:
        file: { type: string, contentMediaType: image/png }
        meta: { type: object }
        tags: { type: array, items: { type: string } }
  callbacks: { ignored: { "{$request.body#/url}": { post: { responses: {} } } } }
webhooks: { ping: { post: { operationId: never, responses: {} } } }
paths:
  /p/{simple}/{label}{matrix}/{json}:
    summary: Many ways
    parameters:
      - { name: simple, in: path, required: true, schema: { type: array, items: { type: string } } }
      - { name: label, in: path, required: true, style: label, explode: true, schema: { type: object } }
      - { name: matrix, in: path, required: true, style: matrix, explode: true, schema: { type: array } }
      - { name: json, in: path, required: true, content: { application/json: { schema: { type: object } } } }
      - { name: q, in: query, schema: { type: string } }
    get:
      parameters:
        - { name: q, in: query, allowReserved: true, required: true, schema: { type: string } }
        - { name: deep, in: query, style: deepObject, explode: true, schema: { type: object } }
        - { name: pipes, in: query, style: pipeDelimited, schema: { type: array } }
        - { name: spaces, in: query, style: spaceDelimited, schema: { type: array } }
        - { name: object, in: query, schema: { type: object } }
        - { name: X-List, in: header, schema: { type: array } }
        - { name: X-Map, in: header, explode: true, schema: { type: object } }
        - { name: sid, in: cookie, schema: { type: string } }
        - { name: q, in: cookie, schema: { type: string } }
      responses: { 204: { description: No more. } }
  /upload:
    post:
      operationId: things.do
      requestBody:
        content:
          multipart/form-data:
            schema: { $ref: "#/components/schemas/Upload" }
            encoding: { meta: { contentType: application/vnd.meta+json, headers: { X-Part: {} } } }
      responses: { 204: { description: Taken. } }
    put: { operationId: things/do, deprecated: true, requestBody: { content: { image/png: {} } }, responses: { 204: { description: x } } }
  /tree:
    servers: [{ url: "https://shapes.example.com/v1/inner/" }]
    patch:
      operationId: tree
      requestBody: { content: { application/merge-patch+json: { schema: { $ref: "#/components/schemas/Tree" } } } }
      responses:
        200:
          description: It.
          content: { application/json: { schema: { $ref: "#/components/schemas/Tree" } } }
          links: { next: { operationId: never } }
    options: { responses: { 200: { description: Bytes., content: { application/octet-stream: {} } } } }
"##;

#[tokio::test]
async fn every_place_and_style_of_a_parameter() {
    let upstream = Upstream::answering(|_| NOTHING.to_owned()).await;
    let api = client(DOCUMENT, &upstream.url());
    let name = "get_p_by_json";
    let names: Vec<String> = api.operations().map(|one| one.spec.name.clone()).collect();
    assert!(names.iter().any(|own| own == name), "{names:?}");
    let input = json!({
        "simple": ["a/b", "c"], "label": {"x": 1, "y": "z"}, "matrix": [1, 2], "json": {"k": ["v"]}, "q": "a/b?c&d=e#f",
        "deep": {"a": {"b": [1]}}, "pipes": ["x", "y"], "spaces": ["x", "y"], "object": {"m": 1, "n": null},
        "X-List": ["a", "b"], "X-Map": {"a": 1}, "sid": "s;1", "cookie_q": "c",
    });
    call(&api, name, input).await.unwrap();
    let request = upstream.last();
    let path = "/base/p/a%2Fb,c/.x=1.y=z;matrix=1;matrix=2/%7B%22k%22%3A%5B%22v%22%5D%7D";
    let query = "q=a/b?c%26d=e%23f&deep%5Ba%5D%5Bb%5D%5B0%5D=1&pipes=x%7Cy&spaces=x%20y&m=1";
    assert_eq!(request.line, format!("GET {path}?{query} HTTP/1.1"));
    assert_eq!((request.header("x-list"), request.header("x-map")), (Some("a,b"), Some("a=1")));
    assert_eq!(request.header("cookie"), Some("sid=s%3B1; q=c"));
    // What the operation says of a parameter is in the place of what its path says.
    let missing = api.operations().find(|one| one.spec.name == name).unwrap();
    let needed = missing.spec.input_schema["required"].to_string();
    assert!(needed.contains("\"q\"") && !needed.contains("deep"), "{needed}");
}

#[tokio::test]
async fn files_go_up_and_come_down() {
    let upstream = Upstream::answering(|request| match request.line.starts_with("OPTIONS") {
        true => response("200 OK", "Content-Type: application/pdf\r\n", "%PDF"),
        false => NOTHING.to_owned(),
    })
    .await;
    let api = client(DOCUMENT, &upstream.url());
    // Two names that are one here.
    call(&api, "things_do_2", json!({"body": {"file": "iVBO", "meta": {"a": 1}, "tags": ["x", "y"]}})).await.unwrap();
    let sent = upstream.last();
    assert!(sent.body.contains("filename=\"file\"\r\nContent-Type: image/png\r\n\r\n"), "{}", sent.body);
    assert!(sent.body.contains("Content-Type: application/vnd.meta+json\r\n\r\n{\"a\":1}\r\n"), "{}", sent.body);
    assert_eq!(sent.body.matches("name=\"tags\"").count(), 2);
    let upload = api.operations().find(|one| one.spec.name == "things_do_2").unwrap();
    let file = &upload.spec.input_schema["properties"]["body"]["properties"]["file"];
    assert_eq!(file["contentEncoding"], "base64", "{}", upload.spec.input_schema);
    call(&api, "things_do", json!({"body": "aGk="})).await.unwrap();
    let sent = upstream.last();
    assert_eq!((sent.body.as_str(), sent.header("content-type")), ("hi", Some("image/png")));
    let down = call(&api, "options_tree", json!({})).await.unwrap();
    assert_eq!((&down["data"], &down["meta"]["contentType"]), (&json!("JVBERg=="), &json!("application/pdf")));
}

#[tokio::test]
async fn schemas_of_3_1_and_servers_of_operations() {
    let import = Document::parse(DOCUMENT).unwrap().operations(&Options::new("api")).unwrap();
    assert_eq!((import.skipped.len(), import.operations.len()), (0, 5), "{:?}", import.skipped);
    let tree = import.operations.iter().find(|one| one.spec.name == "tree").unwrap();
    assert_eq!((tree.plan.method(), tree.plan.path()), ("PATCH", "/inner/tree"));
    let checked = Definition::new(tree.spec.clone()).unwrap();
    let deep = json!({"leaf": null, "children": [{"leaf": "x", "any": [1]}]});
    assert!(checked.output().check(&deep.into()).is_ok());
    let wrong = json!({"body": {"children": [{"leaf": 1}]}});
    assert!(checked.input().check(&wrong.into()).is_err());
    let upstream = Upstream::answering(|_| ok_json("{\"children\": [{\"leaf\": 1}]}")).await;
    let error = call(&client(DOCUMENT, &upstream.url()), "tree", json!({"body": {}})).await.unwrap_err();
    assert!(error.message.contains("/children/0/leaf: "), "{error}");
    assert_eq!(upstream.last().header("content-type"), Some("application/merge-patch+json"));
}

async fn answered(bytes: Vec<u8>) -> Result<Value, hub_protocol::CallError> {
    let upstream = Upstream::start(move |_, mut socket| {
        let bytes = bytes.clone();
        async move {
            let _ = socket.write_all(&bytes).await;
        }
    })
    .await;
    let api: OpenApiClient = builder(DOCUMENT, &upstream.url()).response_limit(1_000).build().unwrap();
    call(&api, "options_tree", json!({})).await
}

#[tokio::test]
async fn odd_ways_to_answer() {
    let chunked = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    let whole = answered(format!("{chunked}3\r\n{{\"a\r\n4\r\n\":1}}\r\n0\r\n\r\n").into_bytes()).await.unwrap();
    assert_eq!(whole["data"], json!({"a": 1}));
    let endless = format!("{chunked}{}", format!("200\r\n{}\r\n", " ".repeat(512)).repeat(10));
    assert_eq!(answered(endless.into_bytes()).await.unwrap_err().code, "PAYLOAD_TOO_LARGE");
    for encoding in ["gzip", "deflate", "br", "zstd"] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: 1\r\n\r\nx");
        let error = answered(head.into_bytes()).await.unwrap_err();
        assert!(error.message.contains("compressed"), "{error}");
    }
    for flood in ["X-More: 1\r\n".repeat(5_000), format!("X-More: {}\r\n", "x".repeat(1 << 20))] {
        let head = format!("HTTP/1.1 200 OK\r\n{flood}Content-Length: 0\r\n\r\n");
        let error = answered(head.into_bytes()).await.unwrap_err();
        assert_eq!(error.code, "EXECUTION_ERROR", "{error}");
    }
    let lines = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nContent-Length: 5\r\n\r\n{}\n{}";
    assert_eq!(answered(lines.as_bytes().to_vec()).await.unwrap()["data"], "{}\n{}");
}
