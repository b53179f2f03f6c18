//! The thin WebSocket caller, the same for hub and relay.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use super::{STUCK, frame};
use crate::stats::{Tally, Window};

pub(crate) type Socket = WebSocketStream<TcpStream>;

/// Connects; the relay does not look at the key.
pub(crate) async fn connect(address: SocketAddr, key: &str) -> Result<Socket> {
    let mut request = format!("ws://{address}/ws").into_client_request()?;
    request.headers_mut().insert("authorization", format!("Bearer {key}").parse()?);
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (socket, _) = tokio_tungstenite::client_async_with_config(request, stream, Some(frame::config())).await?;
    Ok(socket)
}

/// Keeps `in_flight` calls of `operation` going until the window is over, then waits for the last of them.
pub(crate) async fn call(
    mut socket: Socket,
    lane: u16,
    in_flight: usize,
    operation: String,
    window: Window,
) -> Result<Tally> {
    let mut tally = Tally::new(window);
    let mut sent = vec![(Instant::now(), 0u32); in_flight];
    for slot in 0..in_flight {
        socket.feed(Message::text(frame::request(lane, slot, 0, &operation))).await?;
    }
    socket.flush().await?;
    let mut open = in_flight;
    while open > 0 {
        let first = tokio::time::timeout(STUCK, socket.next()).await.context("no answer in time")?;
        let now = Instant::now();
        let mut next = Some(first.context("the connection was closed")??);
        while let Some(message) = next {
            if let Some(text) = text_of(&message)? {
                let slot = frame::slot_of_response(text)?;
                let (at, round) = sent.get_mut(slot).context("an answer to nothing")?;
                tally.note(*at, now);
                if window.is_over(now) {
                    open -= 1;
                } else {
                    *round += 1;
                    *at = now;
                    socket.feed(Message::text(frame::request(lane, slot, *round, &operation))).await?;
                }
            }
            next = ready(&mut socket)?;
        }
        socket.flush().await?;
    }
    Ok(tally)
}

/// A message that is there already.
pub(crate) fn ready(socket: &mut Socket) -> Result<Option<Message>> {
    match socket.next().now_or_never() {
        None => Ok(None),
        Some(None) => bail!("the connection was closed"),
        Some(Some(message)) => Ok(Some(message?)),
    }
}

/// The text of a text message; `None` for pings and pongs.
pub(crate) fn text_of(message: &Message) -> Result<Option<&str>> {
    match message {
        Message::Text(text) => Ok(Some(text)),
        Message::Close(frame) => bail!("the connection was closed: {frame:?}"),
        _ => Ok(None),
    }
}

/// Subscribes once and counts items until the window is over.
pub(crate) async fn subscribe(mut socket: Socket, lane: u16, operation: String, window: Window) -> Result<Tally> {
    let mut tally = Tally::new(window);
    socket.send(Message::text(frame::request_with(lane, 0, 0, &operation, r#"{"n":0}"#))).await?;
    loop {
        let first = tokio::time::timeout(STUCK, socket.next()).await.context("no item in time")?;
        let now = Instant::now();
        let mut next = Some(first.context("the connection was closed")??);
        let mut items = 0;
        while let Some(message) = next {
            if let Some(text) = text_of(&message)? {
                frame::slot_of_response(text)?;
                items += 1;
            }
            next = ready(&mut socket)?;
        }
        tally.items(now, items);
        if window.is_over(now) {
            // Closing the connection ends the stream.
            socket.close(None).await.ok();
            return Ok(tally);
        }
    }
}
