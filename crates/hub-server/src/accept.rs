use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::config::Config;
use crate::http::{App, PeerAddress};

/// Longest TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Pause after a failed accept (out of file descriptors), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Takes connections in and serves them.
pub(crate) struct Acceptor {
    router: axum::Router,
    tls: Option<TlsAcceptor>,
    places: Arc<Semaphore>,
    header: Duration,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Acceptor {
    pub(crate) fn new(config: &Config, app: App, stop: CancellationToken, tasks: TaskTracker) -> Result<Self> {
        let tls = config.tls.as_ref().map(|(cert, key)| tls_acceptor(cert, key)).transpose()?;
        let places = Arc::new(Semaphore::new(config.bounds.connections));
        Ok(Self { router: app.router(), tls, places, header: config.bounds.header, stop, tasks })
    }

    /// Accepts until told to stop, then lets HTTP requests in flight end.
    pub(crate) async fn run(self, listener: TcpListener) {
        let graceful = GracefulShutdown::new();
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => self.admit(stream, address, &graceful),
                Err(error) => {
                    tracing::warn!(%error, "accepting failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        graceful.shutdown().await;
    }

    fn admit(&self, stream: TcpStream, address: SocketAddr, graceful: &GracefulShutdown) {
        let Ok(place) = Arc::clone(&self.places).try_acquire_owned() else {
            // Closing at once is the only answer that costs nothing.
            metrics::counter!("hub_connections_refused_total", "reason" => "limit").increment(1);
            return;
        };
        // Without this, small answers wait for the peer's delayed acknowledgement.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY was refused");
        }
        let watcher = graceful.watcher();
        let (router, header, tls) = (self.router.clone(), self.header, self.tls.clone());
        self.tasks.spawn(async move {
            match tls {
                None => serve(stream, address, router, header, place, watcher).await,
                Some(tls) => match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
                    Ok(Ok(stream)) => serve(stream, address, router, header, place, watcher).await,
                    Ok(Err(error)) => tracing::debug!(%error, peer.address = %address, "TLS handshake failed"),
                    Err(_) => tracing::debug!(peer.address = %address, "TLS handshake timed out"),
                },
            }
        });
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    address: SocketAddr,
    router: axum::Router,
    header: Duration,
    place: OwnedSemaphorePermit,
    watcher: hyper_util::server::graceful::Watcher,
) {
    // An upgraded connection keeps its place until its WebSocket ends.
    let place = Arc::new(place);
    let asked = CancellationToken::new();
    let first = asked.clone();
    let service = hyper::service::service_fn(move |mut request: hyper::Request<Incoming>| {
        first.cancel();
        request.extensions_mut().insert(PeerAddress(address));
        request.extensions_mut().insert(Arc::clone(&place));
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(header)).max_concurrent_streams(256);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    tokio::select! {
        ended = watcher.watch(connection.into_owned()) => if let Err(error) = ended {
            tracing::debug!(%error, peer.address = %address, "a connection ended with an error");
        },
        // Before it knows the version of HTTP, hyper waits for ever.
        () = never_asks(&asked, header) => {
            metrics::counter!("hub_connections_refused_total", "reason" => "silent").increment(1);
            tracing::debug!(peer.address = %address, "a connection without a request was closed");
        }
    }
}

/// Ends when there was no request in time; otherwise never.
async fn never_asks(asked: &CancellationToken, within: Duration) {
    if tokio::time::timeout(within, asked.cancelled()).await.is_ok() {
        std::future::pending::<()>().await;
    }
}

fn tls_acceptor(cert: &std::path::Path, key: &std::path::Path) -> Result<TlsAcceptor> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("cannot read certificates from {}", cert.display()))?;
    let key = PrivateKeyDer::from_pem_file(key).with_context(|| format!("cannot read a key from {}", key.display()))?;
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("certificate and key do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
