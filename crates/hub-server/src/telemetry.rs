use std::io::IsTerminal;

use anyhow::{Context, Result};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;

use crate::config::Config;

/// Sends logs to standard error, in the configured form.
///
/// # Errors
/// When the filter is malformed or logging was set up before.
pub fn init_logs(config: &Config) -> Result<()> {
    // The MCP SDK logs whole messages, and every client that goes away as an error: only who asks for it gets that.
    let quiet = if config.log.contains("rmcp") { "" } else { ",rmcp=off" };
    let filter = EnvFilter::try_new(format!("{}{quiet}", config.log))
        .with_context(|| format!("log filter {:?} is malformed", config.log))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let set = if config.log_json { builder.json().try_init() } else { builder.with_target(false).try_init() };
    set.map_err(|error| anyhow::anyhow!("logging is set up already: {error}"))
}

/// Where metrics of this process are gathered. One recorder serves all hubs of a process (as in tests).
pub(crate) fn metrics() -> Result<PrometheusHandle> {
    static HANDLE: std::sync::OnceLock<Option<PrometheusHandle>> = std::sync::OnceLock::new();
    let handle = HANDLE.get_or_init(|| {
        let handle = PrometheusBuilder::new().install_recorder().ok();
        describe();
        handle
    });
    handle.clone().context("another metrics recorder is installed in this process")
}

/// The table of metric names.
fn describe() {
    use metrics::{describe_counter, describe_gauge};
    describe_counter!("hub_calls_total", "Calls that ended, by status");
    describe_counter!("hub_calls_refused_total", "Calls refused before they began");
    describe_counter!("hub_aborted_calls_total", "Calls reached by an abort");
    describe_counter!("hub_output_violations_total", "Outputs that did not fit their schema");
    describe_counter!("hub_recorder_events_total", "Events written with call records");
    describe_counter!("hub_recorder_failures_total", "Batches of call records that had to be written again");
    describe_counter!("hub_task_panics_total", "Tasks that panicked, by name");
    describe_counter!("hub_connections_refused_total", "Connections refused, by reason");
    describe_counter!("hub_protocol_faults_total", "Unreadable messages of peers");
    describe_counter!("hub_slow_consumers_total", "Connections closed because their peer did not read");
    describe_counter!("hub_http_requests_total", "HTTP requests, by status class");
    describe_gauge!("hub_connections", "Open WebSocket connections");
    describe_gauge!("hub_spokes", "Spokes that are connected to this hub");
    describe_gauge!("hub_calls_in_flight", "Calls running now");
    describe_gauge!("hub_recorder_backlog", "Record changes that wait to be written");
    describe_gauge!("hub_last_event", "Position of the newest event");
}
