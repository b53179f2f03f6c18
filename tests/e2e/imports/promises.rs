//! Upstreams that do not answer as their documents promise.

use anyhow::{Context, Result, ensure};
use hub_protocol::CallError;
use hub_spoke::Client;
use hub_testkit::TestHub;
use serde_json::{Value, json};

use super::create;
use super::follow::{Api, noted, offer_api};

/// The API answers `{"ok": true}`, whatever is asked.
fn document() -> String {
    let of = |schema: Value| {
        let content = json!({ "application/json": { "schema": schema } });
        json!({ "200": { "description": "It.", "content": content } })
    };
    let lie = of(json!({ "type": "object", "required": ["id"] }));
    let truth = of(json!({ "type": "object", "required": ["ok"] }));
    let paths = json!({
        "/lie": { "get": { "operationId": "lie", "responses": lie }, "post": { "operationId": "make", "responses": lie } },
        "/truth": { "get": { "operationId": "truth", "responses": truth } },
    });
    json!({ "openapi": "3.1.0", "info": { "title": "Api", "version": "1.0.0" }, "paths": paths }).to_string()
}

async fn refused(client: &Client, operation: &str) -> Result<CallError> {
    client.call_raw(operation, json!({})).await.err().with_context(|| format!("{operation} passes"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_breaks_its_document_fails_unless_the_client_is_lenient() -> Result<()> {
    let (hub, api) = (TestHub::start().await?, Api::start(document()).await?);
    let client = hub.client().await?;
    let config =
        |lenient: bool| json!({ "document": document(), "baseUrl": api.url, "allowPrivate": true, "lenient": lenient });
    create(&client, json!({ "name": "strict", "type": "openapi", "config": config(false) })).await?;
    create(&client, json!({ "name": "lenient", "type": "openapi", "config": config(true) })).await?;
    let notes = hub.folder().join("notes");
    let (url, base) = (format!("{}/openapi.json", api.url), ["--base-url", &api.url]);
    let _spoke = offer_api(&hub, &notes, &[&[url.as_str(), "--lenient"][..], &base].concat()).await?;
    for operation in ["strict.lie", "strict.make"] {
        let error = refused(&client, operation).await?;
        ensure!(error.code == "EXECUTION_ERROR" && !error.retryable && error.message.contains("\"id\""), "{error}");
        ensure!(error.message.contains("carried out") == (operation == "strict.make"), "{error}");
        let details: Value = error.details.context("details")?.parse()?;
        ensure!(details["status"] == 200 && details["body"] == json!({ "ok": true }), "{details}");
        ensure!(details["violations"][0]["path"] == "", "{details}");
    }
    for operation in ["strict.truth", "lenient.lie", "lenient.make", "client.far.api.make"] {
        ensure!(client.call_raw(operation, json!({})).await?.as_str().contains("true"), "{operation}");
    }
    noted(&notes, "api.make: the upstream's answer breaks").await?;
    hub.settled().await
}
