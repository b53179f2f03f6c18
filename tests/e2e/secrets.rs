//! Secrets of external services: they are used, and found nowhere.

mod aim;
mod keyrings;

use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Result, ensure};
use hub_storage::SecretRow;
use hub_testkit::{HubProcess, TestStore, binary, command, database_of, eventually, free_port, http, pg_dump, run};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Its encodings all differ from it and from each other.
pub(crate) const CANARY: &str = "cAnArY-7f/3+x=Zq9~K-end";

/// The canary in every form in which somebody might write it down.
fn forms() -> Vec<String> {
    let hex: String = CANARY.bytes().map(|byte| format!("{byte:02x}")).collect();
    let url: String =
        CANARY
            .chars()
            .map(|c| {
                if c.is_ascii_alphanumeric() || "-._~".contains(c) {
                    c.to_string()
                } else {
                    format!("%{:02X}", c as u32)
                }
            })
            .collect();
    let plain = [CANARY.to_owned(), hex.to_uppercase(), hex, url.to_lowercase(), url];
    // As base64 of the whole, and as it stands in base64 of something longer, from each of three offsets.
    let within = (0..3).map(|before| {
        let text = base64(&[vec![b'x'; before].as_slice(), CANARY.as_bytes()].concat());
        text[4..text.len() - 4].to_owned()
    });
    plain.into_iter().chain(within).chain(spellings()).collect()
}

/// As libraries escape it in JSON, URLs and HTML. Each can stand in a string of JSON.
fn spellings() -> [String; 8] {
    let each = |spelt: fn(u8) -> String| CANARY.bytes().map(spelt).collect::<String>();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-.".contains(&byte);
    [
        CANARY.replace('/', "\\/"),
        CANARY.replace('+', "\\u002B").replace('/', "\\/"),
        each(|byte| format!("\\u{byte:04x}")),
        each(|byte| format!("\\u{byte:04X}")),
        each(|byte| format!("%{byte:02x}")),
        each(|byte| format!("%{byte:02X}")),
        each(|byte| format!("&#{byte};")),
        CANARY
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%25{byte:02x}") })
            .collect(),
    ]
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0u32, |bits, n| bits << 8 | u32::from(*group.get(n).unwrap_or(&0)));
        for n in 0..=group.len() {
            text.push(char::from(LETTERS[(bits >> (18 - 6 * n) & 63) as usize]));
        }
    }
    text + &"=".repeat((3 - bytes.len() % 3) % 3)
}

#[track_caller]
fn assert_clean(place: &str, bytes: &[u8]) {
    for form in forms() {
        let found = bytes.windows(form.len()).any(|window| window == form.as_bytes());
        assert!(!found, "the canary is in {place}, as {form}");
    }
}

/// What an upstream has seen.
#[derive(Default)]
pub(crate) struct Seen {
    credentials: Vec<String>,
    /// Requests that their sender gave up.
    given_up: usize,
}

/// An API that tells whether the credential arrived, echoes it in an error, and is slow on request.
pub(crate) async fn upstream() -> Result<(SocketAddr, Arc<Mutex<Seen>>)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (address, seen) = (listener.local_addr()?, Arc::new(Mutex::new(Seen::default())));
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let seen = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut head = Vec::new();
                let mut buffer = [0; 4096];
                while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                    match stream.read(&mut buffer).await {
                        Ok(0) | Err(_) => return,
                        Ok(n) => head.extend_from_slice(&buffer[..n]),
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("authorization:"));
                let credential = line.and_then(|line| line.split_once(' ')).map(|(_, value)| value.to_owned());
                let credential = credential.unwrap_or_default();
                seen.lock().unwrap().credentials.push(credential.clone());
                if head.starts_with("GET /slow") {
                    if matches!(stream.read(&mut buffer).await, Ok(0) | Err(_)) {
                        seen.lock().unwrap().given_up += 1;
                    }
                    return;
                }
                let (status, body) = if head.starts_with("GET /fail") {
                    ("500 Oops", failure(&credential))
                } else {
                    ("200 OK", json!({ "ok": credential == format!("Bearer {CANARY}") }).to_string())
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
                    body.len()
                );
                // Whoever gave up does not read.
                let _unread = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    Ok((address, seen))
}

/// All that it was sent, in every spelling.
fn failure(credential: &str) -> String {
    let plain = json!({ "error": "refused", "got": credential, "encoded": base64(CANARY.as_bytes()) }).to_string();
    plain.replacen('{', &format!("{{\"echo\":\"{}\",", spellings().join(" ")), 1)
}

pub(crate) fn document() -> String {
    let get = |id: &str| json!({ "get": { "operationId": id, "responses": { "200": { "description": "It." } } } });
    let paths = json!({ "/ok": get("ok"), "/fail": get("fail"), "/slow": get("slow") });
    json!({ "openapi": "3.1.0", "info": { "title": "Forge", "version": "1.0.0" }, "paths": paths }).to_string()
}

/// A hub as a process, with everything it logs and everything it answers.
struct Bed {
    hub: HubProcess,
    address: SocketAddr,
    key: String,
    heard: Mutex<String>,
}

impl Bed {
    async fn start(folder: &Path, log: &Path) -> Result<Self> {
        let port = free_port()?;
        let mut command = HubProcess::command(folder, port, &["--log", "debug"])?;
        command.stderr(Stdio::from(std::fs::File::options().create(true).append(true).open(log)?));
        let hub = HubProcess::start_from(&mut command, folder, port).await?;
        let (address, key) = (SocketAddr::from(([127, 0, 0, 1], port)), hub.admin_key()?);
        Ok(Self { hub, address, key, heard: Mutex::default() })
    }

    async fn call(&self, operation: &str, input: Value) -> Result<Value> {
        let answer = http(self.address, "POST", &format!("/api/operations/{operation}"), &self.key, &input).await?;
        self.heard.lock().unwrap().push_str(&format!("{operation} {} {}\n", answer.head, answer.body));
        answer.json()
    }

    async fn get(&self, path: &str) -> Result<String> {
        let body = http(self.address, "GET", path, &self.key, &Value::Null).await?.body;
        self.heard.lock().unwrap().push_str(&body);
        Ok(body)
    }

    async fn state(&self, name: &str) -> Result<(String, String)> {
        let client = self.call("clients.get", json!({ "name": name })).await?;
        let text = |member: &str| client["data"][member].as_str().unwrap_or_default().to_owned();
        Ok((text("state"), text("reason")))
    }

    async fn becomes(&self, name: &str, state: &str) -> Result<String> {
        for _ in 0..600 {
            let (now, reason) = self.state(name).await?;
            if now == state {
                return Ok(reason);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        anyhow::bail!("{name} did not become {state}: {:?}", self.state(name).await?)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_used_and_found_nowhere() -> Result<()> {
    let (folder, aside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let log = aside.path().join("log");
    let bed = Bed::start(folder.path(), &log).await?;
    let (upstream, seen) = upstream().await?;
    let config = json!({ "document": document(), "baseUrl": format!("http://{upstream}"), "allowPrivate": true,
        "auth": { "kind": "bearer" } });
    bed.call("clients.create", json!({ "name": "forge", "type": "openapi", "config": config })).await?;
    let reason = bed.becomes("forge", "degraded").await?;
    assert!(reason.contains("\"token\" is not set"), "{reason}");

    let set = bed.call("secrets.set", json!({ "client": "forge", "name": "token", "value": CANARY })).await?;
    assert_eq!(set["data"]["keyVersion"], 1, "{set}");
    bed.becomes("forge", "ready").await?;
    let ok = bed.call("forge.ok", json!({})).await?;
    assert_eq!(ok["data"]["ok"], true, "{ok}");
    let failed = bed.call("forge.fail", json!({})).await?;
    assert_eq!(failed["code"], "EXECUTION_ERROR", "{failed}");
    let tested = bed.call("clients.test", json!({ "name": "forge" })).await?;
    assert_eq!((&tested["data"]["ok"], &tested["data"]["operations"]), (&json!(true), &json!(3)), "{tested}");

    // Wrong in many ways, with the canary in what is refused.
    for wrong in [
        json!({ "client": "forge", "name": "a b", "value": CANARY }),
        json!({ "client": "nobody", "name": "token", "value": CANARY }),
        json!({ "client": "forge", "name": "token", "value": [CANARY] }),
        json!({ "client": "forge", "name": "token", "value": CANARY.repeat(2_000) }),
    ] {
        let refused = bed.call("secrets.set", wrong).await?;
        assert!(refused["code"].is_string(), "{refused}");
    }
    let password = json!({ "url": format!("http://me:{CANARY}@a.example/") });
    let typo = json!({ "client": "forge", "name": "token", "vaule": CANARY });
    for (operation, wrong) in [
        ("secrets.set", typo.clone()),
        ("secrets.rotate", json!(typo.to_string())),
        ("hub.call", json!({ "operationId": "secrets.set", "input": typo })),
        ("hub.call", json!({ "operationId": "secrets.set", "input": typo.to_string() })),
        ("hub.call", json!({ "operationId": "secrets.set", "inputs": typo })),
        ("clients.create", json!({ "name": "a", "type": "openapi", "config": password })),
        ("clients.create", json!({ "name": "a", "type": "openapi", "config": {}, "token": CANARY })),
        ("clients.create", json!({ "name": "a", "type": "mcp-server", "config": { "command": "x", "env": [CANARY] } })),
        ("clients.update", json!({ "name": "forge", "config": { "auth": { "kind": "bearer", "token": CANARY } } })),
        ("clients.update", json!({ "name": "forge", "config": { "auth": { "kind": CANARY } } })),
    ] {
        let refused = bed.call(operation, wrong).await?;
        assert!(refused["code"].is_string(), "{operation}: {refused}");
    }
    let input = json!({ "client": "forge", "name": "token", "value": CANARY });
    let nested = bed.call("hub.call", json!({ "operationId": "secrets.rotate", "input": input })).await?;
    assert!(nested["data"].is_object(), "{nested}");
    bed.becomes("forge", "ready").await?;

    for (operation, input) in [
        ("clients.list", json!({})),
        ("audit.list", json!({ "limit": 1000 })),
        ("calls.list", json!({ "limit": 1000 })),
        ("calls.export", json!({})),
        ("events.list", json!({ "topics": ["**"] })),
    ] {
        // A stream is no JSON, but heard all the same.
        let _heard = bed.call(operation, input).await;
    }
    bed.get("/metrics").await?;
    bed.get("/readyz").await?;
    let heard = bed.heard.lock().unwrap().clone();
    assert!(heard.contains("secrets.set") && heard.contains("calls.export"), "the harvest is empty");
    assert_clean("an answer", heard.as_bytes());

    // The same while it runs, in its backup, and after its end.
    clean_files(folder.path())?;
    match TestStore::of_run()? {
        TestStore::Postgres => assert_clean("the dump", pg_dump(&database_of(folder.path())?)?.as_bytes()),
        TestStore::Sqlite => {
            let backup = aside.path().join("backup.db");
            let mut hub_server = command(binary("hub-server")?, folder.path());
            let ran =
                run(hub_server.arg("backup").arg("--to").arg(&backup).arg("--data-dir").arg(folder.path())).await?;
            ensure!(ran.code == Some(0), "{ran:?}");
            assert_clean("the backup", &std::fs::read(&backup)?);
        }
    }
    assert!(seen.lock().unwrap().credentials.iter().any(|c| c.ends_with(CANARY)), "the upstream never saw it");
    bed.hub.kill9().await?;
    clean_files(folder.path())?;
    let logged = std::fs::read(&log)?;
    assert!(String::from_utf8_lossy(&logged).contains("DEBUG"), "nothing was logged at this level");
    assert_clean("the log", &logged);
    Ok(())
}

/// Every file of the data folder: the database, its write-ahead log, and whatever else is there.
fn clean_files(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() {
            assert_clean(&path.display().to_string(), &std::fs::read(&path)?);
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn imported_operations_follow_their_client() -> Result<()> {
    let (folder, aside) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let bed = Bed::start(folder.path(), &aside.path().join("log")).await?;
    let (upstream, seen) = upstream().await?;
    let config = json!({ "document": document(), "baseUrl": format!("http://{upstream}"), "allowPrivate": true });
    for (name, wrong) in [
        ("keys", json!({ "document": document() })),
        ("forge", json!({ "document": document(), "url": "https://a.example" })),
        ("forge", json!({ "document": document(), "password": "x" })),
        ("forge", json!({ "url": "https://me:pw@a.example/openapi.json" })),
    ] {
        let refused = bed.call("clients.create", json!({ "name": name, "type": "openapi", "config": wrong })).await?;
        assert!(refused["code"].is_string(), "{refused}");
    }
    bed.call("clients.create", json!({ "name": "forge", "type": "openapi", "config": config })).await?;
    bed.becomes("forge", "ready").await?;
    // The access rule is the client's own.
    let schema = bed.call("hub.schema", json!({ "operationIds": ["forge.ok"] })).await?;
    let scopes = &schema["data"]["operations"][0]["accessControl"]["requiredScopes"];
    assert_eq!(*scopes, json!(["imported:forge"]), "{schema}");
    // An abort reaches the upstream.
    let late = http(
        bed.address,
        "POST",
        "/api/call",
        &bed.key,
        &json!({ "operationId": "forge.slow", "input": {}, "deadline": deadline(Duration::from_millis(700))? }),
    )
    .await?;
    assert_eq!(late.json()?["code"], "TIMEOUT", "{}", late.body);
    eventually("the upstream is told", || async { Ok((seen.lock().unwrap().given_up > 0).then_some(())) }).await?;

    bed.call("clients.enable", json!({ "name": "forge", "enabled": false })).await?;
    for _ in 0..100 {
        if bed.call("forge.ok", json!({})).await?["code"] == "OPERATION_UNAVAILABLE" {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let off = bed.call("forge.ok", json!({})).await?;
    assert_eq!(off["code"], "OPERATION_UNAVAILABLE", "{off}");
    bed.call("clients.enable", json!({ "name": "forge" })).await?;
    bed.becomes("forge", "ready").await?;
    bed.call("clients.refresh", json!({ "name": "forge" })).await?;
    bed.becomes("forge", "ready").await?;
    // A program on the hub's machine is nothing that a key may start.
    bed.call("clients.create", json!({ "name": "shell", "type": "mcp-server", "config": { "command": "sh" } })).await?;
    let reason = bed.becomes("shell", "degraded").await?;
    assert!(reason.contains("allow_child_processes"), "{reason}");
    let gone = bed.call("clients.delete", json!({ "name": "forge" })).await?;
    assert_eq!(gone["data"]["name"], "forge", "{gone}");
    bed.hub.kill9().await
}

fn deadline(after: Duration) -> Result<u64> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u64::try_from((now + after).as_millis())?)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_with_another_keyring_runs_and_refuses_secrets() -> Result<()> {
    let hub = hub_testkit::TestHub::start().await?;
    let call = async |hub: &hub_testkit::TestHub, operation: &str, input: Value| {
        http(hub.address(), "POST", &format!("/api/operations/{operation}"), hub.admin_key(), &input).await?.json()
    };
    let config = json!({ "baseUrl": "https://models.example", "api": "openai" });
    call(&hub, "clients.create", json!({ "name": "models", "type": "llm-provider", "config": config })).await?;
    for name in ["token", "other"] {
        let set =
            call(&hub, "secrets.set", json!({ "client": "models", "name": name, "value": "v-".to_owned() + name }))
                .await?;
        assert_eq!(set["data"]["name"], name, "{set}");
    }
    let opened = hub.hub().open_client("models").await?;
    assert_eq!(opened.secrets.len(), 2);
    // One secret in the place of another does not open.
    let rows = hub.hub().store().secrets().list(None).await?;
    let swapped = SecretRow {
        salt: rows[1].salt.clone(),
        nonce: rows[1].nonce.clone(),
        ciphertext: rows[1].ciphertext.clone(),
        ..rows[0].clone()
    };
    assert_eq!(hub.hub().store().secrets().reencrypt(vec![(rows[0].clone(), swapped)]).await?, 1);
    let refused = call(&hub, "clients.test", json!({ "name": "models" })).await?;
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("does not open")), "{refused}");

    let (_, folder) = hub.stop().await;
    std::fs::remove_file(folder.path().join("keyring"))?;
    let hub = hub_testkit::TestHub::start_in(folder, &[]).await?;
    let ready = http(hub.address(), "GET", "/readyz", hub.admin_key(), &Value::Null).await?;
    assert!(
        ready.status == 200 && ready.body.contains("\"keyring\"") && ready.body.contains("lacks v1"),
        "{}",
        ready.body
    );
    let refused = call(&hub, "secrets.set", json!({ "client": "models", "name": "x", "value": "abcdef" })).await?;
    assert!(refused["message"].as_str().is_some_and(|m| m.contains("lacks v1")), "{refused}");
    assert!(!hub.folder().join("keyring").exists(), "a keyring of its own would only be in the way");
    let listed = call(&hub, "clients.list", json!({})).await?;
    assert_eq!(listed["data"]["clients"][0]["secrets"].as_array().map(Vec::len), Some(2), "{listed}");
    Ok(())
}
