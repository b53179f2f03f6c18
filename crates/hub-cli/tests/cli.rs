//! The binary against the real server. Small on purpose: the end-to-end package drives it further.
#![cfg(unix)]

use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hub_testkit::TestHub;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, Command};

fn hub(server: &TestHub, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hub"));
    command.args(words).env("HUB_URL", server.url()).env("HUB_KEY", server.admin_key()).env("NO_COLOR", "1");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn run(server: &TestHub, words: &[&str]) -> Result<Output> {
    let output = tokio::time::timeout(Duration::from_secs(60), hub(server, words).output()).await;
    output.with_context(|| format!("hub {words:?} hangs"))?.context("cannot run hub")
}

/// Standard output of a command that must work.
async fn ok(server: &TestHub, words: &[&str]) -> Result<String> {
    let output = run(server, words).await?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "hub {words:?}: {:?}: {errors}", output.status);
    Ok(String::from_utf8(output.stdout)?)
}

async fn json(server: &TestHub, words: &[&str]) -> Result<Value> {
    Ok(serde_json::from_str(&ok(server, &[words, &["--json"]].concat()).await?)?)
}

/// Exit code and standard error of a command that must fail.
async fn fails(server: &TestHub, words: &[&str]) -> Result<(i32, String)> {
    let output = run(server, words).await?;
    ensure!(!output.status.success(), "hub {words:?} worked");
    Ok((output.status.code().context("ended by a signal")?, String::from_utf8(output.stderr)?))
}

/// A spoke of `hub spoke exec` that has registered.
async fn exec(server: &TestHub, words: &[&str]) -> Result<Child> {
    let mut child = hub(server, &[&["spoke", "exec"], words].concat()).spawn()?;
    let mut line = String::new();
    let stdout = child.stdout.as_mut().context("no output")?;
    BufReader::new(stdout).read_line(&mut line).await?;
    ensure!(line.starts_with("offering "), "{line:?}");
    Ok(child)
}

fn interrupt(child: &Child) -> Result<()> {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(rustix::process::Pid::from_raw);
    Ok(rustix::process::kill_process(id.context("it has ended")?, rustix::process::Signal::INT)?)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reading_command_answers_in_both_forms() -> Result<()> {
    let server = TestHub::start().await?;
    for words in [
        &["status"][..],
        &["whoami"],
        &["ops", "list"],
        &["ops", "search", "abort"],
        &["ops", "schema", "hub.list", "calls.abort"],
        &["spokes", "--all"],
        &["calls", "list"],
        &["calls", "stats"],
        &["keys", "list"],
        &["events"],
        &["audit"],
    ] {
        ok(&server, words).await?;
        assert!(json(&server, words).await?.is_object(), "{words:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_have_their_exit_codes() -> Result<()> {
    let server = TestHub::start().await?;
    let missing = "019aa571-0000-7000-8000-000000000000";
    for (words, code, says) in [
        (&["nonsense"][..], 2, "nonsense"),
        (&["call", "hub.list", "notpairs"], 2, "no input"),
        (&["call", "hub.list", "limit=many"], 1, "VALIDATION_ERROR"),
        (&["call", "no.such"], 5, "OPERATION_NOT_FOUND"),
        (&["calls", "get", missing], 5, "NOT_FOUND"),
        (&["status", "--key", "hub_bad_key"], 4, "--key"),
        (&["status", "--url", "ws://127.0.0.1:1"], 3, "hub-server"),
        (&["status", "--url", "ftp://x"], 2, "scheme"),
    ] {
        let (exit, errors) = fails(&server, words).await?;
        assert_eq!(exit, code, "{words:?}: {errors}");
        assert!(errors.starts_with("error: ") && errors.contains(says), "{words:?}: {errors}");
        let (exit, errors) = fails(&server, &[words, &["--json"]].concat()).await?;
        let value: Value = serde_json::from_str(&errors).with_context(|| format!("{words:?}: {errors}"))?;
        assert_eq!((exit, value["error"]["exitCode"].as_i64()), (code, Some(i64::from(code))), "{words:?}");
    }
    let key = server.new_key(&[]).await?;
    let (exit, errors) = fails(&server, &["keys", "list", "--key", &key]).await?;
    assert!(exit == 4 || exit == 5, "{exit} {errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_before_what_is_missing() -> Result<()> {
    let server = TestHub::start().await?;
    let home = tempfile::tempdir()?;
    for url in ["foo", "ftp://foo"] {
        let mut without_key = hub(&server, &["--url", url, "whoami"]);
        without_key.env_remove("HUB_KEY").env("HUB_DATA_DIR", home.path());
        let ran = without_key.output().await?;
        let errors = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert_eq!(ran.status.code(), Some(2), "{errors}");
        assert!(errors.contains("hub url") && errors.contains("scheme") && !errors.contains("\"://"), "{errors}");
    }
    let (exit, errors) = fails(&server, &["--json", "call"]).await?;
    assert!(exit == 2 && errors.contains("<OPERATION>"), "{errors}");
    for words in [&["--scope", ""][..], &["--scope", "a b"], &["--expires", "0s"]] {
        let (exit, errors) = fails(&server, &[&["keys", "create", "x"], words].concat()).await?;
        assert!(exit == 1 && errors.contains("VALIDATION_ERROR"), "{words:?}: {errors}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_events_of_a_rare_topic_are_found_below_many_others() -> Result<()> {
    let server = TestHub::start().await?;
    ok(&server, &["call", "events.publish", "topic=rare:1", "type=first"]).await?;
    ok(&server, &["call", "events.publish", "topic=rare:1", "type=second"]).await?;
    let client = server.client().await?;
    // More than are looked at in one page.
    for _ in 0..2_500 {
        client.call_raw("events.publish", serde_json::json!({"topic": "often:1", "type": "x"})).await?;
    }
    let shown = json(&server, &["events", "--topic", "rare:*", "--limit", "1"]).await?;
    assert_eq!(shown["events"].as_array().map(Vec::len), Some(1), "{shown}");
    assert_eq!(shown["events"][0]["type"], "second", "{shown}");
    let all = json(&server, &["events", "--topic", "rare:*"]).await?;
    assert_eq!((&all["events"][0]["type"], &all["searchedAfter"]), (&"first".into(), &0.into()), "{all}");
    let often = json(&server, &["events", "--topic", "often:*", "--limit", "3"]).await?;
    let seqs: Vec<u64> = often["events"].as_array().into_iter().flatten().filter_map(|e| e["seq"].as_u64()).collect();
    assert!(seqs.len() == 3 && seqs.is_sorted(), "{often}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_is_offered_called_and_shown_as_a_tree() -> Result<()> {
    let server = TestHub::start().await?;
    let mut spoke =
        exec(&server, &["--name", "sh", "--op", "t.show", "--", "printf", "%s|%s", "{one}", "{rest...}"]).await?;
    let id = "client.sh.t.show";
    let answer = json(&server, &["call", id, "one=a; b $(c)", r#"rest:=["d e"]"#]).await?;
    assert_eq!(answer["stdout"], "a; b $(c)|d e");
    let (exit, errors) = fails(&server, &["call", id, "one=-v", "rest:=[]"]).await?;
    assert!(exit == 1 && errors.contains("begins with '-'"), "{errors}");
    // A nested call, so that there is a tree.
    let input = r#"{"operationId":"client.sh.t.show","input":{"one":"x","rest":["y"]}}"#;
    ok(&server, &["call", "hub.call", input]).await?;
    let calls = json(&server, &["calls", "list", "--op", "hub.call"]).await?;
    let call = calls["calls"][0]["callId"].as_str().context("no call")?;
    let tree = ok(&server, &["calls", "tree", call]).await?;
    assert!(tree.contains("└─ client.sh.t.show") && tree.contains('█'), "{tree}");
    let replayed = ok(&server, &["calls", "replay", call]).await?;
    assert!(replayed.contains("completed"), "{replayed}");
    let watched = ok(&server, &["calls", "watch", call]).await?;
    assert!(watched.contains("requested") && watched.contains("completed"), "{watched}");
    interrupt(&spoke)?;
    assert!(tokio::time::timeout(Duration::from_secs(20), spoke.wait()).await??.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_aborts_the_call_and_shows_receipts() -> Result<()> {
    let server = TestHub::start().await?;
    let line = "echo begun; sleep 987 & wait";
    let _spoke = exec(&server, &["--name", "sh", "--op", "t.wait", "--stream", "--", "sh", "-c", line]).await?;
    let mut call = hub(&server, &["call", "client.sh.t.wait"]).spawn()?;
    let mut first = String::new();
    BufReader::new(call.stdout.take().context("no output")?).read_line(&mut first).await?;
    assert_eq!(first, "begun\n");
    interrupt(&call)?;
    let mut errors = String::new();
    call.stderr.take().context("no errors")?.read_to_string(&mut errors).await?;
    let status = tokio::time::timeout(Duration::from_secs(20), call.wait()).await??;
    assert_eq!(status.code(), Some(130), "{errors}");
    assert!(errors.contains("client.sh.t.wait") && errors.contains("stopped"), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_stream_is_attached_to() -> Result<()> {
    let server = TestHub::start().await?;
    let line = "for i in 1 2 3; do echo $i; sleep 0.2; done";
    let _spoke = exec(&server, &["--name", "sh", "--op", "t.count", "--stream", "--", "sh", "-c", line]).await?;
    let id = ok(&server, &["call", "--detach", "client.sh.t.count"]).await?;
    assert_eq!(ok(&server, &["calls", "attach", id.trim()]).await?, "1\n2\n3\n");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_made_used_rotated_and_revoked() -> Result<()> {
    let server = TestHub::start().await?;
    let secret = ok(&server, &["keys", "create", "ci", "--scope", "hub:read", "--expires", "30d"]).await?;
    ok(&server, &["status", "--key", secret.trim()]).await?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("ci.key");
    let file = file.to_str().context("no text")?;
    ok(&server, &["keys", "rotate", "ci", "--out", file]).await?;
    ok(&server, &["status", "--key-file", file]).await?;
    ok(&server, &["keys", "revoke", "ci"]).await?;
    let (exit, errors) = fails(&server, &["status", "--key-file", file]).await?;
    assert!(exit == 4 && errors.contains(file), "{errors}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_is_no_failure() -> Result<()> {
    let server = TestHub::start().await?;
    let mut events = hub(&server, &["events", "--follow", "--after", "0"]).spawn()?;
    let mut first = String::new();
    let mut reader = BufReader::new(events.stdout.take().context("no output")?);
    reader.read_line(&mut first).await?;
    drop(reader);
    // Something to write into the closed pipe.
    ok(&server, &["call", "events.publish", "topic=test:1", "type=x"]).await?;
    let status = tokio::time::timeout(Duration::from_secs(20), events.wait()).await??;
    let mut errors = String::new();
    events.stderr.take().context("no errors")?.read_to_string(&mut errors).await?;
    assert!(status.success() && errors.is_empty(), "{status} {errors}");
    Ok(())
}
