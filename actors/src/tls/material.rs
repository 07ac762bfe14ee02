//! The files of `[tls]`: certificate chain, key and authorities, and what rustls makes of them.

use lance_config::model::{ClientAuth, Config};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the files are.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
    /// Authorities.
    pub ca: Option<PathBuf>,
    /// Whether clients show a certificate.
    pub client_auth: ClientAuth,
}

/// Why the files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum TlsFilesError {
    /// A file.
    #[error("{key} = {path}: {source}")]
    File {
        /// Which key names it.
        key: &'static str,
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file without what it should hold.
    #[error("{key} = {path}: there is no certificate in it")]
    NoCertificate {
        /// Which key names it.
        key: &'static str,
        /// Where it is.
        path: String,
    },
    /// An authority that is none.
    #[error("tls.ca_file = {path}: {source}")]
    Authority {
        /// Where it is.
        path: String,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// The authorities cannot be used.
    #[error("tls.ca_file = {path}: {source}")]
    Authorities {
        /// Where it is.
        path: String,
        /// What is wrong with them.
        source: rustls::server::VerifierBuilderError,
    },
    /// Certificate and key do not go together, or one is of a kind that is not known.
    #[error("tls.cert_file = {cert} and tls.key_file = {key}: {source}")]
    Pair {
        /// Where the certificate is.
        cert: String,
        /// Where the key is.
        key: String,
        /// What is wrong with them.
        source: rustls::Error,
    },
}

impl TlsFiles {
    /// What `[tls]` names; `None` where TLS is off.
    pub fn of(config: &Config) -> Option<Self> {
        let tls = &config.tls;
        let (cert, key) = (tls.cert_file.clone()?, tls.key_file.clone()?);
        tls.enabled.then(|| Self { cert, key, ca: tls.ca_file.clone(), client_auth: tls.client_auth })
    }

    /// Reads them.
    pub fn read(&self) -> Result<TlsMaterial, TlsFilesError> {
        let chain = certificates("tls.cert_file", &self.cert)?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|source| file_error("tls.key_file", &self.key, source))?;
        let authorities = self.ca.as_deref().map(|path| certificates("tls.ca_file", path)).transpose()?;
        Ok(TlsMaterial { chain, key, authorities })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn file_error(key: &'static str, path: &Path, source: pem::Error) -> TlsFilesError {
    TlsFilesError::File { key, path: shown(path), source }
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsFilesError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|source| file_error(key, path, source))?;
    if certificates.is_empty() {
        return Err(TlsFilesError::NoCertificate { key, path: shown(path) });
    }
    Ok(certificates)
}

/// What the files hold.
#[derive(PartialEq, Eq)]
pub struct TlsMaterial {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    authorities: Option<Vec<CertificateDer<'static>>>,
}

/// How this node speaks TLS, on both sides of a connection.
#[derive(Clone)]
pub struct TlsConfigs {
    /// To those who connect.
    pub server: Arc<ServerConfig>,
    /// To those who connect and are asked for no certificate.
    pub server_for_anybody: Arc<ServerConfig>,
    /// To nodes it connects to; `None` without authorities to check them by.
    pub client: Option<Arc<ClientConfig>>,
}

impl TlsMaterial {
    /// Checks that it all goes together.
    pub fn configs(&self, files: &TlsFiles) -> Result<TlsConfigs, TlsFilesError> {
        let pair = |source| TlsFilesError::Pair { cert: shown(&files.cert), key: shown(&files.key), source };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let roots = self.roots(files)?.map(Arc::new);
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
        let builder = match (&roots, files.client_auth) {
            (_, ClientAuth::None) | (None, _) => builder.with_no_client_auth(),
            (Some(roots), wanted) => {
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(&provider));
                let verifier = match wanted {
                    ClientAuth::Required => verifier,
                    ClientAuth::Optional | ClientAuth::None => verifier.allow_unauthenticated(),
                };
                let path = files.ca.as_deref().map(shown).unwrap_or_default();
                let verifier = verifier.build().map_err(|source| TlsFilesError::Authorities { path, source })?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let server = builder.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(pair)?;
        let anybody = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let anybody = anybody.with_safe_default_protocol_versions().map_err(pair)?.with_no_client_auth();
        let anybody = anybody.with_single_cert(self.chain.clone(), self.key.clone_key()).map_err(pair)?;
        let client = match roots {
            None => None,
            Some(roots) => {
                let builder = ClientConfig::builder_with_provider(provider);
                let builder = builder.with_safe_default_protocol_versions().map_err(pair)?;
                let builder = builder.with_root_certificates(roots);
                let client = builder.with_client_auth_cert(self.chain.clone(), self.key.clone_key());
                Some(Arc::new(client.map_err(pair)?))
            }
        };
        Ok(TlsConfigs { server: Arc::new(server), server_for_anybody: Arc::new(anybody), client })
    }

    fn roots(&self, files: &TlsFiles) -> Result<Option<RootCertStore>, TlsFilesError> {
        let Some(authorities) = &self.authorities else { return Ok(None) };
        let mut roots = RootCertStore::empty();
        for authority in authorities {
            let path = || files.ca.as_deref().map(shown).unwrap_or_default();
            let added = roots.add(authority.clone());
            added.map_err(|source| TlsFilesError::Authority { path: path(), source })?;
        }
        Ok(Some(roots))
    }
}
