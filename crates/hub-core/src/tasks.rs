//! Every task of the hub is owned here, has a name, and is waited for at shutdown.

use std::future::Future;
use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The hub's tasks in two groups: those that serve, and those that must outlive them to write what they leave.
#[derive(Clone, Default)]
pub(crate) struct Tasks {
    /// Serving calls and connections.
    pub(crate) serving: TaskTracker,
    last: TaskTracker,
    /// Cancelled when serving must end.
    pub(crate) stop: CancellationToken,
}

impl Tasks {
    /// Runs a task until it ends or the hub stops serving.
    pub(crate) fn spawn(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.serving.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reported(name, work) => {}
            }
        });
    }

    /// Runs a task that is not cut off: it ends by itself once its inputs are gone.
    pub(crate) fn spawn_last(&self, name: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        self.last.spawn(reported(name, work));
    }

    /// Waits for the tasks that serve.
    pub(crate) async fn served(&self) {
        self.serving.close();
        self.serving.wait().await;
    }

    /// Waits for the tasks that write.
    pub(crate) async fn written(&self) {
        self.last.close();
        self.last.wait().await;
    }
}

async fn reported(name: &'static str, work: impl Future<Output = ()>) {
    if AssertUnwindSafe(work).catch_unwind().await.is_err() {
        metrics::counter!("hub_task_panics_total", "task" => name).increment(1);
        tracing::error!(task = name, "a task panicked");
    }
}
