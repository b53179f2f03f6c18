use std::sync::{Arc, Weak};

use futures_util::future::Either;
use futures_util::{Stream as Events, StreamExt};
use http::request::Parts;
use rmcp::model::{ClientJsonRpcMessage, GetExtensions, ServerJsonRpcMessage};
use rmcp::transport::common::server_side_http::{ServerSseMessage, SessionId};
use rmcp::transport::streamable_http_server::session::SessionManager;
use rmcp::transport::streamable_http_server::session::local::{LocalSessionManager, LocalSessionManagerError};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::replay::{Replay, Stream};

/// The SDK's sessions, with streams of requests that can be resumed.
pub(super) struct Resumable {
    pub(super) sessions: Arc<LocalSessionManager>,
    pub(super) replay: Arc<Replay>,
    pub(super) running: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// The one stream of a batch, among the extensions of its requests.
#[derive(Clone)]
pub(super) struct OfBatch(pub(super) Weak<Stream>);

type Error = LocalSessionManagerError;

impl Resumable {
    /// The stream that a request's answer belongs to.
    fn stream(&self, id: &SessionId, message: &ClientJsonRpcMessage) -> Arc<Stream> {
        let ClientJsonRpcMessage::Request(request) = message else { return self.replay.begin(id) };
        let of_batch = request.request.extensions().get::<Parts>().and_then(|parts| parts.extensions.get::<OfBatch>());
        of_batch.and_then(|OfBatch(stream)| stream.upgrade()).unwrap_or_else(|| self.replay.begin(id))
    }
}

impl SessionManager for Resumable {
    type Error = Error;
    type Transport = <LocalSessionManager as SessionManager>::Transport;

    async fn create_session(&self) -> Result<(SessionId, Self::Transport), Error> {
        self.sessions.create_session().await
    }

    async fn initialize_session(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<ServerJsonRpcMessage, Error> {
        self.sessions.initialize_session(id, message).await
    }

    async fn has_session(&self, id: &SessionId) -> Result<bool, Error> {
        self.sessions.has_session(id).await
    }

    async fn close_session(&self, id: &SessionId) -> Result<(), Error> {
        self.sessions.close_session(id).await
    }

    async fn create_stream(
        &self,
        id: &SessionId,
        message: ClientJsonRpcMessage,
    ) -> Result<impl Events<Item = ServerSseMessage> + Send + Sync + 'static, Error> {
        let stream = self.stream(id, &message);
        let events = stream.read();
        let mut told = Box::pin(self.sessions.create_stream(id, message).await?);
        let stop = self.stop.clone();
        self.running.spawn(async move {
            let telling = async {
                while let Some(event) = told.next().await {
                    stream.tell(event);
                }
            };
            stop.run_until_cancelled(telling).await
        });
        Ok(events)
    }

    async fn accept_message(&self, id: &SessionId, message: ClientJsonRpcMessage) -> Result<(), Error> {
        self.sessions.accept_message(id, message).await
    }

    async fn create_standalone_stream(
        &self,
        id: &SessionId,
    ) -> Result<impl Events<Item = ServerSseMessage> + Send + Sync + 'static, Error> {
        self.sessions.create_standalone_stream(id).await
    }

    async fn resume(
        &self,
        id: &SessionId,
        event: String,
    ) -> Result<impl Events<Item = ServerSseMessage> + Send + Sync + 'static, Error> {
        match self.replay.after(id, &event) {
            Some(rest) => Ok(Either::Left(rest)),
            None => self.sessions.resume(id, event).await.map(Either::Right),
        }
    }
}
