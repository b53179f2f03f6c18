//! A scripted MCP server that misbehaves: clear codes, bounded memory, nothing left behind.
#![cfg(unix)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use hub_adapters::mcp::{Inherit, McpClient, McpError, McpOptions, McpTarget, register};
use hub_operations::{Registry, Reply};
use hub_protocol::{CallError, ErrorCode, Json, MAX_NESTING, OperationType};
use serde_json::{Value, json};

fn target(mode: &str, more: &[&str]) -> McpTarget {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fake_mcp.py");
    let args = [&[script, mode], more].concat();
    McpTarget::child("python3", args.into_iter().map(str::to_owned).collect())
}

async fn connect(mode: &str) -> Result<Arc<McpClient>> {
    Ok(Arc::new(McpClient::connect(target(mode, &[]), McpOptions::new("fake")).await?))
}

async fn call(client: &McpClient, tool: &str, input: Value) -> Result<Value, CallError> {
    match client.call(tool, input.into(), std::future::pending()).await? {
        Reply::Envelope(envelope) => Ok(envelope.parse().expect("an envelope")),
        _ => panic!("a tool answers an envelope"),
    }
}

#[tokio::test]
async fn tools_are_operations_with_mcp_envelopes() -> Result<()> {
    let client = connect("good").await?;
    let specs = client.operations();
    let echo = specs.iter().find(|s| s.name == "echo").context("echo")?;
    ensure!(echo.id() == "fake.echo" && echo.kind == OperationType::Query);
    ensure!(echo.version.starts_with("1.2.3+"), "{}", echo.version);
    ensure!(echo.access_control.required_scopes == ["imported:fake"]);
    ensure!(specs.iter().find(|s| s.name == "fail").context("fail")?.kind == OperationType::Mutation);
    let answer = call(&client, "echo", json!({"text": "hi"})).await?;
    ensure!(answer["data"] == json!([{"type": "text", "text": "hi"}]), "{answer}");
    ensure!(answer["meta"]["source"] == "mcp" && answer["meta"]["isError"] == false, "{answer}");
    ensure!(call(&client, "structured", json!({})).await?["data"] == json!({"n": 1}));
    let error = call(&client, "fail", json!({})).await.err().context("a failure")?;
    ensure!(error.is(ErrorCode::ExecutionError) && error.message == "it broke");
    let error = call(&client, "nothing", json!({})).await.err().context("unknown")?;
    ensure!(error.is(ErrorCode::ValidationError), "{error}");
    client.close().await;
    Ok(())
}

#[tokio::test]
async fn a_registry_serves_them() -> Result<()> {
    let client = connect("good").await?;
    let registry: Registry<()> = register(Registry::builder(), &client).build()?;
    let entry = registry.get("fake.echo").context("registered")?;
    let Reply::Envelope(answer) = entry.run((), Json::from(json!({"text": "x"}))).await? else { bail!("no envelope") };
    ensure!(answer.as_str().contains("\"x\""));
    Ok(())
}

#[tokio::test]
async fn progress_becomes_a_stream() -> Result<()> {
    let options = McpOptions { stream: vec!["count".into()], ..McpOptions::new("fake") };
    let client = Arc::new(McpClient::connect(target("good", &[]), options).await?);
    let spec = client.operations().into_iter().find(|s| s.name == "count").context("count")?;
    ensure!(spec.kind == OperationType::Subscription);
    let Reply::Stream(items) = client.clone().run("fake.count", Json::null()).await? else { bail!("no stream") };
    let items: Vec<Value> =
        items.map(|item| item.map(|i| i.parse().expect("JSON"))).filter_map(|i| async { i.ok() }).collect().await;
    ensure!(items.len() == 4, "{items:?}");
    ensure!(items[0] == json!({"progress": 1.0, "total": 3.0, "message": "step"}), "{items:?}");
    ensure!(items[3]["result"] == json!([{"type": "text", "text": "done"}]), "{items:?}");
    Ok(())
}

#[tokio::test]
async fn giving_up_tells_the_server_at_once() -> Result<()> {
    let client = connect("good").await?;
    // By the signal …
    let stop = tokio::time::sleep(Duration::from_millis(50));
    let error = client.call("wait", Json::null(), stop).await.err().context("aborted")?;
    ensure!(error.is(ErrorCode::Aborted));
    // … and by dropping the call.
    let dropped = tokio::time::timeout(Duration::from_millis(50), call(&client, "wait", json!({}))).await;
    ensure!(dropped.is_err());
    let given_up = Instant::now();
    loop {
        let answer = call(&client, "cancelled", json!({})).await?;
        let told: Vec<f64> = serde_json::from_str(answer["data"][0]["text"].as_str().unwrap_or("[]"))?;
        if told.len() == 2 {
            break;
        }
        ensure!(given_up.elapsed() < Duration::from_millis(100), "{told:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_changed_list_is_followed() -> Result<()> {
    let client = connect("good").await?;
    let mut watched = client.watch();
    call(&client, "grow", json!({})).await?;
    let changed =
        tokio::time::timeout(Duration::from_secs(5), watched.wait_for(|all| all.iter().any(|s| s.name == "grown")));
    changed.await??;
    Ok(())
}

#[tokio::test]
async fn what_can_t_be_read_fails_what_it_answers_and_nothing_else() -> Result<()> {
    let client = connect("deep").await?;
    // The tool with the schema that nobody can read is taken without it.
    let specs = client.operations();
    let deep = specs.iter().find(|s| s.name == "deep").context("deep")?;
    ensure!(deep.input_schema == json!({"type": "object"}) && specs.iter().any(|s| s.name == "echo"));
    let waits = call(&client, "wait", json!({}));
    let others = async {
        let Reply::Envelope(answer) = client.call("deep", Json::null(), std::future::pending()).await? else {
            bail!("no envelope")
        };
        ensure!(answer.nests_deeper_than(MAX_NESTING + 1), "a hub must not take what is left for the whole");
        let error = call(&client, "nan", json!({})).await.err().context("unreadable")?;
        ensure!(error.is(ErrorCode::ExecutionError) && error.message.contains("not readable"), "{error}");
        ensure!(call(&client, "echo", json!({"text": "hi"})).await?["data"][0]["text"] == "hi");
        Ok(())
    };
    tokio::select! {
        waited = waits => bail!("{waited:?}"),
        done = tokio::time::timeout(Duration::from_secs(20), others) => done?,
    }
}

#[tokio::test]
async fn a_server_that_ends_is_started_again() -> Result<()> {
    let client = connect("good").await?;
    call(&client, "die", json!({})).await.ok();
    tokio::time::sleep(Duration::from_millis(100)).await;
    // Waits for the connection that is coming back.
    let answer = call(&client, "echo", json!({"text": "again"})).await?;
    ensure!(answer["data"][0]["text"] == "again");
    Ok(())
}

#[tokio::test]
async fn a_crash_in_a_call_is_a_lost_connection() -> Result<()> {
    let client = connect("crash").await?;
    let error = call(&client, "echo", json!({})).await.err().context("lost")?;
    ensure!(error.is(ErrorCode::SpokeDisconnected) && error.retryable, "{error:?}");
    let client = connect("crash").await?;
    let error = call(&client, "fail", json!({})).await.err().context("lost")?;
    ensure!(error.is(ErrorCode::SpokeDisconnected) && !error.retryable, "{error:?}");
    Ok(())
}

fn with_token(mode: &str) -> McpTarget {
    let mut target = target(mode, &[]);
    if let McpTarget::Child { env, .. } = &mut target {
        env.push(("TOKEN".to_owned(), "letmein-please".to_owned()));
    }
    target
}

#[tokio::test]
async fn a_setting_of_a_program_may_be_a_word_of_its_tools() -> Result<()> {
    for (inherit, offered) in [(Inherit::AllBut(Vec::new()), true), (Inherit::Basics, false)] {
        let mut target = target("good", &[]);
        if let McpTarget::Child { env, inherit: of, .. } = &mut target {
            env.push(("TOOLSET".to_owned(), "cancelled".to_owned()));
            *of = inherit;
        }
        let client = McpClient::connect(target, McpOptions::new("fake")).await?;
        ensure!(client.operations().iter().any(|spec| spec.name == "cancelled") == offered);
        ensure!(client.health().borrow().left_out.is_some() != offered);
    }
    Ok(())
}

#[tokio::test]
async fn how_a_program_ended_and_its_last_words_are_told_without_secrets() -> Result<()> {
    let client = Arc::new(McpClient::connect(with_token("crash"), McpOptions::new("fake")).await?);
    let mut health = client.health();
    let error = call(&client, "echo", json!({})).await.err().context("lost")?;
    ensure!(error.is(ErrorCode::SpokeDisconnected) && error.retryable, "{error:?}");
    ensure!(error.message.contains("exit status: 3") && error.message.ends_with("\"out of luck\""), "{error}");
    let details: Value = error.details.context("details")?.parse()?;
    let lines = details["stderr"].as_array().context("lines")?;
    ensure!(details["exit"] == "exit status: 3" && lines.len() == 10 && lines[0] == "first words", "{details}");
    ensure!(lines[8] == "token is [redacted]" && lines[9] == "out of luck", "{details}");
    // It is told apart from any call, too, and so is that it is back.
    let trouble = health.wait_for(|health| health.trouble.is_some());
    let trouble = tokio::time::timeout(Duration::from_secs(5), trouble).await??.trouble.clone().unwrap_or_default();
    ensure!(trouble.contains("exit status: 3, saying \"out of luck\""), "{trouble}");
    tokio::time::timeout(Duration::from_secs(5), health.wait_for(|health| health.trouble.is_none())).await??;

    let error = call(&*connect("killed").await?, "echo", json!({})).await.err().context("lost")?;
    ensure!(error.message.contains("signal: 9"), "{error}");
    let gone = McpClient::connect(with_token("gone"), McpOptions::new("fake")).await;
    let said = gone.err().context("no beginning")?.to_string();
    ensure!(said.contains("exit status: 1, saying \"no config: TOKEN=[redacted]\""), "{said}");
    Ok(())
}

#[tokio::test]
async fn a_result_that_breaks_its_own_schema_is_an_error() -> Result<()> {
    let client = connect("good").await?;
    let said = |result: Value| call(&client, "structured", json!({ "result": result }));
    ensure!(said(json!({ "structuredContent": { "n": 2 } })).await?["data"] == json!({ "n": 2 }));
    let error = said(json!({ "structuredContent": { "n": "two" } })).await.err().context("a lie")?;
    ensure!(error.is(ErrorCode::ExecutionError) && !error.retryable && error.message.contains("/n: "), "{error:?}");
    let details: Value = error.details.context("details")?.parse()?;
    ensure!(details["violations"][0]["path"] == "/n" && details["structuredContent"]["n"] == "two", "{details}");
    let error = said(json!({})).await.err().context("nothing of what was promised")?;
    ensure!(error.message.contains("structuredContent is missing"), "{error}");
    // What it calls a failure is no result.
    let error = said(json!({ "isError": true })).await.err().context("a failure")?;
    ensure!(error.message == "1", "{error}");
    Ok(())
}

#[tokio::test]
async fn tools_beyond_the_limit_are_told() -> Result<()> {
    let client = connect("many").await?;
    ensure!(client.operations().len() == 1_000);
    let left_out = client.health().borrow().left_out.clone().context("a note")?;
    ensure!(left_out == "left out: all tools after the first 1000", "{left_out}");
    Ok(())
}

#[tokio::test]
async fn what_is_left_out_is_named() -> Result<()> {
    for (mode, told) in [
        (
            "odd",
            "a malformed tool (\"no schema\", the 13. of the list): missing field `inputSchema`; a malformed tool (the 14. of the list): missing field `name`",
        ),
        ("endless", "what follows a page that names itself as the next one"),
    ] {
        let client = connect(mode).await?;
        let left_out = client.health().borrow().left_out.clone().context("a note")?;
        ensure!(left_out.contains(told), "{left_out}");
        ensure!(call(&client, "echo", json!({"text": "x"})).await?["data"][0]["text"] == "x");
    }
    Ok(())
}

#[tokio::test]
async fn a_program_that_lives_on_without_input_or_output_is_started_again() -> Result<()> {
    for (mode, words) in [("closes", "it has closed its output"), ("plugged", "it has closed its input")] {
        let client = connect(mode).await?;
        let mut health = client.health();
        let trouble = async {
            let told =
                tokio::time::timeout(Duration::from_secs(10), health.wait_for(|health| health.trouble.is_some()));
            let told = told.await??.trouble.clone().unwrap_or_default();
            tokio::time::timeout(Duration::from_secs(10), health.wait_for(|health| health.trouble.is_none())).await??;
            anyhow::Ok(told)
        };
        // The second finds the input closed.
        let calls = async {
            let second = async {
                tokio::time::sleep(Duration::from_millis(300)).await;
                call(&client, "fail", json!({})).await
            };
            tokio::join!(call(&client, "fail", json!({})), second)
        };
        let calls = tokio::time::timeout(Duration::from_secs(15), calls);
        let (trouble, calls) = tokio::join!(trouble, calls);
        let (first, _) = calls?;
        let error = first.err().context("it was lost")?;
        ensure!(trouble?.contains(words), "{error}");
        ensure!(error.is(ErrorCode::SpokeDisconnected) && !error.retryable && error.message.contains(words), "{error}");
    }
    Ok(())
}

#[tokio::test]
async fn a_hung_tool_is_given_up() -> Result<()> {
    let options = McpOptions { call_timeout: Duration::from_millis(200), ..McpOptions::new("fake") };
    let client = McpClient::connect(target("hang", &[]), options).await?;
    let error = call(&client, "echo", json!({})).await.err().context("late")?;
    ensure!(error.is(ErrorCode::Timeout));
    Ok(())
}

#[tokio::test]
async fn a_huge_answer_is_refused_and_not_kept() -> Result<()> {
    let client = connect("huge").await?;
    let before = resident_kib()?;
    let error = call(&client, "echo", json!({})).await.err().context("too large")?;
    ensure!(error.is(ErrorCode::PayloadTooLarge), "{error}");
    let grown = resident_kib()?.saturating_sub(before);
    ensure!(grown < 64 * 1024, "{grown} KiB more");
    Ok(())
}

#[tokio::test]
async fn a_flood_of_notifications_is_no_harm() -> Result<()> {
    let options = McpOptions { stream: vec!["echo".into()], ..McpOptions::new("fake") };
    let client = Arc::new(McpClient::connect(target("flood", &[]), options).await?);
    let before = resident_kib()?;
    let Reply::Stream(items) = client.clone().run("fake.echo", json!({"text": "x"}).into()).await? else {
        bail!("no stream")
    };
    let last = items.fold(None, |_, item| async { item.ok() }).await.context("an item")?;
    ensure!(last.as_str().contains("result"), "{}", last.as_str());
    let grown = resident_kib()?.saturating_sub(before);
    ensure!(grown < 64 * 1024, "{grown} KiB more");
    Ok(())
}

#[tokio::test]
async fn noise_on_standard_output_and_error_is_no_harm() -> Result<()> {
    let client = connect("noisy").await?;
    for n in 0..20 {
        let text = format!("{n}");
        ensure!(call(&client, "echo", json!({"text": text})).await?["data"][0]["text"] == text);
    }
    Ok(())
}

#[tokio::test]
async fn lies_about_tools_cost_only_themselves() -> Result<()> {
    let client = connect("liar").await?;
    let names: Vec<String> = client.operations().into_iter().map(|s| s.name).collect();
    ensure!(names.iter().filter(|n| *n == "echo").count() == 1, "{names:?}");
    ensure!(names.contains(&"bad_schema".to_owned()), "{names:?}");
    // What can't be an operation is not one; what has no usable schema takes any object.
    let registry: Registry<()> = register(Registry::builder(), &client).build()?;
    ensure!(registry.get("fake.bad_schema").is_some());
    Ok(())
}

#[tokio::test]
async fn an_answer_that_is_none_is_an_error() -> Result<()> {
    let client = connect("nonsense").await?;
    let error = call(&client, "echo", json!({})).await.err().context("unreadable")?;
    ensure!(error.is(ErrorCode::ExecutionError), "{error}");
    Ok(())
}

#[tokio::test]
async fn what_a_server_asks_of_its_host_is_refused() -> Result<()> {
    let client = connect("elicit").await?;
    let answer = call(&client, "echo", json!({})).await?;
    let told = answer["data"][0]["text"].as_str().unwrap_or_default();
    ensure!(told.contains("elicitation is refused"), "{told}");
    Ok(())
}

#[tokio::test]
async fn a_server_that_does_not_begin_is_named() -> Result<()> {
    let none = McpClient::connect(McpTarget::child("/no/such/program", vec![]), McpOptions::new("fake")).await;
    ensure!(matches!(none, Err(McpError::Start { .. })));
    let gone = McpClient::connect(target("gone", &[]), McpOptions::new("fake")).await;
    ensure!(matches!(&gone, Err(McpError::Handshake { .. })), "{gone:?}");
    let began = Instant::now();
    let flood = McpClient::connect(McpTarget::child("yes", vec!["garbage".into()]), McpOptions::new("fake")).await;
    let said = flood.expect_err("no server").to_string();
    ensure!(said.contains("prints what is not MCP") && began.elapsed() < Duration::from_secs(10), "{said}");
    let options = McpOptions { connect_timeout: Duration::from_millis(300), ..McpOptions::new("fake") };
    let mute = McpClient::connect(target("mute", &[]), options).await;
    ensure!(matches!(mute, Err(McpError::Timeout { .. })));
    Ok(())
}

#[tokio::test]
async fn dropping_a_client_ends_all_that_the_server_has_started() -> Result<()> {
    let client = McpClient::connect(target("good", &["61.803398"]), McpOptions::new("fake")).await?;
    ensure!(is_running("sleep 61.803398")?);
    drop(client);
    for _ in 0..250 {
        if !is_running("sleep 61.803398")? {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    bail!("something of the server still runs");
}

fn is_running(command: &str) -> Result<bool> {
    let found = std::process::Command::new("pgrep").args(["-f", "-x", command]).output()?;
    Ok(!found.stdout.is_empty())
}

/// Memory of this process that is in use.
fn resident_kib() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).context("VmRSS")?;
    Ok(line.split_whitespace().nth(1).context("a number")?.parse()?)
}
