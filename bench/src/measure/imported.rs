//! What operations of OpenAPI documents and of MCP servers cost.

use std::time::Instant;

use anyhow::{Context, Result};
use hub_adapters::mcp::{McpClient, McpOptions, McpTarget};
use hub_adapters::openapi::{Document, Options};
use hub_protocol::OperationSpec;
use serde_json::{Map, Value, json};

use super::Bench;
use crate::client::{callee, socket};
use crate::machine::resident_bytes;
use crate::process::Hub;
use crate::report::{Better, Figure, Section};
use crate::tools;

/// Operations of one document or server.
const COUNT: usize = 1_000;

/// How many of them are imported, one after the other.
const TIMES: usize = 10;

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let document = document();
    let mut figures = Vec::new();
    for system in ["OpenAPI document", "MCP server"] {
        let hub = Hub::start(&bench.hub).await?;
        let before = resident_bytes(hub.server.pid);
        let new = |case: &str, unit| Figure::new(case, system, unit, Better::Less);
        let (mut read, mut registered) = (new("read", "ms"), new("registered at the hub", "ms"));
        let mut spokes = Vec::new();
        for number in 0..TIMES {
            let name = format!("set{number}");
            let started = Instant::now();
            let operations =
                if system == "MCP server" { of_server(&name).await? } else { of_document(&document, &name)? };
            anyhow::ensure!(operations.len() == COUNT, "{} operations of {system}", operations.len());
            read.runs.push(millis(started));
            let started = Instant::now();
            let mut socket = socket::connect(hub.server.address, &hub.admin_key).await?;
            callee::register(&mut socket, &name, operations).await?;
            registered.runs.push(millis(started));
            spokes.push(socket);
        }
        #[expect(clippy::cast_precision_loss, reason = "ten")]
        let grown = (resident_bytes(hub.server.pid) - before) / TIMES as f64 / 1024.0 / 1024.0;
        let memory = Figure::once("memory of the hub", system, "MiB", Better::Less, grown);
        figures.extend([read, registered, memory]);
        drop(spokes);
        hub.kill().await?;
    }
    Ok(Section {
        name: "imported",
        title: "1,000 imported operations",
        how: "Ten documents or servers of 1,000 operations each, one after the other; figures are per 1,000. Each operation \
              has two schemas. *read* is from the text of the document, or from the start of the server's process, to \
              operations; *registered* includes the connection and the commit; memory is the growth of the hub's \
              resident memory.",
        bound: "Reading: processor time of the importer, for an MCP server also its start. Registering: processor time \
                of the hub, which compiles each schema and takes the words into its search, and one commit.",
        figures,
        missing: Vec::new(),
    })
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1_000.0
}

fn of_document(text: &str, name: &str) -> Result<Vec<OperationSpec>> {
    let import = Document::parse(text)?.operations(&Options::new(name))?;
    Ok(import.operations.into_iter().map(|one| one.spec).collect())
}

async fn of_server(name: &str) -> Result<Vec<OperationSpec>> {
    let program = std::env::current_exe()?.into_os_string().into_string().ok().context("a path that is text")?;
    let target = McpTarget::child(program, vec![tools::COMMAND.to_owned(), COUNT.to_string()]);
    let client = McpClient::connect(target, McpOptions::new(name)).await?;
    let operations = client.operations();
    client.close().await;
    Ok(operations)
}

/// An API of things: for each, one path.
fn document() -> String {
    let member = |kind: &str| json!({ "type": kind });
    let thing = json!({ "type": "object", "properties": {
        "id": member("string"), "name": member("string"), "changedAt": member("integer"),
    } });
    let path = |number: usize| {
        let operation = json!({
            "operationId": format!("changeThing{number}"),
            "summary": format!("Change thing {number}"),
            "description": "Changes a thing in the fields that are given; the others stay as they are.",
            "parameters": [{ "name": "id", "in": "path", "required": true, "schema": member("string") }],
            "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Thing" } } } },
            "responses": { "200": { "description": "The thing.",
                "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Thing" } } } } },
        });
        (format!("/things{number}/{{id}}"), json!({ "patch": operation }))
    };
    let paths: Map<String, Value> = (0..COUNT).map(path).collect();
    json!({ "openapi": "3.1.0", "info": { "title": "Things", "version": "1.0.0" }, "paths": paths,
        "servers": [{ "url": "https://things.example.com" }], "components": { "schemas": { "Thing": thing } } })
    .to_string()
}
