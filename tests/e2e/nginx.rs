//! Behind nginx with the configuration that is shipped: TLS, the base path, WebSocket, streams, HTTP, and whose
//! address the hub sees.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hub_testkit::{HttpAnswer, HubProcess, Ran, binary, command, eventually, free_port, http, http_over, run};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::{Child, Command};
use tokio_rustls::client::TlsStream;

const SHIPPED: &str = include_str!("../../deploy/nginx/hub.conf");
const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/hub-spoke/tests/fixtures");
const CA: &[u8] = include_bytes!("../../crates/hub-spoke/tests/fixtures/ca.pem");

/// Not the proxy's own address, which the hub trusts.
const CLIENT: &str = "127.0.0.2:0";

/// Installs nginx where that needs no password.
fn nginx() -> Result<PathBuf> {
    let found = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin"), "/usr/local/sbin".into()]);
        folders.map(|folder| folder.join("nginx")).find(|file| file.is_file())
    };
    if let Some(program) = found() {
        return Ok(program);
    }
    for command in [&["apt-get"][..], &["sudo", "-n", "apt-get"]] {
        let mut install = std::process::Command::new(command[0]);
        install.args(&command[1..]).args(["install", "-y", "--no-install-recommends", "nginx-light"]);
        install.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // What came of it is seen by looking again.
        let _status = install.status();
        if let Some(program) = found() {
            return Ok(program);
        }
    }
    anyhow::bail!("this test needs nginx: install it (apt-get install nginx-light)")
}

/// A hub below `/hub`, and nginx in front of it.
struct Front {
    home: TempDir,
    _hub: Child,
    port: u16,
    key: String,
    _nginx: Child,
}

impl Front {
    async fn set_up() -> Result<Self> {
        let home = TempDir::new()?;
        let (data, log) = (home.path().join("data"), home.path().join("hub.log"));
        let (hub_port, port) = (free_port()?, free_port()?);
        let flags = ["--base-path", "/hub", "--trusted-proxies", "127.0.0.1", "--log-format", "json"];
        let mut starting = HubProcess::command(&data, hub_port, &flags)?;
        starting.stderr(std::fs::File::create(log)?);
        let hub = starting.spawn()?;
        let ready = eventually("the hub answers", || async {
            let answer = http(([127, 0, 0, 1], hub_port).into(), "GET", "/hub/readyz", "", &Value::Null).await;
            Ok(answer.ok().filter(|answer| answer.status == 200))
        });
        ready.await?;
        let key = std::fs::read_to_string(data.join("admin.key"))?.trim().to_owned();
        let nginx = start_nginx(home.path(), hub_port, port)?;
        let this = Self { home, _hub: hub, port, key, _nginx: nginx };
        eventually("nginx answers", || async { Ok(TcpStream::connect(this.address()).await.ok()) }).await?;
        Ok(this)
    }

    fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.port).into()
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(CLIENT.parse()?)?;
        let stream = socket.connect(self.address()).await?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(CA)?)?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        Ok(connector.connect(ServerName::try_from("localhost")?, stream).await?)
    }

    async fn http(&self, method: &str, path: &str, key: &str, body: &Value) -> Result<HttpAnswer> {
        http_over(self.connect().await?, method, path, key, body).await
    }

    async fn cli(&self, words: &[&str]) -> Result<Ran> {
        let mut hub = command(binary("hub")?, self.home.path());
        hub.env("HUB_URL", format!("https://localhost:{}/hub", self.port)).env("HUB_KEY", &self.key);
        hub.args(["--ca-file", &format!("{FIXTURES}/ca.pem")]).args(words);
        run(&mut hub).await
    }
}

/// The shipped configuration with other ports, names and files, and nothing else changed.
fn start_nginx(home: &Path, hub_port: u16, port: u16) -> Result<Child> {
    let mut site = SHIPPED.to_owned();
    let changes = [
        ("server 127.0.0.1:3300", format!("server 127.0.0.1:{hub_port}")),
        ("listen 443 ssl", format!("listen 127.0.0.1:{port} ssl")),
        ("hub.example.org", "localhost".to_owned()),
        ("/etc/ssl/hub/chain.pem", format!("{FIXTURES}/localhost.pem")),
        ("/etc/ssl/hub/key.pem", format!("{FIXTURES}/localhost-key.pem")),
    ];
    for (shipped, here) in changes {
        ensure!(site.matches(shipped).count() == 1, "deploy/nginx/hub.conf has no {shipped:?}");
        site = site.replace(shipped, &here);
    }
    let folder = home.join("nginx");
    std::fs::create_dir(&folder)?;
    std::fs::write(folder.join("hub.conf"), site)?;
    let place = folder.to_str().context("text")?;
    let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temp: String = temp.iter().map(|name| format!("{name}_temp_path {place}/{name};\n")).collect();
    // One process: workers would outlive a master that is killed, and those of a root's run as somebody else.
    let main = format!(
        "daemon off;\nmaster_process off;\npid {place}/pid;\nerror_log {place}/error.log;\n\
         events {{ worker_connections 256; }}\nhttp {{\naccess_log off;\n{temp}include {place}/hub.conf;\n}}\n"
    );
    std::fs::write(folder.join("nginx.conf"), main)?;
    let mut nginx = Command::new(nginx()?);
    nginx.args(["-p", place, "-c", "nginx.conf", "-e", "error.log"]);
    nginx.stdin(Stdio::null()).stdout(Stdio::null()).kill_on_drop(true);
    nginx.spawn().context("cannot start nginx")
}

#[tokio::test(flavor = "multi_thread")]
async fn http_and_websocket_work_below_the_base_path_behind_nginx() -> Result<()> {
    let front = Front::set_up().await?;
    let answer = front.http("GET", "/hub/readyz", "", &Value::Null).await?;
    assert_eq!((answer.status, &answer.json()?["ready"]), (200, &json!(true)), "{answer:?}");
    let answer = front.http("POST", "/hub/api/operations/hub.whoami", &front.key, &json!({})).await?;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(front.http("GET", "/hub/metrics", "", &Value::Null).await?.status, 404);
    assert_eq!(front.http("GET", "/readyz", "", &Value::Null).await?.status, 404);
    // The command line speaks over a WebSocket.
    let ran = front.cli(&["whoami"]).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let ran = front.cli(&["call", "hub.status", "--json"]).await?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("\"draining\""), "{ran:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_passes_streams_on_event_by_event() -> Result<()> {
    let front = Front::set_up().await?;
    let mut stream = front.connect().await?;
    let request = format!(
        "GET /hub/api/events?topics=task.** HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\
         authorization: Bearer {}\r\n\r\n",
        front.key
    );
    stream.write_all(request.as_bytes()).await?;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "\r\n\r\n").await?;
    ensure!(seen.starts_with("HTTP/1.1 200") && seen.contains("text/event-stream"), "{seen}");
    for word in ["first", "second"] {
        let body = json!({ "topic": "task.x:1", "type": word });
        let answer = front.http("POST", "/hub/api/operations/events.publish", &front.key, &body).await?;
        assert_eq!(answer.status, 200, "{answer:?}");
        let since = Instant::now();
        read_until(&mut stream, &mut seen, word).await?;
        // The hub's own signs of life, every 10 s, would flush a buffer.
        ensure!(since.elapsed() < Duration::from_secs(3), "it was held back for {:?}", since.elapsed());
    }
    Ok(())
}

async fn read_until(stream: &mut TlsStream<TcpStream>, seen: &mut String, word: &str) -> Result<()> {
    let read = async {
        let mut buffer = [0; 4096];
        while !seen.contains(word) {
            let count = stream.read(&mut buffer).await?;
            ensure!(count > 0, "the stream ended: {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..count])?);
        }
        Ok(())
    };
    let done = tokio::time::timeout(Duration::from_secs(15), read).await;
    done.with_context(|| format!("no {word:?} in time"))?
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_in_the_hubs_log_is_the_clients_and_nobody_can_make_one_up() -> Result<()> {
    let front = Front::set_up().await?;
    let mut stream = front.connect().await?;
    let request = "GET /hub/api/calls?mark HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
                   x-forwarded-for: 198.51.100.7\r\nauthorization: Bearer hub_nobody\r\n\r\n";
    stream.write_all(request.as_bytes()).await?;
    let mut seen = String::new();
    read_until(&mut stream, &mut seen, "\r\n\r\n").await?;
    ensure!(seen.starts_with("HTTP/1.1 401"), "{seen}");
    let log = front.home.path().join("hub.log");
    let line = eventually("the hub logs the refusal", || async {
        let text = std::fs::read_to_string(&log)?;
        Ok(text.lines().find(|line| line.contains("without a valid key")).map(str::to_owned))
    });
    let line: Value = serde_json::from_str(&line.await?)?;
    assert_eq!(line["fields"]["client.address"], json!("127.0.0.2"), "{line}");
    Ok(())
}
