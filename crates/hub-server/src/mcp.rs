//! The MCP face: the hub's own [`Host`] for each caller, and the HTTP around the endpoint.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use futures_util::future::BoxFuture;
use futures_util::{FutureExt, StreamExt, stream};
use http::{HeaderValue, header};
use http_body_util::{BodyExt, Full};
use hub_adapters::mcp::{Host, HostAnswer, HostCall, HostTool, HttpFace, HttpFaceSettings, Owner};
use hub_core::{Called, Hub, Leash, Principal, Tool};
use hub_operations::{Answer, Items, now_ms};
use hub_protocol::{CallRequested, OperationType};
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::detached;
use crate::http::{App, Problem, auth, body};

/// Where the endpoint's metadata is, below the base path; with `/mcp` at the end it means the same (RFC 9728 §3.1).
pub(crate) const METADATA: &str = "/.well-known/oauth-protected-resource";

/// How long the streams of a key are open after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The MCP endpoint of one server.
pub(crate) type Face = HttpFace<HubHost>;

/// The endpoint; `stop` ends its sessions and streams, `running` has what outlives its requests.
pub(crate) fn face(config: &Config, stop: CancellationToken, running: TaskTracker) -> Face {
    HttpFace::new(HttpFaceSettings { max_body_bytes: config.bounds.message, stop, running })
}

/// The hub for one caller.
#[derive(Clone)]
pub(crate) struct HubHost {
    hub: Hub,
    principal: Principal,
}

impl Host for HubHost {
    fn call(&self, call: HostCall) -> BoxFuture<'static, HostAnswer> {
        let (hub, principal) = (self.hub.clone(), self.principal.clone());
        async move {
            let called = run(&hub, &principal, call).await;
            HostAnswer { call_id: called.call_id.map(|id| id.to_string()), result: called.result }
        }
        .boxed()
    }

    fn tools(&self) -> BoxFuture<'static, Vec<HostTool>> {
        let of = |tool: Tool| HostTool { name: tool.name, spec: tool.definition.spec().clone() };
        std::future::ready(self.hub.tools(&self.principal).into_iter().map(of).collect()).boxed()
    }

    fn tools_changed(&self) -> Option<watch::Receiver<u64>> {
        Some(self.hub.offers_changed())
    }
}

async fn run(hub: &Hub, principal: &Principal, call: HostCall) -> Called {
    // A task's call has one id for both, which is what tells its record from others.
    let id = call.call_id.unwrap_or_default();
    let request_id = call.call_id.unwrap_or_default();
    let mut request = CallRequested::new(request_id.to_string(), call.operation_id, call.input);
    let ms = |timeout: std::time::Duration| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
    let bounded = hub.kind_of(principal, &request.operation_id) != Some(OperationType::Subscription);
    request.deadline = call.timeout.filter(|_| bounded).map(|timeout| now_ms().saturating_add(ms(timeout)));
    request.idempotency_key = call.idempotency_key;
    request.traceparent = call.traceparent;
    let leash = Leash { abort: call.abort, ..Leash::default() };
    let called = detached::call(hub, principal, id, request, leash).await;
    let result = called.result.map(|answer| match answer {
        Answer::Many(items) => Answer::Many(while_key_lives(items, principal)),
        one @ Answer::One(_) => one,
    });
    Called { result, ..called }
}

/// The items until the key ends.
fn while_key_lives(items: Items, principal: &Principal) -> Items {
    let items = stream::unfold(Some((items, Box::pin(principal.over()))), |open| async move {
        let (mut items, mut over) = open?;
        tokio::select! {
            biased;
            item = items.next() => item.map(|item| (item, Some((items, over)))),
            end = &mut over => Some((Err(end.error()), None)),
        }
    });
    items.boxed().into()
}

/// `POST`, `GET` and `DELETE /mcp`.
pub(crate) async fn serve(State(app): State<App>, request: Request) -> Result<Response, Problem> {
    if !auth::origin_allowed(app.config(), &request) || rebinds(app.config(), &request) {
        return Err(auth::wrong_origin());
    }
    let metadata = format!("{}{METADATA}", auth::public_url(app.config(), &request));
    let principal = match auth::bearer(request.headers()) {
        Some(key) => app.hub().authenticate(key).await?,
        None => return Ok(unauthorized(&metadata, false)),
    };
    let Some(principal) = principal else { return Ok(unauthorized(&metadata, true)) };
    let (mut parts, content) = request.into_parts();
    let content = body::read(content, &app).await?;
    parts.extensions.insert(Owner(principal.identity.id.clone()));
    let over = principal.over();
    parts.extensions.insert(HubHost { hub: app.hub().clone(), principal });
    // The key has done its work: handlers and logs of the SDK have no use for it.
    parts.headers.remove(header::AUTHORIZATION);
    let request = http::Request::from_parts(parts, Full::new(content.into()));
    let response = app.mcp().handle(request).await;
    if response.body().size_hint().exact().is_some() {
        return Ok(response.map(Body::new));
    }
    // What runs for the key tells its end itself.
    let over = async {
        over.await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    Ok(response.map(|body| Body::from_stream(body.into_data_stream().take_until(over))))
}

/// Whether a browser has found a hub that is only for this machine under a name of elsewhere. A page whose name was
/// bound to this address anew is of the same host as what it asks, so the rule of `Origin` alone lets it pass.
fn rebinds(config: &Config, request: &Request) -> bool {
    let for_this_machine = config.listen.ip().is_loopback() && config.trusted_proxies.is_empty();
    if !for_this_machine || !config.allowed_origins.is_empty() {
        return false;
    }
    let origin = request.headers().get(header::ORIGIN).and_then(|v| v.to_str().ok());
    let host = origin.and_then(|origin| origin.parse::<http::Uri>().ok()?.host().map(str::to_owned));
    let local = |host: &str| {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    origin.is_some() && !host.is_some_and(|host| local(&host))
}

/// `GET /.well-known/oauth-protected-resource` (RFC 9728). There is no authorization server: keys are made by the hub.
pub(crate) async fn metadata(State(app): State<App>, request: Request) -> Response {
    let url = auth::public_url(app.config(), &request);
    axum::Json(json!({
        "resource": format!("{url}/mcp"),
        "resource_name": "Hub",
        "bearer_methods_supported": ["header"],
    }))
    .into_response()
}

/// 401, and where to read how to authenticate.
fn unauthorized(metadata: &str, had_key: bool) -> Response {
    let error = if had_key { "error=\"invalid_token\", " } else { "" };
    let challenge = HeaderValue::from_str(&format!("Bearer {error}resource_metadata=\"{metadata}\""));
    let mut response = Problem::unauthorized().into_response();
    if let Ok(challenge) = challenge {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    response
}
