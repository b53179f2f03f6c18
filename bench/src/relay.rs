//! The limit: WebSocket messages passed on over the same four hops, with no hub logic at all.
//!
//! Built as the hub's connections are, a reader and a coalescing writer each. The first connection is the callee's. A
//! caller's message goes to the callee as it is; an answer goes to the caller whose number stands at a fixed place in
//! it. Nothing is parsed, checked or kept.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use crate::client::frame;

/// What makes this program a relay.
pub(crate) const COMMAND: &str = "relay-child";

/// Messages that may wait for a connection's writer.
const QUEUE: usize = 8_192;

type Socket = WebSocketStream<TcpStream>;
type Queue = mpsc::Sender<Message>;

#[derive(Default)]
struct Switch {
    callee: Mutex<Option<Queue>>,
    callers: Mutex<HashMap<u16, Queue>>,
}

/// Relays until it is killed.
pub(crate) async fn serve() -> Result<()> {
    let address: SocketAddr = std::env::args().nth(2).context("an address")?.parse()?;
    let listener = TcpListener::bind(address).await?;
    let switch = Arc::new(Switch::default());
    let mut tasks = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let switch = Arc::clone(&switch);
        tasks.spawn(async move {
            // A connection that only looked whether the relay is up ends here.
            if let Ok(socket) = tokio_tungstenite::accept_async_with_config(stream, Some(frame::config())).await {
                connection(socket, &switch).await;
            }
        });
        while tasks.try_join_next().is_some() {}
    }
}

async fn connection(socket: Socket, switch: &Switch) {
    let (sink, stream) = socket.split();
    let (queue, queued) = mpsc::channel(QUEUE);
    let is_callee = {
        let mut callee = switch.callee.lock().unwrap_or_else(PoisonError::into_inner);
        // The callee's place is free again once its writer has gone.
        let free = callee.as_ref().is_none_or(Queue::is_closed);
        if free {
            *callee = Some(queue.clone());
        }
        free
    };
    let reading =
        async { if is_callee { to_callers(stream, switch).await } else { to_callee(stream, switch, queue).await } };
    tokio::select! {
        () = reading => {}
        () = write(sink, queued) => {}
    }
}

async fn to_callee(mut stream: SplitStream<Socket>, switch: &Switch, own: Queue) {
    let mut callee = None;
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = &message else { continue };
        if callee.is_none() {
            // As for the hub, who is called is known before the first call.
            callee.clone_from(&switch.callee.lock().unwrap_or_else(PoisonError::into_inner));
            let number = frame::lane_of_request(text.as_bytes());
            switch.callers.lock().unwrap_or_else(PoisonError::into_inner).insert(number, own.clone());
        }
        let Some(to) = &callee else { return };
        if to.send(message).await.is_err() {
            return;
        }
    }
}

async fn to_callers(mut stream: SplitStream<Socket>, switch: &Switch) {
    while let Some(Ok(message)) = stream.next().await {
        let Message::Text(text) = &message else { continue };
        let number = frame::lane_of_response(text.as_bytes());
        let to = switch.callers.lock().unwrap_or_else(PoisonError::into_inner).get(&number).cloned();
        if let Some(to) = to {
            // A caller that has gone misses its answer.
            to.send(message).await.ok();
        }
    }
}

async fn write(mut sink: SplitSink<Socket, Message>, mut queued: mpsc::Receiver<Message>) {
    let mut batch = Vec::new();
    while queued.recv_many(&mut batch, 1_024).await > 0 {
        for message in batch.drain(..) {
            if sink.feed(message).await.is_err() {
                return;
            }
        }
        if sink.flush().await.is_err() {
            return;
        }
    }
}
