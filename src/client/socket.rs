//! Dials the service as gateways in the field do: TLS without a client
//! certificate, an HTTP/1.1 upgrade with the key in `api-key`, no
//! subprotocol, no Origin.

use std::sync::Arc;

use reqwest::Url;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, handshake::client::Request};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::BASE_PATH;

/// A byte stream, encrypted or (for `http://` addresses) not.
pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open socket.
pub(super) type Socket = WebSocketStream<Box<dyn Stream>>;

/// Why there is no socket.
pub(super) enum DialError {
    /// The service answered the upgrade with this status.
    Refused(u16),
    /// Anything else, in words.
    Failed(String),
}

/// Opens a socket to the service at `base`.
pub(super) async fn dial(
    base: &Url,
    key: &SecretString,
    tls: &Arc<ClientConfig>,
) -> Result<Socket, DialError> {
    let failed = |error: &dyn std::fmt::Display| DialError::Failed(error.to_string());
    let request = request(base, key).map_err(|error| failed(&error))?;
    let host = base.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
    let port = base.port_or_known_default().unwrap_or(443);
    let tcp = TcpStream::connect((host, port)).await.map_err(|error| failed(&error))?;
    tcp.set_nodelay(true).map_err(|error| failed(&error))?;
    let stream: Box<dyn Stream> = if base.scheme() == "https" {
        let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(&error))?;
        let connector = TlsConnector::from(Arc::clone(tls));
        Box::new(connector.connect(name, tcp).await.map_err(|error| failed(&error))?)
    } else {
        Box::new(tcp)
    };
    match client_async_with_config(request, stream, None).await {
        Ok((socket, _)) => Ok(socket),
        Err(Error::Http(response)) => Err(DialError::Refused(response.status().as_u16())),
        Err(error) => Err(failed(&error)),
    }
}

fn request(base: &Url, key: &SecretString) -> Result<Request, Box<Error>> {
    let scheme = if base.scheme() == "https" { "wss" } else { "ws" };
    let host = base.host_str().unwrap_or_default();
    let port = base.port_or_known_default().unwrap_or(443);
    let address = format!("{scheme}://{host}:{port}{BASE_PATH}/ws/gateways/connect");
    let mut request = address.into_client_request().map_err(Box::new)?;
    let mut value = HeaderValue::from_str(key.expose_secret())
        .map_err(|error| Box::new(Error::HttpFormat(error.into())))?;
    value.set_sensitive(true);
    request.headers_mut().insert("api-key", value);
    Ok(request)
}
