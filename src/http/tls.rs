//! Certificates: read from PEM files, exchanged while running, and made once
//! for those who have none. TLS 1.2 and 1.3, HTTP/1.1.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or is no PEM.
    #[error("{path} can't be used: {why}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Certificate and key don't fit each other, or rustls refuses them.
    #[error("the certificate and its key can't be used: {0}")]
    Pair(#[from] rustls::Error),
    /// No self-signed certificate could be made.
    #[error("no self-signed certificate could be made: {0}")]
    SelfSigned(String),
}

/// The certificate in use, and the files that it comes from.
#[derive(Debug)]
pub struct Certificates {
    certificate: PathBuf,
    private_key: PathBuf,
    current: Arc<Current>,
    /// When the files in use were written. Held only to compare or to set.
    written_at: Mutex<Option<(SystemTime, SystemTime)>>,
}

#[derive(Debug)]
struct Current(ArcSwap<CertifiedKey>);

impl ResolvesServerCert for Current {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

impl Certificates {
    /// Reads the files.
    pub fn open(certificate: PathBuf, private_key: PathBuf) -> Result<Self, TlsError> {
        let key = load(&certificate, &private_key)?;
        let written_at = Mutex::new(written_at(&certificate, &private_key));
        Ok(Self {
            certificate,
            private_key,
            current: Arc::new(Current(ArcSwap::from_pointee(key))),
            written_at,
        })
    }

    /// The server's side of TLS; follows later reloads.
    pub fn server_config(&self) -> Result<ServerConfig, TlsError> {
        let mut config =
            ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
                .with_safe_default_protocol_versions()?
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&self.current) as _);
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }

    /// Reads the files again; the old certificate stays if they can't be used.
    pub fn reload(&self) {
        let seen = written_at(&self.certificate, &self.private_key);
        match load(&self.certificate, &self.private_key) {
            Ok(key) => {
                self.current.0.store(Arc::new(key));
                tracing::info!(certificate = %self.certificate.display(), "the certificate was read again");
            }
            Err(error) => tracing::error!(%error, "the old certificate stays in use"),
        }
        *self.written_at.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// Reads them again if they have changed.
    pub fn reload_if_changed(&self) {
        let now = written_at(&self.certificate, &self.private_key);
        let changed =
            now.is_some() && now != *self.written_at.lock().unwrap_or_else(PoisonError::into_inner);
        if changed {
            self.reload();
        }
    }
}

/// The pair in the data directory; made if it is not there.
pub fn self_signed(data_dir: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let certificate = data_dir.join("certificate.pem");
    let private_key = data_dir.join("private-key.pem");
    if !(certificate.exists() && private_key.exists()) {
        make(&certificate, &private_key)?;
    }
    tracing::warn!(
        certificate = %certificate.display(),
        "NO CERTIFICATE IS CONFIGURED: a self-signed one is in use, which clients must be told to trust; set server.certificate and server.private_key"
    );
    Ok((certificate, private_key))
}

fn make(certificate: &Path, private_key: &Path) -> Result<(), TlsError> {
    let failed = |error: rcgen::Error| TlsError::SelfSigned(error.to_string());
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend(hostname().filter(|name| name != "localhost"));
    let key = rcgen::KeyPair::generate().map_err(failed)?;
    let params = rcgen::CertificateParams::new(names).map_err(failed)?;
    let made = params.self_signed(&key).map_err(failed)?;
    write(private_key, &key.serialize_pem(), 0o600)?;
    write(certificate, &made.pem(), 0o644)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, mode);
    #[cfg(not(unix))]
    let _ = mode;
    options
        .open(path)
        .and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        })
        .map_err(|error: io::Error| TlsError::File {
            path: path.to_owned(),
            why: error.to_string(),
        })
}

/// This machine's name, if it is one.
pub fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let is_dns_name = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    is_dns_name.then(|| name.to_owned())
}

fn load(certificate: &Path, private_key: &Path) -> Result<CertifiedKey, TlsError> {
    let refuse = |path: &Path, why: String| TlsError::File { path: path.to_owned(), why };
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| refuse(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(refuse(certificate, "it holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(private_key)
        .map_err(|error| refuse(private_key, error.to_string()))?;
    Ok(CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider())?)
}

fn written_at(certificate: &Path, private_key: &Path) -> Option<(SystemTime, SystemTime)> {
    let of = |path: &Path| std::fs::metadata(path).and_then(|meta| meta.modified()).ok();
    Some((of(certificate)?, of(private_key)?))
}
