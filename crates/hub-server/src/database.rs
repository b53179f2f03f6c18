//! A database whose server starts at the same time as its hubs.

use std::time::Duration;

use anyhow::{Context as _, Result};
use hub_storage::{Store, StoreError};
use tokio::time::{Instant, sleep};

/// How long a hub that starts waits for its database.
const PATIENCE: Duration = Duration::from_secs(30);

/// Pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);

/// What is said when the database of `--database` can't be opened.
pub(crate) const WRONG: &str = "cannot open the database given by --database";

/// Waits for a server that refuses connections, does not answer or says that it is starting.
///
/// # Errors
/// When it is not there in time, and at once for what waiting does not mend, such as a wrong password.
pub(crate) async fn wait(url: &str) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut told = false;
    loop {
        match Store::pending_postgres(url).await {
            Ok(_) => return Ok(()),
            Err(error) if error.may_pass() && Instant::now() < until => tell_once(&mut told, &error),
            Err(error) => return Err(error).context(WRONG),
        }
        sleep(PAUSE).await;
    }
}

fn tell_once(told: &mut bool, error: &StoreError) {
    if std::mem::replace(told, true) {
        return;
    }
    let seconds = PATIENCE.as_secs();
    let why = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    tracing::warn!(reason = why, "waiting for the database for up to {seconds} s");
}
