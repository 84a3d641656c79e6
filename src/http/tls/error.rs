//! Errors of certificates and their keys.

use std::path::{Path, PathBuf};

/// Why the certificate can't be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file can't be read or is not PEM.
    #[error("failed to read {path}: {why}")]
    File {
        /// The file's path.
        path: PathBuf,
        /// The error.
        why: String,
    },
    /// The certificate and key do not match, or rustls refuses them.
    #[error("the certificate and its key can't be used: {0}")]
    Pair(#[from] rustls::Error),
    /// Generating the self-signed certificate failed.
    #[error("failed to generate a self-signed certificate: {0}")]
    SelfSigned(String),
}

impl TlsError {
    /// An error of a file.
    pub(super) fn file(path: &Path, why: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), why: why.into() }
    }
}
