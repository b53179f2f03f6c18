//! One connection: a reader that never waits, and one writer that sends all that is queued with one flush.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use hub_operations::{Close, OutboxReader, Peer};
use hub_protocol::close;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Error as WsError, Message, Utf8Bytes};

use crate::dial::{Socket, fault_text};

/// Most bytes handed to the socket before a flush.
const BATCH: usize = 64 * 1024;

/// Longest wait for the other side's half of a close.
const CLOSING: Duration = Duration::from_secs(2);

/// Longest wait for the reason after a write has failed.
const EXPLAINING: Duration = Duration::from_millis(250);

/// Faults of the hub that are logged; more would let it fill the log.
const LOGGED_FAULTS: u32 = 16;

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The hub closed it.
    ByHub { code: u16, reason: String },
    /// This side closed it.
    ByUs { code: u16 },
    /// It broke.
    Broken(String),
}

/// What reader and writer share.
struct Life {
    /// Whether anything has come since the writer last looked.
    heard: AtomicBool,
    liveness: Duration,
    limit: usize,
}

/// Runs a connection to its end.
pub(crate) async fn drive(socket: Socket, peer: &Peer, queue: OutboxReader, liveness: Duration, limit: usize) -> Ended {
    let (sink, stream) = socket.split();
    let life = Life { heard: AtomicBool::new(true), liveness, limit };
    let reading = read(stream, peer, &life);
    tokio::pin!(reading);
    tokio::select! {
        ended = &mut reading => ended,
        ended = write(sink, queue, &life) => match ended {
            // The close is sent; the hub's half is read, so that what it sent before is not lost in a reset.
            Ended::ByUs { code } => {
                let _late = timeout(CLOSING, reading).await;
                Ended::ByUs { code }
            }
            // A write fails before the close code that explains it has been read.
            broken => match timeout(EXPLAINING, reading).await {
                Ok(ended @ Ended::ByHub { .. }) => ended,
                _ => broken,
            },
        },
    }
}

async fn read(mut stream: SplitStream<Socket>, peer: &Peer, life: &Life) -> Ended {
    let mut faults = 0;
    loop {
        let frame = match stream.next().await {
            Some(Ok(Message::Text(text))) => Bytes::from(text),
            Some(Ok(Message::Binary(bytes))) => bytes,
            Some(Ok(Message::Close(frame))) => {
                // Reading on writes our half of the close.
                let _end = timeout(CLOSING, async { while let Some(Ok(_)) = stream.next().await {} }).await;
                return closed(frame);
            }
            Some(Ok(_)) => {
                life.heard.store(true, Ordering::Relaxed);
                continue;
            }
            Some(Err(error)) => return Ended::Broken(fault_text(&error, life.limit)),
            None => return Ended::Broken("it ended without a close code".to_owned()),
        };
        life.heard.store(true, Ordering::Relaxed);
        if let Err(fault) = peer.receive(&frame) {
            faults += 1;
            if faults <= LOGGED_FAULTS {
                tracing::warn!(code = ?fault.code, fault = %fault.message, "the hub sent a message that can't be read");
            }
        }
    }
}

fn closed(frame: Option<CloseFrame>) -> Ended {
    match frame {
        Some(frame) => Ended::ByHub { code: frame.code.into(), reason: frame.reason.to_string() },
        // 1005 is what RFC 6455 calls a close frame without a code.
        None => Ended::ByHub { code: 1005, reason: String::new() },
    }
}

async fn write(mut sink: SplitSink<Socket, Message>, mut queue: OutboxReader, life: &Life) -> Ended {
    let mut tick = interval_at(Instant::now() + life.liveness, life.liveness);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut batch = Vec::new();
    let mut silent = 0;
    loop {
        let sent = tokio::select! {
            close = queue.next_batch(&mut batch, BATCH) => match close {
                Some(close) => return send_close(sink, close).await,
                None => timeout(2 * life.liveness, send_all(&mut sink, &mut batch, life.limit)).await,
            },
            _ = tick.tick() => {
                silent = if life.heard.swap(false, Ordering::Relaxed) { 0 } else { silent + 1 };
                if silent >= 2 {
                    return Ended::Broken(format!("the hub was silent for {:?}", 2 * life.liveness));
                }
                timeout(2 * life.liveness, sink.send(Message::Ping(Bytes::new()))).await
            }
        };
        match sent {
            Ok(Ok(())) => {}
            // The reader knows better why: a close code is on its way. Its end ends this too.
            Ok(Err(WsError::ConnectionClosed | WsError::AlreadyClosed)) => std::future::pending().await,
            Ok(Err(error)) => return Ended::Broken(fault_text(&error, life.limit)),
            Err(_) => return Ended::Broken("the hub reads nothing that it is sent".to_owned()),
        }
    }
}

async fn send_all(sink: &mut SplitSink<Socket, Message>, batch: &mut Vec<Bytes>, limit: usize) -> Result<(), WsError> {
    for frame in batch.drain(..) {
        // Requests and responses are checked where they are made; the hub would close the connection for one.
        if frame.len() > limit {
            tracing::error!(bytes = frame.len(), limit, "a message above the limit is not sent");
            continue;
        }
        let message = match Utf8Bytes::try_from(frame) {
            Ok(text) => Message::Text(text),
            Err(_) => continue,
        };
        sink.feed(message).await?;
    }
    sink.flush().await
}

async fn send_close(mut sink: SplitSink<Socket, Message>, close: Close) -> Ended {
    let code = close.code;
    let mut reason = close.reason;
    // A control frame holds 125 bytes, two of them the code.
    reason.truncate((0..=123).rev().find(|at| reason.is_char_boundary(*at)).unwrap_or(0));
    let frame = CloseFrame { code: code.into(), reason: reason.into() };
    let sent = timeout(CLOSING, sink.send(Message::Close(Some(frame)))).await;
    if code == close::SLOW_CONSUMER || !matches!(sent, Ok(Ok(()))) {
        return Ended::Broken("the hub does not keep up with what it is sent".to_owned());
    }
    Ended::ByUs { code }
}
