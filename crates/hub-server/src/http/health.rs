use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use hub_core::BusState;
use serde_json::json;

use super::App;
use super::operations::json as respond;
use crate::serve::STEPS;

/// `GET /healthz`: the process answers.
pub(crate) async fn alive() -> Response {
    respond(&json!({ "status": "ok", "version": env!("CARGO_PKG_VERSION") }).into())
}

/// Longest wait for the store.
const STORE_ANSWERS: std::time::Duration = std::time::Duration::from_secs(1);

/// `GET /readyz`: whether the hub should be given work, step by step.
pub(crate) async fn ready(State(app): State<App>) -> Response {
    let done = app.progress.steps();
    let mut steps: Vec<_> = STEPS.iter().enumerate().map(|(i, name)| json!({ "name": name, "ok": i < done })).collect();
    // An answer that comes late is none: whoever asks wants to know where to send work now.
    let stored = tokio::time::timeout(STORE_ANSWERS, app.hub.check_store()).await;
    let stored = stored.map_err(|_| ()).and_then(|checked| checked.map_err(|_| ()));
    if stored.is_err() {
        steps[1] = json!({ "name": STEPS[1], "ok": false, "reason": "the store does not answer" });
    }
    let draining = app.hub.is_draining();
    let bus = app.hub.bus();
    steps.extend(bus.map(bus_step));
    // Without the bus the hub serves what is connected to it, so it stays ready; the other hubs would be no better. One
    // that has just started has nothing connected to it yet.
    let reached = bus != Some(BusState::NotReached);
    let ready = done == STEPS.len() && stored.is_ok() && reached && !draining;
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    // Everything that needs no secret goes on.
    if let Some(reason) = app.hub.keyring_trouble() {
        steps.push(json!({ "name": "keyring", "ok": false, "reason": reason }));
    }
    let body = json!({ "ready": ready, "draining": draining, "steps": steps });
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn bus_step(bus: BusState) -> serde_json::Value {
    let reason = match bus {
        BusState::Up => return json!({ "name": "bus", "ok": true }),
        BusState::Away => "redis is away: of the other hubs' spokes none can be called",
        BusState::NotReached => "redis was not reached since this hub has started: is it running, and --redis right?",
    };
    json!({ "name": "bus", "ok": false, "reason": reason })
}

/// `GET /metrics`: Prometheus text. Names no operation, principal or spoke.
pub(crate) async fn metrics(State(app): State<App>) -> Response {
    #[expect(clippy::cast_precision_loss, reason = "gauges are floating point")]
    let set = |name: &'static str, value: u64| metrics::gauge!(name).set(value as f64);
    let load = app.hub.load();
    set("hub_connections", load.connections);
    set("hub_spokes", load.spokes);
    set("hub_calls_in_flight", load.calls);
    set("hub_recorder_backlog", load.backlog);
    // All others are known while the store is away, too.
    if let Ok(Ok(status)) = tokio::time::timeout(STORE_ANSWERS, app.hub.status()).await {
        set("hub_last_event", status.last_event);
    }
    // The exporter's own timer runs only with its own listener.
    app.metrics.run_upkeep();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response()
}
