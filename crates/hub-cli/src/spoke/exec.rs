//! `hub spoke exec`: a command line as an operation.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hub_protocol::ops::hub::RegisteredSpoke;
use hub_protocol::{AccessControl, OperationSpec, OperationType, check_operation_id};
use hub_spoke::Reply;
use serde_json::{Value, json};

use super::offer::{OfferArgs, announce, folder, parse_variable, secret_variables, serve, start};
use super::run::Job;
use super::template::Template;
use crate::connect::{Cx, Key};
use crate::failure::{Failure, Result};
use crate::time::parse_duration;

pub(super) const EXAMPLES: &str = "\
Examples:
  hub spoke exec --name grep --op search.grep -- rg --json {pattern}
  hub spoke exec --name ci --op ci.test --stream --scope ci:run --timeout 20m --cwd ~/app -- cargo test {args...}
  hub spoke exec --name fmt --op text.format --type query --stdin-from text -- jq .

Then:  hub call client.grep.search.grep pattern=TODO

--help says what the placeholders mean and what keeps callers from more than you offer.";

pub(super) const LONG: &str = "\
Examples:
  hub spoke exec --name grep --op search.grep -- rg --json {pattern}
  hub spoke exec --name ci --op ci.test --stream --scope ci:run --timeout 20m --cwd ~/app -- cargo test {args...}
  hub spoke exec --name fmt --op text.format --type query --stdin-from text -- jq .

Then:  hub call client.grep.search.grep pattern=TODO

Placeholders:
  {name}        a required member of the input, a string; may be part of an argument (--glob={glob})
  {name...}     a required member of the input, a list of strings, each an argument of its own
  {{name}}      the text {name}; every other brace is only a brace

The answer is {exitCode, stdout, stderr, truncated}, with `signal` when one ended the command. An exit code other than
0 is an answer, not an error. With --stream each line of standard output is an item, and the stream fails when the
command ends with a code that is not in --ok-exit.

What keeps callers from more than you offer:
  No shell reads the command line: a value is one argument, whatever characters it has.
  The program itself can't be a placeholder.
  A value that would begin an argument with '-' is refused, because the command could take it for an option (some
  options run programs or write files). --allow-dash lets such values through: use it only where every option of the
  command is harmless, or put -- before the placeholders of a command that understands it:
      --allow-dash -- grep -n -- {pattern} notes.txt
  The command does not see HUB_KEY. It has all your other rights on this machine, though, and whoever may call the
  operation has the command run with them: ask for a scope with --scope.
  Command and its process group are killed when the call is aborted, times out, or its connection is lost.";

/// Default bound of each kind of output, so that an answer fits the hub's 1 MiB.
const OUTPUT: usize = 256 * 1024;

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    #[command(flatten)]
    offer: OfferArgs,
    /// Operation to offer, such as search.grep. Callers see it as client.NAME.search.grep.
    #[arg(long = "op", value_name = "OPERATION")]
    operation: String,
    /// Whether it changes something: a query may be run again when a connection is lost.
    #[arg(long = "type", value_name = "TYPE", default_value = "mutation")]
    kind: Kind,
    /// Stream the lines of standard output as they come.
    #[arg(long, conflicts_with = "kind")]
    stream: bool,
    /// What it does, for people and models.
    #[arg(long, value_name = "TEXT")]
    describe: Option<String>,
    /// Scope that a caller's key needs; several: all of them. Default: any key will do.
    #[arg(long, value_name = "SCOPE")]
    scope: Vec<String>,
    /// Member of the input that the command gets as standard input. Default: nothing to read.
    #[arg(long, value_name = "MEMBER")]
    stdin_from: Option<String>,
    /// Folder to run in. Default: this one.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Variable of the command's environment.
    #[arg(long, value_name = "KEY=VAL", value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// Longest run of the command; then it is killed. Default: the call's own deadline.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    timeout: Option<Duration>,
    /// Most bytes of standard output and of standard error that are kept, and of one line with --stream.
    #[arg(long, value_name = "BYTES", default_value_t = OUTPUT, value_parser = parse_size)]
    max_output: usize,
    /// Parse standard output as JSON; with --stream each line of it.
    #[arg(long)]
    json_output: bool,
    /// Exit codes that end a stream well.
    #[arg(long, value_name = "CODES", value_delimiter = ',', default_value = "0", requires = "stream")]
    ok_exit: Vec<i32>,
    /// Let values begin arguments with '-'. Read --help first.
    #[arg(long)]
    allow_dash: bool,
    /// Most runs at once; more calls wait at the hub.
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    max_in_flight: u32,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Kind {
    Query,
    Mutation,
}

fn parse_size(text: &str) -> Result<usize, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1_024,
        "m" | "mb" | "mib" => 1_048_576,
        _ => 0,
    };
    let size = digits.parse::<usize>().ok().and_then(|n| n.checked_mul(factor)).filter(|size| *size > 0);
    size.ok_or_else(|| format!("{text:?} is no number of bytes: it looks like 65536, 64k or 1m"))
}

pub(super) async fn run(cx: &Cx, args: ExecArgs) -> Result<()> {
    let template =
        Template::parse(&args.command, args.stdin_from.as_deref(), args.allow_dash).map_err(Failure::Usage)?;
    check_operation_id(&args.operation).map_err(|e| Failure::Usage(format!("--op: {e}")))?;
    let key = cx.key()?;
    let spec = spec(&args, &template);
    let job = Arc::new(job(&args, template, &key)?);
    let stream = args.stream;
    let builder =
        args.offer.builder(cx, &key, args.max_in_flight)?.raw(spec, move |_, input| {
            let job = Arc::clone(&job);
            async move {
                if stream { job.stream(&input).map(Reply::Stream) } else { job.run(&input).await.map(Reply::Value) }
            }
        });
    let running = crate::interruptible(start(builder, &key)).await?;
    let registered = running.registered();
    announce(cx, &args.offer.name, &registered, &notes(&args, &registered))?;
    serve(cx, &key, running, async || std::future::pending().await).await
}

fn job(args: &ExecArgs, template: Template, key: &Key) -> Result<Job> {
    Ok(Job {
        template,
        cwd: folder(args.cwd.as_ref())?,
        env: args.env.clone(),
        secret: secret_variables(key),
        timeout: args.timeout,
        max_output: args.max_output,
        json_output: args.json_output,
        ok_exit: args.ok_exit.clone(),
    })
}

fn spec(args: &ExecArgs, template: &Template) -> OperationSpec {
    let line = args.command.join(" ");
    let description = args.describe.clone().unwrap_or_else(|| format!("Runs `{line}` on {}.", args.offer.name));
    let scopes: Vec<&str> = args.scope.iter().map(String::as_str).collect();
    OperationSpec {
        name: String::new(),
        namespace: String::new(),
        version: "1.0.0".to_owned(),
        kind: match args.kind {
            _ if args.stream => OperationType::Subscription,
            Kind::Query => OperationType::Query,
            Kind::Mutation => OperationType::Mutation,
        },
        title: None,
        description,
        tags: vec!["command".to_owned()],
        input_schema: template.input_schema(),
        output_schema: output_schema(args.stream, args.json_output),
        error_schemas: Vec::new(),
        access_control: AccessControl::scopes(&scopes),
        meta: None,
    }
    .with_id(&args.operation)
}

fn output_schema(stream: bool, json_output: bool) -> Value {
    let stdout = if json_output { json!(true) } else { json!({ "type": "string" }) };
    if stream {
        return stdout;
    }
    json!({
        "type": "object",
        "required": ["exitCode", "stdout", "stderr", "truncated"],
        "properties": {
            "exitCode": { "type": ["integer", "null"], "description": "Null when a signal ended the command." },
            "signal": { "type": "integer", "description": "Number of the signal that ended the command." },
            "stdout": stdout,
            "stderr": { "type": "string" },
            "truncated": { "type": "boolean", "description": "Whether output was left out because there was too much." },
        },
    })
}

fn notes(args: &ExecArgs, registered: &RegisteredSpoke) -> Vec<String> {
    let mut notes: Vec<String> =
        registered.operations.iter().map(|o| format!("try: hub ops schema {}", o.id)).collect();
    if args.scope.is_empty() {
        notes.push("note: every key of this hub may call it; --scope asks for more".to_owned());
    }
    notes
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};
    use crate::spoke::SpokeCommand;

    fn parse(words: &[&str]) -> ExecArgs {
        let cli = Cli::try_parse_from([&["hub", "spoke", "exec"], words].concat()).unwrap();
        match cli.command {
            Command::Spoke(SpokeCommand::Exec(args)) => *args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_example_of_the_help() {
        let args =
            parse(&["--name", "grep", "--op", "search.grep", "--timeout", "5s", "--", "rg", "--json", "{pattern}"]);
        assert_eq!(args.command, ["rg", "--json", "{pattern}"]);
        assert_eq!(args.timeout, Some(Duration::from_secs(5)));
        let spec = spec(&args, &Template::parse(&args.command, None, false).unwrap());
        assert_eq!((spec.id().as_str(), spec.kind), ("search.grep", OperationType::Mutation));
        assert_eq!(spec.description, "Runs `rg --json {pattern}` on grep.");
        assert_eq!(spec.input_schema["required"], json!(["pattern"]));
    }

    #[test]
    fn a_stream_is_a_subscription() {
        let args = parse(&["--name", "n", "--op", "a.b", "--stream", "--ok-exit", "0,1", "--scope", "s", "--", "x"]);
        assert_eq!(args.ok_exit, [0, 1]);
        let spec = spec(&args, &Template::parse(&args.command, None, false).unwrap());
        assert_eq!(spec.kind, OperationType::Subscription);
        assert_eq!(spec.access_control.required_scopes, ["s"]);
    }

    #[test]
    fn sizes_and_variables() {
        assert_eq!((parse_size("64k"), parse_size("1m"), parse_size("7")), (Ok(65_536), Ok(1_048_576), Ok(7)));
        assert!(["", "0", "k", "5x", "-1", "99999999999999999999"].iter().all(|text| parse_size(text).is_err()));
        assert_eq!(parse_variable("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert!(parse_variable("A").is_err() && parse_variable("=b").is_err());
    }
}
