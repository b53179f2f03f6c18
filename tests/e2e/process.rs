//! The binary: how it starts, what it refuses and how it says so, its commands, and TLS, base path and IPv6.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::StreamExt;
use hub_protocol::ops::events::{PublishEvent, SubscribeEvents};
use hub_protocol::ops::hub::WhoAmI;
use hub_server::config::KEYS;
use hub_spoke::Client;
use hub_testkit::{
    HubProcess, Ran, TestHub, TestStore, command, database_of, eventually, free_port, http, http_over, left_out,
    pg_dump, psql, run, server_binary, store_settings,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::Command;

const CA: &[u8] = include_bytes!("../../crates/hub-spoke/tests/fixtures/ca.pem");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/hub-spoke/tests/fixtures");

/// `hub-server` with nothing of this process' environment; `home` is its folder and home.
pub(crate) fn server(home: &Path, args: &[&str]) -> Result<Command> {
    let mut command = command(server_binary()?, home);
    command.args(args);
    Ok(command)
}

/// As [`server`], for a hub over `data` in `home` on the store of this test run.
fn starting(home: &Path) -> Result<Command> {
    let args = ["--listen", "127.0.0.1:0", "--data-dir", "data"];
    let mut command = server(home, &args)?;
    command.envs(store_settings(&home.join("data"), &args)?);
    Ok(command)
}

/// Exit code 2 and one line on standard error that contains all of `words`.
#[track_caller]
pub(crate) fn refused(ran: &Ran, words: &[&str]) {
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert_eq!(ran.err.lines().count(), 1, "{ran:?}");
    assert!(ran.err.starts_with("error: "), "{ran:?}");
    for word in words {
        assert!(ran.err.contains(word), "no {word:?} in {ran:?}");
    }
}

pub(crate) fn mode(path: &Path) -> Result<u32> {
    Ok(std::fs::metadata(path)?.permissions().mode() & 0o777)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fresh_hub_answers_healthz_within_2_s_of_its_start() -> Result<()> {
    let folder = TempDir::new()?;
    let port = free_port()?;
    let address = ([127, 0, 0, 1], port).into();
    let mut starting = HubProcess::command(&folder.path().join("data"), port, &[])?;
    let started = Instant::now();
    let _child = starting.spawn()?;
    let answer =
        eventually("healthz answers", || async { Ok(http(address, "GET", "/healthz", "", &Value::Null).await.ok()) });
    let answer = answer.await?;
    let took = started.elapsed();
    assert_eq!((answer.status, &answer.json()?["status"]), (200, &json!("ok")));
    assert!(took < Duration::from_secs(2), "it took {took:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_admin_key_is_made_once_and_only_its_owner_reads_it() -> Result<()> {
    let above = TempDir::new()?;
    let folder = above.path().join("a/b");
    let port = free_port()?;
    let hub = HubProcess::start(&folder, port, &[]).await?;
    assert_eq!(mode(&folder)?, 0o700);
    let files: &[_] = match TestStore::of_run()? {
        TestStore::Sqlite => &["admin.key", "hub.db", "hub.db-wal"],
        TestStore::Postgres => &["admin.key"],
    };
    for file in files {
        assert_eq!(mode(&folder.join(file))?, 0o600, "{file}");
    }
    let key = hub.admin_key()?;
    Client::connect(&hub.url(), &key).await?;
    hub.kill9().await?;
    let hub = HubProcess::start(&folder, port, &[]).await?;
    assert_eq!(hub.admin_key()?, key);
    Client::connect(&hub.url(), &key).await?;
    hub.kill9().await?;
    // Who has taken the file away has it; the hub makes no second admin key that nobody asked for.
    std::fs::remove_file(folder.join("admin.key"))?;
    let hub = HubProcess::start(&folder, port, &[]).await?;
    assert!(!folder.join("admin.key").exists());
    Client::connect(&hub.url(), &key).await?;
    Ok(())
}

/// The file is written before the key counts, so that no crash leaves a hub that nobody can enter.
#[tokio::test(flavor = "multi_thread")]
async fn an_admin_key_that_could_not_be_written_is_made_at_the_next_start() -> Result<()> {
    let home = TempDir::new()?;
    let folder = home.path().join("data");
    std::fs::create_dir_all(folder.join("admin.key"))?;
    let ran = run(&mut starting(home.path())?).await?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.lines().last().is_some_and(|line| line.contains("data/admin.key")), "{ran:?}");
    std::fs::remove_dir(folder.join("admin.key"))?;
    // A file that opens nothing, as a crash between file and store leaves it, is replaced.
    std::fs::write(folder.join("admin.key"), "hub_of_nobody\n")?;
    let hub = HubProcess::start(&folder, free_port()?, &[]).await?;
    Client::connect(&hub.url(), &hub.admin_key()?).await?;
    assert_eq!(mode(&folder.join("admin.key"))?, 0o600);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_hub_on_the_folder_is_refused_and_names_the_first() -> Result<()> {
    let folder = TempDir::new()?;
    let hub = HubProcess::start(folder.path(), free_port()?, &[]).await?;
    let data = folder.path().to_str().context("text")?;
    let ran = run(&mut server(folder.path(), &["--listen", "127.0.0.1:0", "--data-dir", data])?).await?;
    let pid = hub.pid().context("it runs")?.to_string();
    refused(&ran, &[data, &format!("pid {pid}"), "--data-dir"]);
    Client::connect(&hub.url(), &hub.admin_key()?).await?.call(&WhoAmI {}).await?;
    // The lock goes with its holder, however that ends.
    hub.kill9().await?;
    HubProcess::start(folder.path(), free_port()?, &[]).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_is_one_line_with_the_remedy() -> Result<()> {
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = taken.local_addr()?.to_string();
    let home = TempDir::new()?;
    let ran = run(&mut server(home.path(), &["--listen", &address, "--data-dir", "data"])?).await?;
    refused(&ran, &[&address, "--listen"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_do_not_cross_a_network_in_clear_unasked() -> Result<()> {
    let home = TempDir::new()?;
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let ran = run(&mut server(home.path(), &["--listen", listen, "--data-dir", "data"])?).await?;
        refused(&ran, &[listen, "TLS", "--tls-cert", "--trusted-proxies", "--allow-insecure-bind"]);
    }
    assert!(!home.path().join("data").exists(), "a refused hub left something");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_setting_is_named_with_its_source() -> Result<()> {
    let home = TempDir::new()?;
    let here = home.path();
    // Flag.
    let ran = run(&mut server(here, &["--data-dir", "data", "--listen", "nowhere"])?).await?;
    refused(&ran, &["listen", "\"nowhere\"", "--listen", "127.0.0.1:3300"]);
    // Environment.
    let mut by_env = server(here, &["--data-dir", "data"])?;
    refused(&run(by_env.env("HUB_STALL_TIMEOUT_MS", "soon")).await?, &["stall_timeout_ms", "\"soon\"", "HUB_STALL"]);
    let mut by_env = server(here, &["--data-dir", "data"])?;
    let ran = run(by_env.env("HUB_ALLOW_INSECURE_BIND", "perhaps")).await?;
    refused(&ran, &["allow_insecure_bind", "\"perhaps\"", "HUB_ALLOW_INSECURE_BIND", "true or false"]);
    // TOML, named and in the data folder.
    std::fs::write(here.join("my.toml"), "max_in_flight = \"many\"\n")?;
    let ran = run(&mut server(here, &["--data-dir", "data", "--config", "my.toml"])?).await?;
    refused(&ran, &["max_in_flight", "\"many\"", "my.toml"]);
    std::fs::create_dir(here.join("data"))?;
    std::fs::write(here.join("data/hub.toml"), "listne = \"127.0.0.1:0\"\n")?;
    let ran = run(&mut server(here, &["--data-dir", "data"])?).await?;
    refused(&ran, &["listne", "data/hub.toml"]);
    std::fs::write(here.join("data/hub.toml"), "listen = \n")?;
    refused(&run(&mut server(here, &["--data-dir", "data"])?).await?, &["data/hub.toml"]);
    std::fs::remove_file(here.join("data/hub.toml"))?;
    let ran = run(&mut server(here, &["--data-dir", "data", "--config", "none.toml"])?).await?;
    refused(&ran, &["none.toml"]);
    // .env in the folder it is started in, which the environment overrides.
    std::fs::write(here.join(".env"), "HUB_LOG_FORMAT=xml\n")?;
    let ran = run(&mut server(here, &["--data-dir", "data"])?).await?;
    refused(&ran, &["log_format", "\"xml\"", "HUB_LOG_FORMAT in .env", "text or json"]);
    let mut mended = server(here, &["config", "--data-dir", "data"])?;
    assert_eq!(run(mended.env("HUB_LOG_FORMAT", "json")).await?.code, Some(0));
    // A log filter is a setting like the others.
    let mut by_env = server(here, &["--data-dir", "data", "--log-format", "text"])?;
    refused(&run(by_env.env("HUB_LOG", "hub=loud")).await?, &["log", "hub=loud", "HUB_LOG"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn config_shows_every_setting_with_its_source() -> Result<()> {
    let home = TempDir::new()?;
    std::fs::write(home.path().join(".env"), "HUB_HEARTBEAT_MS=2222\n")?;
    std::fs::write(home.path().join("hub.toml"), "max_connections = 33\nlisten = \"127.0.0.1:1\"\n")?;
    let flags = ["--data-dir", "data", "--config", "hub.toml", "--listen", "127.0.0.1:4444"];
    let ask = async |form: &[&str]| {
        let mut asked = server(home.path(), &[&["config"], &flags[..], form].concat())?;
        run(asked.env("HUB_PING_INTERVAL_MS", "1111")).await
    };
    let wanted = [
        ("listen", "127.0.0.1:4444", "--listen"),
        ("ping_interval_ms", "1111", "HUB_PING_INTERVAL_MS"),
        ("heartbeat_ms", "2222", "HUB_HEARTBEAT_MS in .env"),
        ("max_connections", "33", "hub.toml"),
        ("stall_timeout_ms", "10000", "default"),
    ];
    let text = ask(&[]).await?;
    assert_eq!(text.code, Some(0), "{text:?}");
    assert_eq!(text.out.lines().count(), KEYS.len());
    for (name, value, source) in wanted {
        let line = text.out.lines().find(|l| l.split_whitespace().next() == Some(name)).context("a line")?;
        assert!(line.contains(value) && line.ends_with(source), "{line}");
    }
    let rows: Vec<Value> = serde_json::from_str(&ask(&["--json"]).await?.out)?;
    assert_eq!(rows.len(), KEYS.len());
    for (name, value, source) in wanted {
        assert!(rows.contains(&json!({ "name": name, "value": value, "source": source })), "{name}: {rows:?}");
    }
    assert!(!home.path().join("data").exists(), "asking made a data folder");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn help_lists_every_setting() -> Result<()> {
    let home = TempDir::new()?;
    let ran = run(&mut server(home.path(), &["--help"])?).await?;
    assert_eq!(ran.code, Some(0));
    for key in KEYS {
        let flag = format!("--{}", key.name.replace('_', "-"));
        let line = ran.out.lines().find(|l| l.split_whitespace().any(|word| word == flag));
        assert!(line.is_some(), "{flag} is not in the help");
    }
    for command in ["config", "backup", "operations", "openapi"] {
        assert!(ran.out.lines().any(|l| l.trim_start().starts_with(command)), "{command} is not in the help");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_database_is_refused_and_left_as_it_is() -> Result<()> {
    let home = TempDir::new()?;
    let folder = home.path().join("data");
    let mut hub = HubProcess::start(&folder, free_port()?, &[]).await?;
    hub.signal("TERM").await?;
    hub.wait().await?;
    let store = TestStore::of_run()?;
    let (future, place) = match store {
        TestStore::Sqlite => (from_the_future(&folder.join("hub.db"))?, "hub.db"),
        TestStore::Postgres => {
            let future = "9".repeat(14);
            let added = format!("INSERT INTO __diesel_schema_migrations (version) VALUES ('{future}')");
            psql(&database_of(&folder)?, &added)?;
            (future, "--database")
        }
    };
    let state = || -> Result<_> {
        let mut names: Vec<_> = std::fs::read_dir(&folder)?.map(|e| Ok(e?.file_name())).collect::<Result<_>>()?;
        names.sort();
        let data = match store {
            TestStore::Sqlite => std::fs::read(folder.join("hub.db"))?,
            TestStore::Postgres => pg_dump(&database_of(&folder)?)?.into_bytes(),
        };
        Ok((names, data))
    };
    let before = state()?;
    let ran = run(&mut starting(home.path())?).await?;
    refused(&ran, &[place, &future, "newer", "restore a backup"]);
    assert!(state()? == before, "the database was changed");
    Ok(())
}

/// Gives the newest migration a version of the future, with as many digits, wherever the file names it.
fn from_the_future(file: &Path) -> Result<String> {
    let newest = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../migrations/sqlite"))?
        .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.split('_').next()?.replace('-', "")))
        .max()
        .context("there are migrations")?;
    let future = "9".repeat(newest.len());
    let mut bytes = std::fs::read(file)?;
    let places: Vec<usize> =
        bytes.windows(newest.len()).enumerate().filter(|(_, w)| *w == newest.as_bytes()).map(|(at, _)| at).collect();
    ensure!(!places.is_empty(), "the file does not name its migration {newest}");
    for at in places {
        bytes[at..at + newest.len()].copy_from_slice(future.as_bytes());
    }
    std::fs::write(file, &bytes)?;
    Ok(future)
}

/// How SQLite files are backed up is in `sqlite.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn the_backup_of_a_postgres_is_left_to_its_own_tools() -> Result<()> {
    let home = TempDir::new()?;
    let args = ["backup", "--to", "copy.db", "--data-dir", "data", "--database", "postgres://nobody@127.0.0.1:1/none"];
    refused(&run(&mut server(home.path(), &args)?).await?, &["pg_dump", "copy.db"]);
    assert_eq!(std::fs::read_dir(home.path())?.count(), 0);
    Ok(())
}

/// The catalogue is committed, so that a change on the wire is a visible diff.
#[tokio::test(flavor = "multi_thread")]
async fn the_committed_catalogue_is_what_the_server_prints() -> Result<()> {
    let home = TempDir::new()?;
    let ran = run(&mut server(home.path(), &["operations", "--json"])?).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let printed: Value = serde_json::from_str(&ran.out)?;
    assert!(printed.to_string().contains("\"hub.register\"") || printed.to_string().contains("register"));
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/operations.json");
    let committed = std::fs::read_to_string(committed).context("run `cargo xtask schema` and commit its file")?;
    let same = committed.trim_end() == ran.out.trim_end();
    assert!(same, "docs/operations.json is not what the server prints: meant? run `cargo xtask schema` and commit it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn https_and_wss_are_served_with_a_certificate() -> Result<()> {
    let (cert, key) = (format!("{FIXTURES}/localhost.pem"), format!("{FIXTURES}/localhost-key.pem"));
    let hub = TestHub::start_with(&["--tls-cert", &cert, "--tls-key", &key]).await?;
    assert!(hub.url().starts_with("https://"), "{}", hub.url());
    let url = format!("https://localhost:{}", hub.address().port());
    let connect = || Client::builder(&url, hub.admin_key()).ca_certificate_pem(CA.to_vec()).connect();
    assert!(connect().await?.call(&WhoAmI {}).await?.key.is_some());
    // Whoever does not know the issuer is not fooled.
    assert!(Client::builder(&url, hub.admin_key()).reconnect(false).connect().await.is_err());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(CA)?)?;
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let tls = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(hub.address()).await?;
    let stream = tls.connect(ServerName::try_from("localhost")?, stream).await?;
    let answer = http_over(stream, "POST", "/api/operations/hub.whoami", hub.admin_key(), &json!({})).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Plain HTTP on that port gets nothing.
    assert!(http(hub.address(), "GET", "/healthz", "", &Value::Null).await.is_err());
    assert!(hub.stop().await.0);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificate_and_key_that_cannot_be_used_are_named() -> Result<()> {
    let home = TempDir::new()?;
    let (cert, key) = (format!("{FIXTURES}/localhost.pem"), format!("{FIXTURES}/localhost-key.pem"));
    let with = async |cert: &str, key: &str| {
        let flags = ["--listen", "127.0.0.1:0", "--data-dir", "data", "--tls-cert", cert, "--tls-key", key];
        run(&mut server(home.path(), &flags)?).await
    };
    refused(&with("none.pem", &key).await?, &["none.pem"]);
    refused(&with(&cert, "none.pem").await?, &["none.pem"]);
    refused(&with(&cert, &cert).await?, &["localhost.pem"]);
    refused(&with(&format!("{FIXTURES}/ca.pem"), &key).await?, &["fit"]);
    let ran = run(&mut server(home.path(), &["--data-dir", "data", "--tls-cert", &cert])?).await?;
    refused(&ran, &["tls_cert", "tls_key"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_base_path_goes_before_every_face() -> Result<()> {
    let hub = TestHub::start_with(&["--base-path", "/hub/"]).await?;
    assert!(hub.url().ends_with("/hub"), "{}", hub.url());
    let client = hub.client().await?;
    client.call(&PublishEvent { topic: "task:1".into(), kind: "made".into(), payload: json!({}).into() }).await?;
    let mut events = client.subscribe(&SubscribeEvents { topics: vec!["task.*".into()], after: Some(0) }).await?;
    assert_eq!(events.next().await.context("an event")??.topic, "task:1");
    let get = async |path: &str| http(hub.address(), "GET", path, hub.admin_key(), &Value::Null).await;
    for path in ["/hub/healthz", "/hub/api/operations", "/hub/openapi.json", "/hub/metrics"] {
        assert_eq!(get(path).await?.status, 200, "{path}");
    }
    for path in ["/healthz", "/api/operations", "/ws", "/hubhealthz"] {
        assert_eq!(get(path).await?.status, 404, "{path}");
    }
    let servers = get("/hub/openapi.json").await?.json()?["servers"].to_string();
    assert!(servers.contains("/hub"), "{servers}");
    // Server-sent events, up to the first.
    let mut stream = TcpStream::connect(hub.address()).await?;
    let request = format!(
        "GET /hub/api/events?topics=task.*&after=0 HTTP/1.0\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        hub.admin_key()
    );
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await?;
    let seen = read_until(&mut stream, "task:1").await?;
    assert!(seen.contains("text/event-stream") && seen.contains("\nid: ") || seen.contains("\nid:"), "{seen}");
    Ok(())
}

/// Reads until `wanted` has come.
async fn read_until(stream: &mut TcpStream, wanted: &str) -> Result<String> {
    let mut seen = String::new();
    let mut buffer = [0; 4096];
    while !seen.contains(wanted) {
        let reading = tokio::io::AsyncReadExt::read(stream, &mut buffer);
        let read = tokio::time::timeout(Duration::from_secs(10), reading).await.context("nothing more came")??;
        ensure!(read > 0, "the stream ended: {seen}");
        seen.push_str(&String::from_utf8_lossy(&buffer[..read]));
    }
    Ok(seen)
}

#[tokio::test(flavor = "multi_thread")]
async fn ipv6_is_served_like_ipv4() -> Result<()> {
    if let Err(error) = tokio::net::TcpListener::bind("[::1]:0").await {
        left_out(&format!("this machine has no IPv6 loopback: {error}"));
        return Ok(());
    }
    let hub = TestHub::start_with(&["--listen", "[::1]:0"]).await?;
    assert!(hub.url().starts_with("http://[::1]:"), "{}", hub.url());
    assert!(hub.client().await?.call(&WhoAmI {}).await?.key.is_some());
    assert_eq!(http(hub.address(), "GET", "/healthz", "", &Value::Null).await?.status, 200);
    assert!(hub.stop().await.0);
    Ok(())
}
