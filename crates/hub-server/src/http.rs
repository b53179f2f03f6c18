//! The HTTP face (protocol §8): routes, and what every request passes before it reaches one.

pub(crate) mod auth;
pub(crate) mod body;
mod calls;
mod health;
mod openapi;
mod operations;
mod problem;
mod sse;
mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use hub_core::Hub;
use metrics_exporter_prometheus::PrometheusHandle;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::mcp;
use crate::serve::Progress;

pub use openapi::document as openapi_document;
pub(crate) use problem::Problem;

/// The address at the other end of the TCP connection.
#[derive(Clone, Copy)]
pub(crate) struct PeerAddress(pub(crate) SocketAddr);

/// What handlers are given.
#[derive(Clone)]
pub(crate) struct App {
    hub: Hub,
    config: Arc<Config>,
    metrics: PrometheusHandle,
    progress: Arc<Progress>,
    /// Connections that have left HTTP.
    upgraded: TaskTracker,
    mcp: mcp::Face,
}

impl App {
    pub(crate) fn new(
        hub: Hub,
        config: Config,
        metrics: PrometheusHandle,
        progress: Arc<Progress>,
        upgraded: TaskTracker,
        mcp: mcp::Face,
    ) -> Self {
        Self { hub, config: Arc::new(config), metrics, progress, upgraded, mcp }
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn mcp(&self) -> &mcp::Face {
        &self.mcp
    }

    /// All routes, below the base path.
    pub(crate) fn router(&self) -> Router {
        let routes = Router::new()
            .route("/ws", get(upgrade::upgrade))
            .route("/api/operations", get(operations::list))
            .route("/api/operations/{id}", get(operations::show).post(operations::call))
            .route("/api/call", post(operations::call_by_body))
            .route("/api/batch", post(operations::batch))
            .route("/api/events", get(calls::events))
            .route("/api/calls", get(calls::list))
            .route("/api/calls/{id}", get(calls::show).delete(calls::abort))
            .route("/api/calls/{id}/tree", get(calls::tree))
            .route("/api/calls/{id}/events", get(calls::observe))
            .route("/openapi.json", get(openapi::serve))
            // Every method: the endpoint itself says which ones it has.
            .route("/mcp", any(mcp::serve))
            .route(mcp::METADATA, get(mcp::metadata))
            .route(&format!("{}/mcp", mcp::METADATA), get(mcp::metadata))
            .route("/healthz", get(health::alive))
            .route("/readyz", get(health::ready))
            .route("/metrics", get(health::metrics))
            .fallback(not_found)
            .method_not_allowed_fallback(wrong_method)
            .layer(middleware::from_fn_with_state(self.clone(), guard))
            .with_state(self.clone());
        if self.config.base_path.is_empty() {
            return routes;
        }
        Router::new().nest(&self.config.base_path, routes).fallback(not_found)
    }
}

/// Before every route: no key in the query string, and a count afterwards.
async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let client = auth::client_address(&app.config, &request).map(tracing::field::display);
    let path = request.uri().path().to_owned();
    tracing::debug!(http.method = %request.method(), http.path = path, client.address = client, "request");
    let response = if auth::has_key_in_query(request.uri().query().unwrap_or_default()) {
        Problem::bad_request(
            "a key in the query string is refused: it would end up in logs; send `Authorization: Bearer <key>`",
        )
        .into_response()
    } else {
        next.run(request).await
    };
    if response.status() == http::StatusCode::UNAUTHORIZED {
        tracing::info!(http.path = path, client.address = client, "a request without a valid key was refused");
    }
    let class = match response.status().as_u16() {
        100..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    };
    metrics::counter!("hub_http_requests_total", "status" => class).increment(1);
    response
}

async fn not_found() -> Problem {
    Problem::new(http::StatusCode::NOT_FOUND, "NOT_FOUND", "no such path; see /openapi.json")
}

async fn wrong_method() -> Problem {
    Problem::new(
        http::StatusCode::METHOD_NOT_ALLOWED,
        "METHOD_NOT_ALLOWED",
        "this path has other methods; see /openapi.json",
    )
}
