//! `hub clients`: services outside that the hub uses.

mod show;

use clap::{Args, Subcommand, ValueEnum};
use hub_protocol::ops::Operation;
use hub_protocol::ops::clients::{
    ClientItem, ClientType, CreateClient, DeleteClient, EnableClient, GetClient, ListClients, RefreshClient,
    TestClient, UpdateClient,
};

use crate::call::input;
use crate::connect::Cx;
use crate::failure::{Failure, Result};
use crate::output::clean;
use crate::time::now_ms;

#[derive(Debug, Subcommand)]
pub(crate) enum ClientsCommand {
    /// List external services, with their state and its reason.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  hub clients list
  hub clients list --type openapi --enabled
  hub clients list --json | jq -r '.clients[] | select(.state == \"degraded\") | .name'"
    )]
    List(ListArgs),
    /// Show one: configuration, state, names of its secrets.
    #[command(
        visible_alias = "get",
        after_help = "\
Examples:
  hub clients show forge
  hub clients show forge --json | jq .config"
    )]
    Show(Named),
    /// Add a service. Its secrets are set apart, by `hub secrets set`.
    #[command(after_help = "\
Examples:
  hub clients create forge --type openapi url=https://forge.example/openapi.json auth:='{\"kind\": \"bearer\"}'
  hub secrets set forge token < forge.token
  hub clients create notes --type mcp-server url=https://notes.example/mcp --scope notes:read
  hub clients create models --type llm-provider @models.json --disabled

The configuration is written as the input of `hub call` is: key=value, key:=JSON, a JSON document, @FILE, or - for
standard input. Which members each type takes, docs/clients.md says, and so does the error about one that it does not.
It is stored in clear: put no secret there.")]
    Create(CreateArgs),
    /// Replace the configuration or the scopes of a service.
    #[command(after_help = "\
Examples:
  hub clients update forge url=https://forge.example/v2/openapi.json
  hub clients update forge --scope forge:use
  hub clients show forge --json | jq '.config.only = [\"issues\"] | .config' | hub clients update forge -

The configuration is replaced as a whole; what is not named stays.")]
    Update(UpdateArgs),
    /// Try to reach a service, changing nothing; exit code 1 if it can't be used.
    #[command(after_help = "\
Examples:
  hub clients test forge
  hub clients test forge --timeout 5s && hub clients enable forge")]
    Test(Named),
    /// Connect to a service anew and read its operations again.
    #[command(after_help = "\
Examples:
  hub clients refresh forge")]
    Refresh(Named),
    /// Switch a service on.
    #[command(after_help = "\
Examples:
  hub clients enable forge")]
    Enable(Named),
    /// Switch a service off: its operations have no provider until it is on again.
    #[command(after_help = "\
Examples:
  hub clients disable forge")]
    Disable(Named),
    /// Remove a service with its secrets and operations.
    #[command(
        visible_alias = "rm",
        after_help = "\
Examples:
  hub clients delete forge"
    )]
    Delete(Named),
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Only those that are switched on.
    #[arg(long)]
    enabled: bool,
    /// Only those that are switched off.
    #[arg(long, conflicts_with = "enabled")]
    disabled: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Named {
    /// Which one.
    #[arg(value_name = "CLIENT")]
    name: String,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Unique; also the namespace of the operations it brings.
    #[arg(value_name = "CLIENT")]
    name: String,
    /// What kind of service it is.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Kind,
    /// How it is reached.
    #[arg(value_name = "CONFIG")]
    config: Vec<String>,
    /// What a caller's key needs, all of them. Default: imported:CLIENT.
    #[arg(long, short, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Leave it switched off for now.
    #[arg(long)]
    disabled: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UpdateArgs {
    /// Which one.
    #[arg(value_name = "CLIENT")]
    name: String,
    /// The whole new configuration.
    #[arg(value_name = "CONFIG", required_unless_present = "scope")]
    config: Vec<String>,
    /// What a caller's key needs, all of them.
    #[arg(long, short, value_name = "SCOPE")]
    scope: Vec<String>,
}

/// Types of clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    #[value(name = "openapi")]
    OpenApi,
    McpServer,
    LlmProvider,
    Vcs,
    Compute,
    Custom,
}

impl From<Kind> for ClientType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::OpenApi => Self::OpenApi,
            Kind::McpServer => Self::McpServer,
            Kind::LlmProvider => Self::LlmProvider,
            Kind::Vcs => Self::Vcs,
            Kind::Compute => Self::Compute,
            Kind::Custom => Self::Custom,
        }
    }
}

pub(crate) async fn run(cx: &Cx, command: ClientsCommand) -> Result<()> {
    match command {
        ClientsCommand::List(args) => list(cx, &args).await,
        ClientsCommand::Show(Named { name }) => {
            let item = cx.connect(false).await?.call(&GetClient { name }).await?;
            if cx.out.json { cx.out.document(&item) } else { cx.out.table(&show::facts(&item, now_ms())) }
        }
        ClientsCommand::Create(args) => create(cx, args).await,
        ClientsCommand::Update(args) => update(cx, args).await,
        ClientsCommand::Test(Named { name }) => test(cx, name).await,
        ClientsCommand::Refresh(Named { name }) => change(cx, &RefreshClient { name }, "is connected to anew").await,
        ClientsCommand::Enable(Named { name }) => {
            change(cx, &EnableClient { name, enabled: Some(true) }, "is on").await
        }
        ClientsCommand::Disable(Named { name }) => {
            change(cx, &EnableClient { name, enabled: Some(false) }, "is off").await
        }
        ClientsCommand::Delete(Named { name }) => delete(cx, name).await,
    }
}

async fn list(cx: &Cx, args: &ListArgs) -> Result<()> {
    let enabled = (args.enabled || args.disabled).then_some(args.enabled);
    let params = ListClients { r#type: args.kind.map(Into::into), enabled };
    let found = cx.connect(false).await?.call(&params).await?;
    if cx.out.json {
        return cx.out.document(&found);
    }
    cx.out.list(
        &show::table(&found.clients, now_ms()),
        "no such clients; `hub clients create --help` shows how one is made",
    )
}

async fn create(cx: &Cx, args: CreateArgs) -> Result<()> {
    let params = CreateClient {
        name: args.name,
        r#type: args.kind.into(),
        config: input::read(&args.config, std::io::stdin())?,
        enabled: args.disabled.then_some(false),
        scopes: (!args.scope.is_empty()).then_some(args.scope),
    };
    change(cx, &params, "is made").await
}

async fn update(cx: &Cx, args: UpdateArgs) -> Result<()> {
    let config = (!args.config.is_empty()).then(|| input::read(&args.config, std::io::stdin())).transpose()?;
    let scopes = (!args.scope.is_empty()).then_some(args.scope);
    change(cx, &UpdateClient { name: args.name, config, scopes }, "is changed").await
}

/// Changes a client; how it fares then takes a moment to show.
async fn change<O: Operation<Reply = ClientItem>>(cx: &Cx, params: &O, verb: &str) -> Result<()> {
    let item = cx.connect(false).await?.call(params).await?;
    if cx.out.json {
        return cx.out.document(&item);
    }
    let name = clean(&item.name);
    let then = if item.enabled { format!("; `hub clients show {name}` says how it fares") } else { String::new() };
    cx.out.line(&format!("client {name} {verb}{then}"))
}

async fn test(cx: &Cx, name: String) -> Result<()> {
    let tested = cx.connect(false).await?.call(&TestClient { name: name.clone() }).await?;
    if cx.out.json {
        cx.out.document(&tested)?;
    } else {
        cx.out.line(&clean(&show::verdict(&name, &tested)))?;
    }
    if tested.ok { Ok(()) } else { Err(Failure::Answered) }
}

async fn delete(cx: &Cx, name: String) -> Result<()> {
    let gone = cx.connect(false).await?.call(&DeleteClient { name }).await?;
    if cx.out.json {
        return cx.out.document(&gone);
    }
    cx.out.line(&format!("client {} is deleted, and its secrets with it", clean(&gone.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_of_the_hub_can_be_named() {
        let schema = hub_protocol::ops::schema_of::<ClientType>().to_string();
        for kind in Kind::value_variants() {
            let named = kind.to_possible_value().unwrap().get_name().to_owned();
            assert_eq!(serde_json::to_value(ClientType::from(*kind)).unwrap(), named);
        }
        assert_eq!(schema.matches("\"const\"").count(), Kind::value_variants().len(), "{schema}");
    }
}
