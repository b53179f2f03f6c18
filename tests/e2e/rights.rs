//! Who may do what: keys and what they hold (must hold 7), and that nothing secret stays anywhere (promise 5).

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, stream};
use hub_operations::now_ms;
use hub_protocol::ops::calls::{ExportCalls, ObserveCalls};
use hub_protocol::ops::events::ListEvents;
use hub_protocol::ops::keys::{CreateKey, RevokeKey, RotateKey};
use hub_protocol::{CallError, ErrorCode, Json, OperationSpec};
use hub_spoke::{Client, Context as Call, Reply, RunningSpoke, Spoke};
use hub_testkit::{
    HubProcess, RawPeer, TestHub, TestStore, database_of, eventually, free_port, http, pg_dump, server_binary,
};
use serde_json::{Value, json};
use tempfile::TempDir;

fn spec(id: &str, kind: &str, more: Value) -> Result<OperationSpec> {
    let mut spec = RawPeer::spec(id, kind);
    for (member, value) in more.as_object().into_iter().flatten() {
        spec[member] = value.clone();
    }
    Ok(serde_json::from_value(spec)?)
}

/// A spoke whose operations tell who calls.
async fn guarded(hub: &TestHub) -> Result<RunningSpoke> {
    let who = |call: Call, _: Json| async move {
        let caller = call.caller();
        let told = json!({"id": caller.id, "scopes": caller.scopes, "chain": caller.chain});
        Ok::<_, CallError>(Reply::Value(told.into()))
    };
    let project = json!({"requiredScopes": [], "resourceType": "project", "resourceAction": "write"});
    let spoke = hub
        .spoke("guard")
        .spoke_type("compute")
        .raw(spec("demo.who", "query", json!({}))?, who)
        .raw(spec("demo.secret", "query", json!({"accessControl": {"requiredScopes": ["demo:secret"]}}))?, who)
        .raw(spec("demo.write", "mutation", json!({"accessControl": project}))?, who)
        .raw(
            spec("demo.target", "mutation", json!({"accessControl": project, "_meta": {"resourceParam": "target"}}))?,
            who,
        )
        .build()?;
    Ok(spoke.start().await?)
}

fn create(scopes: &[&str], resources: Value) -> CreateKey {
    CreateKey {
        name: "made".into(),
        scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        resources: serde_json::from_value(resources).unwrap(),
        ..CreateKey::default()
    }
}

async fn with_resources(hub: &TestHub, admin: &Client, resources: Value) -> Result<Client> {
    let key = admin.call(&create(&[], resources)).await?.secret;
    Ok(Client::connect(&hub.url(), &key).await?)
}

fn code<T: std::fmt::Debug>(result: Result<T, CallError>) -> String {
    result.map_or_else(|e| e.code, |_| "fine".to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_opens_itself_and_nothing_else() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = guarded(&hub).await?;
    let admin = hub.client().await?;
    let one = with_resources(&hub, &admin, json!({"project:p1": ["write"], "project:p2": ["read"]})).await?;
    let every = with_resources(&hub, &admin, json!({"project:*": ["write"]})).await?;
    let other = with_resources(&hub, &admin, json!({"projects:p1": ["write"], "task:*": ["write"]})).await?;
    for (operation, input, by_one, by_every) in [
        ("demo.write", json!({"projectId": "p1"}), "fine", "fine"),
        ("demo.write", json!({"projectId": "p2"}), "ACCESS_DENIED", "fine"),
        ("demo.write", json!({"projectId": "*"}), "ACCESS_DENIED", "fine"),
        ("demo.write", json!({"projectId": ["p1"]}), "ACCESS_DENIED", "fine"),
        ("demo.write", json!({"target": "p1"}), "ACCESS_DENIED", "fine"),
        ("demo.write", json!({}), "ACCESS_DENIED", "fine"),
        ("demo.target", json!({"target": "p1"}), "fine", "fine"),
        ("demo.target", json!({"projectId": "p1"}), "ACCESS_DENIED", "fine"),
    ] {
        assert_eq!(code(one.call_raw(operation, input.clone()).await), by_one, "{operation} {input}");
        assert_eq!(code(every.call_raw(operation, input.clone()).await), by_every, "{operation} {input}");
        assert_eq!(code(other.call_raw(operation, input.clone()).await), "OPERATION_NOT_FOUND", "{operation} {input}");
    }
    // A member that comes twice must not be read in two ways by hub and spoke.
    let twice = Json::from_text(r#"{"projectId":"p1","projectId":"p2"}"#)?;
    assert_eq!(code(one.call_raw("demo.write", twice).await), "VALIDATION_ERROR");
    spoke.stop().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_what_it_lacks() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let maker = admin.call(&create(&["keys:admin", "a:*", "b:read"], json!({"project:p1": ["write"]}))).await?;
    let maker = Client::connect(&hub.url(), &maker.secret).await?;
    for (scopes, resources, expected) in [
        (&["a:x", "a:*", "b:read", "keys:admin"][..], json!(null), "fine"),
        (&[], json!({"project:p1": ["write"]}), "fine"),
        (&["*"], json!(null), "ACCESS_DENIED"),
        (&["b:*"], json!(null), "ACCESS_DENIED"),
        (&["b:write"], json!(null), "ACCESS_DENIED"),
        (&["hub:impersonate"], json!(null), "ACCESS_DENIED"),
        (&[""], json!(null), "VALIDATION_ERROR"),
        (&["a:x y"], json!(null), "VALIDATION_ERROR"),
        (&["a:\u{e9}"], json!(null), "VALIDATION_ERROR"),
        (&[], json!({"project:p1": ["write", "delete"]}), "ACCESS_DENIED"),
        (&[], json!({"project:*": ["write"]}), "ACCESS_DENIED"),
    ] {
        assert_eq!(code(maker.call(&create(scopes, resources.clone())).await), expected, "{scopes:?} {resources}");
    }
    // Taking over a stronger key by rotating it would be the same.
    let strong = admin.call(&create(&["b:write"], json!(null))).await?.key.id;
    assert_eq!(code(maker.call(&RotateKey { id: strong, overlap_ms: None }).await), "ACCESS_DENIED");
    let plain = hub.client_with(&["hub:read"]).await?;
    assert_eq!(code(plain.call(&create(&[], json!(null))).await), "OPERATION_NOT_FOUND");
    Ok(())
}

/// Status and text of a request with this key, without what differs in each answer.
async fn knock(hub: &TestHub, key: &str, path: &str) -> Result<(u16, String)> {
    let answer = http(hub.address(), "GET", path, key, &Value::Null).await?;
    let head: Vec<&str> = answer.head.lines().filter(|l| !l.to_lowercase().starts_with("date:")).collect();
    Ok((answer.status, format!("{}\n{}", head.join("\n"), answer.body)))
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_wrong_expired_and_revoked_keys_are_refused_in_the_same_words() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let revoked = admin.call(&create(&[], json!(null))).await?;
    admin.call(&RevokeKey { id: revoked.key.id }).await?;
    let expiring = |at| CreateKey { expires_at: Some(at), ..create(&[], json!(null)) };
    assert_eq!(code(admin.call(&expiring(now_ms())).await), "VALIDATION_ERROR");
    let expired = admin.call(&expiring(now_ms() + 300)).await?.secret;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let good = admin.call(&create(&[], json!(null))).await?.secret;
    let wrong = format!("{}{}", &good[..good.len() - 1], if good.ends_with('x') { 'y' } else { 'x' });
    let unknown = format!("hub_{}_{}", "A".repeat(10), "b".repeat(43));
    for path in ["/api/operations", "/api/events", "/ws", "/openapi.json"] {
        let expected = knock(&hub, &unknown, path).await?;
        assert_eq!(expected.0, 401);
        for (why, key) in
            [("wrong", &wrong), ("revoked", &revoked.secret), ("expired", &expired), ("no key at all", &"x".to_owned())]
        {
            assert_eq!(knock(&hub, key, path).await?, expected, "{why} {path}");
        }
        assert_ne!(knock(&hub, &good, path).await.map(|a| a.0).unwrap_or(200), 401, "the good key {path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_ends_at_once_on_every_face() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let made = admin.call(&create(&["events:read"], json!(null))).await?;
    let mut peer = RawPeer::connect(hub.address(), &made.secret).await?;
    peer.call("1", "hub.whoami", json!({})).await?;
    assert_eq!(knock(&hub, &made.secret, "/api/operations").await?.0, 200);
    admin.call(&RevokeKey { id: made.key.id }).await?;
    assert_eq!(knock(&hub, &made.secret, "/api/operations").await?.0, 401, "the answer says that it is over");
    assert_eq!(peer.closed().await?.code, 4001);
    assert!(RawPeer::connect(hub.address(), &made.secret).await.is_err());
    admin.call_raw("hub.whoami", json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_key_works_until_its_overlap_ends_and_the_new_one_is_the_same_principal() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let old = admin.call(&create(&["a:b"], json!(null))).await?;
    let new = admin.call(&RotateKey { id: old.key.id, overlap_ms: Some(600) }).await?;
    assert_eq!((&new.key.principal, &new.key.scopes), (&old.key.principal, &old.key.scopes));
    assert_ne!(new.secret, old.secret);
    for key in [&old.secret, &new.secret] {
        assert_eq!(knock(&hub, key, "/api/operations").await?.0, 200);
    }
    eventually("the old key ends", || async {
        Ok((knock(&hub, &old.secret, "/api/operations").await?.0 == 401).then_some(()))
    })
    .await?;
    assert_eq!(knock(&hub, &new.secret, "/api/operations").await?.0, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_runs_out_ends_its_open_connection_too() -> Result<()> {
    let hub = TestHub::start().await?;
    let admin = hub.client().await?;
    let short = CreateKey { expires_at: Some(now_ms() + 500), ..create(&[], json!(null)) };
    let key = admin.call(&short).await?.secret;
    let mut peer = RawPeer::connect(hub.address(), &key).await?;
    assert_eq!(peer.call("1", "hub.whoami", json!({})).await?["type"], "call.responded");
    eventually("HTTP is refused", || async {
        Ok((knock(&hub, &key, "/api/operations").await?.0 == 401).then_some(()))
    })
    .await?;
    assert_eq!(peer.closed().await?.code, 4001);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claimed_identity_counts_only_with_the_right_to_claim_it_and_never_gives_more() -> Result<()> {
    let hub = TestHub::start().await?;
    let spoke = guarded(&hub).await?;
    let claim = json!({"id": "alice", "scopes": ["demo:secret", "keys:admin", "*"], "chain": ["forged"]});
    for (scopes, claimed, may_see_secret) in [
        (&["hub:impersonate", "demo:secret"][..], true, true),
        (&["hub:impersonate"], true, false),
        (&["demo:secret"], false, true),
        (&[], false, false),
    ] {
        let mut peer = RawPeer::connect(hub.address(), &hub.new_key(scopes).await?).await?;
        let ask = |id: &str, operation: &str| json!({"requestId": id, "operationId": operation, "input": {}, "identity": claim});
        peer.event("call.requested", ask("1", "demo.who")).await?;
        let seen = peer.next_of("call.responded").await?["output"]["data"].take();
        let id = seen["id"].as_str().context("an id")?;
        assert_eq!(id == "alice", claimed, "{scopes:?} {seen}");
        assert_eq!(seen["chain"], json!([id]), "a chain can't be claimed");
        let held: Vec<&str> = seen["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        assert!(held.iter().all(|s| scopes.contains(s)), "{scopes:?} became {held:?}");
        peer.event("call.requested", ask("2", "demo.secret")).await?;
        let secret = peer.next().await?;
        assert_eq!(secret["type"] == "call.responded", may_see_secret, "{scopes:?} {secret}");
        let more = json!({"requestId": "3", "operationId": "keys.list", "input": {}, "identity": claim});
        peer.event("call.requested", more).await?;
        assert_eq!(peer.next_of("call.error").await?["code"], "OPERATION_NOT_FOUND");
    }
    spoke.stop().await?;
    Ok(())
}

/// Secrets by their schemas, for inputs, outputs and the items of a stream.
const CANARIES: [&str; 6] =
    ["canary-password", "canary-token", "canary-pin", "canary-out", "canary-item", "canary-metadata"];

async fn vault(url: &str, key: &str, leaked: &str) -> Result<RunningSpoke> {
    let input = json!({
        "type": "object",
        "properties": {
            "password": {"type": "string", "writeOnly": true},
            "token": {"$ref": "#token"},
            "logins": {"type": "array", "items": {"$ref": "#/$defs/login"}},
        },
        "patternProperties": {"^pin": {"x-secret": true}},
        "$defs": {
            "token": {"$anchor": "token", "x-secret": true},
            "login": {"properties": {"password": {"writeOnly": true}, "below": {"$ref": "#/$defs/login"}}},
        },
    });
    let output = json!({"properties": {"secret": {"x-secret": true}}});
    let (store, fail) = (leaked.to_owned(), leaked.to_owned());
    let spoke = Spoke::builder(url, key, "vault")
        .spoke_type("compute")
        .label("owner", leaked)
        .host_info(json!({"note": leaked}))
        .raw(spec("vault.store", "mutation", json!({"inputSchema": input, "outputSchema": output}))?, move |_, _| {
            let out = json!({"secret": "canary-out", "note": store.clone()});
            async move { Ok(Reply::Value(out.into())) }
        })
        .raw(spec("vault.fail", "mutation", json!({"inputSchema": input}))?, move |_, _| {
            let text = fail.clone();
            async move {
                let error = CallError::new(ErrorCode::ExecutionError, format!("it broke with {text}"));
                Err(error.with_details(&json!({"used": text})))
            }
        })
        .raw(spec("vault.items", "subscription", json!({"outputSchema": output}))?, {
            let leaked = leaked.to_owned();
            move |_, _| {
                let item = json!({"secret": "canary-item", "note": leaked.clone()});
                async move { Ok(Reply::Stream(stream::iter([Ok(item.into())]).boxed())) }
            }
        })
        .build()?;
    Ok(spoke.start().await?)
}

/// Everything that the hub tells of what has happened.
async fn told(client: &Client) -> Result<String> {
    let mut text = String::new();
    for (operation, input) in [
        ("calls.list", json!({"limit": 1000})),
        ("audit.list", json!({})),
        ("keys.list", json!({"includeEnded": true})),
        ("hub.spokes", json!({})),
    ] {
        text.push_str(client.call_raw(operation, input).await?.as_str());
    }
    let events = ListEvents { topics: vec!["**".into()], after: None, limit: Some(1_000) };
    text.push_str(&serde_json::to_string(&client.call(&events).await?)?);
    let mut records = client.subscribe(&ExportCalls::default()).await?;
    while let Some(record) = records.next().await {
        text.push_str(&serde_json::to_string(&record?)?);
    }
    let mut observed = client.observe_calls(ObserveCalls { after: Some(0), ..ObserveCalls::default() });
    // Until nothing more is there.
    while let Ok(Some(event)) = tokio::time::timeout(Duration::from_millis(300), observed.next()).await {
        text.push_str(&serde_json::to_string(&event?)?);
    }
    Ok(text)
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_and_no_key_stays_in_the_store_the_log_the_record_or_a_backup() -> Result<()> {
    let folder = TempDir::new()?;
    let port = free_port()?;
    let log = folder.path().join("hub.log");
    let data = folder.path().join("data");
    let mut command = HubProcess::command(&data, port, &["--log", "debug"])?;
    let append = || std::fs::OpenOptions::new().append(true).create(true).open(&log).map(Stdio::from);
    command.stdout(append()?).stderr(append()?);
    let mut hub = HubProcess::start_from(&mut command, &data, port).await?;
    let (url, admin_key) = (hub.url(), hub.admin_key()?);
    let address = ([127, 0, 0, 1], port).into();
    let admin = Client::connect(&url, &admin_key).await?;
    let made = admin.call(&create(&["events:read"], json!(null))).await?;
    let leaked = made.secret.clone();
    let rotated = admin.call(&RotateKey { id: made.key.id, overlap_ms: None }).await?.secret;
    let named = CreateKey { name: format!("for {leaked}"), ..create(&[], json!(null)) };
    let named = admin.call(&named).await?.secret;
    let spoke = vault(&url, &admin_key, &leaked).await?;

    let input = json!({
        "password": "canary-password", "token": {"a": ["canary-token"]}, "pin2": "canary-pin", "note": leaked,
        "logins": [{"password": "canary-password", "below": {"below": {"password": "canary-password"}}}],
    });
    let metadata = json!({"note": "canary-metadata", "key": leaked});
    for operation in ["vault.store", "vault.fail"] {
        for key in [None, Some("k1".to_owned()), Some(format!("key {leaked}"))] {
            let request = admin.request(operation).input(input.clone()).metadata(metadata.clone());
            let request = match key {
                Some(key) => request.idempotency_key(key),
                None => request,
            };
            let answer = request.call().await;
            ensure!(answer.is_ok() == (operation == "vault.store"), "{answer:?}");
        }
        // By way of the hub's own operation, and with a name that nobody knows.
        for name in [operation, &format!("{operation}@vault"), "vault.none"] {
            let outer = json!({"operationId": name, "input": input, "metadata": metadata});
            admin.call_raw("hub.call", outer.clone()).await.ok();
            admin.call_raw("hub.call", json!({"operationId": "hub.call", "input": outer})).await.ok();
        }
        http(address, "POST", &format!("/api/operations/{operation}"), &admin_key, &input).await?;
    }
    // What does not fit is recorded, too.
    let misfit = json!({"password": ["canary-password"], "note": leaked});
    assert!(admin.call_raw("vault.store", misfit).await.is_err());
    let mut items = admin.request("vault.items").input(json!({"note": leaked})).metadata(metadata).subscribe().await?;
    while let Some(item) = items.next().await {
        ensure!(item?.as_str().contains("canary-item"), "the caller gets what is secret in the record");
    }
    let mut raw = RawPeer::connect(address, &admin_key).await?;
    // Spelt with escapes, as a request id, in types and topics, in a message that does not fit.
    let escaped = format!(r#"{{"note":"\u0068{}"}}"#, &leaked[1..]);
    raw.text(format!(
        r#"{{"type":"call.requested","id":"{leaked}","payload":{{"operationId":"vault.store","input":{escaped}}}}}"#
    ))
    .await?;
    raw.next_of("call.responded").await?;
    raw.text(format!(r#"{{"type":"{leaked}","id":"","payload":{{}}}}"#)).await?;
    raw.event("__subscribe", json!({"topic": [leaked]})).await?;
    raw.call("x", &leaked, json!({})).await?;
    raw.call("p", "events.publish", json!({"topic": format!("t:{leaked}"), "type": leaked, "payload": {"k": leaked}}))
        .await?;
    raw.call("a", "calls.abort", json!({"callId": uuid::Uuid::nil(), "reason": leaked})).await?;
    // At the door.
    let wrong = format!("{}x", &leaked[..leaked.len() - 1]);
    http(address, "GET", "/api/operations", &wrong, &Value::Null).await?;
    http(address, "GET", &format!("/api/operations?key={leaked}"), &admin_key, &Value::Null).await?;
    http(address, "GET", &format!("/ws?token={leaked}"), "", &Value::Null).await?;
    admin.call(&RevokeKey { id: made.key.id }).await?;

    let told = told(&admin).await?;
    let store = TestStore::of_run()?;
    if store == TestStore::Sqlite {
        let mut backup = tokio::process::Command::new(server_binary()?);
        backup.arg("backup").arg("--data-dir").arg(&data).arg("--to").arg(folder.path().join("copy.db"));
        let backup = backup.output().await?;
        ensure!(backup.status.success(), "{backup:?}");
    }
    spoke.stop().await?;
    let mut places = vec![("what the hub tells".to_owned(), told.into_bytes())];
    let mut look = |when: &str| -> Result<()> {
        for file in ["data/hub.db", "data/hub.db-wal", "copy.db", "hub.log"] {
            let path = folder.path().join(file);
            if path.exists() {
                places.push((format!("{file} {when}"), std::fs::read(path)?));
            }
        }
        if store == TestStore::Postgres {
            places.push((format!("the database {when}"), pg_dump(&database_of(&data)?)?.into_bytes()));
        }
        Ok(())
    };
    look("while it runs")?;
    hub.signal("TERM").await?;
    hub.wait().await?;
    look("after its end")?;
    let (looked_at, times) = match store {
        TestStore::Sqlite => ("data/hub.db-wal", 1),
        TestStore::Postgres => ("the database", 2),
    };
    let found = places.iter().filter(|(place, _)| place.starts_with(looked_at)).count();
    ensure!(found >= times, "{looked_at} was looked at {found} times");
    let log = String::from_utf8_lossy(&std::fs::read(&log)?).into_owned();
    ensure!(log.contains("DEBUG"), "the log is there: {log}");

    let part = |key: &str| key.rsplit('_').next().unwrap_or_default().to_owned();
    let mut secrets: Vec<String> = [&leaked, &rotated, &named, &admin_key].map(|k| part(k)).into();
    // All but the last letter of the wrong key is the right one's.
    secrets.push(part(&leaked)[..40].to_owned());
    secrets.extend(CANARIES.map(str::to_owned));
    for (place, bytes) in &places {
        // That the place was looked at.
        let marker: &[u8] = if place.starts_with("hub.log") { b"hub is up" } else { b"vault.store" };
        ensure!(place.contains("wal") || contains(bytes, marker), "{place} has nothing of it");
        for secret in &secrets {
            ensure!(!contains(bytes, secret.as_bytes()), "{secret} is in {place}");
        }
    }
    Ok(())
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}
