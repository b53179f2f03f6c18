//! What service managers and balancers are told: systemd's notifications and watchdog, and `hub-server health`.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hub_testkit::{HubProcess, Ran, command, free_port, run, server_binary};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::UnixDatagram;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/hub-spoke/tests/fixtures");

async fn told(socket: &UnixDatagram) -> Result<String> {
    let mut buffer = [0; 4096];
    let received = tokio::time::timeout(Duration::from_secs(15), socket.recv(&mut buffer)).await;
    let count = received.context("the hub said nothing in time")??;
    Ok(String::from_utf8_lossy(&buffer[..count]).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_hears_of_start_life_and_end() -> Result<()> {
    let home = TempDir::new()?;
    let (data, path) = (home.path().join("data"), home.path().join("notify"));
    let socket = UnixDatagram::bind(&path)?;
    let port = free_port()?;
    let mut starting = HubProcess::command(&data, port, &[])?;
    starting.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "1000000");
    let mut hub = HubProcess::start_from(&mut starting, &data, port).await?;
    let first = told(&socket).await?;
    assert!(first.starts_with("STATUS=") && !first.contains("READY"), "{first}");
    let ready = told(&socket).await?;
    assert!(ready.contains("READY=1") && ready.contains(&format!("listening on http://127.0.0.1:{port}")), "{ready}");
    let since = Instant::now();
    for _ in 0..4 {
        assert_eq!(told(&socket).await?.trim(), "WATCHDOG=1");
    }
    // One at once, then one at each half of the patience.
    let took = since.elapsed();
    assert!(took > Duration::from_millis(1_200) && took < Duration::from_secs(3), "{took:?}");
    hub.signal("TERM").await?;
    let mut last = told(&socket).await?;
    while last.trim() == "WATCHDOG=1" {
        last = told(&socket).await?;
    }
    assert!(last.contains("STOPPING=1") && last.contains("30 s"), "{last}");
    assert!(hub.wait().await?.success());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_without_a_service_manager_says_nothing_about_it() -> Result<()> {
    let home = TempDir::new()?;
    let (data, log) = (home.path().join("data"), home.path().join("log"));
    let port = free_port()?;
    let mut starting = HubProcess::command(&data, port, &[])?;
    starting.env_remove("NOTIFY_SOCKET").stderr(std::fs::File::create(&log)?);
    let mut hub = HubProcess::start_from(&mut starting, &data, port).await?;
    hub.signal("TERM").await?;
    assert!(hub.wait().await?.success());
    assert!(!std::fs::read_to_string(&log)?.contains("service manager"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_that_waits_for_the_keyring_says_so_at_once() -> Result<()> {
    let home = TempDir::new()?;
    let mut starting =
        HubProcess::command(&home.path().join("data"), free_port()?, &["--keyring-command", "sleep,60"])?;
    let mut hub = starting.stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(hub.stderr.take().context("it is piped")?).lines();
    let began = Instant::now();
    loop {
        let line = tokio::time::timeout(Duration::from_secs(20), lines.next_line()).await?;
        let line = line?.context("it ended without a word")?;
        if line.contains("waiting for keyring_command") {
            assert!(line.contains("sleep"), "{line}");
            break;
        }
        assert!(!line.contains("the hub is up") && began.elapsed() < Duration::from_secs(25), "{line}");
    }
    hub.kill().await?;
    Ok(())
}

async fn health(home: &Path, flags: &[&str]) -> Result<Ran> {
    run(command(server_binary()?, home).arg("health").args(flags)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn health_asks_the_configured_hub() -> Result<()> {
    let home = TempDir::new()?;
    let port = free_port()?;
    let listen = format!("0.0.0.0:{port}");
    let (cert, key) = (format!("{FIXTURES}/localhost.pem"), format!("{FIXTURES}/localhost-key.pem"));
    let flags = ["--listen", &listen, "--base-path", "/hub", "--tls-cert", &cert, "--tls-key", &key];
    let nobody = health(home.path(), &flags).await?;
    assert_eq!(nobody.code, Some(2), "{nobody:?}");
    assert!(nobody.err.contains("no hub answers on 127.0.0.1"), "{nobody:?}");
    let mut starting = command(server_binary()?, home.path());
    let _hub = starting.args(flags).args(["--data-dir", "data"]).spawn()?;
    let ready = hub_testkit::eventually("the hub is healthy", || async {
        let ran = health(home.path(), &flags).await?;
        Ok((ran.code == Some(0)).then_some(ran))
    });
    let ready = ready.await?;
    assert_eq!(ready.out, format!("the hub on 127.0.0.1:{port} is ready\n"));
    let told = health(home.path(), &[&flags[..], &["--json"]].concat()).await?;
    assert!(told.code == Some(0) && told.out.contains("\"ready\":true"), "{told:?}");
    // A path where the hub has nothing.
    let ran = health(home.path(), &[&flags[..2], &flags[4..]].concat()).await?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("no hub (HTTP 404)") && ran.err.contains("--base-path"), "{ran:?}");
    // Another one's certificate is nobody's.
    let other = ["--listen", &listen, "--base-path", "/hub", "--tls-key", &key, "--tls-cert"];
    let ran = health(home.path(), &[&other[..], &[&format!("{FIXTURES}/ca.pem")]].concat()).await?;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    Ok(())
}
