//! A Rust service with the hub inside: no server, no socket, the same call path.
//!
//! `cargo run -p embed` declares an operation, calls it twice (once badly), composes it, and reads the record back.
#![expect(clippy::print_stdout, reason = "an example shows what it does")]

use anyhow::Result;
use hub_core::{Ctx, Hub, Principal};
use hub_protocol::ops::Operation;
use hub_protocol::ops::calls::ListCalls;
use hub_protocol::{CallError, OperationType};
use hub_storage::{SqliteOptions, Store};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Greets somebody. The type is the declaration: id, schema of the input, type of the reply.
#[derive(Serialize, Deserialize, JsonSchema)]
struct Greet {
    /// Who is greeted.
    #[schemars(length(min = 1))]
    name: String,
}

#[derive(Serialize, Deserialize, JsonSchema)]
struct Greeting {
    text: String,
}

impl Operation for Greet {
    type Reply = Greeting;
    const ID: &'static str = "demo.greet";
    const KIND: OperationType = OperationType::Mutation;
    const DESCRIPTION: &'static str = "Greets somebody by name.";
}

/// Greets many, by calling `demo.greet` for each: every greeting is a child in the call tree.
#[derive(Serialize, Deserialize, JsonSchema)]
struct GreetAll {
    names: Vec<String>,
}

impl Operation for GreetAll {
    type Reply = Vec<String>;
    const ID: &'static str = "demo.greetAll";
    const KIND: OperationType = OperationType::Mutation;
    const DESCRIPTION: &'static str = "Greets everybody on a list.";
}

async fn greet(_: Ctx, params: Greet) -> Result<Greeting, CallError> {
    Ok(Greeting { text: format!("hello, {}", params.name) })
}

async fn greet_all(ctx: Ctx, params: GreetAll) -> Result<Vec<String>, CallError> {
    let mut texts = Vec::new();
    for name in params.names {
        texts.push(ctx.call(&Greet { name }).await?.text);
    }
    Ok(texts)
}

#[tokio::main]
async fn main() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("hub-embed-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let store = Store::open_sqlite(&folder.join("hub.db"), SqliteOptions::default()).await?;
    let hub = Hub::builder(store).operations(|ops| ops.operation(greet).operation(greet_all)).build().await?;
    let me = Principal::root();

    println!("{}", hub.invoke(&me, &Greet { name: "world".into() }).await?.text);
    let Err(refused) = hub.invoke(&me, &Greet { name: String::new() }).await else {
        anyhow::bail!("an empty name should be refused");
    };
    println!("refused: {refused}");
    println!("{:?}", hub.invoke(&me, &GreetAll { names: vec!["Ada".into(), "Grace".into()] }).await?);

    println!("the record, newest first:");
    for call in hub.invoke(&me, &ListCalls::default()).await?.calls {
        println!("  {}{} {}", "  ".repeat(call.depth as usize), call.operation_id, call.status.as_str());
    }
    hub.shut_down(std::time::Duration::from_secs(5)).await;
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}
