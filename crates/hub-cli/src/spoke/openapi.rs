//! `hub spoke openapi`: an HTTP API as operations.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hub_adapters::net::{NetError, NetPolicy};
use hub_adapters::openapi::{
    Apply, CallLimits, ClientError, Credential, Document, FollowError, FollowedApi, KeyPlace, Make, OpenApiClient,
    Options, SecretString, Source, SourceError, Url, register_with,
};
use hub_protocol::DEFAULT_MESSAGE_LIMIT;
use hub_spoke::{Context, Registry};

use super::offer::{AccessArgs, OfferArgs, announce, parse_variable, serve, start};
use crate::connect::Cx;
use crate::failure::{Failure, Result};
use crate::output::Out;
use crate::time::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  hub spoke openapi petstore.yaml --name pets
  hub spoke openapi https://api.example.org/openapi.json --name forge --bearer-file forge.token --only 'issues*'
  hub spoke openapi weather.yaml --name weather --api-key-file weather.key --base-url https://eu.weather.example.org/v3

Then:  hub ops list --namespace client.pets.api
       hub call client.pets.api.getPet petId:=7";

pub(super) const LONG: &str = "\
Examples:
  hub spoke openapi petstore.yaml --name pets
  hub spoke openapi https://api.example.org/openapi.json --name forge --bearer-file forge.token --only 'issues*'
  hub spoke openapi weather.yaml --name weather --api-key-file weather.key --base-url https://eu.weather.example.org/v3

Each operation of the document (OpenAPI 3.0 or 3.1, JSON or YAML) becomes an operation client.NAME.NAMESPACE.OPERATION:
GET and HEAD a query, an event stream a subscription, all else a mutation. The input has the parameters by name and the
body under `body`; files and other bytes are base64. When the document changes, so do the operations (--refresh); calls
that run go on. While it can't be read or used, they stay as they are. An answer that breaks the document fails, unless
--lenient passes it on.

Credentials come from files or variables and stay here: callers, the hub and error texts never see them. They go with
the operations that ask for them in the document, or with all where it says nothing; --auth-always sends them with all.

What keeps callers from more than you offer:
  Callers need the scope imported:NAME; --scope asks for others instead, --no-scope for none.
  Requests go to the host of the base URL alone; redirects to another host are not followed.
  Addresses of this machine and of private networks are refused unless --allow-private or --allow-host allows them.
  Only --only's operations are offered: an operation that nobody needs is one that nobody can misuse.";

#[derive(Debug, Args)]
pub(crate) struct OpenApiArgs {
    /// The document: a file, or a URL that it can be read from without a key.
    #[arg(value_name = "FILE_OR_URL")]
    document: String,
    #[command(flatten)]
    offer: OfferArgs,
    /// Namespace of the operations below the spoke's.
    #[arg(long, value_name = "WORD", default_value = "api")]
    namespace: String,
    /// Where requests go. Default: the document's first server.
    #[arg(long, value_name = "URL")]
    base_url: Option<Url>,
    /// Value for a variable of the document's server.
    #[arg(long, value_name = "KEY=VAL", value_parser = parse_variable)]
    server_variable: Vec<(String, String)>,
    /// Offer only operations of which the name or a tag is this; * is any text. Several are possible.
    #[arg(long, value_name = "PATTERN")]
    only: Vec<String>,
    /// Header for every request, such as X-Tenant=42. For secrets use --header-file.
    #[arg(long, value_name = "NAME=VAL", value_parser = parse_variable)]
    header: Vec<(String, String)>,
    /// Header for every request, its value in a file.
    #[arg(long, value_name = "NAME=FILE", value_parser = parse_variable)]
    header_file: Vec<(String, String)>,
    /// File with a bearer token.
    #[arg(long, value_name = "FILE")]
    bearer_file: Option<PathBuf>,
    /// Variable with a bearer token.
    #[arg(long, value_name = "VARIABLE", conflicts_with = "bearer_file")]
    bearer_env: Option<String>,
    /// File with USER:PASSWORD.
    #[arg(long, value_name = "FILE")]
    basic_file: Option<PathBuf>,
    /// File with an API key.
    #[arg(long, value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Variable with an API key.
    #[arg(long, value_name = "VARIABLE", conflicts_with = "api_key_file")]
    api_key_env: Option<String>,
    /// Where the API key goes, such as header:X-Key, query:key or cookie:sid. Default: where the document says.
    #[arg(long, value_name = "PLACE:NAME", value_parser = parse_place)]
    api_key_in: Option<KeyPlace>,
    /// Pass answers on that break the document's schemas or media types; they fail otherwise.
    #[arg(long)]
    lenient: bool,
    /// Send credentials also with operations that do not ask for them.
    #[arg(long)]
    auth_always: bool,
    /// Let the API be on this machine or in a private network.
    #[arg(long)]
    allow_private: bool,
    /// Host, address or network (10.1.0.0/16) that may be reached whatever it is.
    #[arg(long, value_name = "HOST")]
    allow_host: Vec<String>,
    #[command(flatten)]
    access: AccessArgs,
    /// How often to look whether the document has changed, a file at least every 2 s; 0s: never.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5m")]
    refresh: Duration,
    /// Longest wait for an answer of a call without a deadline.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    answer_timeout: Duration,
    /// Most calls at once; more wait at the hub.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_in_flight: u32,
}

fn parse_place(text: &str) -> Result<KeyPlace, String> {
    match text.split_once(':').filter(|(_, name)| !name.is_empty()) {
        Some(("header", name)) => Ok(KeyPlace::Header(name.to_owned())),
        Some(("query", name)) => Ok(KeyPlace::Query(name.to_owned())),
        Some(("cookie", name)) => Ok(KeyPlace::Cookie(name.to_owned())),
        _ => Err(format!("{text:?} is no place: it looks like header:X-Key, query:key or cookie:sid")),
    }
}

pub(super) async fn run(cx: &Cx, args: OpenApiArgs) -> Result<()> {
    let key = cx.key()?;
    let opening = FollowedApi::open(source(&args)?, args.refresh, make(cx.out, &args)?);
    let api = crate::interruptible(async { opening.await.map_err(|error| failure(&args, error)) }).await?;
    // A change from now on is one of what is offered here.
    let (mut served, mut client) = (api.watch(), api.now().client);
    notes(cx, &client);
    let builder = args.offer.builder(cx, &key, args.max_in_flight)?.declare(|all| register_with(all, &client, limits));
    let running = crate::interruptible(start(builder, &key)).await?;
    let (registered, name) = (running.registered(), &args.offer.name);
    let count = format!("{} operations of {}", registered.operations.len(), client.base());
    announce(cx, name, &registered, &[count].into_iter().chain(args.access.note(name)).collect::<Vec<_>>())?;
    let mut troubled = false;
    let changed = async || loop {
        if served.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        let now = served.borrow_and_update().clone();
        if let Some(why) = now.trouble {
            troubled = true;
            cx.out.note(&format!("{why}; the operations are offered as they were"));
            continue;
        }
        if std::mem::take(&mut troubled) {
            cx.out.note("the document can be read and used again");
        }
        if Arc::ptr_eq(&client, &now.client) {
            continue;
        }
        client = now.client;
        notes(cx, &client);
        match register_with(Registry::builder(), &client, limits).build() {
            Ok(registry) => return registry,
            Err(error) => cx.out.note(&format!("the operations changed, but can't be offered: {error}")),
        }
    };
    serve(cx, &key, running, changed).await
}

fn policy(args: &OpenApiArgs) -> NetPolicy {
    NetPolicy { allow_private: args.allow_private, allow_hosts: args.allow_host.clone() }
}

fn document_url(args: &OpenApiArgs) -> Result<Option<Url>> {
    if !args.document.contains("://") {
        return Ok(None);
    }
    let url = Url::parse(&args.document).map_err(|e| Failure::Usage(format!("{} is no URL: {e}", args.document)))?;
    Ok(Some(url))
}

fn source(args: &OpenApiArgs) -> Result<Source> {
    Ok(match document_url(args)? {
        Some(url) => Source::url(url, policy(args)),
        None => Source::file(&args.document),
    })
}

/// What makes operations of the document, now and whenever it changes; secrets are read once.
fn make(out: Out, args: &OpenApiArgs) -> Result<Arc<Make>> {
    let options = Options {
        namespace: Some(args.namespace.clone()),
        scopes: args.access.scopes(),
        base_url: args.base_url.clone(),
        server_variables: BTreeMap::from_iter(args.server_variable.iter().cloned()),
        document_url: document_url(args)?,
        only: args.only.clone(),
        ..Options::new(&args.offer.name)
    };
    let (credentials, headers) = (credentials(args)?, headers(args)?);
    let (policy, timeout) = (policy(args), args.answer_timeout);
    let lenient = args.lenient;
    let apply = if args.auth_always { Apply::Always } else { Apply::AsDocumented };
    Ok(Arc::new(move |text: &str| {
        let document = Document::parse(text).map_err(|error| error.to_string())?;
        let import = document.operations_to_register(&options).map_err(|error| error.to_string())?;
        // A larger answer would not pass the hub.
        let builder = OpenApiClient::builder(import).policy(policy.clone()).timeout(timeout).apply(apply);
        let builder = builder.response_limit(DEFAULT_MESSAGE_LIMIT);
        let builder = if lenient { builder.lenient(move |text| out.note(text)) } else { builder };
        let builder = credentials.iter().cloned().fold(builder, |builder, one| builder.credential(one));
        let builder = headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value.clone()));
        builder.build().map_err(|error| match &error {
            ClientError::NoBase => format!("{error} with --base-url"),
            ClientError::Net(net) => with_remedy(net),
            ClientError::UnusedCredential(_) => format!("{error}: --auth-always does that"),
            ClientError::Header { .. } => error.to_string(),
        })
    }))
}

fn headers(args: &OpenApiArgs) -> Result<Vec<(String, SecretString)>> {
    let plain = args.header.iter().map(|(name, value)| Ok((name.clone(), value.clone().into())));
    let secret = args.header_file.iter().map(|(name, file)| Ok((name.clone(), secret_in(Path::new(file))?)));
    plain.chain(secret).collect()
}

fn failure(args: &OpenApiArgs, error: FollowError) -> Failure {
    match error {
        FollowError::Source(SourceError::Net(error)) => Failure::Usage(with_remedy(&error)),
        FollowError::Source(error @ SourceError::File { .. }) => Failure::Usage(error.to_string()),
        FollowError::Source(error) => Failure::Local(error.to_string()),
        FollowError::Document(why) => Failure::Usage(format!("{}: {why}", args.document)),
    }
}

/// Options that help, where there are some.
fn with_remedy(error: &NetError) -> String {
    match error {
        NetError::Address { kind, .. } if kind.is_private() => format!("{error}; --allow-host HOST allows it alone"),
        NetError::Address { .. } => format!("{error}; --allow-host HOST allows it"),
        _ => error.to_string(),
    }
}

/// Says what of the document is not offered as it is.
fn notes(cx: &Cx, client: &OpenApiClient) {
    if client.shortened() {
        cx.out.note("note: the document is large: schemas and descriptions are shortened; --only picks operations");
    }
    for skipped in client.skipped() {
        cx.out.note(&format!("left out: {skipped}"));
    }
}

fn limits(context: &Context) -> CallLimits {
    CallLimits {
        deadline_ms: context.deadline_ms(),
        idempotency_key: context.idempotency_key().map(str::to_owned),
        traceparent: context.traceparent().map(str::to_owned),
    }
}

fn credentials(args: &OpenApiArgs) -> Result<Vec<Credential>> {
    let either = |file: &Option<PathBuf>, variable: &Option<String>| match (file, variable) {
        (Some(file), _) => secret_in(file).map(Some),
        (None, Some(variable)) => secret_of(variable).map(Some),
        (None, None) => Ok(None),
    };
    let mut found = Vec::new();
    found.extend(either(&args.bearer_file, &args.bearer_env)?.map(Credential::Bearer));
    let key = either(&args.api_key_file, &args.api_key_env)?;
    if key.is_none() && args.api_key_in.is_some() {
        return Err(Failure::Usage("--api-key-in needs --api-key-file or --api-key-env".to_owned()));
    }
    found.extend(key.map(|value| Credential::Key { place: args.api_key_in.clone(), value }));
    if let Some(file) = &args.basic_file {
        let text = read_secret(file)?;
        let (user, password) = text
            .split_once(':')
            .ok_or_else(|| Failure::Usage(format!("--basic-file {}: it must hold USER:PASSWORD", file.display())))?;
        found.push(Credential::Basic { user: user.to_owned(), password: password.to_owned().into() });
    }
    Ok(found)
}

fn secret_in(file: &Path) -> Result<SecretString> {
    read_secret(file).map(SecretString::from)
}

fn read_secret(file: &Path) -> Result<String> {
    let text = std::fs::read_to_string(file)
        .map_err(|e| Failure::Usage(format!("cannot read the secret in {}: {e}", file.display())))?;
    let text = text.trim();
    if text.is_empty() {
        return Err(Failure::Usage(format!("the file {} is empty", file.display())));
    }
    Ok(text.to_owned())
}

fn secret_of(variable: &str) -> Result<SecretString> {
    let value = std::env::var_os(variable).filter(|value| !value.is_empty());
    let value = value.ok_or_else(|| Failure::Usage(format!("the variable {variable} is not set")))?;
    Ok(value.to_string_lossy().trim().to_owned().into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::spoke::SpokeCommand;

    fn parse(words: &[&str]) -> Option<OpenApiArgs> {
        let cli = Cli::try_parse_from([&["hub", "spoke", "openapi"], words].concat()).ok()?;
        match cli.command {
            Command::Spoke(SpokeCommand::OpenApi(args)) => Some(*args),
            _ => None,
        }
    }

    #[test]
    fn places_of_keys() {
        assert_eq!(parse_place("header:X-Key"), Ok(KeyPlace::Header("X-Key".into())));
        assert_eq!(parse_place("query:key"), Ok(KeyPlace::Query("key".into())));
        assert!(["", "header", "header:", "body:x", "X-Key"].iter().all(|text| parse_place(text).is_err()));
    }

    #[test]
    fn secrets_come_from_files_and_variables_only() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("secret");
        std::fs::write(&file, "sk:hunter2\n").unwrap();
        let file = file.to_str().unwrap();
        let args = parse(&["d.yaml", "--name", "n", "--basic-file", file, "--api-key-file", file]).unwrap();
        let found = credentials(&args).unwrap();
        assert_eq!(found.len(), 2);
        assert!(!format!("{found:?}").contains("hunter2"));
        assert!(parse(&["d.yaml", "--name", "n", "--bearer", "hunter2"]).is_none());
        let missing = parse(&["d.yaml", "--name", "n", "--bearer-env", "NO_SUCH_VARIABLE_HERE"]).unwrap();
        assert!(credentials(&missing).is_err());
        let placed = parse(&["d.yaml", "--name", "n", "--api-key-in", "query:k"]).unwrap();
        assert!(credentials(&placed).is_err());
    }

    #[test]
    fn scopes_and_policy() {
        let args = parse(&["d.yaml", "--name", "n", "--allow-host", "10.0.0.0/8"]).unwrap();
        assert_eq!(policy(&args).allow_hosts, ["10.0.0.0/8"]);
        assert!(parse(&["d.yaml", "--name", "n", "--scope", "a", "--no-scope"]).is_none());
    }
}
