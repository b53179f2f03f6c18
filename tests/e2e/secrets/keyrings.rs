//! Rotation: cut off, by several at once; and a keyring that was lost.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use hub_core::keyring::{Sealed, SecretOf};
use hub_core::{Keyring, KeyringSource};
use hub_storage::{AuditRow, ClientRow, NewEvent, SecretRow, SqliteOptions, Stamp, Store};
use hub_testkit::{Ran, TestHub, TestStore, binary, command, database_of, http, run};
use serde_json::{Value, json};
use uuid::Uuid;

use super::Bed;

async fn keyring_command(folder: &Path, words: &[&str]) -> Result<Ran> {
    let mut command = keyring(folder, words)?;
    if TestStore::of_run()? == TestStore::Postgres {
        command.args(["--database", &database_of(folder)?]);
    }
    run(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn rotations_at_the_same_time_lose_nothing() -> Result<()> {
    let (folder, aside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let bed = Bed::start(folder.path(), &aside.path().join("log")).await?;
    bed.call("clients.create", json!({ "name": "notes", "type": "custom", "config": {} })).await?;
    let set = async |name: &str| {
        let set = bed.call("secrets.set", json!({ "client": "notes", "name": name, "value": "letmein" })).await?;
        assert_eq!(set["data"]["name"], name, "{set}");
        anyhow::Ok(())
    };
    // Also while the first key is made.
    let (early, a, b) = tokio::join!(keyring_command(folder.path(), &["rotate"]), set("a"), set("b"));
    a?;
    b?;
    let early = early?;
    assert!(early.code == Some(0) || early.err.contains("no keyring yet"), "{early:?}");
    for round in 0..8 {
        let second: &[&str] = if round % 2 == 0 { &["rotate"] } else { &["rotate", "--drop-old"] };
        let name = format!("n{round}");
        let (first, second, set) = tokio::join!(
            keyring_command(folder.path(), &["rotate"]),
            keyring_command(folder.path(), second),
            set(&name)
        );
        set?;
        for ran in [first?, second?] {
            // A secret that is set just then may keep its old key from being dropped.
            assert!(ran.code == Some(0) || ran.err.contains("a secret was set meanwhile"), "{round}: {ran:?}");
        }
        let status = keyring_command(folder.path(), &["status"]).await?;
        assert_eq!(status.code, Some(0), "{round}: {status:?}");
        let tested = bed.call("clients.test", json!({ "name": "notes" })).await?;
        assert!(tested["data"].is_object(), "{round}: {tested}");
    }
    let ready = bed.get("/readyz").await?;
    assert!(!ready.contains("\"keyring\""), "{ready}");
    bed.hub.kill9().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_keyring_is_followed_by_a_new_one_once_no_secret_needs_it() -> Result<()> {
    let call = async |hub: &TestHub, operation: &str, input: Value| {
        http(hub.address(), "POST", &format!("/api/operations/{operation}"), hub.admin_key(), &input).await?.json()
    };
    let client = json!({ "name": "notes", "type": "custom", "config": {} });
    let secret = json!({ "client": "notes", "name": "token", "value": "letmein" });
    let hub = TestHub::start().await?;
    call(&hub, "clients.create", client.clone()).await?;
    assert_eq!(call(&hub, "secrets.set", secret.clone()).await?["data"]["keyVersion"], 1);
    let (_, folder) = hub.stop().await;
    std::fs::remove_file(folder.path().join("keyring"))?;
    // What a change that was killed has left goes, too.
    std::fs::write(folder.path().join("keyring.new"), "v2:")?;

    let hub = TestHub::start_in(folder, &[]).await?;
    assert!(!hub.folder().join("keyring.new").exists());
    let refused = call(&hub, "secrets.set", secret.clone()).await?;
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("lacks v1")), "{refused}");
    call(&hub, "secrets.delete", json!({ "client": "notes", "name": "token" })).await?;
    let set = call(&hub, "secrets.set", secret).await?;
    assert_eq!(set["data"]["keyVersion"], 2, "a version has one key for ever: {set}");
    let tested = call(&hub, "clients.test", json!({ "name": "notes" })).await?;
    assert!(tested["data"].is_object(), "{tested}");
    let ready = http(hub.address(), "GET", "/readyz", hub.admin_key(), &Value::Null).await?;
    assert!(!ready.body.contains("\"keyring\""), "{}", ready.body);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_goes_on_where_it_was() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("hub.db");
    let source = KeyringSource::own_file(folder.path().join("keyring"));
    let first = source.create(1).await?;
    let store = Store::open_sqlite(&path, SqliteOptions::default()).await?;
    store.secrets().agree(first.checks()).await?;
    const SECRETS: usize = 1500;
    fill(&store, &first, SECRETS).await?;
    let mut interrupted = 0;
    for pause in [5, 20, 40, 60, 90, 120, 160] {
        let mut rotating = keyring(folder.path(), &["rotate"])?.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        tokio::time::sleep(Duration::from_millis(pause)).await;
        rotating.start_kill()?;
        interrupted += usize::from(!rotating.wait().await?.success());
        all_open(&store, &source, SECRETS).await?;
    }
    assert!(interrupted > 0, "no rotation was interrupted");
    for args in [vec!["rotate"], vec!["rotate", "--drop-old"]] {
        let ran = run(&mut keyring(folder.path(), &args)?).await?;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        all_open(&store, &source, SECRETS).await?;
    }
    assert!(!folder.path().join("keyring.new").exists(), "keys are left of a rotation that was killed");
    let ring = source.load().await?.context("a keyring")?;
    assert_eq!(ring.versions().len(), 1, "{ring:?}");
    assert_eq!(store.secrets().versions().await?, [(ring.first(), SECRETS as u64)]);
    // The first keyring is of no use any more, and is refused.
    source.lock().await?.replace(&first)?;
    let status = run(&mut keyring(folder.path(), &["status"])?).await?;
    assert!(status.code == Some(1) && status.out.contains("lacks"), "{status:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_says_what_it_has_done() -> Result<()> {
    let (folder, aside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let bed = Bed::start(folder.path(), &aside.path().join("log")).await?;
    let mut words = vec!["rotate".to_owned()];
    if TestStore::of_run()? == TestStore::Postgres {
        words.extend(["--database".to_owned(), database_of(folder.path())?]);
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let none = run(&mut keyring(folder.path(), &words)?).await?;
    assert!(none.code == Some(2) && none.err.contains("no keyring yet: it is made with the first secret"), "{none:?}");
    bed.call("clients.create", json!({ "name": "notes", "type": "custom", "config": {} })).await?;
    bed.call("secrets.set", json!({ "client": "notes", "name": "token", "value": "letmein" })).await?;
    let done = run(&mut keyring(folder.path(), &words)?).await?;
    let words = "v2: 1 secrets, encrypts\n  v1: 0 secrets\nencrypted 1 secrets anew; back the keyring up";
    assert!(done.code == Some(0) && done.out.contains(words), "{done:?}");
    bed.hub.kill9().await
}

fn keyring(folder: &Path, args: &[&str]) -> Result<tokio::process::Command> {
    let mut command = command(binary("hub-server")?, folder);
    command.arg("--data-dir").arg(folder).arg("keyring").args(args);
    Ok(command)
}

async fn fill(store: &Store, ring: &Keyring, count: usize) -> Result<()> {
    for n in 0..count / 50 {
        let client = client(&format!("c{n}"));
        store.clients().insert(client.clone(), audit(), event()).await?;
        let mut setting = tokio::task::JoinSet::new();
        for m in 0..50 {
            let row = sealed(ring, &client, &format!("s{m}"))?;
            let (store, name) = (store.clone(), client.name.clone());
            setting.spawn(async move { store.secrets().put(&name, row, false, audit(), event()).await });
        }
        for set in setting.join_all().await {
            set?;
        }
    }
    Ok(())
}

async fn all_open(store: &Store, source: &KeyringSource, count: usize) -> Result<()> {
    let ring = source.load().await?.context("a keyring")?;
    let rows = store.secrets().list(None).await?;
    assert_eq!(rows.len(), count);
    for row in rows {
        let of = SecretOf { id: row.id, client: row.client_id, name: &row.name };
        let SecretRow { version, salt, nonce, ciphertext, .. } = row.clone();
        ring.open(&of, &Sealed { version, salt, nonce, ciphertext })?;
    }
    Ok(())
}

fn sealed(ring: &Keyring, client: &ClientRow, name: &str) -> Result<SecretRow> {
    let id = Uuid::now_v7();
    let sealed = ring.seal(&SecretOf { id, client: client.id, name }, b"a secret")?;
    let Sealed { version, salt, nonce, ciphertext } = sealed;
    let (name, created_at) = (name.to_owned(), Stamp::now());
    Ok(SecretRow { id, client_id: client.id, name, version, salt, nonce, ciphertext, created_at, rotated_at: None })
}

fn client(name: &str) -> ClientRow {
    let now = Stamp::now();
    ClientRow {
        id: Uuid::now_v7(),
        name: name.into(),
        kind: "custom".into(),
        config: json!({}).into(),
        scopes: None,
        enabled: true,
        revision: 1,
        created_at: now,
        updated_at: now,
        state: "pending".into(),
        reason: None,
        state_at: None,
        operations: 0,
    }
}

fn audit() -> AuditRow {
    AuditRow {
        id: Uuid::now_v7(),
        at: Stamp::now(),
        actor: "test".into(),
        key_id: None,
        action: "test".into(),
        target: "test".into(),
        details: json!({}).into(),
    }
}

fn event() -> NewEvent {
    NewEvent { topic: "test:1".into(), kind: "test".into(), at: Stamp::now(), payload: json!({}).into(), root: None }
}
