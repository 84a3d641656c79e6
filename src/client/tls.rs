//! The certificates that a client trusts. Verification can only be disabled explicitly, and even
//! then the signatures of the handshake are checked.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

/// Which server certificates to accept.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those that the operating system trusts.
    #[default]
    Platform,
    /// Those issued by a certificate in this PEM file, or that certificate itself.
    CaFile(PathBuf),
    /// Any certificate. For development only: it allows anyone to impersonate the service.
    Insecure,
}

/// Advice for an error of TLS with this message; `None` for other errors.
pub fn advice(why: &str) -> Option<&'static str> {
    if why.contains("certificate expired") {
        return Some(
            "the service's certificate has expired and must be renewed; --insecure accepts it",
        );
    }
    if why.contains("not valid for name") {
        return Some(
            "the service's certificate is for other names: use one of them in the address, or accept any certificate by --insecure",
        );
    }
    if why.contains("certificate") {
        return Some(
            "the service's certificate is not trusted: pass it by --ca-file (a self-signed one is DATA_DIR/certificate.pem), or accept any by --insecure",
        );
    }
    (why == NOT_TLS).then_some("if the service runs without TLS, use http:// in its address")
}

const NOT_TLS: &str = "the server did not answer with TLS";

/// The message of an error, without terms that only readers of the TLS library's code know.
pub fn plain(why: String) -> String {
    if why.contains("close_notify") {
        "the connection was closed unexpectedly".to_owned()
    } else if why.contains("InvalidContentType") {
        NOT_TLS.to_owned()
    } else {
        why
    }
}

/// Why a TLS client could not be created.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The PEM file can't be read or contains no certificate.
    #[error(
        "failed to read the CA file {path}: {why}; it must be a PEM file with at least one certificate"
    )]
    CaFile {
        /// The file's path.
        path: PathBuf,
        /// The error.
        why: String,
    },
    /// The system's certificates can't be read.
    #[error("failed to create a TLS client: {0}; pass a PEM file by --ca-file instead")]
    Setup(#[from] rustls::Error),
}

impl Trust {
    /// The configuration of a TLS client that trusts these certificates.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TrustError> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()?;
        let config = match self {
            Self::CaFile(path) => builder.with_root_certificates(roots(path)?),
            Self::Platform => builder.dangerous().with_custom_certificate_verifier(Arc::new(
                rustls_platform_verifier::Verifier::new(provider)?,
            )),
            Self::Insecure => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AcceptAny { provider })),
        };
        Ok(Arc::new(config.with_no_client_auth()))
    }
}

fn roots(path: &PathBuf) -> Result<RootCertStore, TrustError> {
    let refuse = |why: String| TrustError::CaFile { path: path.clone(), why };
    let mut roots = RootCertStore::empty();
    let certificates =
        CertificateDer::pem_file_iter(path).map_err(|error| refuse(error.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refuse(error.to_string()))?;
        roots.add(certificate).map_err(|error| refuse(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refuse("it contains no certificate".to_owned()));
    }
    Ok(roots)
}

/// Accepts every certificate.
#[derive(Debug)]
struct AcceptAny {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AcceptAny {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ca_file_without_a_certificate_is_refused_by_name() {
        let error = Trust::CaFile("/nowhere/ca.pem".into()).client_config().err();
        assert!(error.is_some_and(|error| error.to_string().contains("/nowhere/ca.pem")));
    }

    #[test]
    fn errors_of_tls_are_plain_and_come_with_advice() {
        let unexpected = "peer closed connection without sending TLS close_notify: https://docs.rs/rustls/latest";
        assert_eq!(plain(unexpected.to_owned()), "the connection was closed unexpectedly");
        let not_tls = plain("received corrupt message of type InvalidContentType".to_owned());
        assert!(advice(&not_tls).is_some_and(|advice| advice.contains("http://")));
        let expired = "invalid peer certificate: certificate expired: verification time 1";
        assert!(advice(expired).is_some_and(|advice| advice.contains("expired")));
        let unknown = "invalid peer certificate: UnknownIssuer";
        assert!(advice(unknown).is_some_and(|advice| advice.contains("--ca-file")));
        assert_eq!(advice("connection refused"), None);
    }

    #[test]
    fn an_insecure_client_works_without_a_global_provider() {
        assert!(Trust::Insecure.client_config().is_ok());
    }
}
