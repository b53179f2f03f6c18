//! What only a file can do: be newer, be locked, be opened twice, survive `kill -9`.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use diesel::connection::SimpleConnection;
use diesel::{Connection, SqliteConnection};
use hub_protocol::{CallId, HubId, Json};
use hub_storage::{CallBatch, CallRow, NewEvent, SqliteOptions, Stamp, Store, StoreError};

async fn open(path: &Path) -> Result<Store, StoreError> {
    Store::open_sqlite(path, SqliteOptions::default()).await
}

fn event(n: usize) -> NewEvent {
    let payload = Json::from(serde_json::json!(n));
    NewEvent { topic: "t".into(), kind: "k".into(), at: Stamp::now(), payload, root: None }
}

fn raw(path: &Path) -> SqliteConnection {
    SqliteConnection::establish(path.to_str().unwrap()).unwrap()
}

#[tokio::test]
async fn newer_database_is_refused_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    open(&path).await.unwrap().close().await;
    raw(&path).batch_execute("INSERT INTO __diesel_schema_migrations (version) VALUES ('9001')").unwrap();
    let before = std::fs::read(&path).unwrap();
    let refused = open(&path).await.unwrap_err();
    let StoreError::NewerDatabase { found, known } = &refused else { panic!("{refused}") };
    assert_eq!((found.as_str(), known.as_str()), ("9001", "0005"));
    assert!(!refused.is_retryable());
    assert!(std::fs::read(&path).unwrap() == before, "the file was changed");
}

#[tokio::test]
async fn what_is_no_database_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    std::fs::write(&path, "not a database, but long enough to have a header that is wrong").unwrap();
    assert!(open(&path).await.is_err());
    let missing = open(&folder.path().join("no/such/folder/hub.db")).await;
    assert!(matches!(missing, Err(StoreError::Open { .. })));
}

#[tokio::test]
async fn reopening_finds_everything_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub \u{1f980}.db");
    for round in 1..=3 {
        let store = Store::open_sqlite(&path, SqliteOptions { readers: 0, sync_full: false }).await.unwrap();
        assert_eq!(store.events().append(vec![event(round)]).await.unwrap()[0].seq, round as u64);
        store.close().await;
        // Closing empties and removes the log.
        assert!(!path.with_extension("db-wal").exists());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn files_are_for_their_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    let store = open(&path).await.unwrap();
    let copy = folder.path().join("copy.db");
    store.backup_to(&copy).await.unwrap();
    for file in [&path, &path.with_extension("db-wal"), &copy] {
        assert_eq!(std::fs::metadata(file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn leftover_of_a_broken_backup_is_in_nobodys_way() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(&folder.path().join("hub.db")).await.unwrap();
    std::fs::write(folder.path().join("copy.db.partial"), "half").unwrap();
    let copy = folder.path().join("copy.db");
    store.backup_to(&copy).await.unwrap();
    assert!(!folder.path().join("copy.db.partial").exists());
    open(&copy).await.unwrap().ping().await.unwrap();
}

#[tokio::test]
async fn dropping_the_store_finishes_what_is_queued() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    let store = open(&path).await.unwrap();
    store.events().append(vec![event(1)]).await.unwrap();
    drop(store);
    assert_eq!(open(&path).await.unwrap().events().last().await.unwrap(), 1);
}

#[tokio::test]
async fn a_foreign_lock_delays_but_breaks_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    let store = open(&path).await.unwrap();
    let mut other = raw(&path);
    other.batch_execute("BEGIN IMMEDIATE").unwrap();
    let events = store.events();
    let (written, ()) = tokio::join!(events.append(vec![event(1)]), async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        other.batch_execute("COMMIT").unwrap();
    });
    assert_eq!(written.unwrap()[0].seq, 1);
}

#[tokio::test]
async fn many_opens_at_once_in_one_process() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("hub.db");
        let mut opens = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let path = path.clone();
            opens.spawn(async move { open(&path).await });
        }
        let stores: Vec<_> = opens.join_all().await.into_iter().map(Result::unwrap).collect();
        for store in &stores {
            store.events().append(vec![event(0)]).await.unwrap();
        }
        assert_eq!(stores[0].events().last().await.unwrap(), 8);
    }
}

/// Runs this binary again as one of the ignored tests below, which finds `path` as its last argument.
fn child(test: &str, path: &Path) -> Child {
    // A path that is no test's name is just a filter that matches nothing.
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--ignored", "--nocapture"])
        .arg(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn path_of_child() -> Option<PathBuf> {
    let last = PathBuf::from(std::env::args_os().next_back()?);
    last.is_absolute().then_some(last)
}

#[tokio::test]
async fn many_processes_migrate_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    let children: Vec<_> = (0..6).map(|_| child("child_opens", &path)).collect();
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    }
    assert_eq!(open(&path).await.unwrap().events().last().await.unwrap(), 6);
}

#[tokio::test]
#[ignore = "run by many_processes_migrate_at_once"]
async fn child_opens() {
    let Some(path) = path_of_child() else { return };
    open(&path).await.unwrap().events().append(vec![event(0)]).await.unwrap();
}

#[tokio::test]
async fn acknowledged_rows_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("hub.db");
    let mut acked = BTreeSet::new();
    for round in 0..4 {
        let mut writer = child("child_writes", &path);
        let mut lines = BufReader::new(writer.stdout.take().unwrap()).lines();
        let ack = |line: String| Some(line.split_once("ack ")?.1.parse::<CallId>().unwrap());
        // A different moment each round.
        let enough = acked.len() + 100 + 77 * round;
        while acked.len() < enough {
            acked.extend(ack(lines.next().unwrap().unwrap()));
        }
        writer.kill().unwrap();
        // What it had printed before it died counts too; its last line may be cut off.
        let rest: Vec<_> = lines.map_while(Result::ok).collect();
        acked.extend(rest.into_iter().filter(|line| line.trim_end().len() >= 40).filter_map(ack));
        writer.wait().unwrap();
        let store = open(&path).await.unwrap();
        for id in &acked {
            let row = store.calls().get(*id).await.unwrap();
            assert!(row.is_some(), "round {round}: {id} was acknowledged and is gone");
        }
        // Each batch wrote a call and two events: all of it or nothing.
        let calls = hub_storage::CallFilter { limit: u32::MAX, ..Default::default() };
        let calls = store.calls().list(calls).await.unwrap().len() as u64;
        assert_eq!(store.events().last().await.unwrap(), 2 * calls);
        store.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "run by acknowledged_rows_survive_kill_9"]
#[expect(clippy::print_stdout, reason = "the parent reads the acknowledgements")]
async fn child_writes() {
    let Some(path) = path_of_child() else { return };
    let store = open(&path).await.unwrap();
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let store = store.clone();
        writers.spawn(async move {
            loop {
                let row = call();
                let id = row.call_id;
                let batch = CallBatch { started: vec![row], events: vec![event(1), event(2)], ..Default::default() };
                store.calls().record(batch).await.unwrap();
                println!("ack {id}");
            }
        });
    }
    writers.join_all().await;
}

fn call() -> CallRow {
    let call_id = CallId::new();
    CallRow {
        call_id,
        request_id: "r".into(),
        operation_id: "a.b".into(),
        version: "1.0.0".into(),
        kind: "query".into(),
        parent: None,
        root: call_id,
        depth: 0,
        principal: "ada".into(),
        spoke: None,
        hub_id: HubId::new(),
        status: "running".into(),
        input: Some(Json::null()),
        input_size: 4,
        input_hash: None,
        output: None,
        output_size: 0,
        output_hash: None,
        error: None,
        idempotency_key: None,
        started_at: Stamp::now(),
        completed_at: None,
        attempts: 0,
        items: 0,
        cost: 0,
    }
}
