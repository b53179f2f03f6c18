use std::time::{Duration, Instant};

use super::*;
use crate::Limits;

fn runs_with(limits: Limits) -> (tempfile::TempDir, Runs) {
    let folder = tempfile::tempdir().unwrap();
    let root = Arc::new(Root::open(folder.path(), limits).unwrap());
    (folder, Runs::new(root, "hk_secret"))
}

fn runs() -> (tempfile::TempDir, Runs) {
    runs_with(Limits::default())
}

fn command(text: &str) -> RunCommand {
    RunCommand { command: text.into(), ..RunCommand::default() }
}

async fn finished(runs: &Runs, params: RunCommand) -> (String, String, RunItem) {
    let items: Vec<RunItem> = runs.run(params, ()).unwrap().collect().await;
    let mut texts = [String::new(), String::new()];
    let (end, output) = items.split_last().unwrap();
    for item in output {
        let RunItem::Output { stream, text } = item else { panic!("an end before the end") };
        texts[usize::from(*stream == RunStream::Stderr)] += text;
    }
    let [out, err] = texts;
    (out, err, end.clone())
}

fn is_end(end: &RunItem, code: Option<i32>, by_signal: Option<i32>, late: bool, cut: bool) -> bool {
    matches!(end, RunItem::End { exit_code, signal, timed_out, truncated, .. }
        if (*exit_code, *signal, *timed_out, *truncated) == (code, by_signal, late, cut))
}

/// Whether a process that is no zombie has this number.
fn lives(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

async fn dies(pid: &str, within: Duration) -> bool {
    let until = Instant::now() + within;
    while lives(pid) && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    !lives(pid)
}

/// Starts a command and reads the process number that it prints first.
async fn started(runs: &Runs, params: RunCommand) -> (BoxStream<'static, RunItem>, String) {
    let mut items = runs.run(params, ()).unwrap();
    let Some(RunItem::Output { text, .. }) = items.next().await else { panic!("no output") };
    (items, text.trim().to_owned())
}

#[tokio::test]
async fn output_streams_and_exit_codes_are_told_apart() {
    let (_folder, runs) = runs();
    let (out, err, end) = finished(&runs, command("echo out; echo err >&2; exit 3")).await;
    assert_eq!((out.as_str(), err.as_str()), ("out\n", "err\n"));
    assert!(is_end(&end, Some(3), None, false, false), "{end:?}");
    let (.., end) = finished(&runs, command("kill -9 $$")).await;
    assert!(is_end(&end, None, Some(9), false, false), "{end:?}");
}

#[tokio::test]
async fn stdin_cwd_and_env_are_what_the_caller_gives() {
    let (folder, runs) = runs();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    let params = RunCommand {
        command: "cat; basename $PWD; echo $A".into(),
        cwd: Some("sub".into()),
        stdin: Some("in ä\n".into()),
        env: Some([("A".to_owned(), "b".to_owned())].into()),
        ..RunCommand::default()
    };
    assert_eq!(finished(&runs, params).await.0, "in ä\nsub\nb\n");
    // Without stdin reading ends at once; with one that nobody reads nothing hangs.
    assert_eq!(finished(&runs, command("cat; echo end")).await.0, "end\n");
    let unread = RunCommand { stdin: Some("x".repeat(1 << 20)), ..command("echo done") };
    assert_eq!(finished(&runs, unread).await.0, "done\n");
}

#[tokio::test]
async fn cwd_does_not_lead_out() {
    let (folder, runs) = runs();
    std::os::unix::fs::symlink("/", folder.path().join("out")).unwrap();
    for cwd in ["..", "/", "out", "out/tmp"] {
        let error = runs.run(RunCommand { cwd: Some(cwd.into()), ..command("pwd") }, ()).err().unwrap();
        assert!(matches!(error, ToolError::Outside { .. }), "{cwd}: {error}");
    }
}

#[tokio::test]
async fn the_key_is_not_handed_on() {
    let (_folder, mut runs) = runs();
    runs.secret = vec!["HUB_KEY".into(), "PATH_OF_KEY".into()];
    let env = [("HUB_KEY".to_owned(), "x".to_owned()), ("OTHER".to_owned(), "y".to_owned())].into();
    let params = RunCommand { env: Some(env), ..command("echo ${HUB_KEY-none} $OTHER") };
    assert_eq!(finished(&runs, params).await.0, "none y\n");
}

#[tokio::test]
async fn a_dropped_stream_kills_grandchildren() {
    let (_folder, runs) = runs();
    let (items, pid) = started(&runs, command("bash -c 'sleep 300 & echo $!; wait'")).await;
    assert!(lives(&pid));
    drop(items);
    assert!(dies(&pid, Duration::from_secs(2)).await);
}

#[tokio::test]
async fn what_ignores_the_request_is_killed() {
    let (_folder, runs) = runs();
    let stubborn = "bash -c 'trap \"\" TERM; echo $$; while :; do sleep 0.1; done'";
    let (items, pid) = started(&runs, command(stubborn)).await;
    drop(items);
    assert!(!dies(&pid, Duration::from_millis(500)).await);
    assert!(dies(&pid, Duration::from_secs(4)).await);
}

#[tokio::test]
async fn what_was_left_in_the_background_ends_with_the_command() {
    let (_folder, runs) = runs();
    let started = Instant::now();
    let (out, _, end) = finished(&runs, command("sleep 300 & echo $!")).await;
    assert!(is_end(&end, Some(0), None, false, false), "{end:?}");
    assert!(dies(out.trim(), Duration::from_secs(1)).await);
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_timeout_kills_and_keeps_the_output() {
    let (_folder, runs) = runs();
    let params = RunCommand { timeout_ms: Some(300), ..command("echo first; sleep 300 & echo $!; wait") };
    let (out, _, end) = finished(&runs, params).await;
    let pid = out.strip_prefix("first\n").unwrap().trim().to_owned();
    assert!(is_end(&end, None, Some(15), true, false), "{end:?}");
    assert!(dies(&pid, Duration::from_secs(1)).await);
}

#[tokio::test]
async fn the_spokes_own_time_limit_holds() {
    let (_folder, runs) = runs_with(Limits { run_time: Duration::from_millis(200), ..Limits::default() });
    let (.., end) = finished(&runs, RunCommand { timeout_ms: Some(600_000), ..command("sleep 300") }).await;
    assert!(is_end(&end, None, Some(15), true, false), "{end:?}");
}

#[tokio::test]
async fn output_over_the_limit_is_dropped_and_the_command_runs_on() {
    let (folder, runs) = runs_with(Limits { run_output_bytes: 10_001, ..Limits::default() });
    let (out, _, end) = finished(&runs, command("yes ä | head -c 3000000; touch done")).await;
    assert!(out.len() <= 10_003 && out.starts_with("ä\nä\n"), "{}", out.len());
    assert!(is_end(&end, Some(0), None, false, true), "{end:?}");
    assert!(folder.path().join("done").exists());
}

#[tokio::test]
async fn a_slow_caller_gets_everything() {
    let (_folder, runs) = runs();
    let mut items = runs.run(command("head -c 500000 /dev/zero | tr '\\0' x"), ()).unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut bytes = 0;
    while let Some(RunItem::Output { text, .. }) = items.next().await {
        bytes += text.len();
    }
    assert_eq!(bytes, 500_000);
}

#[tokio::test]
async fn a_process_that_left_the_group_does_not_hold_the_call() {
    let (_folder, runs) = runs();
    let started = Instant::now();
    let (out, _, end) = finished(&runs, command("setsid sleep 4 & echo begun; sleep 0.1")).await;
    assert_eq!(out, "begun\n");
    assert!(is_end(&end, Some(0), None, false, false) && started.elapsed() < Duration::from_secs(3), "{end:?}");
}

#[tokio::test]
async fn what_left_the_group_ends_with_the_call_too() {
    let (_folder, runs) = runs();
    // By its own end, and by that of its caller.
    let stray = "setsid bash -c 'echo $$; exec sleep 300' & sleep 0.3";
    let (out, ..) = finished(&runs, command(stray)).await;
    assert!(dies(out.trim(), Duration::from_secs(1)).await);
    let (items, pid) = started(&runs, command(&format!("{stray}; wait; sleep 300"))).await;
    drop(items);
    assert!(dies(&pid, Duration::from_secs(4)).await);
    // Another command is not touched.
    let (other, pid) = started(&runs, command("setsid bash -c 'echo $$; exec sleep 300' & sleep 300")).await;
    finished(&runs, command("setsid sleep 300 & true")).await;
    assert!(lives(&pid));
    drop(other);
    assert!(dies(&pid, Duration::from_secs(4)).await);
}

#[tokio::test]
async fn shutdown_kills_all_and_lets_none_start() {
    let (_folder, runs) = runs_with(Limits { runs: 2, ..Limits::default() });
    let (items, pid) = started(&runs, command("sleep 300 & echo $!; wait")).await;
    // Its caller never reads, which must not hold anything up.
    let _second = runs.run(command("yes"), ()).unwrap();
    assert!(matches!(runs.run(command("true"), ()).err(), Some(ToolError::Busy { limit: 2 })));
    tokio::time::timeout(Duration::from_secs(5), runs.shutdown()).await.unwrap();
    assert!(!lives(&pid));
    assert!(runs.run(command("true"), ()).is_err());
    let told: Vec<RunItem> = items.collect().await;
    assert!(matches!(told.as_slice(), [end] if is_end(end, None, Some(15), false, false)), "{told:?}");
}
