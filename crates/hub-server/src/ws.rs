//! The WebSocket face: one task per connection, one coalescing writer (protocol §1).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hub_core::{Hub, Principal, Session};
use hub_operations::{Close, Outbox, OutboxReader};
use hub_protocol::{CallError, CallFailed, ErrorCode, Event, Fault, FaultCode, Violation, close, decode_head, encode};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use crate::config::Bounds;

/// Bytes written before the writer waits for the socket: progress is measured in these.
const CHUNK: usize = 64 * 1024;

/// A message up to this many times the limit is read whole and its call answered; above, the connection is closed.
const OVERSIZE: usize = 4;

/// Faults within [`FAULT_WINDOW`] after which the connection is closed.
const MAX_FAULTS: u32 = 16;
const FAULT_WINDOW: Duration = Duration::from_secs(60);

/// How long the close handshake may take.
const CLOSING: Duration = Duration::from_secs(1);

/// How long it may take with a slow consumer, which has to read what was sent before to learn why it is closed.
const CLOSING_SLOWLY: Duration = Duration::from_secs(5);

type Sink<S> = SplitSink<WebSocketStream<S>, Message>;

/// What reader and writer of one connection share.
struct Shared {
    session: Arc<Session>,
    bounds: Bounds,
    /// The kind of frame last received is the kind that is sent.
    binary: AtomicBool,
    started: Instant,
    /// Milliseconds from `started` to the last sign of life.
    seen_at: AtomicU64,
}

/// Serves an upgraded connection until it ends.
pub(crate) async fn serve<S: AsyncRead + AsyncWrite + Unpin>(io: S, hub: &Hub, principal: Principal, bounds: Bounds) {
    let config = WebSocketConfig::default()
        // The default of 128 KiB per connection would cost gigabytes with ten thousand spokes.
        .read_buffer_size(8 * 1024)
        .write_buffer_size(16 * 1024)
        .max_write_buffer_size(2 * CHUNK + OVERSIZE * bounds.message)
        .max_message_size(Some(OVERSIZE * bounds.message))
        .max_frame_size(Some(OVERSIZE * bounds.message));
    let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
    let (sink, stream) = socket.split();
    let (outbox, queued) = Outbox::new(bounds.outbound);
    let session = hub.connect(principal, outbox.clone());
    let shared = Shared {
        session: Arc::clone(&session),
        bounds,
        binary: AtomicBool::new(false),
        started: Instant::now(),
        seen_at: AtomicU64::new(0),
    };
    tracing::debug!(connection.id = %session.id(), principal = %session.principal().identity.id, "connected");
    let mut sink = sink;
    let reason = {
        let mut stream = stream;
        let ended = tokio::select! {
            ended = write(&shared, &mut sink, queued) => ended,
            ended = read(&shared, &mut stream, &outbox) => ended,
            close = session.key_over() => Some(close),
        };
        if let Some(how) = &ended {
            if how.code == close::SLOW_CONSUMER {
                metrics::counter!("hub_slow_consumers_total").increment(1);
            }
            say_goodbye(&mut sink, &mut stream, how).await;
        }
        ended
    };
    tracing::debug!(connection.id = %session.id(), close.code = reason.map(|c| c.code), "disconnected");
    session.end().await;
}

/// Feeds the session. `Some` is how to close the connection.
async fn read<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    stream: &mut SplitStream<WebSocketStream<S>>,
    outbox: &Outbox,
) -> Option<Close> {
    let mut faults = Faults::default();
    loop {
        // A peer that does not read what it gets is not read from either.
        outbox.room().await;
        match stream.next().await {
            None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed | Error::Io(_))) => return None,
            Some(Err(error)) => return Some(close_for(&error)),
            Some(Ok(message)) => {
                shared.seen();
                let frame = match message {
                    Message::Text(text) => {
                        shared.binary.store(false, Ordering::Relaxed);
                        Bytes::from(text)
                    }
                    Message::Binary(bytes) => {
                        shared.binary.store(true, Ordering::Relaxed);
                        bytes
                    }
                    // Reading on sends the answer to a close frame, then ends the stream.
                    Message::Close(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
                };
                if let Some(close) = shared.take(&frame, &mut faults) {
                    return Some(close);
                }
            }
        }
    }
}

/// Writes what is queued: all there is, then one flush. `Some` is how to close the connection.
async fn write<S: AsyncRead + AsyncWrite + Unpin>(
    shared: &Shared,
    sink: &mut Sink<S>,
    mut queued: OutboxReader,
) -> Option<Close> {
    let mut ping = tokio::time::interval(shared.bounds.ping);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ping.tick().await;
    let mut batch = Vec::new();
    loop {
        let due = tokio::select! {
            biased;
            close = queued.next_batch(&mut batch, CHUNK) => {
                if close.is_some() {
                    return close;
                }
                false
            }
            _ = ping.tick() => true,
        };
        if due && shared.is_silent() {
            return None;
        }
        let work = async {
            if due {
                sink.feed(Message::Ping(Bytes::new())).await?;
            }
            for frame in batch.drain(..) {
                sink.feed(shared.message(frame)).await?;
            }
            sink.flush().await
        };
        match tokio::time::timeout(shared.bounds.stall, work).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return None,
            Err(_) => {
                return Some(reply_close(close::SLOW_CONSUMER, "slow consumer"));
            }
        }
    }
}

async fn say_goodbye<S: AsyncRead + AsyncWrite + Unpin>(
    sink: &mut Sink<S>,
    stream: &mut SplitStream<WebSocketStream<S>>,
    close: &Close,
) {
    let frame = CloseFrame { code: close.code.into(), reason: clipped(&close.reason).into() };
    let goodbye = async {
        if sink.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = stream.next().await {}
        }
    };
    // A peer that does not answer has had its chance.
    let longest = if close.code == close::SLOW_CONSUMER { CLOSING_SLOWLY } else { CLOSING };
    let _late = tokio::time::timeout(longest, goodbye).await;
}

impl Shared {
    fn seen(&self) {
        let now = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.seen_at.store(now, Ordering::Relaxed);
    }

    /// Whether nothing came for two intervals.
    fn is_silent(&self) -> bool {
        let seen = Duration::from_millis(self.seen_at.load(Ordering::Relaxed));
        self.started.elapsed().saturating_sub(seen) > 2 * self.bounds.ping
    }

    fn message(&self, frame: Bytes) -> Message {
        if self.binary.load(Ordering::Relaxed) {
            return Message::Binary(frame);
        }
        // What the hub encodes is always UTF-8; were it not, a binary frame with the same JSON is allowed.
        match Utf8Bytes::try_from(frame.clone()) {
            Ok(text) => Message::Text(text),
            Err(_) => Message::Binary(frame),
        }
    }

    /// Hands one message on; `Some` when the connection has broken the rules too often.
    fn take(&self, frame: &Bytes, faults: &mut Faults) -> Option<Close> {
        if frame.len() > self.bounds.message {
            return self.refuse_oversized(frame);
        }
        let fault = self.session.receive(frame).err()?;
        metrics::counter!("hub_protocol_faults_total").increment(1);
        self.tell(frame, fault);
        faults.is_too_many().then(|| reply_close(close::POLICY, "too many unreadable messages"))
    }

    /// A request that can't be read fails its call; any other fault is told of by itself.
    fn tell(&self, frame: &Bytes, fault: Fault) {
        let call = if fault.code == FaultCode::BadPayload { decode_head(frame) } else { None };
        let Some((request_id, style)) = call else {
            return self.session.push(&Event::ProtocolError(fault));
        };
        let error = CallError::new(ErrorCode::ValidationError, fault.message.clone())
            .with_details(&[Violation { path: String::new(), message: fault.message }]);
        self.session.push_frame(encode(&Event::Failed(CallFailed::of(request_id, error)), style));
    }

    /// Answers the call if its id can be told, else closes.
    fn refuse_oversized(&self, frame: &Bytes) -> Option<Close> {
        let limit = self.bounds.message;
        let Some((request_id, style)) = decode_head(&frame[..frame.len().min(4096)]) else {
            return Some(reply_close(close::TOO_LARGE, &format!("a message has at most {limit} bytes")));
        };
        let error = CallError::new(ErrorCode::PayloadTooLarge, format!("a message has at most {limit} bytes"))
            .with_details(&serde_json::json!({ "limit": limit, "of": "messageBytes" }));
        self.session.push_frame(encode(&Event::Failed(CallFailed::of(request_id, error)), style));
        None
    }
}

/// Faults of one connection in the current window.
#[derive(Default)]
struct Faults {
    since: Option<Instant>,
    count: u32,
}

impl Faults {
    fn is_too_many(&mut self) -> bool {
        let now = Instant::now();
        if self.since.is_none_or(|since| now - since > FAULT_WINDOW) {
            self.since = Some(now);
            self.count = 0;
        }
        self.count += 1;
        self.count > MAX_FAULTS
    }
}

fn close_for(error: &Error) -> Close {
    match error {
        Error::Capacity(_) => reply_close(close::TOO_LARGE, "message too large"),
        Error::Utf8(_) => reply_close(1007, "text that is not UTF-8"),
        _ => reply_close(1002, "protocol error"),
    }
}

fn reply_close(code: u16, reason: &str) -> Close {
    Close { code, reason: reason.to_owned(), flush: false }
}

/// A close reason has at most 123 bytes.
fn clipped(reason: &str) -> &str {
    let end = (0..=reason.len().min(123)).rev().find(|i| reason.is_char_boundary(*i)).unwrap_or(0);
    &reason[..end]
}
