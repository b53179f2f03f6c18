use tokio::signal;

/// Waits for the first request to stop; a second one ends the process at once.
pub(crate) async fn stop_requested() {
    next().await;
    tracing::info!("stopping; a second signal stops at once");
}

/// Ends the process when asked to stop once more.
pub(crate) async fn stop_at_once() {
    next().await;
    tracing::warn!("stopping at once");
    std::process::exit(130);
}

#[cfg(unix)]
async fn next() {
    use signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = signal::ctrl_c() => {}
            }
        }
        Err(_) => {
            signal::ctrl_c().await.ok();
        }
    }
}

#[cfg(not(unix))]
async fn next() {
    signal::ctrl_c().await.ok();
}
