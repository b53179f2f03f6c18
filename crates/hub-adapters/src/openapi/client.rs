//! Executes plans against one origin.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use hub_operations::{Definition, Reply, Scrubber, until};
use hub_protocol::{CallError, ErrorCode, Json, OperationSpec};
use reqwest::Response;
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;
use url::Url;

use super::answer::{self, Reading, failed};
use super::auth::{Apply, Credential, Credentials, headers};
use super::document::ImportError;
use super::import::{Import, Imported, Skipped};
use super::plan::{Place, Plan};
use super::promise::Lenience;
use super::request::{Outgoing, build};
use super::server::same_origin;
use crate::left_out;
use crate::mark::marked;
use crate::net::{self, ClientSettings, NetError, NetPolicy};

/// Most repetitions of a safe request, and most redirects that one follows.
const RETRIES: u32 = 2;
const REDIRECTS: u32 = 3;

/// First pause before a repetition, when the upstream names none.
const PAUSE: Duration = Duration::from_millis(200);

/// Why a client can't be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The document names no server.
    #[error("the document names no server: give the base URL")]
    NoBase,
    /// The policy refuses the base URL, or the machine has no certificates.
    #[error(transparent)]
    Net(#[from] NetError),
    /// A header can't be sent.
    #[error("header {name:?} has a name or value that can't be sent")]
    Header {
        /// Its name.
        name: String,
    },
    /// A credential that no operation asks for.
    #[error("no operation of the document asks for {0}; it can be sent with every request all the same")]
    UnusedCredential(&'static str),
}

/// What is known of one call beside its input.
#[derive(Debug, Clone, Default)]
pub struct CallLimits {
    /// When nobody waits any more, in milliseconds since the epoch. `None`: the client's own timeout.
    pub deadline_ms: Option<u64>,
    /// Sent where the operation declares a header `Idempotency-Key`, which makes it safe to repeat.
    pub idempotency_key: Option<String>,
    /// W3C trace context, sent on.
    pub traceparent: Option<String>,
}

/// Makes an [`OpenApiClient`].
#[must_use]
#[derive(Debug)]
pub struct OpenApiClientBuilder {
    import: Import,
    policy: NetPolicy,
    settings: ClientSettings,
    credentials: Credentials,
    headers: Vec<(String, SecretString)>,
    timeout: Duration,
    response_limit: usize,
    lenient: Option<Arc<Lenience>>,
}

impl OpenApiClientBuilder {
    /// Which addresses may be reached; default public ones only.
    pub fn policy(mut self, policy: NetPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// How to connect.
    pub fn settings(mut self, settings: ClientSettings) -> Self {
        self.settings = settings;
        self
    }

    /// Adds a credential.
    pub fn credential(mut self, credential: Credential) -> Self {
        self.credentials.all.push(credential);
        self
    }

    /// With which requests credentials go.
    pub const fn apply(mut self, apply: Apply) -> Self {
        self.credentials.apply = apply;
        self
    }

    /// Adds a header to every request.
    pub fn header(mut self, name: impl Into<String>, value: SecretString) -> Self {
        self.headers.push((name.into(), value));
        self
    }

    /// Longest wait for an answer (for a stream: for its beginning) when the call has no deadline; default 30 s.
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Largest answer, and largest event of a stream, in bytes; default 8 MiB.
    pub const fn response_limit(mut self, bytes: usize) -> Self {
        self.response_limit = bytes;
        self
    }

    /// Passes on answers that break their schema or media type, which fail otherwise; `note` is told of them, at most
    /// every 10 s.
    pub fn lenient(mut self, note: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.lenient = Some(Arc::new(Lenience::new(note)));
        self
    }

    /// The client. Connects nowhere yet.
    ///
    /// # Errors
    /// When there is no base URL, the policy refuses it, a header can't be sent, or a credential would never be used.
    pub fn build(self) -> Result<OpenApiClient, ClientError> {
        let base = self.import.base.clone().ok_or(ClientError::NoBase)?;
        let http = net::client(&base, &self.policy, &self.settings)?;
        let headers = headers(&self.headers)?;
        let mut secrets = self.credentials.secrets();
        secrets.extend(self.headers.into_iter().map(|(_, value)| value).filter(|value| {
            // Short values are words such as `application/json`'s version, and would be found by chance.
            value.expose_secret().len() >= 16
        }));
        for credential in &self.credentials.all {
            let one = Credentials { all: vec![credential.clone()], apply: self.credentials.apply };
            let mut is_used = self.import.operations.is_empty();
            for operation in &self.import.operations {
                is_used |= !one.placed(&operation.plan)?.is_empty();
            }
            if !is_used {
                return Err(ClientError::UnusedCredential(match credential {
                    Credential::Bearer(_) => "a bearer token",
                    Credential::Basic { .. } => "a user and password",
                    Credential::Key { .. } => "an API key in that place",
                }));
            }
        }
        let secrets = Scrubber::of(secrets.iter().map(ExposeSecret::expose_secret));
        let (mut operations, mut skipped) = (BTreeMap::new(), self.import.skipped);
        for mut one in self.import.operations {
            match without(&secrets, &one.spec) {
                Some(spec) => {
                    one.spec = spec;
                    operations.insert(one.spec.id(), Arc::new(one));
                }
                None => skipped.push(Skipped {
                    method: one.plan.method().to_string(),
                    path: one.plan.path().to_owned(),
                    reason: ImportError::shape("", "a credential stands in what it declares"),
                }),
            }
        }
        Ok(OpenApiClient {
            base,
            http,
            policy: self.policy,
            credentials: self.credentials,
            secrets: Arc::new(secrets),
            headers,
            timeout: self.timeout,
            response_limit: self.response_limit,
            lenient: self.lenient,
            operations,
            skipped,
            shortened: self.import.shortened,
        })
    }
}

/// A declaration without secrets, which has a version of its own; `None` when it can't be without them. Where it is offered
/// and who may call it is not the document's.
fn without(secrets: &Scrubber, spec: &OperationSpec) -> Option<OperationSpec> {
    let mut clean = secrets.declared(spec.clone())?;
    clean.namespace.clone_from(&spec.namespace);
    clean.access_control.clone_from(&spec.access_control);
    match clean == *spec {
        true => Some(clean),
        false => (clean.name == spec.name).then(|| marked(clean)),
    }
}

/// An HTTP API whose operations can be called.
pub struct OpenApiClient {
    base: Url,
    http: reqwest::Client,
    policy: NetPolicy,
    credentials: Credentials,
    secrets: Arc<Scrubber>,
    headers: HeaderMap,
    timeout: Duration,
    response_limit: usize,
    lenient: Option<Arc<Lenience>>,
    operations: BTreeMap<String, Arc<Imported>>,
    skipped: Vec<Skipped>,
    shortened: bool,
}

impl OpenApiClient {
    /// Begins a client for what a document gave.
    pub fn builder(import: Import) -> OpenApiClientBuilder {
        OpenApiClientBuilder {
            import,
            policy: NetPolicy::default(),
            settings: ClientSettings::default(),
            credentials: Credentials::default(),
            headers: Vec::new(),
            timeout: Duration::from_secs(30),
            response_limit: 8 * 1024 * 1024,
            lenient: None,
        }
    }

    /// The operations, by id.
    pub fn operations(&self) -> impl Iterator<Item = &Arc<Imported>> {
        self.operations.values()
    }

    /// What of the document is not among the operations.
    #[must_use]
    pub fn skipped(&self) -> &[Skipped] {
        &self.skipped
    }

    /// As [`OpenApiClient::skipped`], in one line.
    #[must_use]
    pub fn left_out(&self) -> Option<String> {
        let shown: Vec<String> = self.skipped.iter().map(ToString::to_string).collect();
        left_out::summary(&shown)
    }

    /// As [`Import::shortened`].
    #[must_use]
    pub const fn shortened(&self) -> bool {
        self.shortened
    }

    /// Where requests go.
    #[must_use]
    pub const fn base(&self) -> &Url {
        &self.base
    }

    /// Calls an operation by its id. Dropping the future, or the stream it gives, ends the request at once.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` for an input that makes no request; `HTTP_<status>`, `RATE_LIMITED` or `EXECUTION_ERROR`
    /// for what the upstream refuses or does wrong, answers that break their document included; `PAYLOAD_TOO_LARGE`;
    /// `TIMEOUT`.
    pub async fn call(&self, id: &str, input: &Json, limits: &CallLimits) -> Result<Reply, CallError> {
        let operation = self.operations.get(id).ok_or_else(|| Definition::not_found(id))?;
        let plan = &operation.plan;
        let outgoing = self.outgoing(plan, input, limits)?;
        let wait = limits.deadline_ms.map_or(self.timeout, until);
        let end = Instant::now() + wait;
        let late = |_| CallError::new(ErrorCode::Timeout, format!("the upstream has not answered within {wait:?}"));
        let repeatable = plan.is_safe() || outgoing.headers.contains_key("idempotency-key");
        let sent = self.send_repeatedly(&outgoing, repeatable, end).boxed();
        let response = tokio::time::timeout_at(end, sent).await.map_err(late)??;
        if !plan.answers.takes(response.status()) {
            let failure = answer::failure(response, plan, &self.secrets);
            return Err(tokio::time::timeout_at(end, failure).await.map_err(late)?);
        }
        let reading = Reading {
            operation: Arc::clone(operation),
            limit: self.response_limit,
            secrets: Arc::clone(&self.secrets),
            lenient: self.lenient.clone(),
        };
        let reply = tokio::time::timeout_at(end, answer::reply(response, &reading)).await;
        reply.map_err(late).flatten().map_err(|error| reading.acted(error))
    }

    fn outgoing(&self, plan: &Plan, input: &Json, limits: &CallLimits) -> Result<Outgoing, CallError> {
        let placed = self.credentials.placed(plan).map_err(|e| failed(e.to_string()))?;
        let mut outgoing = build(plan, input, &self.base, placed)?;
        for (name, value) in &self.headers {
            // Over what a caller gave: these are the operator's. A body knows its own type better.
            if name != header::CONTENT_TYPE || outgoing.body.is_none() {
                outgoing.headers.insert(name.clone(), value.clone());
            }
        }
        let key = HeaderName::from_static("idempotency-key");
        let declares_key = plan.parameters.iter().any(|p| p.place == Place::Header(key.clone()));
        if let Some(value) = limits.idempotency_key.as_deref().filter(|_| declares_key)
            && !outgoing.headers.contains_key(&key)
            && let Ok(value) = HeaderValue::from_str(value)
        {
            outgoing.headers.insert(key, value);
        }
        if let Some(Ok(trace)) = limits.traceparent.as_deref().map(HeaderValue::from_str) {
            outgoing.headers.entry("traceparent").or_insert(trace);
        }
        Ok(outgoing)
    }

    /// Sends, and again where that is safe: when no connection could be made, or a server in between was busy.
    async fn send_repeatedly(
        &self,
        outgoing: &Outgoing,
        repeatable: bool,
        end: Instant,
    ) -> Result<Response, CallError> {
        for attempt in 0.. {
            let result = self.send(outgoing).await;
            let pause = match &result {
                Ok(response) if is_busy(response.status()) => answer::retry_after(response.headers()),
                Ok(_) => return result.map_err(|e| self.unsent(&e)),
                Err(Unsent::Request(error)) if error.is_connect() => None,
                Err(_) => return result.map_err(|e| self.unsent(&e)),
            };
            let pause = pause.unwrap_or(PAUSE * 4_u32.pow(attempt));
            if !repeatable || attempt >= RETRIES || Instant::now() + pause >= end {
                return result.map_err(|e| self.unsent(&e));
            }
            tracing::debug!(method = %outgoing.method, attempt, "the request is repeated");
            // A dropped response gives its connection up.
            drop(result);
            tokio::time::sleep(pause).await;
        }
        Err(failed("the request was not sent"))
    }

    /// Sends once, following redirects of reads within the origin.
    async fn send(&self, outgoing: &Outgoing) -> Result<Response, Unsent> {
        let mut url = outgoing.url.clone();
        for redirects in 0.. {
            self.policy.check_url(&url).map_err(Unsent::Refused)?;
            let mut request = self.http.request(outgoing.method.clone(), url.clone());
            request = request.headers(outgoing.headers.clone());
            if let Some(body) = &outgoing.body {
                request = request.body(body.clone());
            }
            let response = request.send().await.map_err(|e| Unsent::Request(e.without_url()))?;
            let is_read = [Method::GET, Method::HEAD].contains(&outgoing.method);
            if !is_redirect(&response) || !is_read {
                return Ok(response);
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok()).ok_or(Unsent::NoLocation)?;
            if !same_origin(&next, &self.base) {
                return Err(Unsent::Elsewhere(next.host_str().unwrap_or_default().to_owned()));
            }
            if redirects >= REDIRECTS {
                return Err(Unsent::TooManyRedirects);
            }
            url = next;
        }
        Err(Unsent::TooManyRedirects)
    }

    /// Never the URL: it may hold an API key.
    fn unsent(&self, error: &Unsent) -> CallError {
        let host = self.base.host_str().unwrap_or_default();
        match error {
            Unsent::Refused(error) => failed(error.to_string()),
            Unsent::NoLocation => failed("the upstream redirects without saying where to"),
            Unsent::TooManyRedirects => failed(format!("the upstream redirects more than {REDIRECTS} times")),
            Unsent::Elsewhere(other) => {
                failed(format!("the upstream redirects to {other:?}, which is not followed: only {host} is configured"))
            }
            Unsent::Request(error) if error.is_timeout() && error.is_connect() => {
                CallError::new(ErrorCode::Timeout, format!("{host} can't be reached in time"))
            }
            Unsent::Request(error) => {
                let cause = net::cause(error);
                let what = if error.is_connect() { "can't be reached" } else { "broke the exchange off" };
                failed(format!("{host} {what}: {cause}")).with_retryable(error.is_connect())
            }
        }
    }
}

impl std::fmt::Debug for OpenApiClient {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OpenApiClient")
            .field("base", &self.base.as_str())
            .field("operations", &self.operations.len())
            .finish_non_exhaustive()
    }
}

/// Why there is no response.
enum Unsent {
    Refused(NetError),
    Request(reqwest::Error),
    NoLocation,
    Elsewhere(String),
    TooManyRedirects,
}

fn is_busy(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

fn is_redirect(response: &Response) -> bool {
    matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308)
}
