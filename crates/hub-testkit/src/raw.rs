use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

/// Longest wait for one message.
const WAIT: Duration = Duration::from_secs(10);

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Close code; 1006 when there was no close frame.
    pub code: u16,
    /// Close reason.
    pub reason: String,
}

/// A WebSocket peer without an SDK.
pub struct RawPeer {
    socket: WebSocketStream<TcpStream>,
}

impl RawPeer {
    /// Connects with a key.
    pub async fn connect(address: SocketAddr, key: &str) -> Result<Self> {
        let mut request = format!("ws://{address}/ws").into_client_request()?;
        request.headers_mut().insert("authorization", format!("Bearer {key}").parse()?);
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (socket, _) = tokio_tungstenite::client_async(request, stream).await?;
        Ok(Self { socket })
    }

    /// Sends a text frame.
    pub async fn text(&mut self, text: impl Into<String>) -> Result<()> {
        Ok(self.socket.send(Message::text(text.into())).await?)
    }

    /// Sends any frame.
    pub async fn send(&mut self, message: Message) -> Result<()> {
        Ok(self.socket.send(message).await?)
    }

    /// Sends `call.requested` in the style of the TypeScript library.
    pub async fn request(&mut self, id: &str, operation: &str, input: Value) -> Result<()> {
        let payload = serde_json::json!({ "requestId": id, "operationId": operation, "input": input });
        self.event("call.requested", payload).await
    }

    /// Sends any event with an empty envelope id.
    pub async fn event(&mut self, kind: &str, payload: Value) -> Result<()> {
        self.text(serde_json::json!({ "type": kind, "id": "", "payload": payload }).to_string()).await
    }

    /// The next JSON message.
    pub async fn next(&mut self) -> Result<Value> {
        match self.next_or_close().await? {
            Ok(value) => Ok(value),
            Err(closed) => bail!("the connection was closed: {closed:?}"),
        }
    }

    /// The next JSON message, or how the connection was closed.
    pub async fn next_or_close(&mut self) -> Result<Result<Value, Closed>> {
        loop {
            let message = tokio::time::timeout(WAIT, self.socket.next()).await.context("no message in time")?;
            return Ok(match message {
                Some(Ok(Message::Text(text))) => Ok(serde_json::from_str(&text)?),
                Some(Ok(Message::Binary(bytes))) => Ok(serde_json::from_slice(&bytes)?),
                Some(Ok(Message::Close(Some(frame)))) => {
                    Err(Closed { code: frame.code.into(), reason: frame.reason.to_string() })
                }
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => continue,
                None | Some(Err(_) | Ok(Message::Close(None))) => Err(Closed { code: 1006, reason: String::new() }),
            });
        }
    }

    /// Calls and waits for the answer with this id: the payload of `call.responded` or `call.error`.
    pub async fn call(&mut self, id: &str, operation: &str, input: Value) -> Result<Value> {
        self.request(id, operation, input).await?;
        loop {
            let message = self.next().await?;
            if message["payload"]["requestId"] == id {
                return Ok(message);
            }
        }
    }

    /// Registers as a `compute` spoke (pooled names) that offers these operations: id and type. `more` replaces or
    /// adds members of the registration.
    pub async fn register(&mut self, name: &str, operations: &[(&str, &str)], more: Value) -> Result<Value> {
        let operations: Vec<Value> = operations.iter().map(|(id, kind)| Self::spec(id, kind)).collect();
        let mut input = serde_json::json!({
            "name": name, "spokeType": "compute", "operations": operations,
            "instanceId": uuid::Uuid::new_v4(), "startedAt": hub_operations::now_ms(),
        });
        for (member, value) in more.as_object().into_iter().flatten() {
            input[member] = value.clone();
        }
        self.call("register", "hub.register", input).await
    }

    /// A spec that takes and answers anything.
    #[must_use]
    pub fn spec(id: &str, kind: &str) -> Value {
        let (namespace, name) = id.rsplit_once('.').unwrap_or(("", id));
        serde_json::json!({
            "namespace": namespace, "name": name, "version": "1.0.0", "type": kind, "description": "For a test.",
            "inputSchema": true, "outputSchema": true, "accessControl": { "requiredScopes": [] },
        })
    }

    /// Waits for the next `call.requested`; answers its payload.
    pub async fn requested(&mut self) -> Result<Value> {
        self.next_of("call.requested").await
    }

    /// Waits for the next message of this type; answers its payload.
    pub async fn next_of(&mut self, kind: &str) -> Result<Value> {
        loop {
            let mut message = self.next().await?;
            if message["type"] == kind {
                return Ok(message["payload"].take());
            }
        }
    }

    /// Answers a call with `data` in a response envelope.
    pub async fn respond(&mut self, id: &Value, data: Value) -> Result<()> {
        let meta = serde_json::json!({ "source": "local", "operationId": "test", "timestamp": 0 });
        let output = serde_json::json!({ "data": data, "meta": meta });
        self.event("call.responded", serde_json::json!({ "requestId": id, "output": output })).await
    }

    /// Reads until the connection is closed.
    pub async fn closed(&mut self) -> Result<Closed> {
        loop {
            if let Err(closed) = self.next_or_close().await? {
                return Ok(closed);
            }
        }
    }
}
