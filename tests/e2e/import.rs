//! A grown hub moves from its file into Postgres: `hub-server import`, `migrate` and `verify`.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use hub_protocol::Json;
use hub_protocol::ops::events::{ListEvents, PublishEvent};
use hub_protocol::ops::hub::WhoAmI;
use hub_spoke::Client;
use hub_storage::{NewEvent, PostgresOptions, SqliteOptions, Stamp, Store};
use hub_testkit::{HubProcess, Ran, command, database_of, free_port, psql, run, server_binary};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};

/// A home with a hub on a file in `data`, and an empty database whose URL is in the file `url`.
struct Move {
    home: TempDir,
    url: String,
}

impl Move {
    fn set_up() -> Result<Self> {
        let home = TempDir::new()?;
        let url = database_of(&home.path().join("target"))?;
        std::fs::write(home.path().join("url"), format!("{url}\n"))?;
        Ok(Self { home, url })
    }

    fn path(&self) -> &Path {
        self.home.path()
    }

    /// A hub over `folder`, whatever the store of this test run.
    async fn hub(&self, folder: &str, flags: &[&str]) -> Result<HubProcess> {
        let port = free_port()?;
        let mut starting = command(server_binary()?, self.path());
        starting.args(["--data-dir", folder, "--listen", &format!("127.0.0.1:{port}")]).args(flags);
        starting.stdout(Stdio::null());
        HubProcess::start_from(&mut starting, &self.path().join(folder), port).await
    }

    async fn run(&self, words: &[&str]) -> Result<Ran> {
        run(command(server_binary()?, self.path()).args(words)).await
    }

    async fn import(&self, words: &[&str]) -> Result<Ran> {
        let from = ["import", "--from", "sqlite:data/hub.db", "--database-file", "url"];
        self.run(&[&from[..], words].concat()).await
    }

    async fn rows(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.import(&["--json"]).await?.out)?)
    }
}

async fn stop(mut hub: HubProcess) -> Result<()> {
    hub.signal("TERM").await?;
    ensure!(hub.wait().await?.success());
    Ok(())
}

fn all() -> ListEvents {
    ListEvents { topics: vec!["**".into()], after: None, limit: Some(1_000) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grown_hub_moves_into_postgres_and_nothing_is_lost() -> Result<()> {
    let moved = Move::set_up()?;
    // What another program has there is no hindrance.
    psql(&moved.url, "CREATE TABLE orders (id int)")?;
    let hub = moved.hub("data", &[]).await?;
    let key = hub.admin_key()?;
    let client = Client::connect(&hub.url(), &key).await?;
    for n in 0..20 {
        let payload = Json::from_serialize(&json!({ "n": n, "text": "ü\u{1F600}" }))?;
        client.call(&PublishEvent { topic: "task:1".into(), kind: "made".into(), payload }).await?;
    }
    let before = client.call(&all()).await?.events;
    let me = client.call(&WhoAmI {}).await?;
    // Not while it runs.
    let ran = moved.import(&[]).await?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("in use by another hub"), "{ran:?}");
    stop(hub).await?;

    let ran = moved.import(&[]).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("are the same") && ran.out.contains("sha256"), "{ran:?}");
    assert!(ran.err.contains("copying events") && ran.err.contains("comparing events"), "{ran:?}");
    assert!(!(ran.out + &ran.err).contains(&moved.url), "a URL is shown");
    let again = moved.import(&[]).await?;
    assert_eq!(again.code, Some(2), "{again:?}");
    assert!(again.err.contains("holds data already"), "{again:?}");
    for words in [&["verify", "--data-dir", "data"][..], &["verify", "--database-file", "url"]] {
        let ran = moved.run(words).await?;
        assert_eq!(ran.code, Some(0), "{ran:?}");
        assert!(ran.out.contains("nothing is wrong") && ran.err.is_empty(), "{ran:?}");
    }

    // A copy beside the file, which is in the same folder; neither database into itself.
    let beside = moved.run(&["import", "--from", "sqlite:data/hub.db", "--to", "sqlite:data/copy.db"]).await?;
    assert_eq!(beside.code, Some(0), "{beside:?}");
    let other_name = moved.url.replace("127.0.0.1", "localhost");
    for (from, to) in
        [("sqlite:data/hub.db", "sqlite:./data/../data/hub.db"), (moved.url.as_str(), other_name.as_str())]
    {
        let itself = moved.run(&["import", "--from", from, "--to", to]).await?;
        assert_eq!(itself.code, Some(2), "{itself:?}");
        assert!(itself.err.contains("source and target are the same database"), "{itself:?}");
        assert!(!itself.err.contains("pid"), "{itself:?}");
    }

    let hub = moved.hub("other", &["--database-file", "url"]).await?;
    let client = Client::connect(&hub.url(), &key).await?;
    assert_eq!(client.call(&WhoAmI {}).await?.key, me.key);
    let after = client.call(&all()).await?.events;
    let told = |events: &[_]| -> Result<Vec<String>> { events.iter().map(|e| Ok(serde_json::to_string(e)?)).collect() };
    assert_eq!(told(&after[..before.len()])?, told(&before)?);
    // And not into a database in use.
    let ran = moved.import(&[]).await?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("uses the database"), "{ran:?}");
    stop(hub).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_that_was_killed_goes_on() -> Result<()> {
    let moved = Move::set_up()?;
    stop(moved.hub("data", &[]).await?).await?;
    let store = Store::open_sqlite(&moved.path().join("data/hub.db"), SqliteOptions::default()).await?;
    for _ in 0..40 {
        let payload = Json::from_serialize(&json!({ "text": "x".repeat(100) }))?;
        let event = || NewEvent {
            topic: "task:1".into(),
            kind: "made".into(),
            at: Stamp::now(),
            payload: payload.clone(),
            root: None,
        };
        store.events().append((0..1_000).map(|_| event()).collect()).await?;
    }
    store.close().await;
    let mut import = command(server_binary()?, moved.path());
    import.args(["import", "--from", "sqlite:data/hub.db", "--database-file", "url"]).stderr(Stdio::piped());
    let mut import = import.spawn()?;
    let mut lines = BufReader::new(import.stderr.take().context("it is piped")?).lines();
    while let Some(line) = lines.next_line().await? {
        if line.contains("copying events") {
            import.start_kill()?;
        }
    }
    import.wait().await?;
    let store = Store::open_postgres(&moved.url, PostgresOptions::default()).await?;
    ensure!(store.is_half_copied().await?, "it was over before it was killed");
    let there = store.sizes().await?;
    store.close().await;
    let ran = moved.run(&["verify", "--database-file", "url"]).await?;
    ensure!(ran.code == Some(1) && ran.out.contains("run `hub-server import` again"), "{ran:?}");
    let events = there.iter().find(|(table, _)| *table == "events").context("a table")?.1;
    ensure!((1..40_000).contains(&events), "{events} events were copied");
    let rows = moved.rows().await?;
    let events = rows["tables"].as_array().context("tables")?.iter().find(|table| table["table"] == "events");
    ensure!(events.context("events")?["rows"].as_u64().is_some_and(|rows| rows >= 40_000), "{rows}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_is_missing_and_migrate_says_what_it_did() -> Result<()> {
    let moved = Move::set_up()?;
    let dry = moved.run(&["migrate", "--dry-run", "--json", "--database-file", "url"]).await?;
    let pending: Value = serde_json::from_str(&dry.out)?;
    ensure!(pending["pending"].as_array().is_some_and(|names| names.len() > 1), "{dry:?}");
    let ran = moved.run(&["verify", "--database-file", "url"]).await?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("hub-server migrate"), "{ran:?}");
    let ran = moved.run(&["migrate", "--json", "--database-file", "url"]).await?;
    assert_eq!(serde_json::from_str::<Value>(&ran.out)?["applied"], pending["pending"]);
    let ran = moved.run(&["migrate", "--database-file", "url"]).await?;
    assert!(ran.out.contains("up to date"), "{ran:?}");

    let hub = moved.hub("other", &["--database-file", "url"]).await?;
    let client = Client::connect(&hub.url(), &hub.admin_key()?).await?;
    for _ in 0..3 {
        let kind = "made".to_owned();
        client.call(&PublishEvent { topic: "task:1".into(), kind, payload: Json::null() }).await?;
    }
    stop(hub).await?;
    psql(&moved.url, "DELETE FROM events WHERE seq = (SELECT max(seq) - 1 FROM events)")?;
    let ran = moved.run(&["verify", "--json", "--database-file", "url"]).await?;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let found: Value = serde_json::from_str(&ran.out)?;
    ensure!(found["findings"].as_array().is_some_and(|all| all.len() == 1), "{ran:?}");
    ensure!(found["findings"][0].as_str().is_some_and(|text| text.contains("missing")), "{ran:?}");
    Ok(())
}
