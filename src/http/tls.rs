//! Certificates: read from PEM files, reloaded while running, and generated once if none is
//! configured. TLS 1.2 and 1.3. ALPN selects HTTP/2, which WebSocket does not use, only for clients
//! that offer it.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use secrecy::zeroize::Zeroizing;
use sha2::{Digest as _, Sha256};

use crate::clock::Timestamp;
use crate::files;

mod error;
mod self_signed;
mod validity;

pub use error::TlsError;
pub use self_signed::{hostname, self_signed};

use validity::Validity;

/// The certificate in use, and its files.
#[derive(Debug)]
pub struct Certificates {
    certificate: PathBuf,
    private_key: PathBuf,
    current: Arc<Current>,
    /// What was read last. Locked only to compare or to set it.
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    /// Digest of both files: their times and sizes may stay the same.
    digest: [u8; 32],
    /// The validity of the certificate in use.
    validity: Validity,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificates {
    /// Reads and checks both PEM files. Logs a warning if other users can read the key, or if the
    /// certificate has expired or expires soon.
    pub fn open(certificate: PathBuf, private_key: PathBuf) -> Result<Self, TlsError> {
        let files = Files::read(&certificate, &private_key)?;
        let key = files.parse(&certificate, &private_key)?;
        files::warn_if_exposed(&private_key, "the private key");
        let mut validity = Validity::of(&key);
        validity.check(&certificate);
        let seen = Mutex::new(Seen { digest: files.digest(), validity });
        let current = Arc::new(Current(ArcSwap::from_pointee(key)));
        Ok(Self { certificate, private_key, current, seen })
    }

    /// The server's TLS configuration. It uses reloaded certificates.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&self.current) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// When the certificate in use, or the one that signed it, expires.
    pub fn expires_at(&self) -> Option<Timestamp> {
        self.seen().validity.end()
    }

    /// Reloads the files. If they are invalid, the old certificate stays in use.
    pub fn reload(&self) {
        match Files::read(&self.certificate, &self.private_key) {
            Ok(files) => self.take(&files),
            Err(error) => {
                tracing::error!(%error, "failed to reload the certificate; the old one stays in use");
            }
        }
        self.seen().validity.check(&self.certificate);
    }

    /// Reloads the files if they have changed, and warns before the certificate in use expires.
    pub fn reload_if_changed(&self) {
        if let Ok(files) = Files::read(&self.certificate, &self.private_key) {
            let is_new = self.seen().digest != files.digest();
            if is_new {
                self.take(&files);
            }
        }
        self.seen().validity.check(&self.certificate);
    }

    fn take(&self, files: &Files) {
        match files.parse(&self.certificate, &self.private_key) {
            Ok(key) => {
                files::warn_if_exposed(&self.private_key, "the private key");
                self.seen().validity = Validity::of(&key);
                self.current.0.store(Arc::new(key));
                tracing::info!(certificate = %self.certificate.display(), "reloaded the certificate");
            }
            // Perhaps only one of the files has been replaced yet.
            Err(error) => {
                tracing::error!(%error, "failed to reload the certificate; the old one stays in use");
            }
        }
        self.seen().digest = files.digest();
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The contents of both files.
struct Files {
    certificate: Vec<u8>,
    private_key: Zeroizing<Vec<u8>>,
}

impl Files {
    fn read(certificate: &Path, private_key: &Path) -> Result<Self, TlsError> {
        let read = |path: &Path| {
            std::fs::read(path).map_err(|error| TlsError::file(path, error.to_string()))
        };
        Ok(Self { certificate: read(certificate)?, private_key: read(private_key)?.into() })
    }

    fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(self.certificate.len().to_be_bytes());
        hash.update(&self.certificate);
        hash.update(&self.private_key);
        hash.finalize().into()
    }

    fn parse(&self, certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsError> {
        let chain = CertificateDer::pem_slice_iter(&self.certificate)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| TlsError::file(certificate, error.to_string()))?;
        if chain.is_empty() {
            return Err(TlsError::file(certificate, "it contains no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(&self.private_key)
            .map_err(|error| TlsError::file(private_key, error.to_string()))?;
        Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
    }
}

#[cfg(test)]
mod tests;
