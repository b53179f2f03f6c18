//! `hub ops`: what can be called.

mod describe;
mod graph;

use clap::{Args, Subcommand, ValueEnum};
use hub_protocol::OperationType;
use hub_protocol::ops::graph::GetGraph;
use hub_protocol::ops::hub::{GetSchemas, ListOperations, OperationItem, SearchOperations};
use serde_json::json;

use crate::connect::{Cx, Hub};
use crate::failure::Result;
use crate::output::{Cell, Out, Paint, Table};

/// Largest page that the hub gives.
const PAGE: u32 = 1000;

#[derive(Debug, Subcommand)]
pub(crate) enum OpsCommand {
    /// List the operations that you may call.
    #[command(
        visible_alias = "ls",
        after_help = "\
Examples:
  hub ops list
  hub ops list --namespace dev.laptop --type query
  hub ops list --all --json | jq -r '.operations[].id'"
    )]
    List(ListArgs),
    /// Find operations by words, best first. Small typos do no harm.
    #[command(after_help = "\
Examples:
  hub ops search read file
  hub ops search 'abort call' --limit 3")]
    Search(SearchArgs),
    /// Show what operations take and answer.
    #[command(
        visible_alias = "show",
        after_help = "\
Examples:
  hub ops schema hub.list
  hub ops schema calls.list calls.get --json      the whole specifications with their JSON Schemas"
    )]
    Schema(SchemaArgs),
    /// Show which operation's answer fits which operation's input.
    #[command(after_help = "\
Examples:
  hub ops graph --namespace forge
  hub ops graph --format dot | dot -Tsvg > operations.svg
  hub ops graph --format mermaid --all")]
    Graph(GraphArgs),
}

#[derive(Debug, Args)]
pub(crate) struct GraphArgs {
    /// Only operations of this namespace and those below it.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Also pairs that don't fit, with what does not.
    #[arg(long, short)]
    all: bool,
    /// How it is drawn.
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Drawing,
}

/// Ways to draw a graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Drawing {
    Text,
    Dot,
    Mermaid,
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// Only this namespace and those below it.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Only operations with this tag; several: with all of them.
    #[arg(long, value_name = "TAG")]
    tag: Vec<String>,
    /// Only this type.
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<Kind>,
    /// Also operations that nobody provides right now.
    #[arg(long, short)]
    all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Words of the id, title, description, tags or parameters.
    #[arg(required = true, value_name = "WORDS")]
    words: Vec<String>,
    /// Only this namespace and those below it.
    #[arg(long, short, value_name = "NAMESPACE")]
    namespace: Option<String>,
    /// Most results.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    limit: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    /// Operations.
    #[arg(required = true, value_name = "OPERATION")]
    ids: Vec<String>,
}

/// Types of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    Query,
    Mutation,
    Subscription,
}

impl From<Kind> for OperationType {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Query => Self::Query,
            Kind::Mutation => Self::Mutation,
            Kind::Subscription => Self::Subscription,
        }
    }
}

pub(crate) async fn run(cx: &Cx, command: OpsCommand) -> Result<()> {
    let hub = cx.connect(false).await?;
    match command {
        OpsCommand::List(args) => list(cx.out, &hub, args).await,
        OpsCommand::Search(args) => search(cx.out, &hub, args).await,
        OpsCommand::Schema(args) => schema(cx.out, &hub, args).await,
        OpsCommand::Graph(args) => draw(cx.out, &hub, args).await,
    }
}

async fn list(out: Out, hub: &Hub, args: ListArgs) -> Result<()> {
    let mut params = ListOperations {
        namespace: args.namespace,
        tags: (!args.tag.is_empty()).then_some(args.tag),
        kind: args.kind.map(Into::into),
        include_inactive: args.all.then_some(true),
        cursor: None,
        limit: Some(PAGE),
    };
    let mut operations = Vec::new();
    loop {
        let page = hub.call(&params).await?;
        operations.extend(page.operations);
        match page.next_cursor {
            Some(next) => params.cursor = Some(next),
            None => break,
        }
    }
    show(out, &operations, "no such operations, or none that you may call; --all also shows those without a provider")
}

async fn search(out: Out, hub: &Hub, args: SearchArgs) -> Result<()> {
    let params = SearchOperations { query: args.words.join(" "), namespace: args.namespace, limit: args.limit };
    let found = hub.call(&params).await?;
    show(
        out,
        &found.operations,
        &format!("nothing fits {:?}; `hub ops list` shows all that you may call", params.query),
    )
}

fn show(out: Out, operations: &[OperationItem], empty: &str) -> Result<()> {
    if out.json {
        return out.document(&json!({ "operations": operations }));
    }
    let mut table = Table::new(&["OPERATION", "TYPE", "VERSION", "PROVIDERS", "DESCRIPTION"]);
    for item in operations {
        let providers = match (item.active, item.providers.as_slice()) {
            (false, _) => Cell::new("none", Paint::Yellow),
            (true, []) => Cell::new("hub", Paint::Dim),
            (true, [one]) => one.into(),
            (true, [one, rest @ ..]) => format!("{one} +{}", rest.len()).into(),
        };
        let paint = if item.active { Paint::Bold } else { Paint::Dim };
        let text =
            item.title.as_ref().map_or_else(|| item.description.clone(), |t| format!("{t}: {}", item.description));
        table.row([
            Cell::new(&item.id, paint),
            item.kind.as_str().into(),
            (&item.version).into(),
            providers,
            text.into(),
        ]);
    }
    out.list(&table, empty)
}

async fn schema(out: Out, hub: &Hub, args: SchemaArgs) -> Result<()> {
    let operation_ids = args.ids.iter().map(|id| id.split('@').next().unwrap_or_default().to_owned()).collect();
    let schemas = hub.call(&GetSchemas { operation_ids }).await?;
    if out.json {
        return out.document(&schemas);
    }
    for (i, spec) in schemas.operations.iter().enumerate() {
        if i > 0 {
            out.line("")?;
        }
        out.raw(&describe::operation(spec, out.style, out.width()))?;
    }
    Ok(())
}

async fn draw(out: Out, hub: &Hub, args: GraphArgs) -> Result<()> {
    let mut params =
        GetGraph { namespace: args.namespace, include_incompatible: args.all.then_some(true), cursor: None };
    let mut graph = hub.call(&params).await?;
    while let Some(next) = graph.next_cursor.take() {
        params.cursor = Some(next);
        let page = hub.call(&params).await?;
        graph.edges.extend(page.edges);
        graph.next_cursor = page.next_cursor;
    }
    if out.json {
        return out.document(&graph);
    }
    out.raw(&match args.format {
        Drawing::Text => graph::text(&graph),
        Drawing::Dot => graph::dot(&graph),
        Drawing::Mermaid => graph::mermaid(&graph),
    })?;
    if graph.truncated {
        out.note("note: there are more operations than are compared at once; --namespace shows others");
    } else if graph.edges.is_empty() {
        out.note("no operation's answer is known to fit another's input");
    }
    Ok(())
}
