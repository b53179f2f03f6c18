use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, anyhow, bail, ensure};
use rustls::DigitallySignedStruct;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use serde::Deserialize;
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
/// When nobody answers, or somebody else.
pub async fn health(config: &Config, as_json: bool) -> Result<bool> {
    let address = reachable(config.listen)?;
    let asked = tokio::time::timeout(PATIENCE, ask(config, address)).await;
    let answer = asked.map_err(|_| anyhow!("no answer within {} s", PATIENCE.as_secs())).and_then(|done| done);
    let answer =
        answer.map_err(|e| anyhow!("no hub answers on {address}: {e:#}; is it running, and --listen the same?"))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let Ok(state) = serde_json::from_str::<Readiness>(body) else {
        let status = head.split(' ').nth(1).map(|code| format!(" (HTTP {code})")).unwrap_or_default();
        bail!(
            "what answers on {address} is no hub{status}: are --listen, --base-path and --tls-cert those of the hub?"
        );
    };
    if as_json {
        println!("{}", body.trim());
    } else {
        println!("the hub on {address} {}", state.line());
    }
    Ok(state.ready)
}

/// What `/readyz` says.
#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    draining: bool,
    steps: Vec<Step>,
}

#[derive(Deserialize)]
struct Step {
    name: String,
    ok: bool,
    reason: Option<String>,
}

impl Readiness {
    fn line(&self) -> String {
        let missing = self.steps.iter().filter(|step| !step.ok).map(|step| match &step.reason {
            Some(reason) => format!("{} ({reason})", step.name),
            None => step.name.clone(),
        });
        let missing = missing.collect::<Vec<_>>().join(", ");
        match (self.ready, self.draining) {
            (true, _) if missing.is_empty() => "is ready".to_owned(),
            (true, _) => format!("is ready, without {missing}"),
            (false, true) => "is going down".to_owned(),
            (false, false) => format!("is not ready: it lacks {missing}"),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_for_people() {
        for (body, line) in [
            (r#"{"ready":true,"draining":false,"steps":[{"name":"store","ok":true}]}"#, "is ready"),
            (
                r#"{"ready":true,"draining":false,"steps":[{"name":"bus","ok":false,"reason":"it is away"}]}"#,
                "is ready, without bus (it is away)",
            ),
            (r#"{"ready":false,"draining":true,"steps":[]}"#, "is going down"),
            (
                r#"{"ready":false,"draining":false,"steps":[{"name":"hub","ok":false},{"name":"listener","ok":false}]}"#,
                "is not ready: it lacks hub, listener",
            ),
        ] {
            assert_eq!(serde_json::from_str::<Readiness>(body).unwrap().line(), line);
        }
    }
}
