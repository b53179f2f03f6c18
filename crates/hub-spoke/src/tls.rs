use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;

/// Where systems keep the certificates they trust: Debian and Alpine, Fedora, `SUSE`, macOS and the BSDs.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// TLS that trusts the system's roots and those of `extra`.
///
/// # Errors
/// A text that names the fault and the remedy.
pub(crate) fn connector(extra: Option<&[u8]>) -> Result<TlsConnector, String> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.is_file()) {
        let certificates = CertificateDer::pem_file_iter(path).map_err(|e| format!("{}: {e}", path.display()))?;
        // A system's store may hold certificates that rustls does not read; the rest still counts.
        roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    }
    if let Some(pem) = extra {
        let before = roots.len();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| format!("ca_certificate_pem is not PEM: {e}"))?;
            roots.add(certificate).map_err(|e| format!("ca_certificate_pem: {e}"))?;
        }
        if roots.len() == before {
            return Err("ca_certificate_pem holds no certificate".to_owned());
        }
    }
    if roots.is_empty() {
        return Err("no trusted certificates were found on this system; pass the hub's with ca_certificate_pem".into());
    }
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
