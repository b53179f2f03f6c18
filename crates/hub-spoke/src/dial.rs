use std::time::Duration;

use hub_protocol::SUBPROTOCOL;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};
use tokio_tungstenite::tungstenite::http::{HeaderValue, Request};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error as WsError, error::CapacityError};

use crate::ConnectError;
use crate::endpoint::{Endpoint, Key};

/// A TCP or TLS stream. Boxed: the cost was measured as nothing, and one type keeps the rest simple.
pub(crate) trait Transport: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Transport for T {}

/// An open WebSocket to a hub.
pub(crate) type Socket = WebSocketStream<Box<dyn Transport>>;

/// Makes connections to one hub.
pub(crate) struct Dialer {
    pub(crate) endpoint: Endpoint,
    pub(crate) key: Key,
    pub(crate) tls: Option<TlsConnector>,
    pub(crate) timeout: Duration,
    pub(crate) message_limit: usize,
}

impl Dialer {
    pub(crate) async fn dial(&self) -> Result<Socket, ConnectError> {
        let timeout = || ConnectError::Timeout { url: self.endpoint.url.clone(), after: self.timeout };
        tokio::time::timeout(self.timeout, self.open()).await.map_err(|_| timeout())?
    }

    async fn open(&self) -> Result<Socket, ConnectError> {
        let request = self.request()?;
        let stream = self.transport().await?;
        let upgraded = tokio_tungstenite::client_async_with_config(request, stream, Some(self.config())).await;
        upgraded.map(|(socket, _)| socket).map_err(|error| self.refused(error))
    }

    fn request(&self) -> Result<Request<()>, ConnectError> {
        let url = &self.endpoint.url;
        let mut request = url
            .as_str()
            .into_client_request()
            .map_err(|e| ConnectError::Protocol { url: url.clone(), reason: e.to_string() })?;
        let headers = request.headers_mut();
        headers.insert(AUTHORIZATION, self.key.header());
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
        Ok(request)
    }

    async fn transport(&self) -> Result<Box<dyn Transport>, ConnectError> {
        let Endpoint { host, port, url, .. } = &self.endpoint;
        let unreachable = |e: std::io::Error| ConnectError::Unreachable { url: url.clone(), reason: e.to_string() };
        let tcp = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
        // Without it small messages wait for acknowledgements of those before.
        tcp.set_nodelay(true).map_err(unreachable)?;
        let Some(tls) = &self.tls else {
            return Ok(Box::new(tcp));
        };
        let name = host.clone().try_into().map_err(|_| ConnectError::InvalidUrl {
            url: url.clone(),
            reason: "its host is no name that a certificate can have",
        })?;
        let stream = tls.connect(name, tcp).await.map_err(|e| self.tls_failed(&e))?;
        Ok(Box::new(stream))
    }

    fn tls_failed(&self, error: &std::io::Error) -> ConnectError {
        let url = self.endpoint.url.clone();
        let cause = error.get_ref().and_then(|e| e.downcast_ref::<rustls::Error>());
        match cause {
            Some(rustls::Error::InvalidCertificate(fault)) => ConnectError::Certificates {
                url,
                reason: format!("the hub's certificate is refused ({fault}); trust its issuer with ca_certificate_pem"),
            },
            _ => ConnectError::Unreachable { url, reason: format!("TLS: {error}") },
        }
    }

    /// Bounded, and small while idle (deps.md §4).
    fn config(&self) -> WebSocketConfig {
        WebSocketConfig::default()
            .read_buffer_size(8 * 1024)
            .write_buffer_size(16 * 1024)
            // A batch of 64 KiB and one largest message on top always fit.
            .max_write_buffer_size(128 * 1024 + 2 * self.message_limit)
            .max_message_size(Some(self.message_limit))
            .max_frame_size(Some(self.message_limit))
    }

    fn refused(&self, error: WsError) -> ConnectError {
        let url = self.endpoint.url.clone();
        match error {
            WsError::Http(response) => match response.status().as_u16() {
                status @ (401 | 403) => ConnectError::Unauthorized { url, status },
                status => ConnectError::NotAHub { url, status },
            },
            WsError::Io(e) => ConnectError::Unreachable { url, reason: e.to_string() },
            e => ConnectError::Protocol { url, reason: e.to_string() },
        }
    }
}

/// What is wrong with a connection, without any of its content.
pub(crate) fn fault_text(error: &WsError, limit: usize) -> String {
    match error {
        WsError::Capacity(CapacityError::MessageTooLong { size, .. }) => {
            format!("the hub sent a message of {size} bytes, above message_limit {limit}")
        }
        WsError::ConnectionClosed | WsError::AlreadyClosed => "it ended without a close code".to_owned(),
        e => e.to_string(),
    }
}
