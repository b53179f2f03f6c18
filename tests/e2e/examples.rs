//! The examples against the real server: the dev spoke in this process, Python and TypeScript as programs of their
//! own, the embedding service; and the dialect of the TypeScript libraries, message by message.

mod dialect;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use dev_spoke::{Limits, RunningSpoke};
use futures_util::StreamExt;
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_spoke::{AbortMode, Client, Subscription};
use hub_testkit::{RawPeer, TestHub, binary, command, eventually, http, run};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::tools::{Program, Tool, node, python};

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples");

/// A small project, offered by the dev spoke `laptop`.
async fn project(hub: &TestHub) -> Result<(TempDir, RunningSpoke)> {
    let root = TempDir::new()?;
    std::fs::create_dir(root.path().join("src"))?;
    std::fs::write(root.path().join("README.md"), "# A project\n\nIt adds.\n")?;
    std::fs::write(root.path().join("src/add.rs"), "fn add(a: i32, b: i32) -> i32 {\n    a - b\n}\n")?;
    let key = hub.new_key(&["spoke"]).await?;
    let spoke = dev_spoke::builder(&hub.url(), &key, "laptop", root.path(), Limits::default())?;
    Ok((root, spoke.build()?.start().await?))
}

async fn call(client: &Client, tool: &str, input: Value) -> Result<Value, hub_spoke::CallError> {
    let data = client.call_raw(&format!("dev.laptop.{tool}"), input).await?;
    Ok(data.parse().expect("a reply is JSON"))
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_spoke_an_agent_reads_writes_edits_lists_and_searches() -> Result<()> {
    let hub = TestHub::start().await?;
    let (root, _spoke) = project(&hub).await?;
    let agent = hub.client_with(&["dev:*", "calls:read"]).await?;
    let listed = call(&agent, "fs.list", json!({ "depth": 2 })).await?.to_string();
    assert!(listed.contains("README.md") && listed.contains("src/add.rs"), "{listed}");
    let found = call(&agent, "fs.search", json!({ "pattern": "a - b" })).await?;
    assert_eq!(
        (&found["matches"][0]["path"], &found["matches"][0]["line"]),
        (&json!("src/add.rs"), &json!(2)),
        "{found}"
    );
    let read = call(&agent, "fs.read", json!({ "path": "src/add.rs" })).await?;
    assert!(read["content"].as_str().context("a text")?.contains("a - b"));
    let edit = json!({ "path": "src/add.rs", "edits": [{ "oldText": "a - b", "newText": "a + b" }],
        "expectedSha256": read["sha256"] });
    let edited = call(&agent, "fs.edit", edit.clone()).await?;
    assert_eq!(edited["replacements"], 1, "{edited}");
    assert!(std::fs::read_to_string(root.path().join("src/add.rs"))?.contains("a + b"));
    // Over a change that the caller has not seen it does not write.
    let stale = call(&agent, "fs.edit", edit).await.unwrap_err();
    assert_eq!(stale.code, "FILE_CHANGED", "{stale:?}");
    let written = json!({ "path": "docs/new.md", "content": "new\n", "createDirs": true });
    assert_eq!(call(&agent, "fs.write", written).await?["created"], true);
    assert_eq!(std::fs::read_to_string(root.path().join("docs/new.md"))?, "new\n");
    // All of it is in the record, where it ran included.
    let page = agent.call(&ListCalls { spoke: Some("laptop".into()), ..ListCalls::default() }).await?;
    assert_eq!(page.calls.len(), 6);
    assert!(page.calls.iter().filter(|call| call.status == CallStatus::Completed).count() == 5, "{:?}", page.calls);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_spoke_no_path_leads_out_of_the_project() -> Result<()> {
    let hub = TestHub::start().await?;
    let (root, _spoke) = project(&hub).await?;
    let outside = TempDir::new()?;
    std::fs::write(outside.path().join("secret.txt"), "secret")?;
    std::os::unix::fs::symlink(outside.path(), root.path().join("way-out"))?;
    std::os::unix::fs::symlink(outside.path().join("secret.txt"), root.path().join("link.txt"))?;
    let agent = hub.client_with(&["dev:*"]).await?;
    let absolute = outside.path().join("secret.txt").display().to_string();
    for path in ["../x", "src/../../x", "way-out/secret.txt", "link.txt", "/etc/passwd", &absolute] {
        for (tool, input) in [
            ("fs.read", json!({ "path": path })),
            ("fs.write", json!({ "path": path, "content": "x" })),
            ("fs.edit", json!({ "path": path, "edits": [{ "oldText": "secret", "newText": "x" }] })),
        ] {
            let error = call(&agent, tool, input).await.unwrap_err();
            assert_eq!(error.code, "OUTSIDE_ROOT", "{tool} {path}: {error:?}");
        }
    }
    for (tool, input) in [
        ("fs.list", json!({ "path": ".." })),
        ("fs.search", json!({ "pattern": "secret", "path": "way-out" })),
        ("bash.run", json!({ "command": "cat secret.txt", "cwd": "way-out" })),
    ] {
        let error = first(&agent, tool, input).await?.unwrap_err();
        assert_eq!(error.code, "OUTSIDE_ROOT", "{tool}: {error:?}");
    }
    let found = call(&agent, "fs.search", json!({ "pattern": "secret" })).await?;
    assert_eq!(found["matches"], json!([]));
    assert_eq!(std::fs::read_to_string(outside.path().join("secret.txt"))?, "secret");
    // The declared code has its declared status on HTTP.
    let input = json!({ "path": "../x" });
    let answer = http(hub.address(), "POST", "/api/operations/dev.laptop.fs.read", hub.admin_key(), &input).await?;
    assert_eq!((answer.status, &answer.json()?["code"]), (403, &json!("OUTSIDE_ROOT")));
    // What a key may not do it does not even see.
    let reader = hub.client_with(&["dev:read"]).await?;
    call(&reader, "fs.read", json!({ "path": "README.md" })).await?;
    for tool in ["fs.write", "fs.edit", "bash.run"] {
        let error = first(&reader, tool, json!({})).await?.unwrap_err();
        assert_eq!(error.code, "OPERATION_NOT_FOUND", "{tool}");
    }
    Ok(())
}

/// The first answer of a call of any kind.
async fn first(client: &Client, tool: &str, input: Value) -> Result<Result<Value, hub_spoke::CallError>> {
    let mut active = client.request(format!("dev.laptop.{tool}")).input(input).start().await?;
    let answer = active.next().await.context("an answer")?;
    Ok(answer.map(|data| data.parse().expect("JSON")))
}

/// A command that prints the process number of a grandchild and then waits.
const GRANDCHILD: &str = "bash -c 'sleep 300 & echo $!; wait'";

async fn next(items: &mut Subscription<hub_spoke::Json>) -> Result<Value> {
    Ok(items.next().await.context("an item")??.parse()?)
}

async fn run_command(client: &Client, text: &str) -> Result<Subscription<hub_spoke::Json>> {
    Ok(client.request("dev.laptop.bash.run").input(json!({ "command": text })).subscribe().await?)
}

/// Whether a process that is no zombie has this number.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn grandchild(items: &mut Subscription<hub_spoke::Json>) -> Result<String> {
    let pid = next(items).await?["text"].as_str().context("a text")?.trim().to_owned();
    ensure!(lives(&pid), "{pid} does not run");
    Ok(pid)
}

async fn dies(pid: &str) -> Result<()> {
    eventually("the grandchild is gone", || async { Ok((!lives(pid)).then_some(())) }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_spoke_output_streams_while_the_command_runs() -> Result<()> {
    let hub = TestHub::start().await?;
    let (root, _spoke) = project(&hub).await?;
    let agent = hub.client_with(&["dev:*"]).await?;
    let mut items =
        run_command(&agent, "echo one; while [ ! -e go ]; do sleep 0.01; done; echo two >&2; exit 3").await?;
    assert_eq!(next(&mut items).await?, json!({ "stream": "stdout", "text": "one\n" }));
    std::fs::write(root.path().join("go"), "")?;
    assert_eq!(next(&mut items).await?, json!({ "stream": "stderr", "text": "two\n" }));
    let end = next(&mut items).await?;
    assert_eq!((&end["exitCode"], &end["timedOut"]), (&json!(3), &json!(false)), "{end}");
    assert!(items.next().await.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_spoke_an_abort_kills_the_command_with_its_grandchildren() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_root, _spoke) = project(&hub).await?;
    let agent = hub.client_with(&["dev:*"]).await?;
    let mut items = run_command(&agent, GRANDCHILD).await?;
    let pid = grandchild(&mut items).await?;
    let receipts = items.abort(Some("enough".into()), AbortMode::Kill, Duration::from_secs(5)).await;
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    assert_eq!(receipts[0].spoke.as_deref(), Some("laptop"));
    dies(&pid).await?;
    hub.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn dev_spoke_a_lost_caller_kills_the_command_with_its_grandchildren() -> Result<()> {
    let hub = TestHub::start().await?;
    let (_root, spoke) = project(&hub).await?;
    // A socket that just goes away, as when a laptop is closed.
    let mut lost = hub.raw().await?;
    lost.request("1", "dev.laptop.bash.run", json!({ "command": GRANDCHILD })).await?;
    let pid = lost.next().await?["payload"]["output"]["data"]["text"].as_str().context("a text")?.trim().to_owned();
    assert!(lives(&pid));
    drop(lost);
    dies(&pid).await?;
    // And the other end: the spoke's own connection is lost.
    let agent = hub.client_with(&["dev:*"]).await?;
    let mut items = run_command(&agent, GRANDCHILD).await?;
    let pid = grandchild(&mut items).await?;
    drop(spoke);
    let error = items.next().await.context("an end")?.unwrap_err();
    assert_eq!(error.code, "SPOKE_DISCONNECTED");
    dies(&pid).await?;
    hub.settled().await
}

fn python_command(tool: &Tool, home: &Path, script: &str, hub: &TestHub, key: &str) -> Command {
    let mut python = command(&tool.program, home);
    let examples = format!("{EXAMPLES}/python");
    let paths = [PathBuf::from(&examples), PathBuf::from(&tool.packages)];
    python.env("PYTHONPATH", std::env::join_paths(paths).expect("no colon in these"));
    python.env("PYTHONDONTWRITEBYTECODE", "1").env("HUB_KEY", key).env("HUB_WS", ws_url(hub));
    if script.ends_with(".py") {
        python.arg(format!("{examples}/{script}")).args(["--url", &ws_url(hub)]);
    } else {
        python.args(["-c", script]);
    }
    python
}

fn ws_url(hub: &TestHub) -> String {
    format!("{}/ws", hub.url().replacen("http", "ws", 1))
}

#[tokio::test(flavor = "multi_thread")]
async fn python_spoke_and_caller_do_what_their_page_says() -> Result<()> {
    let Some(tool) = python().await? else { return Ok(()) };
    let (hub, home) = (TestHub::start().await?, TempDir::new()?);
    let key = hub.new_key(&["spoke"]).await?;
    let mut spoke = Program::start(&mut python_command(&tool, home.path(), "spoke.py", &hub, &key))?;
    assert_eq!(spoke.line().await?, "serving client.py.demo.add client.py.demo.count");
    let key = hub.new_key(&[]).await?;
    let ran = run(&mut python_command(&tool, home.path(), "caller.py", &hub, &key)).await?;
    assert_eq!(ran.out, "2 + 3 = 5\ncounted 1\ncounted 2\ncounted 3\nstopped it\n", "{ran:?}");
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let client = hub.client().await?;
    // The abort has reached the spoke and is on record.
    let count = ListCalls { operation_id: Some("client.py.demo.count".into()), ..ListCalls::default() };
    eventually("the aborted stream is on record", || async {
        Ok(client.call(&count).await?.calls.iter().any(|call| call.status == CallStatus::Aborted).then_some(()))
    })
    .await?;
    hub.settled().await?;
    // From Rust, checked by the hub.
    assert_eq!(client.call_raw("client.py.demo.add", json!({ "a": 40, "b": 2 })).await?.as_str(), "42");
    let error = client.call_raw("client.py.demo.add", json!({ "a": "40", "b": 2 })).await.unwrap_err();
    assert_eq!(error.code, "VALIDATION_ERROR");
    let numbers = client.request("client.py.demo.count").input(json!({ "to": 3, "pauseMs": 1 })).subscribe().await?;
    let numbers: Vec<_> = numbers.map(|n| n.map(|n| n.as_str().to_owned())).collect::<Vec<_>>().await;
    assert_eq!(numbers.into_iter().collect::<Result<Vec<_>, _>>()?, ["1", "2", "3"]);
    // Its end is seen.
    spoke.child.kill().await?;
    eventually("the operation has no provider", || async {
        let error = client.call_raw("client.py.demo.add", json!({ "a": 1, "b": 2 })).await;
        Ok(error.is_err_and(|e| e.code == "OPERATION_UNAVAILABLE").then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn python_sees_a_command_s_output_from_a_rust_spoke() -> Result<()> {
    let Some(tool) = python().await? else { return Ok(()) };
    let (hub, home) = (TestHub::start().await?, TempDir::new()?);
    let (_root, _spoke) = project(&hub).await?;
    let script = r#"
import asyncio, json, os
from caller import Hub
from websockets.asyncio.client import connect

async def main():
    async with connect(os.environ["HUB_WS"], additional_headers={"Authorization": "Bearer " + os.environ["HUB_KEY"]}) as socket:
        async with Hub(socket).subscribe("dev.laptop.bash.run", command="cat README.md; echo oops >&2; exit 4") as items:
            async for item in items:
                item.pop("durationMs", None)
                print(json.dumps(item, sort_keys=True), flush=True)

asyncio.run(main())
"#;
    let key = hub.new_key(&["dev:run"]).await?;
    let ran = run(&mut python_command(&tool, home.path(), script, &hub, &key)).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let items: Vec<Value> = ran.out.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let (end, output) = items.split_last().context("an end")?;
    assert_eq!(end, &json!({ "exitCode": 4, "timedOut": false, "truncated": false }));
    assert!(output.contains(&json!({ "stream": "stdout", "text": "# A project\n\nIt adds.\n" })), "{output:?}");
    assert!(output.contains(&json!({ "stream": "stderr", "text": "oops\n" })), "{output:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_spoke_is_served_like_any_other() -> Result<()> {
    let Some(tool) = node().await? else { return Ok(()) };
    let (hub, home) = (TestHub::start().await?, TempDir::new()?);
    let mut node = command(&tool.program, home.path());
    node.env("NODE_PATH", &tool.packages).env("HUB_KEY", hub.new_key(&["spoke"]).await?);
    node.arg("--import").arg(format!("{EXAMPLES}/typescript/strip.mjs"));
    node.arg(format!("{EXAMPLES}/typescript/spoke.mts")).args([&ws_url(&hub), "ts"]);
    let mut spoke = Program::start(&mut node)?;
    let offered = spoke.line().await?;
    assert!(offered.contains("client.ts.demo.shout") && offered.contains("client.ts.demo.whoami"), "{offered}");
    let client = hub.client().await?;
    let loud = client.call_raw("client.ts.demo.shout", json!({ "text": "hello" })).await?;
    assert_eq!(loud.as_str(), "\"HELLO\"");
    let declared = client.call_raw("client.ts.demo.shout", json!({ "text": "" })).await.unwrap_err();
    assert_eq!((declared.code.as_str(), declared.message.as_str()), ("EMPTY_TEXT", "EMPTY_TEXT: give me something"));
    // The library leaves `data` out when there is none.
    assert!(client.call_raw("client.ts.demo.forget", json!({ "text": "x" })).await?.is_null());
    let numbers = client.request("client.ts.demo.count").input(json!({ "to": 3 })).subscribe().await?;
    let numbers: Vec<_> = numbers.map(|n| n.map(|n| n.as_str().to_owned())).collect::<Vec<_>>().await;
    assert_eq!(numbers.into_iter().collect::<Result<Vec<_>, _>>()?, ["1", "2", "3"]);
    // A nested call, which needs its parent's id; its envelope passes through unwrapped.
    let me: Value = client.call_raw("client.ts.demo.whoami", json!({})).await?.parse()?;
    assert!(me["identity"]["id"].is_string(), "{me}");
    // The library does not stop a handler that is aborted, and does not confirm; the hub lives with it.
    let mut endless = client.request("client.ts.demo.count").input(json!({ "to": 200 })).subscribe().await?;
    endless.next().await.context("an item")??;
    let receipts = endless.abort(None, AbortMode::Kill, Duration::from_secs(8)).await;
    assert_eq!(receipts.len(), 1, "{receipts:?}");
    hub.settled().await?;
    assert_eq!(client.call_raw("client.ts.demo.shout", json!({ "text": "on" })).await?.as_str(), "\"ON\"");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn embed_prints_what_its_page_says() -> Result<()> {
    let home = TempDir::new()?;
    let ran = run(command(binary("embed")?, home.path()).env("TMPDIR", home.path())).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(lines[0], "hello, world");
    assert!(lines[1].starts_with("refused: ") && lines[1].contains("VALIDATION_ERROR"), "{}", ran.out);
    assert_eq!(lines[2], "[\"hello, Ada\", \"hello, Grace\"]");
    assert_eq!(lines[3], "the record, newest first:");
    let mut record: Vec<&str> = lines[4..].to_vec();
    record.sort_unstable();
    let expected = [
        "    demo.greet completed",
        "    demo.greet completed",
        "  demo.greet completed",
        "  demo.greet failed",
        "  demo.greetAll completed",
    ];
    assert_eq!(record, expected, "{}", ran.out);
    assert_eq!(std::fs::read_dir(home.path())?.count(), 0, "it left something");
    Ok(())
}
