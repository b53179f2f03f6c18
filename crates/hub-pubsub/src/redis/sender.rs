//! PUBLISH from many tasks over one connection.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use redis::{Pipeline, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::link::{Event, Link};
use super::settings::Settings;
use crate::TargetError;

/// Bytes that may wait to be sent; who comes later waits for room.
const ROOM: usize = 64 * 1024 * 1024;
/// What a frame costs besides its bytes, so that empty ones are bounded too.
const COST: usize = 512;
/// Commands and bytes that go out together. A subscriber's buffer at the server (32 MiB by default, above which it is
/// thrown out) must hold what is published before the server comes to write.
const AT_ONCE: (usize, usize) = (1024, 4 * 1024 * 1024);

struct Job {
    channel: String,
    payload: Bytes,
    answer: oneshot::Sender<Result<u64, TargetError>>,
    /// Gives the room back when the job is done.
    _room: Option<OwnedSemaphorePermit>,
}

/// A task that takes all that is queued and sends it in one go, and then the next: so calls from many tasks share round
/// trips, and those made one after another keep their order.
pub(crate) struct Sender {
    link: Arc<Link>,
    jobs: mpsc::UnboundedSender<Job>,
    room: Arc<Semaphore>,
    timeout: Duration,
    failed: Arc<AtomicBool>,
    task: Mutex<JoinSet<()>>,
}

/// The number of receivers, once the server has answered.
pub(crate) type Answer = oneshot::Receiver<Result<u64, TargetError>>;

impl Sender {
    /// `sorry` is a channel to tell, after a reconnect, that something failed to be sent.
    pub(crate) fn start(name: &'static str, settings: &Settings, sorry: Option<String>) -> Self {
        let (jobs, queue) = mpsc::unbounded_channel();
        let failed = Arc::new(AtomicBool::new(false));
        let listener = connected_again(jobs.downgrade(), sorry.clone(), failed.clone());
        let link = Arc::new(Link::start(name, settings, Box::new(listener)));
        let timeout = settings.options.timeout;
        let mut task = JoinSet::new();
        task.spawn(run(link.clone(), queue, sorry, failed.clone()));
        Self { link, jobs, room: Arc::new(Semaphore::new(ROOM)), timeout, failed, task: Mutex::new(task) }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Something was not even tried, as the server is away.
    pub(crate) fn failed(&self) {
        self.failed.store(true, Ordering::Release);
    }

    /// Ends the connection; what waits to be sent is dropped.
    pub(crate) fn stop(&self) {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
        self.link.stop();
    }

    /// Puts a message behind all that were put before; waits only for room.
    pub(crate) async fn put(&self, channel: String, payload: Bytes) -> Result<Answer, TargetError> {
        let cost = u32::try_from((payload.len() + COST).min(ROOM)).unwrap_or(u32::MAX);
        let room = timeout(self.timeout, self.room.clone().acquire_many_owned(cost)).await;
        let room = room.map_err(|_| TargetError::Unavailable("too much is waiting to be sent"))?;
        let (answer, answered) = oneshot::channel();
        let job = Job { channel, payload, answer, _room: Some(room.map_err(|_| TargetError::Closed)?) };
        self.jobs.send(job).map_err(|_| TargetError::Closed)?;
        Ok(answered)
    }
}

/// What tells that something failed to be sent.
fn apology(channel: String) -> Job {
    let (answer, _) = oneshot::channel();
    Job { channel, payload: Bytes::new(), answer, _room: None }
}

fn connected_again(
    jobs: mpsc::WeakUnboundedSender<Job>,
    sorry: Option<String>,
    failed: Arc<AtomicBool>,
) -> impl Fn(Event) + Send + Sync {
    move |_| {
        let (Some(jobs), Some(channel)) = (jobs.upgrade(), sorry.clone()) else { return };
        if failed.swap(false, Ordering::AcqRel) {
            // Only fails when the task has ended, with the target.
            _ = jobs.send(apology(channel));
        }
    }
}

async fn run(link: Arc<Link>, mut queue: mpsc::UnboundedReceiver<Job>, sorry: Option<String>, failed: Arc<AtomicBool>) {
    let mut batch = Vec::new();
    while let Some(first) = queue.recv().await {
        let mut bytes = first.payload.len();
        batch.push(first);
        while batch.len() < AT_ONCE.0
            && bytes < AT_ONCE.1
            && let Ok(job) = queue.try_recv()
        {
            bytes += job.payload.len();
            batch.push(job);
        }
        let result = send(&link, &batch).await;
        let is_error = result.is_err();
        answer(&mut batch, result);
        if is_error {
            failed.store(true, Ordering::Release);
            // The connection may have come back before that was noted: then nobody else will say it.
            if let Some(channel) = sorry.clone().filter(|_| link.away().is_none())
                && send(&link, &[apology(channel)]).await.is_ok()
            {
                failed.store(false, Ordering::Release);
            }
        }
    }
}

async fn send(link: &Link, batch: &[Job]) -> Result<Vec<Value>, &'static str> {
    let mut connection = link.connection().await?;
    let mut pipeline = Pipeline::with_capacity(batch.len());
    for job in batch {
        pipeline.cmd("PUBLISH").arg(&job.channel).arg(&*job.payload);
    }
    let error = match connection.redis.send_packed_commands(&pipeline, 0, batch.len()).await {
        Ok(values) if values.len() == batch.len() => return Ok(values),
        Ok(_) => "the server refused",
        Err(error) if error.is_timeout() => "no answer in time",
        Err(_) => "connection lost",
    };
    // Nothing may come late on this connection and overtake what is sent on the next one.
    link.give_up(&connection);
    Err(error)
}

fn answer(batch: &mut Vec<Job>, result: Result<Vec<Value>, &'static str>) {
    let mut values = match result {
        Ok(values) => values.into_iter(),
        Err(reason) => {
            // Whoever does not wait for the answer has dropped the other end.
            batch.drain(..).for_each(|job| _ = job.answer.send(Err(TargetError::Unavailable(reason))));
            return;
        }
    };
    for job in batch.drain(..) {
        let result = match values.next() {
            Some(Value::Int(receivers)) => Ok(u64::try_from(receivers).unwrap_or(0)),
            _ => Err(TargetError::Unavailable("the server refused")),
        };
        _ = job.answer.send(result);
    }
}
