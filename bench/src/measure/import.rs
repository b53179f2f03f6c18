//! How fast a grown file is copied into Postgres.

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hub_protocol::HubId;
use hub_storage::{SqliteOptions, Store};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use super::Bench;
use super::recorder::fill;
use crate::machine::{cpu_seconds, family_seconds};
use crate::report::{Better, Figure, Section};
use crate::shared::{DATABASE, start_postgres, stop_postgres};

/// Longest that an import may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Between two looks at the command's processor time, which is gone when it ends.
const LOOK: Duration = Duration::from_millis(20);

pub(crate) async fn run(bench: &Bench<'_>) -> Result<Section> {
    let server = match start_postgres().await {
        Ok(server) => server,
        Err(error) => return Ok(section(Vec::new(), vec![format!("{error:#}")])),
    };
    let calls = bench.options.size(20_000, 200_000);
    let folder = TempDir::new()?;
    let path = folder.path().join("hub.db");
    let store = Store::open_sqlite(&path, SqliteOptions::default()).await?;
    fill(&store, calls, HubId::new()).await?;
    let rows: u64 = store.sizes().await?.iter().map(|(_, rows)| rows).sum();
    store.close().await;
    let pid = server.pid().context("Postgres has ended")?;
    let before = family_seconds(pid);
    let mut command = Command::new(&bench.hub);
    command.args(["import", "--json", "--from", &format!("sqlite:{}", path.display()), "--to", &server.url(DATABASE)]);
    let done = tokio::time::timeout(PATIENCE, watch(command)).await.context("the import takes too long")??;
    let in_postgres = family_seconds(pid) - before;
    stop_postgres(server).await?;
    Ok(section(figures(calls, rows, &done, in_postgres), Vec::new()))
}

/// What an import took, in seconds.
struct Done {
    copied: f64,
    all: f64,
    cpu: f64,
}

#[expect(clippy::cast_precision_loss, reason = "counts of a benchmark are far below 2^52")]
fn figures(calls: usize, rows: u64, done: &Done, in_postgres: f64) -> Vec<Figure> {
    let case = format!("{calls} calls with two events each");
    let rows = rows as f64;
    let figure = |system, unit, better, value| Figure::once(case.clone(), system, unit, better, value);
    vec![
        figure("copied", "rows/s", Better::More, rows / done.copied),
        figure("copied and compared", "rows/s", Better::More, rows / done.all),
        figure("all of it", "s", Better::Less, done.all),
        figure("time of the command", "µs a row", Better::Less, done.cpu * 1e6 / rows),
        figure("time of Postgres", "µs a row", Better::Less, in_postgres * 1e6 / rows),
    ]
}

/// Runs the command to its end. It says on standard error when it begins to compare.
async fn watch(mut command: Command) -> Result<Done> {
    let started = Instant::now();
    let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().context("cannot start the import")?;
    let pid = child.id().context("it has ended already")?;
    let mut lines = BufReader::new(child.stderr.take().context("no standard error")?).lines();
    let (mut copied, mut last, mut cpu) = (None, String::new(), 0.0f64);
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            line = lines.next_line() => match line? {
                None => break,
                Some(line) => {
                    if line.contains("comparing") && copied.is_none() {
                        copied = Some(started.elapsed().as_secs_f64());
                    }
                    last = line;
                }
            },
            _ = looks.tick() => cpu = cpu.max(cpu_seconds(pid)),
        }
    }
    let status = child.wait().await?;
    anyhow::ensure!(status.success(), "the import failed: {last}");
    let all = started.elapsed().as_secs_f64();
    Ok(Done { copied: copied.unwrap_or(all), all, cpu })
}

fn section(figures: Vec<Figure>, missing: Vec<String>) -> Section {
    Section {
        name: "import",
        title: "Import from SQLite into Postgres",
        how: "`hub-server import` of a file into an empty Postgres that waits for its disk. A call is one row with input \
              and output, and two rows of events. After copying, the command reads both databases again and compares \
              counts and hashes of all tables.",
        bound: BOUND,
        figures,
        missing,
    }
}

const BOUND: &str = "Processor time, one row after the other: the command reads and writes by turns, so that \
    together with Postgres it keeps less than one processor busy, about half of it in each of the two.";
