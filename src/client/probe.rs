//! The steps of a connection to the service, one by one, to find the one that fails.

use std::net::SocketAddr;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::Url;
use super::tls::{self, Trust};
use crate::clock::Timestamp;

/// The timeout of each step.
const STEP: Duration = Duration::from_secs(5);

/// The addresses of the host.
pub async fn resolve(url: &Url) -> Result<Vec<SocketAddr>, String> {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let found = timeout(STEP, lookup_host((host.as_str(), port))).await;
    let found = found.map_err(|_| "no answer within 5 s".to_owned())?;
    let addresses: Vec<SocketAddr> = found.map_err(|error| error.to_string())?.collect();
    if addresses.is_empty() { Err("it has no address".to_owned()) } else { Ok(addresses) }
}

/// Connects to the first address that answers.
pub async fn connect(addresses: &[SocketAddr]) -> Result<(SocketAddr, TcpStream), String> {
    let mut why = Vec::new();
    for address in addresses {
        match timeout(STEP, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok((*address, stream)),
            Ok(Err(error)) => why.push(format!("{address}: {error}")),
            Err(_) => why.push(format!("{address}: no answer within 5 s")),
        }
    }
    Err(why.join("; "))
}

/// Performs the TLS handshake. Returns when the certificate expires, if it can be read.
pub async fn handshake(
    url: &Url,
    stream: TcpStream,
    trust: &Trust,
) -> Result<Option<Timestamp>, String> {
    let config = trust.client_config().map_err(|error| error.to_string())?;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let handshake = timeout(STEP, TlsConnector::from(config).connect(name, stream)).await;
    let stream = handshake
        .map_err(|_| "no answer within 5 s".to_owned())?
        .map_err(|error| tls::plain(error.to_string()))?;
    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(certificates.first().and_then(|certificate| expiry(certificate)))
}

fn expiry(certificate: &[u8]) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let seconds = certificate.validity().not_after.timestamp();
    Some(Timestamp::from_micros(seconds.saturating_mul(1_000_000)))
}
