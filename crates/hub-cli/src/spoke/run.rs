//! One run of an offered command.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use futures_util::stream::{BoxStream, StreamExt, try_unfold};
use hub_adapters::process::Group;
use hub_spoke::{CallError, ErrorCode, Json};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::lines::{Captured, capture, next_line};
use super::template::Template;

/// Longest wait for output after the command has ended: something it left behind may hold the pipes open.
const LINGER: Duration = Duration::from_secs(1);

/// Text of standard error that a failed stream shows.
const LAST_WORDS: usize = 4_096;

/// What is offered.
pub(super) struct Job {
    pub(super) template: Template,
    pub(super) cwd: Option<PathBuf>,
    pub(super) env: Vec<(String, String)>,
    /// Variables of this process that hold the spoke's key.
    pub(super) secret: Vec<OsString>,
    pub(super) timeout: Option<Duration>,
    pub(super) max_output: usize,
    pub(super) json_output: bool,
    /// Exit codes that end a stream well.
    pub(super) ok_exit: Vec<i32>,
}

struct Running {
    child: Child,
    /// Before everything else in dropping, see [`Group`].
    _group: Group,
    stdin: Option<(ChildStdin, String)>,
}

impl Job {
    /// Runs the command to its end.
    pub(super) async fn run(&self, input: &Json) -> Result<Json, CallError> {
        let mut running = self.start(input)?;
        let ended = self.within(self.collect(&mut running)).await?;
        let (status, stdout, stderr) = ended?;
        let mut result = json!({
            "exitCode": status.code(), "stdout": stdout.text, "stderr": stderr.text,
            "truncated": stdout.truncated || stderr.truncated,
        });
        if let Some(signal) = signal_of(status) {
            result["signal"] = json!(signal);
        }
        if self.json_output {
            result["stdout"] = self.parse_whole(&stdout, &stderr, status)?;
        }
        Ok(result.into())
    }

    /// Runs the command and streams its lines.
    pub(super) fn stream(
        self: std::sync::Arc<Self>,
        input: &Json,
    ) -> Result<BoxStream<'static, Result<Json, CallError>>, CallError> {
        let mut running = self.start(input)?;
        let Some(stdout) = running.child.stdout.take() else { return Err(broken("standard output")) };
        let until = self.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
        let stderr = running.child.stderr.take();
        // Both are driven from the stream itself, so that they end with it.
        let words = async move {
            match stderr {
                Some(stderr) => capture(stderr, LAST_WORDS).await.map(|c| c.text).unwrap_or_default(),
                None => String::new(),
            }
        };
        let feed = feed(running.stdin.take());
        let aside = Box::pin(async move { tokio::join!(words, feed).0 });
        let reader = BufReader::new(stdout);
        let state = Streaming { job: self, running, reader, aside, words: None, until, done: false };
        Ok(try_unfold(state, |mut state| async move {
            let item = state.next().await?;
            Ok(item.map(|item| (item, state)))
        })
        .boxed())
    }

    fn start(&self, input: &Json) -> Result<Running, CallError> {
        let values: Map<String, Value> =
            if input.is_null() { Map::new() } else { input.parse().map_err(|_| no_object())? };
        let filled = self.template.fill(&values)?;
        let mut command = Command::new(&self.template.program);
        command.args(&filled.arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.stdin(if filled.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        for name in &self.secret {
            command.env_remove(name);
        }
        command.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(cwd) = &self.cwd {
            command.current_dir(cwd);
        }
        let (mut child, group) = Group::spawn(&mut command).map_err(|error| {
            // The path is the spoke's own business; the kind of fault is what a caller can use.
            CallError::new(ErrorCode::ExecutionError, format!("the command can't be started: {}", error.kind()))
        })?;
        let stdin = child.stdin.take().zip(filled.stdin);
        Ok(Running { child, _group: group, stdin })
    }

    async fn collect(&self, running: &mut Running) -> Result<(ExitStatus, Captured, Captured), CallError> {
        let (Some(stdout), Some(stderr)) = (running.child.stdout.take(), running.child.stderr.take()) else {
            return Err(broken("output"));
        };
        let mut output = std::pin::pin!(async {
            let feeding = feed(running.stdin.take());
            tokio::join!(capture(stdout, self.max_output), capture(stderr, self.max_output), feeding)
        });
        let (status, (stdout, stderr, ())) = tokio::select! {
            both = &mut output => (running.child.wait().await, both),
            status = running.child.wait() => match tokio::time::timeout(LINGER, &mut output).await {
                Ok(both) => (status, both),
                Err(_) => return Err(CallError::new(
                    ErrorCode::ExecutionError,
                    "the command has ended, but something that it started still holds its output open",
                )),
            },
        };
        let status = status.map_err(|_| broken("exit status"))?;
        Ok((status, stdout.map_err(|_| broken("standard output"))?, stderr.map_err(|_| broken("standard error"))?))
    }

    async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, CallError> {
        match self.timeout {
            Some(timeout) => tokio::time::timeout(timeout, work).await.map_err(|_| too_long(timeout)),
            None => Ok(work.await),
        }
    }

    fn parse_whole(&self, stdout: &Captured, stderr: &Captured, status: ExitStatus) -> Result<Value, CallError> {
        serde_json::from_str(&stdout.text).map_err(|error| {
            let why = if stdout.truncated {
                "there was too much of it".to_owned()
            } else {
                format!("{:?} error at line {}", error.classify(), error.line())
            };
            CallError::new(ErrorCode::ExecutionError, format!("the command's output is not JSON: {why}"))
                .with_details(&json!({ "exitCode": status.code(), "stderr": stderr.text }))
        })
    }

    fn item(&self, line: Vec<u8>, whole: bool) -> Result<Json, CallError> {
        let text = String::from_utf8_lossy(&line).into_owned();
        if !self.json_output {
            return Ok(Value::String(text).into());
        }
        let not_json = |why: &str| {
            CallError::new(ErrorCode::ExecutionError, format!("a line of the command's output is not JSON: {why}"))
        };
        if !whole {
            return Err(not_json("it is longer than --max-output"));
        }
        Json::from_text(text).map_err(|error| not_json(&format!("{:?} error", error.classify())))
    }
}

/// A command whose lines are being read.
struct Streaming {
    job: std::sync::Arc<Job>,
    running: Running,
    reader: BufReader<ChildStdout>,
    /// Feeds standard input and reads standard error; gives the latter's beginning.
    aside: std::pin::Pin<Box<dyn Future<Output = String> + Send>>,
    words: Option<String>,
    until: Option<tokio::time::Instant>,
    done: bool,
}

impl Streaming {
    async fn next(&mut self) -> Result<Option<Json>, CallError> {
        loop {
            if self.done {
                return Ok(None);
            }
            let until = self.until;
            let timeout = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                line = next_line(&mut self.reader, self.job.max_output) => match line.map_err(|_| broken("standard output"))? {
                    // An empty line has nothing that could be parsed.
                    Some((line, _)) if line.is_empty() && self.job.json_output => {}
                    Some((line, whole)) => return self.job.item(line, whole).map(Some),
                    None => {
                        self.done = true;
                        return self.finish().await.map(|()| None);
                    }
                },
                words = &mut self.aside, if self.words.is_none() => self.words = Some(words),
                () = timeout => return Err(too_long(self.job.timeout.unwrap_or_default())),
            }
        }
    }

    /// Waits for the end after the last line.
    async fn finish(&mut self) -> Result<(), CallError> {
        if self.words.is_none() {
            self.words = tokio::time::timeout(LINGER, &mut self.aside).await.ok();
        }
        let job = std::sync::Arc::clone(&self.job);
        let status = job.within(self.running.child.wait()).await?.map_err(|_| broken("exit status"))?;
        if status.code().is_some_and(|code| self.job.ok_exit.contains(&code)) {
            return Ok(());
        }
        let how = match (status.code(), signal_of(status)) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "no exit code".to_owned(),
        };
        let details = json!({ "exitCode": status.code(), "signal": signal_of(status), "stderr": self.words });
        Err(CallError::new(ErrorCode::ExecutionError, format!("the command ended with {how}")).with_details(&details))
    }
}

/// Writes to standard input and closes it. A command that does not read it is no fault.
async fn feed(stdin: Option<(ChildStdin, String)>) {
    if let Some((mut stdin, text)) = stdin {
        let _ = stdin.write_all(text.as_bytes()).await;
        let _ = stdin.shutdown().await;
    }
}

#[cfg(unix)]
fn signal_of(status: ExitStatus) -> Option<i32> {
    std::os::unix::process::ExitStatusExt::signal(&status)
}

#[cfg(not(unix))]
fn signal_of(_: ExitStatus) -> Option<i32> {
    None
}

fn too_long(timeout: Duration) -> CallError {
    CallError::new(ErrorCode::Timeout, format!("the command ran longer than {timeout:?} and was killed"))
}

fn broken(what: &str) -> CallError {
    CallError::new(ErrorCode::ExecutionError, format!("the command's {what} can't be read"))
}

fn no_object() -> CallError {
    CallError::new(ErrorCode::ValidationError, "the input is no object")
}

#[cfg(all(test, unix))]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn job(line: &[&str], stdin: Option<&str>) -> Job {
        let words: Vec<String> = line.iter().map(|w| (*w).to_owned()).collect();
        Job {
            template: Template::parse(&words, stdin, false).unwrap(),
            cwd: None,
            env: vec![("GREETING".into(), "hello".into())],
            secret: vec!["PATH_OF_NOBODY".into()],
            timeout: Some(Duration::from_secs(20)),
            max_output: 64,
            json_output: false,
            ok_exit: vec![0],
        }
    }

    async fn run(job: &Job, input: Value) -> Result<Value, CallError> {
        job.run(&input.into()).await.map(|json| json.parse().unwrap())
    }

    #[tokio::test]
    async fn a_run_and_its_result() {
        let result = run(
            &job(&["sh", "-c", "echo $GREETING $1; echo oops >&2; exit 3", "sh", "{who}"], None),
            json!({"who": "you; exit 9"}),
        )
        .await;
        let expected = json!({"exitCode": 3, "stdout": "hello you; exit 9\n", "stderr": "oops\n", "truncated": false});
        assert_eq!(result.unwrap(), expected);
        let result = run(&job(&["cat"], Some("text")), json!({"text": "x".repeat(100)})).await.unwrap();
        assert_eq!((result["truncated"].clone(), result["stdout"].as_str().unwrap().len()), (json!(true), 64));
        let result = run(&job(&["sh", "-c", "kill -9 $$"], None), json!({})).await.unwrap();
        assert_eq!((result["exitCode"].clone(), result["signal"].clone()), (Value::Null, json!(9)));
    }

    #[tokio::test]
    async fn json_is_parsed_or_refused() {
        let mut job = job(&["echo", "{text}"], None);
        job.json_output = true;
        assert_eq!(run(&job, json!({"text": "[1]"})).await.unwrap()["stdout"], json!([1]));
        assert!(run(&job, json!({"text": "[1"})).await.unwrap_err().message.contains("not JSON"));
    }

    #[tokio::test]
    async fn a_missing_program_and_a_long_run_are_errors() {
        let error = run(&job(&["/no/such/program"], None), json!({})).await.unwrap_err();
        assert!(error.is(ErrorCode::ExecutionError) && !error.message.contains("/no/such"), "{error}");
        let mut job = job(&["sleep", "30"], None);
        job.timeout = Some(Duration::from_millis(50));
        assert!(run(&job, json!({})).await.unwrap_err().is(ErrorCode::Timeout));
    }

    async fn gone(marker: &str) -> bool {
        for _ in 0..100 {
            let found = std::process::Command::new("pgrep").args(["-f", marker]).output().unwrap();
            if found.stdout.is_empty() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }

    #[tokio::test]
    async fn dropping_a_run_kills_all_it_has_started() {
        let job = job(&["sh", "-c", "sleep 31.4159 & sleep 31.4159 & wait"], None);
        let input = json!({}).into();
        let run = tokio::time::timeout(Duration::from_millis(200), job.run(&input)).await;
        assert!(run.is_err());
        assert!(gone("sleep 31.4159").await);
    }

    #[tokio::test]
    async fn lines_are_streamed() {
        let streaming = Arc::new(job(&["sh", "-c", "echo one; echo two; echo why >&2; exit 2"], None));
        let items: Vec<_> = streaming.stream(&json!({}).into()).unwrap().collect().await;
        assert_eq!(items[0].as_ref().unwrap().as_str(), "\"one\"");
        assert_eq!(items[1].as_ref().unwrap().as_str(), "\"two\"");
        let error = items[2].as_ref().unwrap_err();
        assert!(error.message.contains("exit code 2"), "{error}");
        assert!(error.details.as_ref().unwrap().as_str().contains("why"));
        assert_eq!(items.len(), 3);
        let mut fine = job(&["sh", "-c", "echo '{\"a\":1}'; echo; exit 1"], None);
        fine.ok_exit = vec![0, 1];
        fine.json_output = true;
        let items: Vec<_> = Arc::new(fine).stream(&json!({}).into()).unwrap().collect().await;
        assert_eq!(items.len(), 1);
        assert_eq!(items[0].as_ref().unwrap().as_str(), "{\"a\":1}");
    }

    #[tokio::test]
    async fn much_standard_error_does_not_block_a_stream() {
        let noisy = Arc::new(job(
            &[
                "sh",
                "-c",
                "i=0; while [ $i -lt 3000 ]; do echo 0123456789012345678901234567890123456789 >&2; i=$((i+1)); done; echo end",
            ],
            None,
        ));
        let items: Vec<_> = noisy.stream(&json!({}).into()).unwrap().collect().await;
        assert_eq!(items.len(), 1);
        assert!(items[0].is_ok());
    }
}
