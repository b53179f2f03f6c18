//! Connecting, TLS, and a look at whether the server can be reached.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use diesel::ConnectionResult;
use diesel_async::pooled_connection::bb8::{Pool, PooledConnection, RunError};
use diesel_async::{AsyncPgConnection, SimpleAsyncConnection};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::PostgresOptions;
use super::address::{self, Address};
use super::refusal::{self, Refusal, Refused};
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
        let Address { mut config, verify, root_cert } = Address::parse(url)?;
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
        address::shown(&self.config)
    }

    /// A connection that is set up for verbs.
    pub(crate) async fn connect(&self) -> Result<AsyncPgConnection, Refused> {
        self.connect_with(&self.set_up).await
    }

    /// A connection set up by these statements.
    pub(crate) async fn connect_with(&self, set_up: &str) -> Result<AsyncPgConnection, Refused> {
        let connecting = async {
            let connected = self.config.connect(self.tls.clone()).await;
            let (client, connection) = connected.map_err(|error| refusal::of(&error))?;
            let conn = AsyncPgConnection::try_from_client_and_connection(client, connection).await;
            // A server, or one in front of it, may let in and go away.
            let mut conn = conn.map_err(|error| (Refusal::Starting, error.to_string()))?;
            conn.batch_execute(set_up).await.map_err(|error| (Refusal::Starting, error.to_string()))?;
            Ok(conn)
        };
        // Once more around it all: the driver bounds only the TCP part.
        let limit = self.connect_timeout.saturating_mul(2);
        let connected = tokio::time::timeout(limit, connecting).await;
        let connected = connected.unwrap_or_else(|_| Err((Refusal::Unreachable, "no answer in time".to_owned())));
        connected.map_err(|(kind, why)| Refused { address: self.address(), why, kind })
    }
}

fn tls(verify: bool, root_cert: Option<PathBuf>) -> Result<ClientConfig, StoreError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|error| address::wrong(&error.to_string()))?;
    if !verify {
        let any = Arc::new(AnyServer(provider));
        return Ok(builder.dangerous().with_custom_certificate_verifier(any).with_no_client_auth());
    }
    let mut roots = RootCertStore::empty();
    match root_cert {
        None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
        Some(file) => {
            let unreadable = |why: &dyn std::fmt::Display| {
                address::wrong(&format!("sslrootcert {} has no certificate that can be read: {why}", file.display()))
            };
            for found in CertificateDer::pem_file_iter(&file).map_err(|error| unreadable(&error))? {
                roots.add(found.map_err(|error| unreadable(&error))?).map_err(|error| unreadable(&error))?;
            }
            if roots.is_empty() {
                return Err(unreadable(&"none is in it"));
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
        if let Err(refused) = &outcome {
            tracing::debug!(error = %refused, "store.connect_failed");
            refused.why.clone_into(&mut self.why.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Ok(outcome?)
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
