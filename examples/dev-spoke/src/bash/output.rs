use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc::Sender;
use tokio_util::sync::CancellationToken;

use super::utf8::Utf8;
use super::{RunItem, RunStream};

/// Bytes read at once; also the largest item, which even with every character escaped is below the message limit.
const PIECE: usize = 16 * 1024;

/// How long a pipe may stay silent once the command's group is gone. Only a process that left the group can hold it
/// open then, and it is not waited for.
const SILENCE: Duration = Duration::from_millis(200);

/// Where the output of a command goes.
pub(super) struct Output {
    pub(super) items: Sender<RunItem>,
    /// Bytes that may still be sent, over both streams.
    left: AtomicUsize,
    truncated: AtomicBool,
    /// Fires when the command's group is gone.
    pub(super) gone: CancellationToken,
}

impl Output {
    pub(super) fn new(items: Sender<RunItem>, limit: usize) -> Self {
        Self { items, left: limit.into(), truncated: false.into(), gone: CancellationToken::new() }
    }

    pub(super) fn truncated(&self) -> bool {
        self.truncated.load(Ordering::Relaxed)
    }

    /// Sends what comes from a pipe until it ends. Over the limit it is read and thrown away: a command must not
    /// fail or hang because its caller has seen enough.
    pub(super) async fn pump(&self, stream: RunStream, pipe: Option<impl AsyncRead + Unpin>) {
        let Some(mut pipe) = pipe else { return };
        let mut piece = vec![0; PIECE];
        let mut utf8 = Utf8::default();
        loop {
            let length = tokio::select! {
                read = pipe.read(&mut piece) => read.unwrap_or(0),
                () = self.silence() => 0,
            };
            if length == 0 {
                break;
            }
            let text = utf8.push(&piece[..self.admit(length)]);
            if !self.send(stream, text).await {
                return;
            }
        }
        self.send(stream, utf8.finish()).await;
    }

    async fn silence(&self) {
        self.gone.cancelled().await;
        tokio::time::sleep(SILENCE).await;
    }

    /// How many of `length` bytes are still within the limit.
    fn admit(&self, length: usize) -> usize {
        let take = |left: usize| Some(left.saturating_sub(length));
        let left = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).unwrap_or(0);
        if left < length {
            self.truncated.store(true, Ordering::Relaxed);
        }
        left.min(length)
    }

    /// False when nobody listens any more.
    async fn send(&self, stream: RunStream, text: String) -> bool {
        text.is_empty() || self.items.send(RunItem::Output { stream, text }).await.is_ok()
    }
}
