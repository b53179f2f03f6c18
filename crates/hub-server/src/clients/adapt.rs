//! From a client's row to operations.

use std::sync::Arc;
use std::time::Duration;

use hub_adapters::mcp::{self, Health, Inherit, McpClient, McpOptions, McpTarget};
use hub_adapters::net::{self, ClientSettings, NetPolicy};
use hub_adapters::openapi::{
    self, Apply, CallLimits, Credential, Document, FollowedApi, KeyPlace, OpenApiClient, Options, REFRESH,
    SecretString, Served, Source, Url,
};
use hub_core::{OpenedClient, Tested, scopes_of};
use hub_operations::Registry;
use hub_protocol::ops::clients::config::{AuthKind, KeyPlace as Place, McpServerConfig, OpenApiAuth, OpenApiConfig};
use hub_protocol::{AccessControl, DEFAULT_MESSAGE_LIMIT, OperationSpec};
use hub_storage::ClientRow;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

/// Secret that is used when the configuration names none.
const USUAL_SECRET: &str = "token";

/// What executes a client's operations.
pub(super) enum Adapter {
    Mcp(Arc<McpClient>),
    OpenApi(FollowedApi),
}

/// Changes of an adapter.
pub(super) enum Changes {
    Mcp(watch::Receiver<Arc<Vec<OperationSpec>>>, watch::Receiver<Health>),
    OpenApi(watch::Receiver<Served>),
}

impl Changes {
    /// Waits for the next one.
    pub(super) async fn next(&mut self) {
        let changed = match self {
            Self::Mcp(operations, health) => tokio::select! {
                changed = operations.changed() => changed,
                changed = health.changed() => changed,
            },
            Self::OpenApi(served) => served.changed().await,
        };
        if changed.is_err() {
            std::future::pending().await
        }
    }
}

impl Adapter {
    /// Connects, or reads the document. Errors are for people, and may quote the upstream.
    pub(super) async fn connect(client: &OpenedClient, programs: bool) -> Result<Self, String> {
        match client.row.kind.as_str() {
            "mcp-server" => connect_mcp(client, programs).await.map(|client| Self::Mcp(Arc::new(client))),
            "openapi" => connect_openapi(client).await.map(Self::OpenApi),
            _ => Err("clients of this type bring no operations".to_owned()),
        }
    }

    /// The operations as they are now.
    pub(super) fn registry(&self) -> Result<Registry<CallLimits>, String> {
        let builder = Registry::builder();
        let builder = match self {
            Self::Mcp(client) => mcp::register(builder, client),
            Self::OpenApi(api) => openapi::register_with(builder, &api.now().client, CallLimits::clone),
        };
        builder.build().map_err(|error| format!("its operations can't be offered: {}", chain(&error)))
    }

    /// Tells of changes of the operations, or of how they fare, from now on.
    pub(super) fn changes(&self) -> Changes {
        match self {
            Self::Mcp(client) => {
                let (mut operations, mut health) = (client.watch(), client.health());
                operations.mark_unchanged();
                health.mark_unchanged();
                Changes::Mcp(operations, health)
            }
            Self::OpenApi(api) => {
                let mut served = api.watch();
                served.mark_unchanged();
                Changes::OpenApi(served)
            }
        }
    }

    /// Why calls don't reach the upstream now, or not what it offers now.
    pub(super) fn trouble(&self) -> Option<String> {
        match self {
            Self::Mcp(client) => client.health().borrow().trouble.clone(),
            Self::OpenApi(api) => api.now().trouble,
        }
    }

    /// What of the upstream is not offered.
    pub(super) fn left_out(&self) -> Option<String> {
        match self {
            Self::Mcp(client) => client.health().borrow().left_out.clone(),
            Self::OpenApi(api) => api.now().client.left_out(),
        }
    }

    /// Whether something answers where requests go: a document may be there and its API not.
    pub(super) async fn reach(&self, client: &OpenedClient) -> Result<(), String> {
        let Self::OpenApi(api) = self else { return Ok(()) };
        let (base, config) = (api.now().client.base().clone(), config::<OpenApiConfig>(&client.row)?);
        let host = base.origin().ascii_serialization();
        let answer = status_of(base, config.allow_private, None).await;
        answer.map(drop).map_err(|error| format!("its requests would go to {host}, which does not answer: {error}"))
    }

    pub(super) async fn close(&self) {
        if let Self::Mcp(client) = self {
            client.close().await;
        }
    }

    /// Lets it go: it ends with the last call on it, or by what this answers.
    pub(super) fn let_go(self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let Self::Mcp(client) = self else { return None };
        let client = Arc::downgrade(&client);
        Some(async move {
            if let Some(client) = client.upgrade() {
                client.close().await;
            }
        })
    }
}

async fn connect_mcp(client: &OpenedClient, programs: bool) -> Result<McpClient, String> {
    let config: McpServerConfig = config(&client.row)?;
    let target = match (config.url, config.command) {
        (Some(url), _) => {
            let bearer = secret(client, config.secret.as_deref())?;
            McpTarget::Http { url, bearer, policy: policy(config.allow_private) }
        }
        (None, Some(_)) if !programs => {
            return Err("programs are not run: the hub is started without allow_child_processes".to_owned());
        }
        (None, Some(program)) => {
            let value = |(variable, name): (String, String)| {
                let value = secret(client, Some(&name))?.map(|value| exposed(&value).to_owned());
                Ok::<_, String>((variable, value.unwrap_or_default()))
            };
            let env = config.env.into_iter().map(value).collect::<Result<Vec<_>, _>>()?;
            McpTarget::Child { program, args: config.args, env, inherit: Inherit::Basics, cwd: None }
        }
        (None, None) => return Err("config needs either a url or a command".to_owned()),
    };
    let scopes = scopes_of(&client.row);
    let scopes: Vec<&str> = scopes.iter().map(String::as_str).collect();
    let options = McpOptions {
        access: Some(AccessControl::scopes(&scopes)),
        stream: config.stream,
        ..McpOptions::new(&client.row.name)
    };
    McpClient::connect(target, options).await.map_err(|error| chain(&error))
}

async fn connect_openapi(client: &OpenedClient) -> Result<FollowedApi, String> {
    let config: OpenApiConfig = config(&client.row)?;
    let policy = policy(config.allow_private);
    let document_url = config.url.as_deref().map(parsed).transpose()?;
    let source = match (&document_url, config.document) {
        (Some(url), _) => Source::url(url.clone(), policy.clone()),
        (None, Some(document)) => Source::given(document),
        (None, None) => return Err("config needs either a url or a document".to_owned()),
    };
    let credential = config.auth.as_ref().map(|auth| credential(client, auth)).transpose()?;
    let options = Options {
        scopes: Some(scopes_of(&client.row)),
        base_url: config.base_url.as_deref().map(parsed).transpose()?,
        document_url,
        only: config.only,
        ..Options::new(&client.row.name)
    };
    let (name, lenient) = (client.row.name.clone(), config.lenient);
    let make = move |text: &str| {
        let document = Document::parse(text).map_err(|error| chain(&error))?;
        let import = document.operations_to_register(&options).map_err(|error| chain(&error))?;
        let builder = OpenApiClient::builder(import).policy(policy.clone()).response_limit(DEFAULT_MESSAGE_LIMIT);
        let client = name.clone();
        let note = move |text: &str| tracing::warn!(client, "{text}");
        let builder = if lenient { builder.lenient(note) } else { builder };
        let builder = match &credential {
            Some(credential) => builder.credential(credential.clone()).apply(Apply::Always),
            None => builder,
        };
        builder.build().map_err(|error| chain(&error))
    };
    let every = config.refresh_ms.map_or(REFRESH, Duration::from_millis);
    FollowedApi::open(source, every, Arc::new(make)).await.map_err(|error| chain(&error))
}

fn credential(client: &OpenedClient, auth: &OpenApiAuth) -> Result<Credential, String> {
    let name = auth.secret.as_deref().unwrap_or(USUAL_SECRET);
    let value = secret(client, Some(name))?.ok_or_else(|| lacking(name))?;
    Ok(match auth.kind {
        AuthKind::Bearer => Credential::Bearer(value),
        AuthKind::Basic => Credential::Basic { user: auth.user.clone().unwrap_or_default(), password: value },
        AuthKind::ApiKey => {
            let name = auth.name.clone();
            let place = match auth.r#in {
                None => None,
                Some(Place::Header) => Some(KeyPlace::Header(name.unwrap_or_else(|| "X-API-Key".to_owned()))),
                Some(Place::Query) => Some(KeyPlace::Query(name.unwrap_or_else(|| "api_key".to_owned()))),
                Some(Place::Cookie) => Some(KeyPlace::Cookie(name.unwrap_or_else(|| "api_key".to_owned()))),
            };
            Credential::Key { place, value }
        }
    })
}

/// Whether a client of another type has all that it needs; whether that is right is found out by a test, or by its use.
pub(super) fn complete(client: &OpenedClient) -> Result<(), String> {
    let config = client.row.config.parse::<Value>().unwrap_or_default();
    // What is in the configuration of a custom client is its own affair.
    let named = config.get("secret").and_then(Value::as_str).filter(|_| client.row.kind != "custom");
    secret(client, named).map(drop)
}

/// Whether something answers where a client of another type is.
pub(super) async fn reach(client: &OpenedClient) -> Result<Tested, String> {
    let config = client.row.config.parse::<Value>().unwrap_or_default();
    complete(client)?;
    let Some(base) = config.get("baseUrl").and_then(Value::as_str) else {
        let note = Some("there is nothing to reach: its configuration has no baseUrl".to_owned());
        return Ok(Tested { note, operations: 0 });
    };
    let private = config.get("allowPrivate").and_then(Value::as_bool).unwrap_or_default();
    let token = secret(client, config.get("secret").and_then(Value::as_str))?;
    match status_of(parsed(base)?, private, token.as_ref()).await? {
        status @ (401 | 403) => Err(format!("it answers, and refuses the secret ({status})")),
        status @ 500.. => Err(format!("it answers, and fails ({status})")),
        status => Ok(Tested { note: Some(format!("it answers ({status})")), operations: 0 }),
    }
}

/// Asks for a URL; answers the HTTP status.
async fn status_of(url: Url, allow_private: bool, bearer: Option<&SecretString>) -> Result<u16, String> {
    let http = net::client(&url, &policy(allow_private), &ClientSettings::default()).map_err(|error| chain(&error))?;
    let mut request = http.get(url);
    if let Some(bearer) = bearer {
        request = request.bearer_auth(exposed(bearer));
    }
    let answer = request.send().await.map_err(|error| net::cause(&error))?;
    Ok(answer.status().as_u16())
}

fn config<T: DeserializeOwned>(row: &ClientRow) -> Result<T, String> {
    row.config.parse().map_err(|_| "its configuration does not fit its type".to_owned())
}

/// A secret by name; without a name the usual one, if there is one.
fn secret(client: &OpenedClient, name: Option<&str>) -> Result<Option<SecretString>, String> {
    match name {
        None => Ok(client.secrets.get(USUAL_SECRET).cloned()),
        Some(name) => client.secrets.get(name).cloned().map(Some).ok_or_else(|| lacking(name)),
    }
}

fn lacking(name: &str) -> String {
    format!("the secret {name:?} is not set")
}

fn exposed(secret: &SecretString) -> &str {
    secrecy::ExposeSecret::expose_secret(secret)
}

fn policy(allow_private: bool) -> NetPolicy {
    if allow_private { NetPolicy::private() } else { NetPolicy::default() }
}

fn parsed(url: &str) -> Result<Url, String> {
    Url::parse(url).map_err(|_| "a URL of the configuration is none".to_owned())
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut texts: Vec<String> = causes.map(ToString::to_string).collect();
    texts.dedup();
    texts.join(": ")
}
