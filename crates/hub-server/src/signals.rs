use anyhow::{Context, Result};
use tokio::signal;

/// The requests to stop that this process gets. From its making on none is lost, wherever the process is.
pub(crate) struct StopRequests {
    #[cfg(unix)]
    terminate: signal::unix::Signal,
    #[cfg(unix)]
    interrupt: signal::unix::Signal,
}

impl StopRequests {
    /// Takes signals over from the system, which would end the process by them.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub(crate) fn listen() -> Result<Self> {
        #[cfg(unix)]
        {
            use signal::unix::{SignalKind, signal};
            let listen = |kind| signal(kind).context("cannot listen for signals");
            Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
        }
        #[cfg(not(unix))]
        Ok(Self {})
    }

    /// Waits for the first request.
    pub(crate) async fn first(&mut self) {
        self.next().await;
        tracing::info!("stopping; a second signal stops at once");
    }

    /// Waits for another request and then ends the process.
    pub(crate) async fn stop_at_once(&mut self) {
        self.next().await;
        tracing::warn!("stopping at once");
        std::process::exit(130);
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        signal::ctrl_c().await.ok();
    }
}
