use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Config;

/// Longest wait for the answer; a hub asks its store for one second.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest answer that is read.
const LONGEST: u64 = 64 * 1024;

/// Asks `/readyz` of the hub on the configured address and prints what it says; answers whether it is ready.
///
/// # Errors
/// When nobody answers.
pub async fn health(config: &Config) -> Result<bool> {
    let address = reachable(config.listen)?;
    let asked = tokio::time::timeout(PATIENCE, ask(config, address)).await;
    let answer = asked.map_err(|_| anyhow::anyhow!("no answer within {} s", PATIENCE.as_secs())).and_then(|done| done);
    let answer = answer.with_context(|| format!("no hub answers on {address}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").context("what answers is no hub")?;
    println!("{}", body.trim());
    Ok(head.split(' ').nth(1) == Some("200"))
}

/// A hub that listens everywhere is asked on loopback.
fn reachable(listen: SocketAddr) -> Result<SocketAddr> {
    ensure!(listen.port() != 0, "port 0 names no hub: give its --listen");
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    Ok(SocketAddr::new(ip, listen.port()))
}

async fn ask(config: &Config, address: SocketAddr) -> Result<String> {
    let stream = TcpStream::connect(address).await?;
    let path = format!("{}/readyz", config.base_path);
    let Some((chain, _)) = &config.tls else { return exchange(stream, &path).await };
    let tls = tokio_rustls::TlsConnector::from(Arc::new(pinned(chain)?));
    // The name does not matter where the very certificate is known.
    let stream = tls.connect(ServerName::from(address.ip()), stream).await?;
    exchange(stream, &path).await
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, path: &str) -> Result<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    Ok(String::from_utf8(answer)?)
}

/// TLS to whoever has exactly the configured certificate, whatever names are in it and whoever signed it.
fn pinned(chain: &Path) -> Result<rustls::ClientConfig> {
    let first = CertificateDer::pem_file_iter(chain)?.next();
    let Some(own) = first else { bail!("no certificate in {}", chain.display()) };
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Pinned { own: own?, provider: Arc::clone(&provider) });
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct Pinned {
    own: CertificateDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.own {
            return Ok(ServerCertVerified::assertion());
        }
        Err(rustls::Error::General("the server has another certificate than the one configured".to_owned()))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
