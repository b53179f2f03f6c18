//! The command line `hub` as a program, against the real server.

mod clients;

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::stream;
use hub_spoke::{CallError, ErrorCode, RunningSpoke};
use hub_testkit::{Ran, TestHub, binary, command, eventually, run, run_with};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

/// A hub, a home of a person, and the spoke `box` with `t.echo`, `t.fail`, `t.slow`, `t.count`, `t.tree` and `t.deep`.
struct Desk {
    server: TestHub,
    home: TempDir,
    _spoke: RunningSpoke,
}

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
struct Count {
    to: u64,
}

impl Desk {
    async fn set_up() -> Result<Self> {
        let server = TestHub::start().await?;
        let spoke = server
            .spoke("box")
            .spoke_type("compute")
            .query("t.echo", "Echoes.", |_, input: Value| async move { Ok::<_, CallError>(input) })
            .query("t.fail", "Fails.", |_, _: Value| async move {
                Err::<Value, _>(CallError::domain("TANK_EMPTY", "refill it"))
            })
            .query("t.slow", "Never answers.", |_, _: Value| std::future::pending::<Result<Value, CallError>>())
            .stream("t.count", "Counts, then waits.", |_, count: Count| async move {
                Ok::<_, CallError>(stream::unfold(1, move |n| async move {
                    if n > count.to {
                        return if count.to < 100 { None } else { std::future::pending().await };
                    }
                    Some((Ok(n), n + 1))
                }))
            })
            .query("t.tree", "Calls t.deep.", |ctx, _: Value| async move {
                ctx.call_raw("t.deep", json!({})).await.map(|data| data.as_str().to_owned())
            })
            .query("t.deep", "Calls t.slow.", |ctx, _: Value| async move {
                ctx.call_raw("t.slow", json!({})).await.map(|data| data.as_str().to_owned())
            });
        let spoke = spoke.build()?.start().await?;
        Ok(Self { server, home: TempDir::new()?, _spoke: spoke })
    }

    /// `hub` with the admin key in its environment.
    fn hub(&self, words: &[&str]) -> Result<Command> {
        let mut hub = command(binary("hub")?, self.home.path());
        hub.args(words).env("HUB_URL", self.server.url()).env("HUB_KEY", self.server.admin_key());
        Ok(hub)
    }

    async fn run(&self, words: &[&str]) -> Result<Ran> {
        run(&mut self.hub(words)?).await
    }

    /// What a command prints that must work.
    async fn ok(&self, words: &[&str]) -> Result<String> {
        let ran = self.run(words).await?;
        ensure!(ran.code == Some(0), "hub {words:?}: {ran:?}");
        Ok(ran.out)
    }

    async fn json(&self, words: &[&str]) -> Result<Value> {
        let out = self.ok(&[words, &["--json"]].concat()).await?;
        serde_json::from_str(&out).with_context(|| format!("hub {words:?} --json: {out}"))
    }

    /// A command that runs beside the test.
    fn start(&self, words: &[&str]) -> Result<Child> {
        let mut hub = self.hub(words)?;
        hub.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(hub.spawn()?)
    }

    /// A running `hub spoke exec`, once its operation can be called.
    async fn exec(&self, words: &[&str]) -> Result<Child> {
        let mut child = self.start(&[&["spoke", "exec"], words].concat())?;
        let line = line(&mut child).await?;
        ensure!(line.starts_with("offering "), "{line:?}");
        Ok(child)
    }
}

/// The next line of standard output.
async fn line(child: &mut Child) -> Result<String> {
    let mut line = String::new();
    let mut reader = BufReader::with_capacity(1, child.stdout.as_mut().context("no output")?);
    tokio::time::timeout(Duration::from_secs(15), reader.read_line(&mut line)).await.context("no line in time")??;
    Ok(line)
}

async fn signal(child: &Child, name: &str) -> Result<()> {
    let pid = child.id().context("it has ended")?.to_string();
    ensure!(Command::new("kill").args([&format!("-{name}"), &pid]).status().await?.success());
    Ok(())
}

/// Exit code and standard error of a program that is about to end.
async fn ended(mut child: Child) -> Result<(Option<i32>, String)> {
    let mut errors = String::new();
    let mut stderr = child.stderr.take().context("no errors")?;
    let end = async {
        stderr.read_to_string(&mut errors).await?;
        child.wait().await
    };
    let status = tokio::time::timeout(Duration::from_secs(15), end).await.context("it does not end")??;
    Ok((status.code(), errors))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_input_comes_as_argument_file_standard_input_or_pairs() -> Result<()> {
    let desk = Desk::set_up().await?;
    let input = json!({ "text": "a b", "number": 12345678901234567890_u64, "list": [1, "x"] });
    let text = input.to_string();
    std::fs::write(desk.home.path().join("in.json"), &text)?;
    std::fs::write(desk.home.path().join("a.txt"), "a b")?;
    let pairs = ["call", "t.echo", "text=@a.txt", "number:=12345678901234567890", r#"list:=[1,"x"]"#];
    for words in [&["call", "t.echo", &text][..], &["call", "t.echo", "@in.json"], &pairs] {
        assert_eq!(desk.json(words).await?, input, "{words:?}");
    }
    let piped = run_with(&mut desk.hub(&["call", "t.echo", "-", "--json"])?, &text).await?;
    assert_eq!(serde_json::from_str::<Value>(&piped.out)?, input, "{piped:?}");
    // People get a text as it is.
    assert_eq!(desk.ok(&["call", "t.echo", "\"plain\""]).await?, "plain\n");
    assert_eq!(desk.json(&["call", "t.echo"]).await?, json!({}));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_prints_an_item_a_line_as_it_comes() -> Result<()> {
    let desk = Desk::set_up().await?;
    assert_eq!(desk.ok(&["call", "t.count", "to:=3"]).await?, "1\n2\n3\n");
    assert_eq!(desk.ok(&["call", "t.count", "to:=3", "--json"]).await?, "1\n2\n3\n");
    // The 100th is there although the stream goes on.
    let mut endless = desk.start(&["call", "t.count", "to:=100"])?;
    let mut reader = BufReader::new(endless.stdout.take().context("no output")?).lines();
    for n in 1..=100 {
        let line = tokio::time::timeout(Duration::from_secs(15), reader.next_line()).await??;
        assert_eq!(line, Some(n.to_string()));
    }
    signal(&endless, "INT").await?;
    let (code, errors) = ended(endless).await?;
    assert_eq!(code, Some(130), "{errors}");
    desk.server.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_aborts_the_whole_tree_shows_receipts_and_exits_130() -> Result<()> {
    let desk = Desk::set_up().await?;
    for form in [&[][..], &["--json"]] {
        let call = desk.start(&[&["call", "t.tree", "--deadline", "5m"], form].concat())?;
        eventually("three calls run", || async {
            Ok((desk.server.hub().status().await?.calls_in_flight == 3).then_some(()))
        })
        .await?;
        signal(&call, "INT").await?;
        let (code, errors) = ended(call).await?;
        assert_eq!(code, Some(130), "{errors}");
        let places: Vec<_> = ["t.slow", "t.deep", "t.tree"].iter().filter_map(|op| errors.find(op)).collect();
        assert_eq!(places.len(), 3, "a receipt for each: {errors}");
        assert!(places.is_sorted(), "leaves first: {errors}");
        if !form.is_empty() {
            let told: Value = serde_json::from_str(&errors)?;
            assert_eq!((&told["aborted"], told["receipts"].as_array().map(Vec::len)), (&json!(true), Some(3)));
        }
        desk.server.settled().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_reads_answers_in_json() -> Result<()> {
    let desk = Desk::set_up().await?;
    desk.ok(&["call", "t.echo", "x=1"]).await?;
    desk.ok(&["call", "hub.call", r#"{"operationId":"t.echo","input":{"deep":true}}"#]).await?;
    let listed = desk.json(&["ops", "list", "--namespace", "t"]).await?;
    assert_eq!(listed["operations"].as_array().map(Vec::len), Some(6), "{listed}");
    let found = desk.json(&["ops", "search", "echoes"]).await?;
    assert_eq!(found["operations"][0]["id"], "t.echo", "{found}");
    let schema = desk.json(&["ops", "schema", "t.count"]).await?;
    assert!(schema.to_string().contains("\"to\""), "{schema}");
    let spokes = desk.json(&["spokes"]).await?;
    assert_eq!(spokes["spokes"][0]["name"], "box", "{spokes}");
    let status = desk.json(&["status"]).await?;
    assert_eq!(status["hubId"], desk.server.hub().id().to_string(), "{status}");
    assert!(desk.json(&["whoami"]).await?["identity"]["id"].is_string());
    let calls = eventually("two trees are on record", || async {
        let calls = desk.json(&["calls", "list", "--roots"]).await?;
        Ok((calls["calls"].as_array().is_some_and(|c| c.len() >= 2)).then_some(calls))
    });
    let calls = calls.await?;
    let composed = calls["calls"].as_array().into_iter().flatten().find(|c| c["operationId"] == "hub.call");
    let id = composed.context("hub.call is on record")?["callId"].as_str().context("an id")?.to_owned();
    let tree = desk.json(&["calls", "tree", &id]).await?;
    assert!(tree.to_string().contains("t.echo"), "{tree}");
    let drawn = desk.ok(&["calls", "tree", &id]).await?;
    assert!(drawn.contains("hub.call") && drawn.contains("└─ t.echo"), "{drawn}");
    assert_eq!(desk.json(&["calls", "get", &id]).await?["status"], "completed");
    desk.json(&["calls", "stats"]).await?;
    let keys = desk.json(&["keys", "list"]).await?;
    assert_eq!(keys["keys"].as_array().map(Vec::len), Some(1), "{keys}");
    let events = desk.json(&["events"]).await?;
    assert!(events["events"].as_array().is_some_and(|e| !e.is_empty()), "{events}");
    desk.json(&["audit"]).await?;
    // Streams are one document a line.
    let exported = desk.ok(&["calls", "export", "--json"]).await?;
    assert!(exported.lines().count() >= 2);
    exported.lines().try_for_each(|line| serde_json::from_str::<Value>(line).map(drop))?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_shown_once_and_works_until_it_is_revoked() -> Result<()> {
    let desk = Desk::set_up().await?;
    let secret = desk.ok(&["keys", "create", "ci", "--scope", "hub:read"]).await?;
    let with_key = async |words: &[&str]| run(desk.hub(words)?.env("HUB_KEY", secret.trim())).await;
    assert_eq!(with_key(&["whoami"]).await?.code, Some(0));
    let listed = desk.ok(&["keys", "list", "--json"]).await?;
    assert!(listed.contains("\"ci\"") && !listed.contains(secret.trim()), "{listed}");
    let refused = with_key(&["keys", "create", "more"]).await?;
    assert!(matches!(refused.code, Some(4 | 5)), "{refused:?}");
    desk.ok(&["keys", "revoke", "ci"]).await?;
    let refused = with_key(&["whoami"]).await?;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert!(!refused.err.contains(secret.trim()), "the key is in an error");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn exit_codes_are_those_of_the_page_and_an_error_is_one_line() -> Result<()> {
    let desk = Desk::set_up().await?;
    let key = desk.server.new_key(&[]).await?;
    let missing = "019aa571-0000-7000-8000-000000000000";
    for (words, code, says) in [
        (&["call", "t.fail"][..], 1, "TANK_EMPTY: refill it"),
        (&["call", "t.count", "to=many"], 1, "hub ops schema t.count"),
        (&["call", "clients.create", "name=x", "type=nope"], 1, "\"llm-provider\", \"vcs\""),
        (&["nonsense"], 2, "nonsense"),
        (&["call", "t.echo", "@none.json"], 2, "none.json"),
        (&["call", "t.echo", "{"], 2, ""),
        (&["status", "--url", "ws://127.0.0.1:1"], 3, "hub-server"),
        (&["status", "--key", "hub_bad_key"], 4, "--key"),
        (&["call", "no.such"], 5, "hub ops search"),
        (&["calls", "get", missing], 5, "NOT_FOUND"),
        (&["call", "t.slow", "--deadline", "200ms"], 6, "TIMEOUT"),
    ] {
        let ran = desk.run(words).await?;
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:?}");
        assert!(ran.out.is_empty() && ran.err.starts_with("error: ") && ran.err.contains(says), "{words:?}: {ran:?}");
        if code != 2 {
            assert_eq!(ran.err.lines().count(), 1, "{words:?}: {ran:?}");
        }
        let ran = desk.run(&[words, &["--json"]].concat()).await?;
        let told: Value = serde_json::from_str(&ran.err).with_context(|| format!("{words:?}: {ran:?}"))?;
        assert_eq!((ran.code, &told["error"]["exitCode"]), (Some(code), &json!(code)), "{words:?}: {told}");
    }
    // Rights that do not suffice; the operation is one that the caller sees.
    let denied = run(desk.hub(&["calls", "abort", missing])?.env("HUB_KEY", &key)).await?;
    assert!(matches!(denied.code, Some(4 | 5)), "{denied:?}");
    // No key at all: nothing in the environment, none in the home.
    let mut without = command(binary("hub")?, desk.home.path());
    let without = run(without.args(["whoami", "--url", &desk.server.url()])).await?;
    assert_eq!(without.code, Some(4), "{without:?}");
    assert!(without.err.contains("HUB_KEY") && without.err.contains("admin.key"), "{without:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_the_hub_s_own_machine_it_needs_no_key() -> Result<()> {
    let desk = Desk::set_up().await?;
    let folder = desk.server.folder().display().to_string();
    let plain = |words: &[&str]| -> Result<Command> {
        let mut hub = command(binary("hub")?, desk.home.path());
        hub.args(words).args(["--url", &desk.server.url()]);
        Ok(hub)
    };
    assert_eq!(run(&mut plain(&["whoami", "--data-dir", &folder])?).await?.code, Some(0));
    assert_eq!(run(plain(&["whoami"])?.env("HUB_DATA_DIR", &folder)).await?.code, Some(0));
    let home: &Path = desk.home.path();
    std::fs::create_dir_all(home.join(".local/share/hub"))?;
    std::fs::copy(desk.server.folder().join("admin.key"), home.join(".local/share/hub/admin.key"))?;
    assert_eq!(run(&mut plain(&["whoami"])?).await?.code, Some(0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spoke_exec_offers_a_program_without_a_shell_in_between() -> Result<()> {
    let desk = Desk::set_up().await?;
    std::fs::write(desk.home.path().join("notes.txt"), "one\ntwo\nthree\n")?;
    let mut spoke = desk
        .exec(&["--name", "grep", "--op", "notes.find", "--type", "query", "--", "grep", "-n", "{what}", "notes.txt"])
        .await?;
    let id = "client.grep.notes.find";
    let found = desk.json(&["call", id, "what=t"]).await?;
    assert_eq!((&found["exitCode"], &found["stdout"]), (&json!(0), &json!("2:two\n3:three\n")), "{found}");
    // What a shell would run is only a text.
    let found = desk.json(&["call", id, "what=x; touch made $(touch made)"]).await?;
    assert_eq!((&found["exitCode"], &found["stdout"]), (&json!(1), &json!("")), "{found}");
    assert!(!desk.home.path().join("made").exists());
    let refused = desk.run(&["call", id, "what=--help"]).await?;
    assert!(refused.code == Some(1) && refused.err.contains("begins with '-'"), "{refused:?}");
    let refused = desk.run(&["call", id]).await?;
    assert!(refused.err.contains("VALIDATION_ERROR"), "{refused:?}");
    // It is an operation like every other: found by search, by every client, in the record.
    assert_eq!(desk.json(&["ops", "search", "notes find"]).await?["operations"][0]["id"], id);
    let record = eventually("the call is on record", || async {
        let calls = desk.json(&["calls", "list", "--op", id, "--status", "completed"]).await?;
        Ok((calls["calls"].as_array().is_some_and(|c| c.len() == 2)).then_some(calls))
    });
    assert_eq!(record.await?["calls"][0]["spoke"], "grep");
    signal(&spoke, "INT").await?;
    let status = tokio::time::timeout(Duration::from_secs(15), spoke.wait()).await??;
    assert!(status.success(), "{status}");
    let gone = desk.run(&["call", id, "what=t"]).await?;
    assert!(gone.code == Some(1) && gone.err.contains("OPERATION_UNAVAILABLE"), "{gone:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn spoke_exec_streams_keeps_the_key_to_itself_and_ends_with_its_call() -> Result<()> {
    let desk = Desk::set_up().await?;
    let script = "echo key=$HUB_KEY; sleep 300 & echo $!; wait";
    let _spoke = desk.exec(&["--name", "sh", "--op", "t.wait", "--stream", "--", "sh", "-c", script]).await?;
    let mut call = desk.start(&["call", "client.sh.t.wait"])?;
    assert_eq!(line(&mut call).await?, "key=\n");
    let pid = line(&mut call).await?.trim().to_owned();
    let stat = format!("/proc/{pid}/stat");
    let lives =
        || std::fs::read_to_string(&stat).is_ok_and(|s| s.rsplit_once(") ").is_some_and(|(_, r)| !r.starts_with('Z')));
    assert!(lives(), "{pid}");
    // Killed without a chance to say anything: the hub sees the connection go.
    call.start_kill()?;
    call.wait().await?;
    eventually("the grandchild is gone", || async { Ok((!lives()).then_some(())) }).await?;
    desk.server.settled().await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_wrote_can_not_steer_the_terminal() -> Result<()> {
    let desk = Desk::set_up().await?;
    let spoke =
        desk.server.spoke("evil").spoke_type("compute").query("evil.fail", "\u{1b}[31mred\u{7}", |_, _: Value| async {
            Err::<Value, _>(CallError::new(ErrorCode::ExecutionError, "\u{1b}]0;owned\u{7}\nerror: second line"))
        });
    let _spoke = spoke.build()?.start().await?;
    let failed = desk.run(&["call", "evil.fail"]).await?;
    assert_eq!(failed.err.lines().count(), 1, "{failed:?}");
    assert!(!failed.err.contains('\u{1b}') && !failed.err.contains('\u{7}'), "{failed:?}");
    for words in [&["ops", "list", "--namespace", "evil"][..], &["ops", "schema", "evil.fail"]] {
        let shown = desk.ok(words).await?;
        assert!(!shown.contains('\u{1b}') && !shown.contains('\u{7}'), "{shown:?}");
    }
    Ok(())
}
