//! Addresses, TLS, and a look at whether the server can be reached.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::{ConnectionError, ConnectionResult};
use diesel_async::pooled_connection::bb8::{Pool, PooledConnection, RunError};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresOptions;
use crate::StoreError;

/// How often one who waits for a connection looks whether any can come.
const LOOK: Duration = Duration::from_millis(20);

/// Where and how to connect.
pub(crate) struct Target {
    config: tokio_postgres::Config,
    tls: MakeRustlsConnect,
    set_up: String,
    connect_timeout: Duration,
}

impl Target {
    /// Reads a `postgres://` URL. `sslmode=verify-full` and `sslrootcert`, which the driver doesn't know, are ours.
    pub(crate) fn parse(url: &str, options: &PostgresOptions) -> Result<Self, StoreError> {
        let refused = |why: &str| StoreError::Open { path: PathBuf::from("postgres"), source: why.into() };
        if !(url.starts_with("postgres://") || url.starts_with("postgresql://")) {
            return Err(refused("the address does not begin with postgres://"));
        }
        let (base, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut verify, mut root_cert, mut rest) = (false, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslmode", "verify-full")) => (verify, rest) = (true, [rest, vec!["sslmode=require"]].concat()),
                Some(("sslmode", "verify-ca" | "allow")) => {
                    return Err(refused("sslmode must be disable, prefer, require or verify-full"));
                }
                Some(("sslrootcert", file)) => root_cert = Some(decoded(file)),
                _ => rest.push(pair),
            }
        }
        // The driver's message can quote the address, password included.
        let mut config: tokio_postgres::Config =
            format!("{base}?{}", rest.join("&")).parse().map_err(|_| refused("the address is malformed"))?;
        if verify && config.get_ssl_mode() != SslMode::Require {
            return Err(refused("sslmode is given twice"));
        }
        if config.get_application_name().is_none() {
            config.application_name("hub");
        }
        config.connect_timeout(options.connect_timeout);
        config.tcp_user_timeout(options.tcp_user_timeout);
        config
            .keepalives_idle(Duration::from_secs(15))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3);
        let tls = MakeRustlsConnect::new(tls(verify, root_cert)?);
        let set_up = format!(
            "SET statement_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET timezone = 'UTC';
             SET client_min_messages = warning",
            options.statement_timeout.as_millis(),
            options.idle_in_transaction_timeout.as_millis(),
        );
        Ok(Self { config, tls, set_up, connect_timeout: options.connect_timeout })
    }

    /// Hosts and database, without user and password.
    pub(crate) fn address(&self) -> String {
        let hosts: Vec<String> = self
            .config
            .get_hosts()
            .iter()
            .zip(self.config.get_ports().iter().chain([&5432].into_iter().cycle()))
            .map(|(host, port)| match host {
                tokio_postgres::config::Host::Tcp(name) => format!("{name}:{port}"),
                #[cfg(unix)]
                tokio_postgres::config::Host::Unix(path) => format!("{}:{port}", path.display()),
            })
            .collect();
        format!("postgres://{}/{}", hosts.join(","), self.config.get_dbname().unwrap_or_default())
    }

    /// A connection that is set up for verbs.
    pub(crate) async fn connect(&self) -> ConnectionResult<AsyncPgConnection> {
        self.connect_with(&self.set_up).await
    }

    /// A connection set up by these statements.
    pub(crate) async fn connect_with(&self, set_up: &str) -> ConnectionResult<AsyncPgConnection> {
        let connecting = async {
            let (client, connection) = self.config.connect(self.tls.clone()).await.map_err(why)?;
            let mut conn = AsyncPgConnection::try_from_client_and_connection(client, connection).await?;
            conn.batch_execute(set_up).await.map_err(ConnectionError::CouldntSetupConfiguration)?;
            Ok(conn)
        };
        // Once more around it all: the driver bounds only the TCP part.
        let limit = self.connect_timeout.saturating_mul(2);
        let late = || ConnectionError::BadConnection("no answer in time".to_owned());
        tokio::time::timeout(limit, connecting).await.unwrap_or_else(|_| Err(late()))
    }
}

/// What the server says of itself while it starts, stops or has no connection left.
const PASSING: [SqlState; 4] =
    [SqlState::CANNOT_CONNECT_NOW, SqlState::TOO_MANY_CONNECTIONS, SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN];

/// As [`StoreError::may_pass`] tells them apart.
fn why(error: tokio_postgres::Error) -> ConnectionError {
    let io = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<std::io::Error>());
    let passes = match error.code() {
        Some(code) => PASSING.contains(code),
        // What is wrong with a certificate is invalid data.
        None => error.is_closed() || io.is_some_and(|io| io.kind() != std::io::ErrorKind::InvalidData),
    };
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    if passes { ConnectionError::BadConnection(text) } else { ConnectionError::InvalidConnectionUrl(text) }
}

/// Percent-decodes a value of the query; what is no escape stays.
fn decoded(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let escape = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match escape.filter(|_| first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(String::from_utf8_lossy(&bytes).into_owned())
}

fn tls(verify: bool, root_cert: Option<PathBuf>) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let refused = |path: PathBuf, source: Box<dyn std::error::Error + Send + Sync>| StoreError::Open { path, source };
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(PathBuf::from("tls"), error.into()))?;
    if !verify {
        let any = Arc::new(AnyServer(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match root_cert {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let found = CertificateDer::pem_file_iter(&file).map_err(|error| refused(file.clone(), error.into()))?;
            for certificate in found {
                let certificate = certificate.map_err(|error| refused(file.clone(), error.into()))?;
                roots.add(certificate).map_err(|error| refused(file.clone(), error.into()))?;
            }
        }
    }
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// `sslmode=require` and `prefer`: encrypted, but to whoever answers, as libpq has it.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Whether connecting works, so that a verb needn't wait for a connection that can't come.
#[derive(Default)]
pub(crate) struct Health {
    down: AtomicBool,
    /// Attempts under way.
    connecting: AtomicUsize,
    why: Mutex<String>,
}

impl Health {
    /// Connects, and notes how that went.
    pub(crate) async fn connect(&self, target: &Target) -> ConnectionResult<AsyncPgConnection> {
        self.connecting.fetch_add(1, Ordering::Relaxed);
        let outcome = target.connect().await;
        self.connecting.fetch_sub(1, Ordering::Relaxed);
        self.down.store(outcome.is_err(), Ordering::Relaxed);
        if let Err(error) = &outcome {
            tracing::debug!(%error, "store.connect_failed");
            *self.why.lock().unwrap_or_else(PoisonError::into_inner) = error.to_string();
        }
        outcome
    }

    /// A connection as soon as one is free, or the reason why none will be.
    pub(crate) async fn get(
        &self,
        pool: &Pool<AsyncPgConnection>,
    ) -> Result<PooledConnection<'static, AsyncPgConnection>, StoreError> {
        let mut getting = std::pin::pin!(pool.get_owned());
        loop {
            tokio::select! {
                biased;
                got = &mut getting => return got.map_err(|error| match error {
                    RunError::TimedOut if !self.down.load(Ordering::Relaxed) => StoreError::Busy,
                    RunError::TimedOut => self.unavailable(),
                    RunError::User(error) => StoreError::Unavailable(error.into()),
                }),
                // The pool tells nobody that connecting failed.
                () = tokio::time::sleep(LOOK) => {
                    let idle = self.connecting.load(Ordering::Relaxed) == 0;
                    // With connections in use there is one to wait for.
                    if idle && self.down.load(Ordering::Relaxed) && pool.state().connections == 0 {
                        return Err(self.unavailable());
                    }
                }
            }
        }
    }

    fn unavailable(&self) -> StoreError {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        StoreError::Unavailable(why.into())
    }
}
