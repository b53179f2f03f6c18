use std::sync::Arc;

use hub_spoke::{Client, ConnectError};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::hub::{FakeHub, KEY, soon};

/// Made with `openssl`, see the folder's README; valid until 2126 for `localhost`.
const CA: &[u8] = include_bytes!("../fixtures/ca.pem");
const CERTIFICATE: &[u8] = include_bytes!("../fixtures/localhost.pem");
const PRIVATE: &[u8] = include_bytes!("../fixtures/localhost-key.pem");

/// Ends TLS in front of the fake hub, as a proxy does.
async fn proxy(listener: TcpListener, hub: String, tasks: TaskTracker) {
    let certificates = CertificateDer::pem_slice_iter(CERTIFICATE).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(PRIVATE).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, hub) = (acceptor.clone(), hub.clone());
        tasks.spawn(async move {
            let Ok(mut outside) = acceptor.accept(stream).await else { return };
            let mut inside = TcpStream::connect(hub).await.unwrap();
            let _end = tokio::io::copy_bidirectional(&mut outside, &mut inside).await;
        });
    }
}

#[tokio::test]
async fn tls_with_an_issuer_of_ones_own() {
    let hub = FakeHub::echo().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let tasks = TaskTracker::new();
    let proxy = tasks.spawn(proxy(listener, hub.address.to_string(), tasks.clone()));
    let url = format!("https://localhost:{port}");
    let client = soon(Client::builder(&url, KEY).ca_certificate_pem(CA.to_vec()).connect()).await.unwrap();
    assert_eq!(client.call_raw("demo.echo", json!(1)).await.unwrap().as_str(), "1");

    // Without the issuer, or under a name that the certificate does not have, there is no connection.
    let error = soon(Client::connect(&url, KEY)).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificates { .. }) && error.is_final(), "{error}");
    let other = format!("wss://127.0.0.1:{port}");
    let error = soon(Client::builder(&other, KEY).ca_certificate_pem(CA.to_vec()).connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificates { .. }), "{error}");
    let error = soon(Client::builder(&url, KEY).ca_certificate_pem(b"nothing".to_vec()).connect()).await.unwrap_err();
    assert!(matches!(error, ConnectError::Certificates { .. }), "{error}");
    proxy.abort();
}
