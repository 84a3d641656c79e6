//! A certificate for development, generated once in the data directory. Neither file is ever
//! replaced.

use std::path::{Path, PathBuf};

use super::error::TlsError;
use crate::files;

/// The certificate and key in the data directory, generated if they are missing. An existing key is
/// kept, and gets a new certificate if that is missing.
pub fn self_signed(data_dir: &Path) -> Result<(PathBuf, PathBuf), TlsError> {
    let certificate = data_dir.join("certificate.pem");
    let private_key = data_dir.join("private-key.pem");
    let is_there = |path: &Path| {
        files::found(path)
            .map(|it| it.is_some())
            .map_err(|error| TlsError::file(path, error.to_string()))
    };
    match (is_there(&certificate)?, is_there(&private_key)?) {
        (true, true) => {}
        (true, false) => {
            return Err(TlsError::file(
                &private_key,
                "the file is missing, but certificate.pem exists; restore the key, or remove certificate.pem to generate a new pair",
            ));
        }
        (false, has_key) => make(&certificate, &private_key, has_key)?,
    }
    tracing::warn!(
        certificate = %certificate.display(),
        "no certificate is configured; using a self-signed one, which clients must be configured to trust; set server.certificate and server.private_key"
    );
    Ok((certificate, private_key))
}

fn make(certificate: &Path, private_key: &Path, has_key: bool) -> Result<(), TlsError> {
    let failed = |error: rcgen::Error| TlsError::SelfSigned(error.to_string());
    let key = if has_key {
        // It may be another program's file, or ours from an interrupted start.
        let text = std::fs::read_to_string(private_key)
            .map_err(|error| TlsError::file(private_key, error.to_string()))?;
        let unusable = |error: rcgen::Error| {
            TlsError::file(
                private_key,
                format!(
                    "{error}; certificate.pem is missing; restore both files, or remove this one to generate a new pair"
                ),
            )
        };
        let key = rcgen::KeyPair::from_pem(&text).map_err(unusable)?;
        tracing::warn!(
            private_key = %private_key.display(),
            "certificate.pem is missing; generating a self-signed one for the existing key"
        );
        key
    } else {
        let key = rcgen::KeyPair::generate().map_err(failed)?;
        // The key first, so that an interrupted start can be continued from here.
        write(private_key, &key.serialize_pem(), files::PRIVATE)?;
        key
    };
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend(hostname().filter(|name| name != "localhost"));
    let params = rcgen::CertificateParams::new(names).map_err(failed)?;
    let made = params.self_signed(&key).map_err(failed)?;
    write(certificate, &made.pem(), files::PUBLIC)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), TlsError> {
    files::write_new(path, text, mode).map_err(|error| TlsError::file(path, error.to_string()))
}

/// This host's name, if it is a valid one.
pub fn hostname() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    let is_dns_name = !name.is_empty()
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'));
    is_dns_name.then(|| name.to_owned())
}
