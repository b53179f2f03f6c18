use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for a whole answer.
const WAIT: Duration = Duration::from_secs(15);

/// What a server answered.
#[derive(Debug)]
pub struct HttpAnswer {
    /// Status code.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// All up to the end of the connection.
    pub body: String,
}

impl HttpAnswer {
    /// The body as JSON.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.body).with_context(|| format!("no JSON: {}", self.body))
    }
}

/// One request on a connection of its own, with `body` as JSON if it is not null.
pub async fn http(address: SocketAddr, method: &str, path: &str, key: &str, body: &Value) -> Result<HttpAnswer> {
    http_over(TcpStream::connect(address).await?, method, path, key, body).await
}

/// As [`http`], on a connection that is there.
pub async fn http_over(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    method: &str,
    path: &str,
    key: &str,
    body: &Value,
) -> Result<HttpAnswer> {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let length = body.len();
    let auth = if key.is_empty() { String::new() } else { format!("authorization: Bearer {key}\r\n") };
    // Version 1.0: the answer is not chunked and ends with its connection.
    let request = format!(
        "{method} {path} HTTP/1.0\r\nhost: localhost\r\n{auth}content-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    );
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer).await {
            // TLS connections may end without a goodbye.
            Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(error),
            _ => Ok(answer),
        }
    };
    let answer = tokio::time::timeout(WAIT, exchange).await.context("no whole answer in time")??;
    let answer = String::from_utf8(answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("no status")?.parse()?;
    Ok(HttpAnswer { status, head: head.to_owned(), body: body.to_owned() })
}
