//! `hub clients` and `hub secrets`.

use anyhow::{Context, Result};
use hub_testkit::{Ran, command, eventually, run, run_with};
use serde_json::{Value, json};

use super::Desk;
use crate::secrets::{CANARY, document, upstream};
use crate::tools;

impl Desk {
    /// A client `forge` without its secret.
    async fn forge(&self) -> Result<()> {
        let (address, _) = upstream().await?;
        let config = json!({ "document": document(), "baseUrl": format!("http://{address}"), "allowPrivate": true,
            "auth": { "kind": "bearer" } });
        std::fs::write(self.home.path().join("forge.json"), config.to_string())?;
        let made = self.ok(&["clients", "create", "forge", "--type", "openapi", "@forge.json"]).await?;
        assert!(made.contains("client forge is made") && made.contains("hub clients show forge"), "{made}");
        Ok(())
    }

    async fn state(&self, wanted: &str) -> Result<Value> {
        eventually(&format!("forge is {wanted}"), || async {
            let item = self.json(&["clients", "show", "forge"]).await?;
            Ok((item["state"] == wanted).then_some(item))
        })
        .await
    }

    async fn piped(&self, words: &[&str], value: &str) -> Result<Ran> {
        run_with(&mut self.hub(words)?, value).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_added_given_its_secret_used_and_removed() -> Result<()> {
    let desk = Desk::set_up().await?;
    desk.forge().await?;
    let waiting = desk.state("degraded").await?;
    let listed = desk.ok(&["clients", "list"]).await?;
    let reason = waiting["reason"].as_str().context("a reason")?;
    assert!(listed.contains("openapi  degraded") && listed.contains(reason), "{listed}");

    // As `echo` writes it.
    let set = desk.piped(&["secrets", "set", "forge", "token"], &format!("{CANARY}\n")).await?;
    assert_eq!(set.code, Some(0), "{set:?}");
    assert!(set.out.contains("secret token of client forge is set"), "{set:?}");
    desk.state("ready").await?;
    assert_eq!(desk.json(&["call", "forge.ok"]).await?, json!({ "ok": true }));
    let shown = desk.ok(&["clients", "show", "forge"]).await?;
    let secrets = desk.ok(&["secrets", "list"]).await?;
    assert!(shown.contains("imported:forge") && shown.contains("token"), "{shown}");
    assert!(secrets.contains("forge") && secrets.contains("token"), "{secrets}");
    let told = desk.json(&["secrets", "list", "forge"]).await?;
    assert_eq!((&told["secrets"][0]["client"], &told["secrets"][0]["name"]), (&json!("forge"), &json!("token")));
    let everything = format!("{set:?}{shown}{secrets}{told}");
    assert!(!everything.contains(CANARY), "a secret is shown: {everything}");
    assert!(desk.ok(&["clients", "test", "forge"]).await?.contains("can be used: operations: 3"));

    std::fs::write(desk.home.path().join("new"), "another")?;
    desk.ok(&["secrets", "rotate", "forge", "token", "--file", "new"]).await?;
    eventually("the new one is in use", || async {
        Ok((desk.json(&["call", "forge.ok"]).await? == json!({ "ok": false })).then_some(()))
    })
    .await?;

    desk.ok(&["clients", "disable", "forge"]).await?;
    assert!(desk.ok(&["clients", "list", "--disabled"]).await?.contains("forge"));
    assert_eq!(desk.json(&["clients", "list", "--enabled"]).await?, json!({ "clients": [] }));
    desk.ok(&["clients", "enable", "forge"]).await?;
    desk.ok(&["clients", "update", "forge", "--scope", "forge:use"]).await?;
    desk.ok(&["clients", "refresh", "forge"]).await?;
    assert_eq!(desk.state("ready").await?["scopes"], json!(["forge:use"]));
    desk.ok(&["secrets", "delete", "forge", "token"]).await?;
    desk.ok(&["clients", "delete", "forge"]).await?;
    assert_eq!(desk.json(&["clients", "list"]).await?, json!({ "clients": [] }));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_done_with_a_service_says_what_can() -> Result<()> {
    let desk = Desk::set_up().await?;
    desk.ok(&["clients", "create", "far", "--type", "openapi", "url=http://127.0.0.1:1/x", "allowPrivate:=true"])
        .await?;
    let tried = desk.run(&["clients", "test", "far"]).await?;
    assert!(tried.code == Some(1) && tried.out.contains("client far can't be used"), "{tried:?}");
    let tried = desk.run(&["clients", "test", "far", "--json"]).await?;
    assert_eq!((tried.code, &serde_json::from_str::<Value>(&tried.out)?["ok"]), (Some(1), &json!(false)), "{tried:?}");
    for (words, code, says) in [
        (&["clients", "create", "x", "--type", "nope"][..], 2, "llm-provider"),
        (&["clients", "create", "x", "--type", "openapi", "{"], 2, "not JSON"),
        (&["clients", "create", "x", "--type", "openapi"], 1, "\"url\" or \"document\""),
        (&["clients", "create", "x", "--type", "llm-provider", "baseUrl=https://h", "api=x"], 1, "\"anthropic\""),
        (&["clients", "update", "far"], 2, "CONFIG"),
        (&["clients", "show", "none"], 5, "hub clients list"),
        (&["clients", "delete", "none"], 5, "hub clients list"),
        (&["secrets", "rotate", "far", "none", "--file", "value"], 5, "hub secrets list"),
        (&["secrets", "set", "far", "token", "--file", "none"], 2, "--file none"),
        (&["secrets", "set", "far", "token"], 2, "--file FILE"),
        (&["secrets", "set", "far", "token", "by-argument"], 2, "unexpected argument"),
    ] {
        std::fs::write(desk.home.path().join("value"), "canary")?;
        let ran = desk.run(words).await?;
        assert_eq!(ran.code, Some(code), "{words:?}: {ran:?}");
        assert!(ran.err.contains(says) && !ran.err.contains("canary"), "{words:?}: {ran:?}");
        let ran = desk.run(&[words, &["--json"]].concat()).await?;
        let told: Value = serde_json::from_str(&ran.err).with_context(|| format!("{words:?}: {ran:?}"))?;
        assert_eq!(told["error"]["exitCode"], json!(code), "{words:?}");
    }
    // A key without the rights does not see that there are any.
    let key = desk.server.new_key(&["clients:read"]).await?;
    assert_eq!(run(desk.hub(&["clients", "list"])?.env("HUB_KEY", &key)).await?.code, Some(0));
    let denied = run(desk.hub(&["clients", "delete", "far"])?.env("HUB_KEY", &key)).await?;
    assert_eq!(denied.code, Some(5), "{denied:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_says_yes_only_to_what_answers() -> Result<()> {
    let desk = Desk::set_up().await?;
    let (address, _) = upstream().await?;
    // Nobody listens there any more.
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let api = |address| json!({ "document": document(), "baseUrl": format!("http://{address}"), "allowPrivate": true });
    let models = |path| json!({ "baseUrl": format!("http://{address}{path}"), "api": "openai", "allowPrivate": true });
    for (name, kind, config, says) in [
        ("there", "openapi", api(address), ""),
        ("away", "openapi", api(nobody), "which does not answer: "),
        ("well", "llm-provider", models("/ok"), ""),
        ("ill", "llm-provider", models("/fail"), "it answers, and fails (500)"),
    ] {
        std::fs::write(desk.home.path().join("config.json"), config.to_string())?;
        desk.ok(&["clients", "create", name, "--type", kind, "@config.json"]).await?;
        let tried = desk.run(&["clients", "test", name]).await?;
        assert_eq!(tried.code, Some(i32::from(!says.is_empty())), "{tried:?}");
        assert!(tried.out.contains(says), "{tried:?}");
    }
    Ok(())
}

/// A terminal, somebody who types the first argument when asked for the value, what was to be seen, and whether the
/// terminal shows again what is typed.
const AT_A_TERMINAL: &str = r#"
import fcntl, os, sys, termios
terminal, same = os.openpty()
pid = os.fork()
if pid == 0:
    os.setsid()
    fcntl.ioctl(same, termios.TIOCSCTTY, 0)
    for stream in range(3):
        os.dup2(same, stream)
    os.execv(sys.argv[2], sys.argv[2:])
def read():
    try:
        return os.read(terminal, 4096)
    except OSError:
        return b""
seen = b""
while b"not shown" not in seen and (more := read()):
    seen += more
os.write(terminal, sys.argv[1].encode())
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
shows = termios.tcgetattr(same)[3] & termios.ECHO
os.close(same)
while more := read():
    seen += more
sys.stdout.write(seen.decode() + ("shows again" if shows else "shows nothing"))
sys.exit(code)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_a_secret_is_asked_for_and_not_shown() -> Result<()> {
    let desk = Desk::set_up().await?;
    desk.forge().await?;
    let Some(python) = tools::python().await? else { return Ok(()) };
    let program = hub_testkit::binary("hub")?.display().to_string();
    let typed = async |text: &str| {
        let mut typing = command(python.program(), desk.home.path());
        typing.args(["-c", AT_A_TERMINAL, text, &program, "secrets", "set", "forge", "token"]);
        run(typing.env("HUB_URL", desk.server.url()).env("HUB_KEY", desk.server.admin_key())).await
    };
    let ended = typed("\u{3}").await?;
    assert!(ended.code == Some(130) && ended.out.ends_with("shows again"), "{ended:?}");
    let ran = typed("cAnArY-typed\n").await?;
    assert!(ran.code == Some(0) && ran.out.ends_with("shows again"), "{ran:?}");
    assert!(ran.out.contains("token of forge") && ran.out.contains("is set"), "{ran:?}");
    assert!(!ran.out.contains("cAnArY"), "what is typed is shown: {ran:?}");
    Ok(())
}
