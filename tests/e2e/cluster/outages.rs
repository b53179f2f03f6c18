//! What a hub says of servers that are away, and how it starts without them.

use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use hub_protocol::CallError;
use hub_testkit::{RawPeer, eventually};
use serde_json::{Value, json};
use tokio::process::Child;

use super::bed::{Bed, known};
use super::proxy::Wire;

/// A hub in the place of one of the bed, with its log in a file; nobody waits until it is up.
struct Logged {
    process: Child,
    file: PathBuf,
}

impl Logged {
    /// With other settings than the bed's.
    fn start(bed: &Bed, n: usize, settings: &[(&str, &str)]) -> Result<Self> {
        let file = bed.hubs[n].folder.join("log.txt");
        let mut command = bed.command(n, settings)?;
        let process = command.stderr(Stdio::from(std::fs::File::create(&file)?)).spawn()?;
        Ok(Self { process, file })
    }

    fn lines(&self) -> Result<Vec<String>> {
        Ok(std::fs::read_to_string(&self.file)?.lines().map(str::to_owned).collect())
    }

    async fn says(&self, text: &str) -> Result<()> {
        eventually(text, || async { Ok(self.lines()?.iter().any(|line| line.contains(text)).then_some(())) }).await
    }

    /// Within a time in which it does not wait for anything.
    async fn ends(&mut self) -> Result<ExitStatus> {
        Ok(tokio::time::timeout(Duration::from_secs(10), self.process.wait()).await.context("it goes on")??)
    }
}

/// What `readyz` says, once anybody answers there: its status, and its step `bus`.
async fn bus_of(bed: &Bed, n: usize) -> Option<(u16, Value)> {
    let (status, body) = bed.ready(n).await.ok()?;
    let bus = body["steps"].as_array()?.iter().find(|step| step["name"] == "bus")?.clone();
    Some((status, bus))
}

async fn is_ready(bed: &Bed, n: usize) -> Result<()> {
    eventually("the hub is ready", || async { Ok(bus_of(bed, n).await.filter(|(status, _)| *status == 200)) }).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_a_few_lines_in_the_log() -> Result<()> {
    let mut bed = Bed::start(2).await?;
    bed.stop_hub(0).await?;
    let hub = Logged::start(&bed, 0, &[("--log", "info")])?;
    is_ready(&bed, 0).await?;
    let echo = |_, input: Value| async move { Ok::<_, CallError>(input) };
    let _worker = bed.spoke(0, "worker").query("work.echo", "Answers its input.", echo).build()?.start().await?;
    let client = bed.client(0).await?;
    known(&client, "work.echo").await?;
    // When it goes, and what follows: the lease, or the other hub's silence and the links.
    for (server, most) in [("postgres", 2), ("redis", 3)] {
        let before = hub.lines()?.len();
        let cable = if server == "postgres" { &bed.hubs[0].to_postgres } else { &bed.hubs[0].to_redis };
        cable.set(Wire::Down);
        hub.says(&format!("fail: it is tried again server={server}")).await?;
        // Whoever calls meanwhile adds nothing to it.
        let until = Instant::now() + Duration::from_secs(4);
        while Instant::now() < until {
            let call = client.request("work.echo").input(json!({})).deadline(Duration::from_millis(200));
            let _either = call.call().await;
            let _either = client.call_raw("events.list", json!({ "topics": ["**"] })).await;
        }
        cable.set(Wire::Whole);
        hub.says(&format!("work again server={server}")).await?;
        let said = hub.lines()?.split_off(before);
        let warnings = said.iter().filter(|line| !line.contains(" INFO ")).count();
        ensure!(warnings <= most, "{warnings} lines of {server}: {said:#?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_starts_without_redis_gets_ready_once_it_is_there() -> Result<()> {
    let mut bed = Bed::start(2).await?;
    bed.stop_hub(0).await?;
    bed.hubs[0].to_redis.set(Wire::Down);
    let _hub = Logged::start(&bed, 0, &[])?;
    let (status, bus) = eventually("the hub answers", || async { Ok(bus_of(&bed, 0).await) }).await?;
    ensure!(status == 503 && bus["ok"] == false, "{status} {bus}");
    ensure!(bus["reason"].as_str().is_some_and(|reason| reason.contains("redis")), "{bus}");
    bed.hubs[0].to_redis.set(Wire::Whole);
    is_ready(&bed, 0).await?;
    let echo = |_, input: Value| async move { Ok::<_, CallError>(input) };
    let _worker = bed.spoke(1, "worker").query("work.echo", "Answers its input.", echo).build()?.start().await?;
    let client = bed.client(0).await?;
    known(&client, "work.echo").await?;
    ensure!(client.call_raw("work.echo", json!(1)).await?.as_str() == "1", "another answer");
    // What is there and no Redis is not waited for.
    bed.stop_hub(1).await?;
    let strange = format!("redis://nobody:wrong@127.0.0.1:{}/", bed.redis.port());
    let mut hub = Logged::start(&bed, 1, &[("--redis", &strange)])?;
    ensure!(hub.ends().await?.code() == Some(2), "it has started");
    hub.says("cannot use the Redis given by --redis: event server is unavailable: wrong username or password").await?;
    hub.says("; are user and password in its URL right?").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_starts_waits_for_its_database_but_not_for_a_better_name() -> Result<()> {
    let mut bed = Bed::start(1).await?;
    bed.stop_hub(0).await?;
    bed.hubs[0].to_postgres.set(Wire::Down);
    let waits = "waiting for the database";
    let mut hub = Logged::start(&bed, 0, &[])?;
    hub.says(waits).await?;
    // Who gives up waiting gets an end at once.
    let pid = hub.process.id().context("it runs")?.to_string();
    ensure!(tokio::process::Command::new("kill").arg(pid).status().await?.success(), "not killed");
    ensure!(hub.ends().await?.success(), "{:?}", hub.lines()?);

    let hub = Logged::start(&bed, 0, &[])?;
    hub.says(waits).await?;
    bed.hubs[0].to_postgres.set(Wire::Whole);
    is_ready(&bed, 0).await?;
    let place = format!("127.0.0.1:{}", bed.hubs[0].to_postgres.port());
    let told: Vec<String> = hub.lines()?.into_iter().filter(|line| line.contains(waits)).collect();
    ensure!(told.len() == 1 && told[0].contains(&place), "{told:?}");
    drop(hub);

    // The server is there and says no, which is not mended by waiting.
    for (user, database) in [("postgres", "nowhere"), ("nobody", "postgres")] {
        let url = format!("postgres://{user}@127.0.0.1:{}/{database}", bed.postgres.port());
        let mut hub = Logged::start(&bed, 0, &[("--database", &url)])?;
        ensure!(hub.ends().await?.code() == Some(2), "it has started on {url}");
        ensure!(hub.lines()?.iter().any(|line| line.contains("does not exist")), "{:?}", hub.lines()?);
        ensure!(!hub.lines()?.iter().any(|line| line.contains(waits)), "{:?}", hub.lines()?);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_hears_of_its_topics_again_once_the_store_is_back() -> Result<()> {
    let bed = Bed::start(2).await?;
    let mut peer = RawPeer::connect(([127, 0, 0, 1], bed.hubs[0].port).into(), &bed.key).await?;
    peer.event("__subscribe", json!({ "topic": "task:1" })).await?;
    let elsewhere = bed.client(1).await?;
    let publish = async |n: u64| {
        let payload = json!({ "topic": "task:1", "type": "made", "payload": n });
        elsewhere.call_raw("events.publish", payload).await.map(drop)
    };
    // Nothing is answered to it, so it is heard from the first event on that comes.
    let heard = tokio::time::timeout(Duration::from_secs(20), peer.next_of("task"));
    let told = async {
        while publish(0).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! { heard = heard => drop(heard??), () = told => bail!("nothing can be published") }
    bed.hubs[0].to_postgres.set(Wire::Down);
    eventually("the hub has no store", || async { Ok((bed.ready(0).await?.0 == 503).then_some(())) }).await?;
    // Longer than between two looks at the log.
    tokio::time::sleep(Duration::from_secs(3)).await;
    publish(1).await?;
    bed.hubs[0].to_postgres.set(Wire::Whole);
    let later = async {
        while peer.next_of("task").await?["payload"] != 1 {}
        anyhow::Ok(())
    };
    tokio::time::timeout(Duration::from_secs(20), later).await?
}
