use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde_json::json;

use super::App;
use super::operations::json as respond;
use crate::serve::STEPS;

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> Response {
    respond(&json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }).into())
}

/// `GET /readyz`: whether the hub should be given work, step by step.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let done = app.progress.steps();
    let mut steps: Vec<_> = STEPS.iter().enumerate().map(|(i, name)| json!({ "name": name, "ok": i < done })).collect();
    let stored = app.hub.check_store().await;
    if stored.is_err() {
        steps[1] = json!({ "name": STEPS[1], "ok": false, "reason": "the store does not answer" });
    }
    let draining = app.hub.is_draining();
    let ready = done == STEPS.len() && stored.is_ok() && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = json!({ "ready": ready, "draining": draining, "steps": steps });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// `GET /metrics`: Prometheus text. Names no operation, principal or spoke.
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    if let Ok(status) = app.hub.status().await {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
        let set = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
        set("hub_connections", status.connections);
        set("hub_spokes", status.spokes);
        set("hub_calls_in_flight", status.calls_in_flight);
        set("hub_recorder_backlog", status.recorder_backlog);
        set("hub_last_event", status.last_event);
    }
    // The exporter's own timer runs only with its own listener.
    app.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response()
}
