//! What the service manager is told (systemd's `sd_notify`); nothing where there is none.

use std::time::Duration;

use hub_core::Hub;
use hub_storage::StoreError;
use serde_json::json;
use tokio::task::JoinSet;

/// The service manager that started this process, if any.
pub(crate) struct Supervisor {
    /// After so long without a sign of life it ends the process.
    patience: Option<Duration>,
    /// Whether the hub keeps a lease in a database that it shares.
    leased: bool,
}

impl Supervisor {
    pub(crate) fn new(leased: bool) -> Self {
        Self { patience: system::patience(), leased }
    }

    /// Tells that something goes on that may take a while.
    pub(crate) fn status(&self, text: &str) {
        system::tell(&[system::State::Status(text)]);
    }

    /// Tells that the hub is up.
    pub(crate) fn ready(&self, url: &str) {
        system::tell(&[system::State::Ready, system::State::Status(&format!("listening on {url}"))]);
    }

    /// Tells that the hub goes down; no sign of life is expected from now on.
    pub(crate) fn stopping(&self, grace: Duration) {
        let text = format!("stopping; running mutations may take {} s", grace.as_secs());
        system::tell(&[system::State::Stopping, system::State::Status(&text)]);
    }

    /// Gives signs of life while the hub lives; never ends.
    pub(crate) async fn watch(&self, hub: &Hub) {
        let Some(patience) = self.patience else { return std::future::pending().await };
        let every = patience / 2;
        loop {
            let alive = tokio::time::timeout(every / 2, self.check(hub)).await;
            let pause = match alive.unwrap_or(Err("the hub does not answer itself in time")) {
                Ok(()) => {
                    system::tell(&[system::State::Watchdog]);
                    every
                }
                Err(reason) => {
                    tracing::error!(reason, "no sign of life for the service manager");
                    every / 4
                }
            };
            tokio::time::sleep(pause).await;
        }
    }

    /// Whether a new process would do better. One that waits for a database elsewhere would not.
    async fn check(&self, hub: &Hub) -> Result<(), &'static str> {
        // This future is on the main thread; the hub's tasks are on the workers.
        let mut worker = JoinSet::new();
        worker.spawn(async {});
        worker.join_next().await;
        if self.leased { check_lease(hub).await } else { check_threads(hub).await }
    }
}

/// A lease that is missing although the database answers: the task that keeps it is stuck.
async fn check_lease(hub: &Hub) -> Result<(), &'static str> {
    let asked = tokio::time::timeout(Duration::from_secs(1), hub.store().hubs().list()).await;
    match asked {
        Ok(Ok(hubs)) if hubs.iter().all(|row| row.id != hub.id()) => Err("the hub's lease is not renewed"),
        Ok(Err(StoreError::Closed)) => Err("the store is closed"),
        _ => Ok(()),
    }
}

/// The readers and the writer of the file answer, be it with an error such as a full disk.
async fn check_threads(hub: &Hub) -> Result<(), &'static str> {
    let read = hub.store().ping().await;
    // The value is there after the first time, so this costs the writer's attention but no write.
    let written = hub.store().settings().ensure("watchdog", json!(1).into()).await;
    match (read, written) {
        (Err(StoreError::Closed), _) | (_, Err(StoreError::Closed)) => Err("a thread of the store is gone"),
        _ => Ok(()),
    }
}

#[cfg(target_os = "linux")]
mod system {
    use std::time::Duration;

    pub(super) use sd_notify::NotifyState as State;

    pub(super) fn patience() -> Option<Duration> {
        sd_notify::watchdog_enabled()
    }

    pub(super) fn tell(states: &[State<'_>]) {
        if let Err(error) = sd_notify::notify(states) {
            tracing::warn!(%error, "the service manager could not be told");
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    use std::time::Duration;

    #[expect(dead_code, reason = "there is nobody to tell")]
    pub(super) enum State<'a> {
        Ready,
        Stopping,
        Watchdog,
        Status(&'a str),
    }

    pub(super) fn patience() -> Option<Duration> {
        None
    }

    pub(super) fn tell(_: &[State<'_>]) {}
}
