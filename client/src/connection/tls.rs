//! Encrypted connections, with the certificates of both sides.

use super::connector::{Connecting, Connector, TcpConnector, Transport};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use thiserror::Error;

/// Why the given files are of no use.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file.
    #[error("{path}: {source}")]
    File {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file without a certificate.
    #[error("{path}: there is no certificate in it")]
    NoCertificate {
        /// Where it is.
        path: String,
    },
    /// Certificates, or certificate and key, that cannot be used.
    #[error("{path}: {source}")]
    Unusable {
        /// Where they are.
        path: String,
        /// What is wrong with them.
        source: rustls::Error,
    },
}

/// TLS over TCP, for [`ClientOptions::connector`](crate::ClientOptions::connector).
///
/// ```no_run
/// use lance_client::connection::TlsConnector;
/// use lance_client::ClientOptions;
/// use std::path::Path;
/// use std::sync::Arc;
///
/// let mut options = ClientOptions::new("lance-1:1992")?;
/// options.connector = Arc::new(TlsConnector::from_files(Path::new("ca.pem"), None)?);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct TlsConnector {
    config: Arc<ClientConfig>,
}

impl fmt::Debug for TlsConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsConnector").finish_non_exhaustive()
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let found = read.map_err(|source| TlsError::File { path: shown(path), source })?;
    if found.is_empty() { Err(TlsError::NoCertificate { path: shown(path) }) } else { Ok(found) }
}

impl TlsConnector {
    /// Trusts servers whose certificates the authorities in `ca` (PEM) have signed, and shows the own certificate and
    /// key where they are given.
    pub fn from_files(ca: &Path, own: Option<(&Path, &Path)>) -> Result<Self, TlsError> {
        let mut roots = RootCertStore::empty();
        let unusable = |path: &Path| {
            let path = shown(path);
            move |source| TlsError::Unusable { path, source }
        };
        for certificate in certificates(ca)? {
            roots.add(certificate).map_err(unusable(ca))?;
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
        let builder = builder.with_safe_default_protocol_versions().map_err(unusable(ca))?;
        let builder = builder.with_root_certificates(roots);
        let config = match own {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert)?;
                let secret = PrivateKeyDer::from_pem_file(key);
                let secret = secret.map_err(|source| TlsError::File { path: shown(key), source })?;
                builder.with_client_auth_cert(chain, secret).map_err(unusable(cert))?
            }
        };
        Ok(Self { config: Arc::new(config) })
    }
}

impl Connector for TlsConnector {
    fn connect<'a>(&'a self, address: &'a str) -> Connecting<'a> {
        Box::pin(async move {
            let stream = TcpConnector::stream(address).await?;
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
            let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
            let name = ServerName::try_from(host).map_err(io::Error::other)?;
            let connector = tokio_rustls::TlsConnector::from(Arc::clone(&self.config));
            let stream = connector.connect(name, stream).await.map_err(explained)?;
            Ok(Box::new(stream) as Box<dyn Transport>)
        })
    }
}

/// What went wrong in words that say what to do.
fn explained(error: io::Error) -> io::Error {
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return io::Error::new(error.kind(), format!("the TLS handshake failed: {error}"));
    };
    let text = match cause {
        rustls::Error::InvalidMessage(_) => {
            "the server does not speak TLS at this address: connect without it".to_owned()
        }
        // Bad is the signature of another authority of the same name.
        rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the server's certificate is not signed by the authority that is trusted".to_owned()
        }
        rustls::Error::InvalidCertificate(reason) => format!("the server's certificate is refused: {reason}"),
        rustls::Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a client certificate".to_owned()
        }
        rustls::Error::AlertReceived(alert) => format!("the server refuses the TLS handshake: {alert:?}"),
        other => format!("the TLS handshake failed: {other}"),
    };
    io::Error::new(io::ErrorKind::InvalidData, text)
}
