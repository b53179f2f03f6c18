use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Sink, Stream, sink, stream};
use rmcp::ServiceExt;
use rmcp::model::{ClientJsonRpcMessage, ServerJsonRpcMessage};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::sync::Mutex;

use super::face::Face;
use super::host::Host;
use super::message::{self, Fault, Message, Posted};

/// Longest line; the rest of a longer one is passed over.
const LINE: usize = 16 * 1024 * 1024;

/// Serves one MCP host over standard input and output, until it closes them.
///
/// # Errors
/// When the two sides don't agree on a beginning, as text for the person who started it.
pub async fn serve_stdio<H: Host>(face: Face<H>) -> Result<(), String> {
    serve(face, (tokio::io::stdin(), tokio::io::stdout())).await
}

/// Serves over any pair of a reader and a writer, one message a line.
pub(super) async fn serve<H, R, W>(face: Face<H>, (read, write): (R, W)) -> Result<(), String>
where
    H: Host,
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    let output = Output(Arc::new(Mutex::new(write)));
    let input = Input { read: BufReader::new(read), output: output.clone(), due: VecDeque::new(), begun: false };
    let transport = (Box::pin(output.messages()), Box::pin(input.messages()));
    let running = face.serve(transport).await.map_err(|e| format!("the MCP host did not begin a session: {e}"))?;
    running.waiting().await.map(|_| ()).map_err(|e| format!("the MCP session broke off: {e}"))
}

/// Where lines go, each of them whole.
struct Output<W>(Arc<Mutex<W>>);

impl<W> Clone for Output<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: AsyncWrite + Send + Unpin + 'static> Output<W> {
    async fn line(&self, mut text: Vec<u8>) -> std::io::Result<()> {
        text.push(b'\n');
        let mut write = self.0.lock().await;
        write.write_all(&text).await?;
        write.flush().await
    }

    fn messages(self) -> impl Sink<ServerJsonRpcMessage, Error = std::io::Error> + Send {
        sink::unfold(self, |output, message: ServerJsonRpcMessage| async move {
            output.line(serde_json::to_vec(&message)?).await.map(|()| output)
        })
    }
}

/// Where lines come from. The SDK would pass over what is no message in silence.
struct Input<R, W> {
    read: BufReader<R>,
    output: Output<W>,
    /// Of a batch.
    due: VecDeque<Result<Message, Fault>>,
    begun: bool,
}

impl<R, W> Input<R, W>
where
    R: AsyncRead + Send + Unpin + 'static,
    W: AsyncWrite + Send + Unpin + 'static,
{
    /// The messages; what is none is answered.
    fn messages(self) -> impl Stream<Item = ClientJsonRpcMessage> + Send {
        stream::unfold(self, |mut input| async move {
            loop {
                match input.next().await? {
                    Ok(message) => return Some((message, input)),
                    Err(fault) => input.output.line(fault.value().to_string().into()).await.ok()?,
                }
            }
        })
    }

    async fn next(&mut self) -> Option<Result<ClientJsonRpcMessage, Fault>> {
        loop {
            if let Some(message) = self.due.pop_front() {
                let begins = message.as_ref().is_ok_and(Message::begins);
                let parsed = message.and_then(Message::parsed);
                // One that is none begins nothing.
                self.begun &= !(begins && parsed.is_err());
                return Some(parsed);
            }
            match self.line().await?.and_then(|line| message::read(&line)) {
                Ok(Posted::One(message)) if !message.begins() => self.due.push_back(Ok(message)),
                Ok(Posted::One(message)) if self.begun => self.due.push_back(Err(message.begins_late())),
                Ok(Posted::One(message)) => {
                    self.begun = true;
                    self.due.push_back(Ok(message));
                }
                Ok(Posted::Many(messages)) => {
                    let late =
                        |message: Message| if message.begins() { Err(message.begins_late()) } else { Ok(message) };
                    self.due.extend(messages.into_iter().map(|message| message.and_then(late)));
                }
                Err(fault) => self.due.push_back(Err(fault)),
            }
        }
    }

    /// A line that is not empty; `None` at the end.
    async fn line(&mut self) -> Option<Result<Bytes, Fault>> {
        let mut line = Vec::new();
        loop {
            let buffer = self.read.fill_buf().await.ok()?;
            let end = buffer.iter().position(|byte| *byte == b'\n');
            let room = (LINE + 1).saturating_sub(line.len());
            line.extend_from_slice(&buffer[..end.unwrap_or(buffer.len()).min(room)]);
            let read = end.map_or(buffer.len(), |end| end + 1);
            self.read.consume(read);
            if end.is_none() && read > 0 {
                continue;
            }
            if line.len() > LINE {
                return Some(Err(Fault::invalid(format!("a line has up to {LINE} bytes"))));
            }
            if !line.trim_ascii().is_empty() {
                return Some(Ok(line.into()));
            }
            if read == 0 {
                return None;
            }
            line.clear();
        }
    }
}
