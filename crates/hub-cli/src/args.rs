//! The command line.

use clap::{Parser, Subcommand};
use hub_protocol::CallId;

use crate::connect::Globals;
use crate::{audit, call, calls, clients, completions, events, keys, mcp, ops, secrets, spoke, spokes};

const EXAMPLES: &str = "\
Examples:
  hub status                                       is it there, and how does it fare
  hub ops search read file                         find an operation by words
  hub ops schema dev.laptop.fs.read                what it takes and answers
  hub call dev.laptop.fs.read path=README.md       call it
  hub call dev.laptop.bash.run command='make test' a stream prints as it comes; Ctrl-C aborts it everywhere
  hub calls tree last                              what your newest call has called
  hub events --follow                              watch the cluster
  hub clients create forge --type openapi url=https://forge.example/openapi.json
                                                   offer an HTTP API through the hub itself
  hub spoke exec --name grep --op search.grep -- rg --json {pattern}
                                                   offer a command line as an operation
  hub mcp --print-config                           give an MCP host all of it as four tools";

const LONG: &str = "\
Exit codes:
  0    it worked (also when the reader of the output went away, as `head` does)
  1    the call failed: it was refused, its handler failed, or somebody else aborted it
  2    the command line can't be used
  3    no connection to the hub, or it was lost
  4    not authorised: no key, a key that the hub does not accept, or rights that do not suffice
  5    not found: no such operation, call, key or spoke, or none that you may see
  6    timeout
  130  aborted by Ctrl-C

Environment:
  HUB_URL       where the hub is
  HUB_KEY       the key
  HUB_DATA_DIR  data folder of the hub on this machine, where its admin.key is
  HUB_CA_FILE   certificates to trust besides the system's
  NO_COLOR      no colours";

const STATUS: &str = "\
Examples:
  hub status
  hub status --url wss://hub.example.org --key-file hub.key
  hub status --json | jq .callsInFlight";

const WHOAMI: &str = "\
Examples:
  hub whoami
  HUB_KEY=hub_… hub whoami --json | jq .identity.scopes";

/// Talk to a hub: call operations, watch calls, manage keys and services, offer commands.
#[derive(Debug, Parser)]
#[command(
    name = "hub",
    version,
    after_help = EXAMPLES,
    after_long_help = format!("{EXAMPLES}\n\n{LONG}"),
    max_term_width = 110,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Call an operation.
    Call(call::CallArgs),
    /// Find operations and what they take.
    #[command(subcommand)]
    Ops(ops::OpsCommand),
    /// List the spokes.
    Spokes(spokes::SpokesArgs),
    /// Look at calls, watch, abort and replay them.
    #[command(subcommand)]
    Calls(calls::CallsCommand),
    /// Make, rotate and revoke API keys.
    #[command(subcommand)]
    Keys(keys::KeysCommand),
    /// Use services outside: MCP servers, HTTP APIs and others.
    #[command(subcommand)]
    Clients(clients::ClientsCommand),
    /// Set what those services are reached with.
    #[command(subcommand)]
    Secrets(secrets::SecretsCommand),
    /// Read or follow the event log.
    Events(events::EventsArgs),
    /// Read the audit log.
    Audit(audit::AuditArgs),
    /// Show how the hub fares.
    #[command(after_help = STATUS)]
    Status,
    /// Show who you are to the hub.
    #[command(after_help = WHOAMI)]
    Whoami,
    /// Offer operations of your own.
    #[command(subcommand)]
    Spoke(spoke::SpokeCommand),
    /// Serve a hub to an MCP host on standard input and output.
    Mcp(mcp::McpArgs),
    /// Print a completion script for a shell.
    Completions(completions::CompletionsArgs),
}

/// A call by id, or the caller's newest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallRef {
    Id(CallId),
    Last,
}

pub(crate) fn parse_call(text: &str) -> Result<CallRef, String> {
    if text == "last" {
        return Ok(CallRef::Last);
    }
    let wrong = |_| format!("{text:?} is no call id: `hub calls list` shows them; `last` is your newest call");
    text.parse().map(CallRef::Id).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_declaration_holds() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_examples_and_the_exit_codes_are_in_the_help() {
        fn check(command: &clap::Command) {
            let leaf = command.get_subcommands().next().is_none();
            let told = command.get_after_help().is_some() || command.get_after_long_help().is_some();
            assert!(!leaf || told, "{} has no example", command.get_name());
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
        let help = Cli::command().render_long_help().to_string();
        for code in ["  0 ", "  1 ", "  2 ", "  3 ", "  4 ", "  5 ", "  6 ", "  130 "] {
            assert!(help.contains(code), "{code}");
        }
    }

    /// An argument with the id of a global one would give its value to that, and a name become a key.
    #[test]
    fn no_argument_shares_its_id_with_a_global_one() {
        fn check(command: &clap::Command, globals: &[String]) {
            for argument in command.get_arguments().filter(|a| !a.is_global_set()) {
                let id = argument.get_id().to_string();
                // The longest run of an offered command takes the place of a wait that this command does not have.
                let meant = command.get_name() == "exec" && id == "timeout";
                assert!(meant || !globals.contains(&id), "{} {id}", command.get_name());
            }
            command.get_subcommands().for_each(|sub| check(sub, globals));
        }
        let cli = Cli::command();
        let globals: Vec<String> =
            cli.get_arguments().filter(|a| a.is_global_set()).map(|a| a.get_id().to_string()).collect();
        assert!(globals.contains(&"key".to_owned()));
        check(&cli, &globals);
    }

    #[test]
    fn globals_stand_anywhere() {
        let cli = Cli::parse_from(["hub", "status", "--json", "--timeout", "5s", "--url", "ws://h"]);
        assert!(cli.globals.json && cli.globals.timeout.is_some());
        assert_eq!(cli.globals.url, "ws://h");
    }

    #[test]
    fn calls_are_named_by_id_or_last() {
        assert_eq!(parse_call("last"), Ok(CallRef::Last));
        assert!(parse_call("019aa571-0000-7000-8000-000000000000").is_ok());
        assert!(parse_call("newest").is_err());
    }
}
