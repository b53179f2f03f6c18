//! What is there for a hub on SQLite only. **All that a test run on Postgres leaves out is in this file**, by its name:
//! `cargo xtask test` takes the tests `sqlite::…` out of that pass, whose runner counts them as skipped.
//!
//! - Backups: `hub-server backup` copies a SQLite file. It refuses a Postgres, which has `pg_dump`; a test beside the
//!   other commands sees to that.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use hub_protocol::ops::calls::{CallStatus, ListCalls};
use hub_spoke::{Client, Spoke};
use hub_testkit::{HubProcess, TestHub, TestStore, eventually, free_port, run};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::process::{mode, refused, server};

/// Does something when it is dropped.
fn scopeguard(work: impl FnMut()) -> impl Drop {
    struct Guard<F: FnMut()>(F);
    impl<F: FnMut()> Drop for Guard<F> {
        fn drop(&mut self) {
            (self.0)();
        }
    }
    Guard(work)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_under_load_has_what_was_acknowledged_and_opens() -> Result<()> {
    ensure!(TestStore::of_run()? == TestStore::Sqlite, "leave this out on Postgres: -E 'not test(/^sqlite::/)'");
    let folder = TempDir::new()?;
    let hub = HubProcess::start(folder.path(), free_port()?, &[]).await?;
    let key = hub.admin_key()?;
    let spoke = Spoke::builder(&hub.url(), &key, "writer").spoke_type("compute");
    let spoke =
        spoke.mutation("work.note", "Notes a number.", |_, n: u64| async move { Ok::<_, hub_spoke::CallError>(n) });
    let _spoke = spoke.build()?.start().await?;
    let client = Client::connect(&hub.url(), &key).await?;
    let stop = AtomicBool::new(false);
    let acknowledged = std::sync::Mutex::new(Vec::new());
    let load = async {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let calls = (0..8).map(|i| client.call_raw("work.note", json!(number + i)));
            for (i, answer) in futures_util::future::join_all(calls).await.into_iter().enumerate() {
                answer?;
                acknowledged.lock().expect("no panic").push(number + i as u64);
            }
            number += 8;
        }
        anyhow::Ok(())
    };
    let data = folder.path().to_str().context("text")?;
    let to = folder.path().join("copy.db");
    let backup = async {
        // Whichever way this ends, the load ends too.
        let _end = scopeguard(|| stop.store(true, Ordering::Relaxed));
        eventually("the load runs", || async { Ok((acknowledged.lock().expect("no panic").len() > 50).then_some(())) })
            .await?;
        let before = acknowledged.lock().expect("no panic").clone();
        let to = to.to_str().context("text")?;
        let ran = run(&mut server(folder.path(), &["backup", "--to", to, "--data-dir", data, "--json"])?).await?;
        let during = acknowledged.lock().expect("no panic").len() - before.len();
        anyhow::Ok((before, ran, during))
    };
    let (load, backup) = tokio::join!(load, backup);
    load?;
    let (before, ran, during) = backup?;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let told: Value = serde_json::from_str(&ran.out)?;
    assert_eq!(told["bytes"].as_u64(), Some(std::fs::metadata(&to)?.len()), "{told}");
    assert!(during > 0, "the hub stood still during the backup");
    assert_eq!(mode(&to)?, 0o600);

    // A second backup to the same file would destroy the first.
    let bytes = std::fs::read(&to)?;
    let again = run(&mut server(folder.path(), &["backup", "--to", "copy.db", "--data-dir", data])?).await?;
    refused(&again, &["copy.db", "exists"]);
    assert!(std::fs::read(&to)? == bytes, "the first backup was changed");

    let restored = TempDir::new()?;
    std::fs::copy(&to, restored.path().join("hub.db"))?;
    std::fs::copy(folder.path().join("admin.key"), restored.path().join("admin.key"))?;
    let copy = TestHub::start_in(restored, &[]).await?;
    let client = copy.client().await?;
    let mut found = Vec::new();
    let mut page = ListCalls { operation_id: Some("work.note".into()), limit: Some(1_000), ..ListCalls::default() };
    page.status = Some(CallStatus::Completed);
    loop {
        let got = client.call(&page).await?;
        found.extend(got.calls.iter().filter_map(|call| call.output.as_ref()?.parse::<u64>().ok()));
        let Some(next) = got.next_before else { break };
        page.before = Some(next);
    }
    let missing: Vec<_> = before.iter().filter(|n| !found.contains(n)).collect();
    assert!(missing.is_empty(), "acknowledged before the backup and not in it: {missing:?} of {}", before.len());
    copy.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_of_nothing_is_refused_and_makes_nothing() -> Result<()> {
    let home = TempDir::new()?;
    let ran = run(&mut server(home.path(), &["backup", "--to", "copy.db", "--data-dir", "data"])?).await?;
    refused(&ran, &["data/hub.db", "--data-dir"]);
    assert_eq!(std::fs::read_dir(home.path())?.count(), 0);
    Ok(())
}
