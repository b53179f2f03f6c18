//! A thin HTTP/1.1 client: one request at a time per connection, kept open.

use std::net::SocketAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{STUCK, frame};
use crate::stats::{Tally, Window};

/// Fetches one page on a connection of its own: status and body.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    let mut connection = Connection::open(address).await?;
    connection.stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: hub\r\n\r\n").as_bytes()).await?;
    connection.response().await
}

struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::new() })
    }

    async fn fill(&mut self) -> Result<()> {
        let read =
            tokio::time::timeout(STUCK, self.stream.read_buf(&mut self.read)).await.context("no answer in time")??;
        anyhow::ensure!(read > 0, "the hub closed the connection");
        Ok(())
    }

    /// A response with a `content-length`.
    async fn response(&mut self) -> Result<(u16, String)> {
        let head = loop {
            if let Some(end) = self.read.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            self.fill().await?;
        };
        let text = std::str::from_utf8(&self.read[..head])?;
        let status = text.get(9..12).context("no status")?.parse()?;
        let length = text.lines().find_map(|l| l.strip_prefix("content-length: "));
        let whole = head + length.context("no content-length")?.trim().parse::<usize>()?;
        while self.read.len() < whole {
            self.fill().await?;
        }
        let body = String::from_utf8_lossy(&self.read[head..whole]).into_owned();
        self.read.drain(..whole);
        Ok((status, body))
    }
}

fn post(path: &str, key: &str, body: &str, headers: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nhost: hub\r\nauthorization: Bearer {key}\r\n{headers}\
         content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

/// The request of a call.
pub(crate) fn operation(operation: &str, key: &str) -> Vec<u8> {
    post(&format!("/api/operations/{operation}"), key, frame::INPUT, "accept: application/json\r\n")
}

/// The request of a call by MCP's tool `call`, in the revision without sessions.
pub(crate) fn tool(operation: &str, key: &str) -> Vec<u8> {
    let input = frame::INPUT;
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"call","arguments":{{"operationId":"{operation}","input":{input}}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"bench","version":"1"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
    );
    let headers = "accept: application/json, text/event-stream\r\nmcp-protocol-version: 2026-07-28\r\n\
                   mcp-method: tools/call\r\nmcp-name: call\r\n";
    post("/mcp", key, &body, headers)
}

/// Sends a request again and again on one connection until the window is over.
pub(crate) async fn call(address: SocketAddr, request: Vec<u8>, window: Window) -> Result<Tally> {
    let mut connection = Connection::open(address).await?;
    let mut tally = Tally::new(window);
    loop {
        let sent = Instant::now();
        if window.is_over(sent) {
            return Ok(tally);
        }
        connection.stream.write_all(&request).await?;
        let (status, body) = connection.response().await?;
        tally.note(sent, Instant::now());
        anyhow::ensure!(status == 200 && !body.contains(r#""isError":true"#), "HTTP {status}: {body:.300}");
    }
}

/// Subscribes over SSE and counts items until the window is over.
pub(crate) async fn subscribe(address: SocketAddr, key: &str, operation: &str, window: Window) -> Result<Tally> {
    let mut connection = Connection::open(address).await?;
    let path = format!("/api/operations/{operation}");
    connection.stream.write_all(&post(&path, key, r#"{"n":0}"#, "accept: text/event-stream\r\n")).await?;
    let mut tally = Tally::new(window);
    loop {
        connection.fill().await?;
        let now = Instant::now();
        // An item ends with an empty line; the last byte is kept, since the next read may end it.
        let items = connection.read.windows(2).filter(|w| w == b"\n\n").count();
        let last = connection.read.pop();
        connection.read.clear();
        connection.read.extend(last);
        tally.items(now, items as u64);
        if window.is_over(now) {
            return Ok(tally);
        }
    }
}
