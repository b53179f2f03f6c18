use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use hub_protocol::SUBPROTOCOL;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use super::{App, Problem, auth};
use crate::ws;

/// `GET /ws`: authentication and origin are checked before the connection becomes a WebSocket (protocol §1).
pub(crate) async fn upgrade(State(app): State<App>, mut request: Request) -> Result<Response, Problem> {
    if !auth::origin_allowed(&app.config, &request) {
        return Err(auth::wrong_origin());
    }
    let offered = subprotocols(request.headers());
    let key = auth::bearer(request.headers())
        .map(str::to_owned)
        .or_else(|| offered.iter().find_map(|p| p.strip_prefix("bearer.")).map(str::to_owned));
    let principal = match key {
        Some(key) => app.hub.authenticate(&key).await?.ok_or_else(Problem::unauthorized)?,
        None => return Err(Problem::unauthorized()),
    };
    let accept = accept_key(request.headers())?;
    if !offered.is_empty() && !offered.iter().any(|p| p == SUBPROTOCOL) {
        return Err(Problem::bad_request(format!("this hub speaks the subprotocol {SUBPROTOCOL}")));
    }
    if app.hub.is_draining() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "OVERLOADED", "the hub is draining"));
    }
    let upgraded = hyper::upgrade::on(&mut request);
    // Keeps the connection's place among the open ones until the WebSocket ends.
    let place = request.extensions().get::<std::sync::Arc<tokio::sync::OwnedSemaphorePermit>>().cloned();
    let (hub, bounds) = (app.hub.clone(), app.config.bounds.clone());
    app.upgraded.spawn(async move {
        match upgraded.await {
            Ok(upgraded) => ws::serve(TokioIo::new(upgraded), &hub, principal, bounds).await,
            Err(error) => tracing::debug!(%error, "an upgrade failed"),
        }
        drop(place);
    });
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    if !offered.is_empty() {
        // Never the bearer entry: the answer may be logged.
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

fn subprotocols(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|p| p.trim().to_owned()).filter(|p| !p.is_empty()).collect()
}

fn accept_key(headers: &HeaderMap) -> Result<HeaderValue, Problem> {
    let has = |name: header::HeaderName, word: &str| {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).any(|v| v.to_ascii_lowercase().contains(word))
    };
    let version = headers.get(header::SEC_WEBSOCKET_VERSION).is_some_and(|v| v == "13");
    let key = headers.get(header::SEC_WEBSOCKET_KEY);
    match key {
        Some(key) if has(header::UPGRADE, "websocket") && has(header::CONNECTION, "upgrade") && version => {
            HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(|_| Problem::bad_request("bad key"))
        }
        _ => Err(Problem::new(
            StatusCode::UPGRADE_REQUIRED,
            "UPGRADE_REQUIRED",
            "this path speaks WebSocket, version 13",
        )),
    }
}
