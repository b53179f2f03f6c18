//! NATS request-reply in its text protocol, by the same kind of client: read all there is, then write once.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{STUCK, frame};
use crate::stats::{Tally, Window};

const SUBJECT: &str = "bench.look";

/// A connection to a NATS server.
pub(crate) struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
    write: Vec<u8>,
}

/// A message: where an answer goes, and its last token. The payload is passed over, as it is in the other clients.
struct Delivered {
    subject: String,
    reply: Option<String>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, subscribe: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut this = Self { stream, read: Vec::with_capacity(16 * 1024), write: Vec::new() };
        let hello = r#"CONNECT {"verbose":false,"pedantic":false,"lang":"rust","version":"0","protocol":1}"#;
        this.write.extend_from_slice(format!("{hello}\r\nSUB {subscribe} 1\r\nPING\r\n").as_bytes());
        this.flush().await?;
        // The PONG tells that the subscription stands.
        while !this.read.windows(6).any(|w| w == b"PONG\r\n") {
            this.fill().await?;
        }
        this.read.clear();
        Ok(this)
    }

    async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.write).await?;
        self.write.clear();
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        let read =
            tokio::time::timeout(STUCK, self.stream.read_buf(&mut self.read)).await.context("no answer in time")??;
        anyhow::ensure!(read > 0, "the NATS server closed the connection");
        Ok(())
    }

    fn publish(&mut self, subject: &str, reply: &str, payload: &str) {
        let head = format!("PUB {subject} {reply} {}\r\n", payload.len());
        for part in [head.as_bytes(), payload.as_bytes(), b"\r\n"] {
            self.write.extend_from_slice(part);
        }
    }

    /// Takes all whole messages out of what was read.
    fn messages(&mut self) -> Result<Vec<Delivered>> {
        let mut messages = Vec::new();
        let mut at = 0;
        while let Some(end) = self.read[at..].windows(2).position(|w| w == b"\r\n") {
            let line = std::str::from_utf8(&self.read[at..at + end])?;
            let mut after = at + end + 2;
            if let Some(head) = line.strip_prefix("MSG ") {
                let parts: Vec<&str> = head.split(' ').collect();
                let size: usize = parts.last().context("MSG without a size")?.parse()?;
                after += size + 2;
                if after > self.read.len() {
                    break;
                }
                let reply = (parts.len() == 4).then(|| parts[2].to_owned());
                messages.push(Delivered { subject: parts[0].to_owned(), reply });
            } else if line == "PING" {
                self.write.extend_from_slice(b"PONG\r\n");
            } else if line.starts_with("-ERR") {
                bail!("NATS: {line}");
            }
            at = after;
        }
        self.read.drain(..at);
        Ok(messages)
    }
}

/// Keeps `in_flight` requests going until the window is over, then waits for the last of them.
pub(crate) async fn call(mut connection: Connection, lane: u16, in_flight: usize, window: Window) -> Result<Tally> {
    let mut tally = Tally::new(window);
    let mut sent = vec![(Instant::now(), 0u32); in_flight];
    let inbox = |slot: usize| format!("_INBOX.{lane}.{slot}");
    for slot in 0..in_flight {
        connection.publish(SUBJECT, &inbox(slot), &frame::request(lane, slot, 0, SUBJECT));
    }
    connection.flush().await?;
    let mut open = in_flight;
    while open > 0 {
        connection.fill().await?;
        let now = Instant::now();
        for message in connection.messages()? {
            let slot: usize = message.subject.rsplit('.').next().unwrap_or_default().parse()?;
            let (at, round) = sent.get_mut(slot).context("an answer to nothing")?;
            tally.note(*at, now);
            if window.is_over(now) {
                open -= 1;
            } else {
                *round += 1;
                *at = now;
                connection.publish(SUBJECT, &message.subject, &frame::request(lane, slot, *round, SUBJECT));
            }
        }
        connection.flush().await?;
    }
    Ok(tally)
}

/// Waits until requests at one node reach the callee at another.
pub(crate) async fn until_reached(address: SocketAddr) -> Result<()> {
    let until = Instant::now() + STUCK;
    let mut connection = Connection::open(address, &inbox_of(0)).await?;
    while connection.messages()?.is_empty() {
        anyhow::ensure!(Instant::now() < until, "the two NATS servers are not linked");
        connection.publish(SUBJECT, "_INBOX.0.0", &frame::request(0, 0, 0, SUBJECT));
        connection.flush().await?;
        if let Ok(filled) = tokio::time::timeout(Duration::from_millis(50), connection.fill()).await {
            filled?;
        }
    }
    Ok(())
}

/// Where a lane's answers come.
pub(crate) fn inbox_of(lane: u16) -> String {
    format!("_INBOX.{lane}.*")
}

/// Answers every request at once.
pub(crate) async fn serve(address: SocketAddr) -> Result<()> {
    let mut connection = Connection::open(address, SUBJECT).await?;
    loop {
        // Nothing to do between two turns is no fault.
        let read = connection.stream.read_buf(&mut connection.read).await?;
        anyhow::ensure!(read > 0, "the NATS server closed the connection");
        for message in connection.messages()? {
            let reply = message.reply.context("a request without a reply subject")?;
            let answer = frame::response(&reply);
            let head = format!("PUB {reply} {}\r\n", answer.len());
            for part in [head.as_bytes(), answer.as_bytes(), b"\r\n"] {
                connection.write.extend_from_slice(part);
            }
        }
        connection.flush().await?;
    }
}
