//! What the streams of a session's requests have told, for a client that lost one and asks for the rest of it with
//! `Last-Event-ID`.
//!
//! The SDK forgets a stream as soon as the answer is given to it, whether anybody reads it or not. So whatever it tells is
//! taken from it at once, and read from here.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream;
use rmcp::transport::common::server_side_http::ServerSseMessage;
use tokio::sync::watch;

/// Events of a stream that are kept, the last ones: more than a call may have.
const EVENTS: usize = 2_048;

/// How long a stream is known after its end.
const KEPT: Duration = Duration::from_secs(300);

/// Streams of one session that have ended; the first of them gives way.
const PER_SESSION: usize = 64;

/// Bytes of all that have ended; those that ended first give way.
const BYTES: usize = 64 * 1024 * 1024;

/// Bytes of a stream beside its events, about.
const STREAM_BYTES: usize = 1_024;

/// The streams by their numbers.
#[derive(Default)]
pub(super) struct Replay {
    next: AtomicU64,
    streams: Mutex<Streams>,
}

/// A stream while something can be told; it ends when nobody holds it any more.
pub(super) struct Stream {
    number: u64,
    events: watch::Sender<Events>,
    replay: Arc<Replay>,
}

/// Events in order; the first of them may have been left out.
#[derive(Default)]
struct Events {
    left_out: u64,
    kept: VecDeque<ServerSseMessage>,
}

#[derive(Default)]
struct Streams {
    known: HashMap<u64, Known>,
    /// When which ended.
    ended: BTreeSet<(Instant, u64)>,
    /// Those of a session that have ended, first ones first.
    of_session: HashMap<Arc<str>, VecDeque<u64>>,
    bytes: usize,
}

struct Known {
    session: Arc<str>,
    events: watch::Receiver<Events>,
    ended: Option<Ended>,
}

struct Ended {
    at: Instant,
    bytes: usize,
}

impl Replay {
    /// Begins a stream of a session.
    pub(super) fn begin(self: &Arc<Self>, session: &str) -> Arc<Stream> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let events = watch::Sender::default();
        let known = Known { session: session.into(), events: events.subscribe(), ended: None };
        self.lock().known.insert(number, known);
        Arc::new(Stream { number, events, replay: Arc::clone(self) })
    }

    /// What a session's stream told after an event, and what it will; `None` when it is not known (any more).
    pub(super) fn after(&self, session: &str, event: &str) -> Option<impl EventStream + use<>> {
        let (index, number) = event.split_once('/')?;
        let (index, number): (u64, u64) = (index.parse().ok()?, number.parse().ok()?);
        let streams = self.lock();
        let known = streams.known.get(&number).filter(|known| *known.session == *session)?;
        let late = known.ended.as_ref().is_some_and(|ended| ended.at.elapsed() >= KEPT);
        (!late && index < known.events.borrow().next()).then(|| read(known.events.clone(), index + 1))
    }

    fn lock(&self) -> MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the SDK writes out.
pub(super) trait EventStream: stream::Stream<Item = ServerSseMessage> + Send + Sync + 'static {}

impl<S: stream::Stream<Item = ServerSseMessage> + Send + Sync + 'static> EventStream for S {}

impl Stream {
    pub(super) fn tell(&self, mut event: ServerSseMessage) {
        self.events.send_modify(|events| {
            // One that tells nothing is there to give the first id.
            if event.message.is_none() && events.next() > 0 {
                return;
            }
            event.event_id = Some(format!("{}/{}", events.next(), self.number));
            events.kept.push_back(event);
            if events.kept.len() > EVENTS {
                events.kept.pop_front();
                events.left_out += 1;
            }
        });
    }

    /// All of it.
    pub(super) fn read(&self) -> impl EventStream + use<> {
        read(self.events.subscribe(), 0)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let bytes = STREAM_BYTES + self.events.borrow().bytes();
        self.replay.lock().end(self.number, Ended { at: Instant::now(), bytes });
    }
}

impl Events {
    /// The index of the next event.
    fn next(&self) -> u64 {
        self.left_out + self.kept.len() as u64
    }

    /// The event with an index or, when that was left out, the first one after it; and its index.
    fn at(&self, index: u64) -> Option<(u64, ServerSseMessage)> {
        let index = index.max(self.left_out);
        let position = usize::try_from(index - self.left_out).ok()?;
        self.kept.get(position).map(|event| (index, event.clone()))
    }

    fn bytes(&self) -> usize {
        let messages = self.kept.iter().filter_map(|event| event.message.as_ref());
        messages.map(|message| serde_json::to_string(message).map_or(0, |text| text.len())).sum()
    }
}

/// The events from an index on, until the stream has ended.
fn read(events: watch::Receiver<Events>, index: u64) -> impl EventStream + use<> {
    stream::unfold((events, index), |(mut events, index)| async move {
        loop {
            let event = events.borrow_and_update().at(index);
            if let Some((at, event)) = event {
                return Some((event, (events, at + 1)));
            }
            events.changed().await.ok()?;
        }
    })
}

impl Streams {
    fn end(&mut self, number: u64, ended: Ended) {
        let Some(known) = self.known.get_mut(&number) else { return };
        if known.events.borrow().next() == 0 {
            // Nobody has an event of it to come back with.
            self.known.remove(&number);
            return;
        }
        self.bytes += ended.bytes;
        self.ended.insert((ended.at, number));
        known.ended = Some(ended);
        let of_session = self.of_session.entry(Arc::clone(&known.session)).or_default();
        of_session.push_back(number);
        let first = of_session.front().copied().filter(|_| of_session.len() > PER_SESSION);
        first.into_iter().for_each(|first| self.forget(first));
        while let Some((at, first)) = self.ended.first().copied() {
            if self.bytes <= BYTES && at.elapsed() < KEPT {
                break;
            }
            self.forget(first);
        }
    }

    fn forget(&mut self, number: u64) {
        let Some(Known { session, ended: Some(ended), .. }) = self.known.remove(&number) else { return };
        self.ended.remove(&(ended.at, number));
        self.bytes -= ended.bytes;
        if let Some(of_session) = self.of_session.get_mut(&session) {
            of_session.retain(|other| *other != number);
            if of_session.is_empty() {
                self.of_session.remove(&session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt;
    use rmcp::ErrorData;
    use rmcp::model::ServerJsonRpcMessage;

    use super::*;

    fn event(text: impl Into<String>) -> ServerSseMessage {
        let error = ErrorData::internal_error(text.into(), None);
        ServerSseMessage::from_message(ServerJsonRpcMessage::error(error, None))
    }

    fn told(replay: &Arc<Replay>, session: &str) -> String {
        let stream = replay.begin(session);
        stream.tell(event("x"));
        format!("0/{}", stream.number)
    }

    #[tokio::test]
    async fn what_was_told_after_an_event_is_told_again_to_its_session() {
        let replay = Arc::new(Replay::default());
        let stream = replay.begin("a");
        for text in ["one", "two", "three"] {
            stream.tell(event(text));
        }
        let ids: Vec<String> = stream.read().take(3).filter_map(async |event| event.event_id).collect().await;
        let rest = replay.after("a", &ids[0]).unwrap();
        assert!(replay.after("b", &ids[0]).is_none());
        for wrong in ["3/0", "0/1", "0", "x/0", "0/x", "18446744073709551615/0"] {
            assert!(replay.after("a", wrong).is_none(), "{wrong}");
        }
        drop(stream);
        let rest: Vec<ServerSseMessage> = rest.collect().await;
        assert!(rest.len() == 2 && rest[1].event_id.as_ref() == Some(&ids[2]));
        // Its end is known as well.
        assert_eq!(replay.after("a", &ids[2]).unwrap().count().await, 0);
    }

    #[tokio::test]
    async fn of_too_many_events_the_last_are_kept() {
        let replay = Arc::new(Replay::default());
        let stream = replay.begin("a");
        (0..EVENTS + 5).for_each(|n| stream.tell(event(n.to_string())));
        let mut events = Box::pin(stream.read());
        assert_eq!(events.next().await.unwrap().event_id.unwrap(), "5/0");
        drop(stream);
        assert_eq!(events.count().await, EVENTS - 1);
    }

    #[test]
    fn streams_that_have_ended_are_bounded_in_count_and_bytes() {
        let replay = Arc::new(Replay::default());
        let known = |session: &str, id: &String| replay.after(session, id).is_some();
        let other = told(&replay, "b");
        let ids: Vec<String> = (0..PER_SESSION + 1).map(|_| told(&replay, "a")).collect();
        assert!(!known("a", &ids[0]) && known("a", &ids[1]) && known("b", &other));
        let runs = replay.begin("b");
        runs.tell(event("it does not give way"));
        let large = replay.begin("c");
        large.tell(event("it is large"));
        replay.lock().end(large.number, Ended { at: Instant::now(), bytes: BYTES + 1 });
        let streams = replay.lock();
        assert!(streams.known.len() == 1 && streams.ended.is_empty() && streams.of_session.is_empty());
        assert_eq!(streams.bytes, 0);
        drop(streams);
        assert!(known("b", &format!("0/{}", runs.number)));
    }

    #[test]
    fn streams_that_told_nothing_push_nobody_out() {
        let replay = Arc::new(Replay::default());
        let cut = told(&replay, "a");
        (0..PER_SESSION).for_each(|_| drop(replay.begin("a")));
        assert!(replay.after("a", &cut).is_some() && replay.lock().known.len() == 1);
    }
}
