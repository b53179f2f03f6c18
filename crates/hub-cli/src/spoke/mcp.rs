//! `hub spoke mcp`: the tools of an MCP server as operations, from wherever that server can run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use hub_adapters::mcp::{Health, Inherit, McpClient, McpOptions, McpTarget, StderrTo, register};
use hub_adapters::net::NetPolicy;
use hub_protocol::{AccessControl, check_operation_id};
use hub_spoke::Registry;

use super::offer::{self, AccessArgs, OfferArgs, announce, folder, parse_variable, secret_variables, start};
use crate::connect::{Cx, Key};
use crate::failure::{Failure, Result};
use crate::time::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  hub spoke mcp --name files -- npx -y @modelcontextprotocol/server-filesystem ~/notes
  hub spoke mcp --name tracker --server https://tracker.example.org/mcp --bearer-file tracker.key
  hub spoke mcp --name build --stream run_tests --scope ci:run -- ./build-mcp

Then:  hub ops list --namespace client.files
       hub call client.files.mcp.read_text_file path=notes.txt";

pub(super) const LONG: &str = "\
Examples:
  hub spoke mcp --name files -- npx -y @modelcontextprotocol/server-filesystem ~/notes
  hub spoke mcp --name tracker --server https://tracker.example.org/mcp --bearer-file tracker.key
  hub spoke mcp --name build --stream run_tests --scope ci:run -- ./build-mcp

Each tool becomes an operation client.NAME.NAMESPACE.TOOL: a query if the server says that it only reads, else a
mutation. When the server's list of tools changes, the spoke offers the new ones; calls that run go on. A server that ends
is started again, and one behind a URL that is away or was restarted is connected to anew, with growing pauses; meanwhile
its operations answer OPERATION_UNAVAILABLE.

What keeps callers from more than you offer:
  Callers need the scope imported:NAME; --scope asks for others instead, --no-scope for none.
  The server does not see HUB_KEY. It has all your other rights on this machine, though.
  Server and everything it started are killed when the spoke ends.
  What the server asks of its host (sampling, elicitation, roots) is refused.";

#[derive(Debug, Args)]
pub(crate) struct McpArgs {
    #[command(flatten)]
    offer: OfferArgs,
    /// Namespace of the operations below the spoke's.
    #[arg(long, value_name = "WORD", default_value = "mcp")]
    namespace: String,
    /// URL of a server that speaks streamable HTTP, instead of a command.
    #[arg(long, value_name = "URL", conflicts_with_all = ["command", "env", "cwd"], required_unless_present = "command")]
    server: Option<String>,
    /// File with the server's bearer token.
    #[arg(long, value_name = "FILE", requires = "server")]
    bearer_file: Option<PathBuf>,
    #[command(flatten)]
    access: AccessArgs,
    /// Tool to offer as a stream: its progress, then its result. Several are possible.
    #[arg(long, value_name = "TOOL")]
    stream: Vec<String>,
    /// Also show each tool to MCP hosts of the hub as a tool of its own: it costs each of them context.
    #[arg(long)]
    as_tools: bool,
    /// Folder to run in. Default: this one.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variable of the server's environment.
    #[arg(long, value_name = "KEY=VAL", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Longest wait for the server to begin, downloads of a package runner included.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "60s")]
    start_timeout: Duration,
    /// Most calls at once; more wait at the hub.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_in_flight: u32,
    /// The server's command and its arguments.
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(cx: &Cx, args: McpArgs) -> Result<()> {
    check_operation_id(&format!("{}.tool", args.namespace)).map_err(|e| Failure::Usage(format!("--namespace: {e}")))?;
    let key = cx.key()?;
    let (target, options) = (target(&args, &key)?, options(&args));
    let connecting = async { McpClient::connect(target, options).await.map_err(|e| Failure::Local(e.to_string())) };
    let client = Arc::new(crate::interruptible(connecting).await?);
    let served = serve(cx, &args, &key, &client).await;
    client.close().await;
    served
}

async fn serve(cx: &Cx, args: &McpArgs, key: &Key, client: &Arc<McpClient>) -> Result<()> {
    let mut tools = client.watch();
    tools.mark_unchanged();
    let builder = args.offer.builder(cx, key, args.max_in_flight)?;
    let running = crate::interruptible(start(builder.declare(|all| register(all, client)), key)).await?;
    let (registered, name) = (running.registered(), &args.offer.name);
    let none = registered.operations.is_empty().then(|| "note: the server has no tools yet".to_owned());
    let mut health = client.health();
    let mut seen = health.borrow_and_update().clone();
    let notes: Vec<String> = none.into_iter().chain(left_out(&seen)).chain(args.access.note(name)).collect();
    announce(cx, name, &registered, &notes)?;
    let changed = async || loop {
        tokio::select! {
            Ok(()) = tools.changed() => match register(Registry::builder(), client).build() {
                Ok(registry) => return registry,
                Err(error) => cx.out.note(&format!("the server's tools changed, but can't be offered: {error}")),
            },
            Ok(()) = health.changed() => {
                let now = health.borrow_and_update().clone();
                news(&seen, &now).iter().for_each(|note| cx.out.note(note));
                seen = now;
            }
            else => std::future::pending().await,
        }
    };
    offer::serve(cx, key, running, changed).await
}

/// What to tell of the server from one moment to the next.
fn news(before: &Health, now: &Health) -> Vec<String> {
    let trouble = match (&before.trouble, &now.trouble) {
        (before, now) if before == now => None,
        (_, Some(why)) => Some(format!("the server is away, and tried again: {why}")),
        (_, None) => Some("the server is back".to_owned()),
    };
    let left_out = left_out(now).filter(|_| before.left_out != now.left_out);
    trouble.into_iter().chain(left_out).collect()
}

fn left_out(health: &Health) -> Option<String> {
    health.left_out.as_ref().map(|left_out| format!("note: {left_out}"))
}

fn target(args: &McpArgs, key: &Key) -> Result<McpTarget> {
    if let Some(url) = &args.server {
        let read = |file: &PathBuf| {
            let text = std::fs::read_to_string(file);
            let text =
                text.map_err(|e| Failure::Usage(format!("cannot read --bearer-file {}: {e}", file.display())))?;
            Ok::<_, Failure>(text.trim().to_owned().into())
        };
        let bearer = args.bearer_file.as_ref().map(read).transpose()?;
        // Whoever runs this can reach the same addresses without it.
        return Ok(McpTarget::Http { url: url.clone(), bearer, policy: NetPolicy::private() });
    }
    let [program, rest @ ..] = args.command.as_slice() else {
        return Err(Failure::Usage("give the server's command after --, or --server URL".to_owned()));
    };
    Ok(McpTarget::Child {
        program: program.clone(),
        args: rest.to_vec(),
        env: args.env.clone(),
        inherit: Inherit::AllBut(secret_variables(key)),
        cwd: folder(args.cwd.as_ref())?,
    })
}

fn options(args: &McpArgs) -> McpOptions {
    let access =
        args.access.scopes().map(|required_scopes| AccessControl { required_scopes, ..AccessControl::default() });
    McpOptions {
        namespace: Some(args.namespace.clone()),
        access,
        stream: args.stream.clone(),
        as_tools: args.as_tools,
        connect_timeout: args.start_timeout,
        stderr: StderrTo::Inherit,
        ..McpOptions::new(&args.offer.name)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::spoke::SpokeCommand;

    fn parse(words: &[&str]) -> Option<McpArgs> {
        let cli = Cli::try_parse_from([&["hub", "spoke", "mcp"], words].concat()).ok()?;
        match cli.command {
            Command::Spoke(SpokeCommand::Mcp(args)) => Some(*args),
            _ => None,
        }
    }

    #[test]
    fn a_command_or_a_server() {
        let key = Key { secret: "k".to_owned(), origin: String::new() };
        let args = parse(&["--name", "files", "--", "npx", "-y", "pkg", "dir"]).unwrap();
        assert!(
            matches!(target(&args, &key), Ok(McpTarget::Child { program, args, .. }) if program == "npx" && args.len() == 3)
        );
        let args = parse(&["--name", "t", "--server", "https://t.example/mcp"]).unwrap();
        assert!(matches!(target(&args, &key), Ok(McpTarget::Http { .. })));
        assert!(parse(&["--name", "t"]).is_none());
        for bad in ["bad name", "", "a/b", "ü", &"x".repeat(65)] {
            assert!(parse(&["--name", bad, "--", "npx"]).is_none(), "{bad:?}");
        }
        assert!(parse(&["--name", "t", "--server", "https://t.example", "--", "npx"]).is_none());
    }

    #[test]
    fn news_is_what_differs() {
        let health = |trouble: Option<&str>, left_out: Option<&str>| Health {
            trouble: trouble.map(str::to_owned),
            left_out: left_out.map(str::to_owned),
        };
        let (well, away) = (health(None, None), health(Some("it ended with exit status: 3"), None));
        assert_eq!(news(&well, &away), ["the server is away, and tried again: it ended with exit status: 3"]);
        assert_eq!(news(&away, &health(None, Some("left out: x"))), ["the server is back", "note: left out: x"]);
        assert!(news(&well, &well).is_empty());
    }

    #[test]
    fn scopes() {
        let access = |words: &[&str]| options(&parse(&[words, &["--name", "n", "--", "x"]].concat()).unwrap()).access;
        assert_eq!(access(&[]), None);
        assert_eq!(access(&["--no-scope"]), Some(AccessControl::default()));
        assert_eq!(access(&["--scope", "a", "--scope", "b"]), Some(AccessControl::scopes(&["a", "b"])));
    }
}
