//! Commands of `hub-server`: errors for programs, and what to do about a database that can't be used.

use anyhow::{Context, Result};
use hub_testkit::servers::Postgres;
use hub_testkit::{HubProcess, command, database_of, free_port, psql, run, server_binary};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::process::{refused, server};

#[tokio::test(flavor = "multi_thread")]
async fn with_json_an_error_is_json_too() -> Result<()> {
    let home = TempDir::new()?;
    std::fs::create_dir(home.path().join("data"))?;
    std::fs::write(home.path().join("data/hub.db"), "some text")?;
    let port = free_port()?.to_string();
    let listen = format!("127.0.0.1:{port}");
    for (words, code, says) in [
        (&["import", "--from", "sqlite:none.db", "--to", "sqlite:copy.db"][..], "FAILED", "is --from right?"),
        (&["import", "--data-dir", "data"], "FAILED", "--database-file"),
        (&["verify", "--data-dir", "data"], "FAILED", "file is not a database"),
        (&["migrate", "--dry-run", "--data-dir", "data"], "FAILED", "file is not a database"),
        (&["backup", "--to", "copy.db", "--data-dir", "data"], "FAILED", "file is not a database"),
        (&["keyring", "status", "--data-dir", "data"], "FAILED", "file is not a database"),
        (&["admin-key", "--data-dir", "none"], "FAILED", "is --data-dir right?"),
        (&["health", "--listen", &listen], "FAILED", "no hub answers"),
        (&["config", "--listen", "nowhere"], "FAILED", "nowhere"),
        (&["backup"], "USAGE", "--to <FILE>"),
        (&["verify", "--nonsense"], "USAGE", "--nonsense"),
    ] {
        let ran = run(&mut server(home.path(), &[words, &["--json"]].concat())?).await?;
        assert!(ran.code == Some(2) && ran.out.is_empty(), "{words:?}: {ran:?}");
        let told: Value = serde_json::from_str(&ran.err).with_context(|| format!("{words:?}: {ran:?}"))?;
        let error = &told["error"];
        assert_eq!((&error["code"], &error["exitCode"]), (&json!(code), &json!(2)), "{words:?}");
        assert!(error["message"].as_str().is_some_and(|text| text.contains(says)), "{words:?}: {told}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn another_admin_key_is_told_of_as_json() -> Result<()> {
    let home = TempDir::new()?;
    let folder = home.path().join("data");
    let mut hub = HubProcess::start(&folder, free_port()?, &[]).await?;
    let before = hub.admin_key()?;
    hub.signal("TERM").await?;
    hub.wait().await?;
    let mut making = command(server_binary()?, home.path());
    making.envs(hub_testkit::store_settings(&folder, &[])?);
    let ran = run(making.args(["admin-key", "--data-dir", "data", "--json"])).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(serde_json::from_str::<Value>(&ran.out)?, json!({ "file": "data/admin.key" }));
    assert!(std::fs::read_to_string(folder.join("admin.key"))?.trim() != before);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_can_not_be_used_is_refused_with_what_to_do() -> Result<()> {
    let home = TempDir::new()?;
    let start = async |words: &[&str]| {
        let flags = ["--listen", "127.0.0.1:0", "--data-dir", "data"];
        run(&mut server(home.path(), &[&flags, words].concat())?).await
    };
    std::fs::create_dir(home.path().join("data"))?;
    std::fs::write(home.path().join("data/hub.db"), "some text")?;
    refused(&start(&[]).await?, &["data/hub.db", "not a database", "put a backup in its place"]);

    let foreign = database_of(&home.path().join("foreign"))?;
    psql(&foreign, "CREATE TABLE accounts (x int)")?;
    let words = ["another program's accounts", "a database of its own, or a schema"];
    refused(&start(&["--database", &foreign]).await?, &words);
    refused(&run(&mut server(home.path(), &["migrate", "--dry-run", "--database", &foreign])?).await?, &words);

    let read_only = database_of(&home.path().join("read-only"))?;
    let name = read_only.rsplit('/').next().context("a name")?.split('?').next().unwrap_or_default();
    psql(&read_only, &format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on"))?;
    refused(&start(&["--database", &read_only]).await?, &["read-only", "takes writes, not a standby"]);
    // And one that had its tables before.
    let ours = database_of(&home.path().join("ours"))?;
    let ran = run(&mut server(home.path(), &["migrate", "--database", &ours])?).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let name = ours.rsplit('/').next().context("a name")?.split('?').next().unwrap_or_default();
    psql(&ours, &format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on"))?;
    refused(&start(&["--database", &ours]).await?, &["read-only", "takes writes, not a standby"]);

    // A hub would wait for it.
    let away = ["migrate", "--database", "postgres://nobody@127.0.0.1:1/none"];
    refused(&run(&mut server(home.path(), &away)?).await?, &["cannot migrate the database", "is its server running"]);
    Ok(())
}

/// Who may enter a Postgres how.
const HBA: &str = "hostssl all encrypted all trust\nhostnossl all encrypted all reject\n\
                   host all guarded all scram-sha-256\nhost all all all trust\n";

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_lets_nobody_in_is_told_with_its_address_and_what_to_do() -> Result<()> {
    let mut postgres = Postgres::start()?;
    let roles = "CREATE ROLE guarded LOGIN PASSWORD 'right-pw'; CREATE ROLE encrypted LOGIN; \
                 CREATE ROLE crowded LOGIN CONNECTION LIMIT 0";
    psql(&postgres.url("postgres"), roles)?;
    postgres.stop()?;
    std::fs::write(postgres.folder().join("data/pg_hba.conf"), HBA)?;
    postgres.start_again()?;
    let strange = TcpListener::bind("127.0.0.1:0").await?;
    let (port, other) = (postgres.port(), strange.local_addr()?.port());
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((mut stream, _)) = strange.accept().await {
            let _told = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n").await;
        }
    });
    let home = TempDir::new()?;
    let (here, elsewhere) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{other}/x"));
    for (address, words) in [
        (
            format!("guarded:wrong-pw@{here}/postgres"),
            [&*here, "password authentication failed", "is the password right"],
        ),
        (format!("guarded@{here}/postgres"), [&*here, "password missing", "is the password right"]),
        (format!("nobody:x-pw@{here}/postgres"), [&*here, "role \"nobody\" does not exist", "does the role exist"]),
        (format!("postgres:x-pw@{here}/nowhere"), [&*here, "\"nowhere\" does not exist", "make it first: createdb"]),
        (format!("crowded:x-pw@{here}/postgres"), [&*here, "too many connections", "raise max_connections"]),
        (format!("encrypted:x-pw@{here}/postgres?sslmode=disable"), [&*here, "pg_hba.conf", "with or without TLS"]),
        (format!("postgres:x-pw@{here}/postgres?sslmode=require"), [&*here, "does not support TLS", "sslmode=disable"]),
        ("me:x-pw@127.0.0.1:1/x".to_owned(), ["127.0.0.1:1/x", "refused", "is its server running"]),
        (
            "me:x-pw@no-such-host.invalid/x".to_owned(),
            ["no-such-host.invalid:5432", "lookup", "name of the host right"],
        ),
        (format!("me:x-pw@{elsewhere}"), [&*elsewhere, "database is unavailable", "is it a Postgres"]),
        ("me:x-pw@h:port/x".to_owned(), ["a port is no number", "%40 for @", "can't be used"]),
        ("me:x-p@w@h/x".to_owned(), ["an `@` too many", "%40 for @", "can't be used"]),
    ] {
        let url = format!("postgres://{address}");
        let ran = run(&mut server(home.path(), &["migrate", "--database", &url])?).await?;
        refused(&ran, &words);
        assert!(!ran.err.contains("-p"), "a password in {ran:?}");
    }
    Ok(())
}
