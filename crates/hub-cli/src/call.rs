//! `hub call`.

pub(crate) mod input;

use std::pin::pin;
use std::time::Duration;

use clap::{Args, ValueEnum};
use hub_protocol::OperationType;
use hub_protocol::ops::calls::ListCalls;
use hub_protocol::ops::hub::GetSchemas;
use hub_spoke::hub_protocol::CallId;
use hub_spoke::{AbortMode, ActiveCall, Json, OnDisconnect, Request};
use serde::Deserialize;
use serde_json::json;

use crate::calls::receipts;
use crate::connect::{Cx, Hub};
use crate::failure::{Failure, Result};
use crate::interruptible;
use crate::output::{Out, pretty};
use crate::time::{duration, now_ms, parse_duration};

/// Longest wait for the receipts of an abort; the hub itself gives callees 5 s.
const GRACE: Duration = Duration::from_secs(10);

/// Longest wait for the record of a detached call: records are written in batches.
const RECORDED: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  hub call hub.whoami
  hub call dev.laptop.fs.read path=README.md limit:=10     = gives a text, := gives JSON
  hub call dev.laptop.fs.write path=a.txt content=@a.txt   =@ and :=@ read the value from a file
  hub call tasks.create '{\"title\": \"Fix it\"}'              the input as JSON
  hub call tasks.create @task.json                         … from a file
  jq … | hub call tasks.create -                           … from standard input
  hub call fs.read@laptop path=README.md                   one certain provider of a pooled operation
  hub call dev.laptop.bash.run command='make test'         output prints as it comes
  hub call --detach dev.laptop.bash.run command='make'     leave it running, print its call id

A text result is printed as it is, everything else as JSON. Streams print one item a line; output of commands
({stream, text}) goes to standard output and standard error as it is. With --json the result is printed as it came.

Ctrl-C aborts the call and all it has called, waits for their confirmations and lists them (exit code 130).
A second Ctrl-C does not wait.";

/// Options of `hub call`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CallArgs {
    /// Operation, or OPERATION@SPOKE for one provider.
    #[arg(value_name = "OPERATION")]
    operation: String,
    /// JSON, @FILE, - (standard input), or pairs key=text and key:=json. Default: {}.
    #[arg(value_name = "INPUT")]
    input: Vec<String>,
    /// Longest time for the call and all below it. Default: 30s, none for streams.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    deadline: Option<Duration>,
    /// Longest pause between two items of a stream.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    idle_timeout: Option<Duration>,
    /// Name of this execution: calling again within 24 hours with it runs nothing twice.
    #[arg(long, value_name = "TEXT", visible_alias = "key-idempotency")]
    idempotency_key: Option<String>,
    /// Version of the operation, as a semver range. Default: the highest with a provider.
    #[arg(long, value_name = "RANGE")]
    version: Option<String>,
    /// Data for the callee beside the input.
    #[arg(long, value_name = "JSON", value_parser = input::option)]
    metadata: Option<Json>,
    /// Money that the call and all below it may spend, in micro-dollars.
    #[arg(long, value_name = "N")]
    budget: Option<i64>,
    /// What becomes of the call when this connection is lost. Default: finish for mutations, else abort.
    #[arg(long, value_name = "RULE", conflicts_with = "detach")]
    on_disconnect: Option<Rule>,
    /// Leave the call running and print its id; `hub calls attach ID` follows its stream, `hub calls get ID` has
    /// its result.
    #[arg(long)]
    detach: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    Abort,
    Finish,
    Detach,
}

impl From<Rule> for OnDisconnect {
    fn from(rule: Rule) -> Self {
        match rule {
            Rule::Abort => Self::Abort,
            Rule::Finish => Self::Finish,
            Rule::Detach => Self::Detach,
        }
    }
}

pub(crate) async fn run(cx: &Cx, args: CallArgs) -> Result<()> {
    // Before anything waits for Ctrl-C: reading a terminal can't be interrupted from within.
    let input = input::read(&args.input, std::io::stdin())?;
    let (hub, stream, active) = interruptible(async {
        let hub = cx.connect(false).await?;
        let stream = is_stream(&hub, &args.operation).await?;
        let request = request(cx, &hub, &args, input, stream);
        let active = if stream { request.start().await } else { request.start_one().await };
        let active = active.map_err(|error| hub.failed(&args.operation, error))?;
        Ok((hub, stream, active))
    })
    .await?;
    if args.detach {
        return interruptible(detach(cx, &hub, &args.operation, active)).await;
    }
    follow(cx, &hub, &args.operation, active, stream).await
}

/// Whether the operation answers a stream, by its declaration.
async fn is_stream(hub: &Hub, operation: &str) -> Result<bool> {
    let id = operation.split('@').next().unwrap_or_default().to_owned();
    let reply = hub.call(&GetSchemas { operation_ids: vec![id] }).await;
    let schemas = reply.map_err(|failure| match failure {
        // The caller asked for the operation, not for its schema.
        Failure::Call { error, .. } => Failure::call(operation, error),
        other => other,
    })?;
    Ok(schemas.operations.first().is_some_and(|spec| spec.kind == OperationType::Subscription))
}

fn request(cx: &Cx, hub: &Hub, args: &CallArgs, input: Json, stream: bool) -> Request {
    let mut request = hub.client.request(&args.operation).input(input);
    if let Some(deadline) = args.deadline.or(cx.globals.timeout.filter(|_| !stream)) {
        request = request.deadline(deadline);
    }
    if let Some(idle) = args.idle_timeout {
        request = request.idle_timeout(idle);
    }
    if let Some(key) = &args.idempotency_key {
        request = request.idempotency_key(key);
    }
    if let Some(range) = &args.version {
        request = request.version(range);
    }
    if let Some(metadata) = &args.metadata {
        request = request.metadata(metadata.clone());
    }
    if let Some(budget) = args.budget {
        request = request.budget(budget);
    }
    match args.on_disconnect {
        _ if args.detach => request.on_disconnect(OnDisconnect::Detach),
        Some(rule) => request.on_disconnect(rule.into()),
        None => request,
    }
}

async fn follow(cx: &Cx, hub: &Hub, operation: &str, mut active: ActiveCall, stream: bool) -> Result<()> {
    let mut stop = pin!(tokio::signal::ctrl_c());
    loop {
        let item = tokio::select! {
            item = active.next() => item,
            _ = &mut stop => return abort(cx.out, active).await,
        };
        match item {
            None => return Ok(()),
            Some(Err(error)) => return Err(hub.failed(operation, error)),
            Some(Ok(data)) if stream => print_item(cx.out, &data)?,
            Some(Ok(data)) => {
                cx.out.line(&if cx.out.json { data.as_str().to_owned() } else { pretty(&data) })?;
                return Ok(());
            }
        }
    }
}

async fn abort(out: Out, active: ActiveCall) -> Result<()> {
    if !out.json {
        out.note("aborting; Ctrl-C again does not wait for confirmations");
    }
    let reached = tokio::select! {
        reached = active.abort(Some("aborted by Ctrl-C".to_owned()), AbortMode::Kill, GRACE) => reached,
        _ = tokio::signal::ctrl_c() => return Err(Failure::Interrupted),
    };
    if out.json {
        out.note(&json!({ "aborted": true, "receipts": reached }).to_string());
    } else if reached.is_empty() {
        out.note("aborted; the hub sent no receipts");
    } else {
        out.note_table(&receipts(&reached));
    }
    Err(Failure::Interrupted)
}

/// Output of a command, as `bash.run` and the like stream it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CommandOutput {
    stream: Channel,
    text: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Channel {
    Stdout,
    Stderr,
}

/// How a command ended: the last item of such a stream.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CommandEnd {
    exit_code: Option<i32>,
    signal: Option<i32>,
    timed_out: bool,
    duration_ms: u64,
}

/// Prints one item of a stream.
pub(crate) fn print_item(out: Out, data: &Json) -> Result<()> {
    if out.json {
        return out.line(data.as_str());
    }
    if let Ok(output) = data.parse::<CommandOutput>() {
        return match output.stream {
            Channel::Stdout => out.raw(&output.text),
            Channel::Stderr => {
                out.note_raw(&output.text);
                Ok(())
            }
        };
    }
    if let Ok(end) = data.parse::<CommandEnd>() {
        if let Some(note) = end.note() {
            out.note(&note);
        }
        return Ok(());
    }
    match data.parse::<String>() {
        Ok(text) => out.line(&text),
        Err(_) => out.line(data.as_str()),
    }
}

impl CommandEnd {
    fn note(&self) -> Option<String> {
        let how = match (self.timed_out, self.exit_code, self.signal) {
            (true, ..) => "out of time".to_owned(),
            (_, Some(0), _) => return None,
            (_, Some(code), _) => format!("exit code {code}"),
            (_, None, Some(signal)) => format!("ended by signal {signal}"),
            (_, None, None) => return None,
        };
        Some(format!("[{how} after {}]", duration(self.duration_ms)))
    }
}

/// Waits until the hub has the call on record and leaves it alone.
async fn detach(cx: &Cx, hub: &Hub, operation: &str, mut active: ActiveCall) -> Result<()> {
    let request_id = active.request_id().to_owned();
    let since = now_ms();
    let id = tokio::select! {
        id = recorded(hub, operation, &request_id, since) => id?,
        Some(Err(error)) = active.next() => return Err(hub.failed(operation, error)),
    };
    // Not through `drop`, which would abort the call: what the hub sees is a lost connection.
    hub.client.close().await;
    drop(active);
    if cx.out.json {
        return cx.out.document(&json!({ "callId": id }));
    }
    cx.out.line(&id.to_string())
}

async fn recorded(hub: &Hub, operation: &str, request_id: &str, since: u64) -> Result<CallId> {
    let give_up = tokio::time::Instant::now() + RECORDED;
    // Clocks of two machines differ.
    let since = Some(since.saturating_sub(3_600_000));
    let mut pause = Duration::from_millis(10);
    loop {
        let page = hub.call(&ListCalls { since, limit: Some(200), ..ListCalls::default() }).await?;
        if let Some(call) = page.calls.iter().find(|call| call.request_id == request_id) {
            return Ok(call.call_id);
        }
        if tokio::time::Instant::now() > give_up {
            return Err(Failure::Local(format!(
                "the hub took {operation} but shows no record of it yet: see `hub calls list`"
            )));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(value: serde_json::Value) -> Option<String> {
        serde_json::from_value::<CommandEnd>(value).unwrap().note()
    }

    #[test]
    fn the_end_of_a_command_is_told_when_it_is_worth_it() {
        let end_of = |code: Option<i32>, signal: Option<i32>, timed_out: bool| {
            end(
                json!({"exitCode": code, "signal": signal, "timedOut": timed_out, "durationMs": 1240, "truncated": false}),
            )
        };
        assert_eq!(end_of(Some(0), None, false), None);
        assert_eq!(end_of(Some(2), None, false).unwrap(), "[exit code 2 after 1.24 s]");
        assert_eq!(end_of(None, Some(9), false).unwrap(), "[ended by signal 9 after 1.24 s]");
        assert_eq!(end_of(None, Some(9), true).unwrap(), "[out of time after 1.24 s]");
    }

    #[test]
    fn output_of_commands_is_told_from_other_items() {
        let is = |text: &str| serde_json::from_str::<CommandOutput>(text).is_ok();
        assert!(is(r#"{"stream":"stdout","text":"x"}"#));
        assert!(!is(r#"{"stream":"video","text":"x"}"#));
        assert!(!is(r#"{"stream":"stdout","text":"x","more":1}"#));
    }
}
